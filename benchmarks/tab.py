"""How soon the tab *Rows* shows 40 runs × 3 quantities × 1,000 steps, and follows the mouse, in a real Chromium.

The page of its own has two quantities of the same runs. It is opened from disk, with the network off.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from measure import PROJECT, Result, main, say, side_by_side
from torch.utils.tensorboard import SummaryWriter

from rowgrad.results.opening import open_runs
from rowgrad.results.page import make_page
from rowgrad.results.show import Both
from rowgrad.watch.csv_file import NormsFile
from rowgrad.watch.loggers import StepEvents
from rowgrad.watch.quantities import row_tags

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Frame, Page

sys.path.append(str(PROJECT / "tools"))
QUANTITIES, ROWS = ("row_grad_norm", "input_grad_norm", "row_update_norm"), 28
# Milliseconds from a movement of the mouse to the frame in which the value is written, over a heatmap's diagonal.
FOLLOW = """async () => {
  const frame = document.querySelector(".frame[aria-label]");
  const box = frame.getBoundingClientRect();
  const taken = [];
  for (let place = 1; place < 60; place++) {
    const [x, y] = [box.left + (place / 60) * box.width, box.top + (place / 60) * box.height];
    const begun = performance.now();
    frame.dispatchEvent(new PointerEvent("pointermove", { clientX: x, clientY: y }));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    taken.push(performance.now() - begun);
  }
  return taken;
}"""
FETCHED = """count =>
  performance.getEntriesByType("resource").filter((entry) => entry.name.includes("/norms")).length >= count"""
DRAWN = "() => document.querySelector('.frame[aria-label]') && performance.now()"


def make_runs(folder: Path, count: int, steps: int) -> None:
    """Writes runs whose norms fall by four powers of ten, with the upper half of the rows cut."""
    tags = [tag for quantity in QUANTITIES for tag in row_tags(quantity, ROWS)]
    falling = torch.logspace(0, -4, steps)[:, None]
    for run in range(count):
        generator = torch.Generator().manual_seed(run)
        table = falling * torch.rand(steps, len(tags), generator=generator)
        table[:, : ROWS // 2] = 0
        writer = SummaryWriter(str(folder / f"run_{run:02d}"))
        StepEvents(writer, tags).write(range(steps), table)
        writer.close()


def make_csvs(folder: Path, count: int, steps: int) -> None:
    """Writes what `make_runs` writes of two quantities as CSV files, as any logger's folder has them."""
    falling = torch.logspace(0, -4, steps)[:, None].double()
    for run in range(count):
        generator = torch.Generator().manual_seed(run)
        norms = {name: falling * torch.rand(steps, ROWS, generator=generator) for name in QUANTITIES[:2]}
        norms[QUANTITIES[0]][:, : ROWS // 2] = 0
        (folder / f"run_{run:02d}").mkdir()
        file = NormsFile(folder / f"run_{run:02d}" / "row_gradients.csv")
        file.append(range(steps), norms)
        file.close()


def open_page(browser: Browser, address: str, tab: str) -> Page:
    """A page of TensorBoard in a window of common size."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(f"{address}/?darkMode=false#{tab}")
    return page


def frame_of(page: Page) -> Frame:
    """The tab's own page within TensorBoard's."""
    frame = page.wait_for_selector("iframe").content_frame()
    frame.wait_for_url(re.compile("plugin_entry"))  # it is empty at first
    return frame


def measure(device: str, quick: bool = False) -> list[Result]:
    """Opens both of TensorBoard's pages anew in each round."""
    from browser import chromium, tensorboard  # late: Playwright is there where pages are looked at

    runs, steps, rounds = (3, 50, 1) if quick else (40, 1000, 7)
    within: dict[str, list[float]] = {"first picture after the tab's start, s": [], "all runs, s": []}
    moves: list[float] = []
    of_page: dict[str, list[float]] = {"the page's first picture, s": [], "the page's size, MB": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_runs(folder, runs, steps)
        say(f"{runs} runs are written")
        with tensorboard(folder) as address, chromium() as browser:

            def rows() -> float:
                page = open_page(browser, address, "rowgrad")
                frame = frame_of(page)
                first = frame.wait_for_function(DRAWN, polling="raf").json_value() / 1000
                whole = page.evaluate("() => performance.now()") / 1000
                within["first picture after the tab's start, s"].append(first)
                frame.wait_for_function(FETCHED, arg=runs * len(QUANTITIES), polling=50, timeout=120_000)
                within["all runs, s"].append(frame.evaluate("() => performance.now()") / 1000)
                moves.extend(frame.evaluate(FOLLOW))
                page.close()
                return whole

            def page() -> float:
                opened = browser.new_page(viewport={"width": 1400, "height": 1000}, offline=True)
                opened.goto(file.as_uri())
                seconds = opened.wait_for_function(DRAWN, polling="raf").json_value() / 1000
                opened.close()
                return seconds

            def own() -> float:
                page = open_page(browser, address, "scalars")
                page.locator("tf-scalar-card").locator("svg, canvas").first.wait_for(timeout=120_000)
                seconds = page.evaluate("() => performance.now()") / 1000
                page.close()
                return seconds

            values = side_by_side({"Rows": rows, "Scalars": own}, rounds)
            (folder / "csv").mkdir()
            make_csvs(folder / "csv", runs, steps)
            file = folder / "page.html"
            both = Both(open_runs([folder / "csv"])[0])
            make_page(both.shown(), both.text()).save(file)
            of_page["the page's size, MB"] = [file.stat().st_size / 1e6]
            of_page["the page's first picture, s"] = [page() for _ in range(rounds)]
    what = f"first picture of {runs} runs × 3 quantities × {steps} steps ÷ first chart of TensorBoard's own tab"
    notes = {name: {"mean": numbers} for name, numbers in (within | of_page).items()}
    notes["the mouse is followed in, ms"] = {"median": [float(torch.tensor(moves).median())], "longest": [max(moves)]}
    return [Result("tab", what, ("Rows", "Scalars"), None, "s", values, notes)]


if __name__ == "__main__":
    main(__doc__, measure)
