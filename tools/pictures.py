"""The pictures in README and docs, from real runs on MNIST: `make pictures`.

Trains the four scenarios and the other runs with seed 0 in FOLDER, unless they exist, writes the report, and takes
screenshots of TensorBoard and the report. Trains the experiments with three seeds, which takes half an hour, and writes
their pages to docs/gallery.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from browser import chromium, open_tab, tensorboard
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from playwright.sync_api import Browser

PROJECT = Path(__file__).resolve().parents[1]
IMAGES = PROJECT / "docs" / "images"
GALLERY = PROJECT / "docs" / "gallery"
SEEDS, STEPS = "seed=0,1,2", 40  # of an experiment in the gallery; a page is then smaller than a megabyte
MEGABYTE = 1_000_000
NETWORK = Path("logs/repair/network")  # which the experiment repair needs
SCENARIOS = ("baseline", "modify", "visualize", "augment")
# Runs of which only the heatmaps are shown, as TensorBoard has them.
ALONE = {
    "detach_is_not_freeze": ("experiment=detach_is_not_freeze", "optimizer.rows_weight_decay=0.1"),
    "gru": ("model=gru", "scenario=baseline"),
    "truncate": ("model=gru", "scenario=truncate"),
}
CONTROLS = {f"{name}_control": (f"scenario={name}", "scenario.detach=false") for name in ("augment", "modify")}
LIVE = ("model=gru", "scenario=truncate", "trainer.max_epochs=3", "seed=0", "data.fallback=null")
TABS = [
    ("scenarios", "custom_scalars", (1230, 780)),
    ("augment", "images", (1230, 800)),
    ("scenarios", "hparams", (1600, 420)),
]


def script(name: str, *arguments: object) -> None:
    """Runs one of the project's scripts."""
    subprocess.run([sys.executable, PROJECT / "scripts" / name, *map(str, arguments)], check=True)


def shrink(path: Path, colours: int = 256) -> None:
    """Reduces a screenshot's colours to make the file small."""
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(
            colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )  # keeps rare colours
    small.save(path, optimize=True)


def together(folder: Path, name: str, runs: Iterable[str]) -> None:
    """Makes a folder of links to these runs only."""
    (folder / name).mkdir(exist_ok=True)
    for run in runs:
        link = folder / name / run
        link.unlink(missing_ok=True)
        link.symlink_to((folder / run).resolve())


def rows(browser: Browser, folder: Path) -> None:
    """The tab Rows: the four scenarios, divided by a control, and a run while it trains."""
    with tensorboard(folder / "scenarios") as address:
        page = open_tab(browser, address, "rowgrad", 1400, 760)
        page.wait_for_timeout(5000)
        page.screenshot(path=IMAGES / "rows.png")
        page.close()
    with tensorboard(folder / "controls") as address:
        chosen = 'control="augment_control/tensorboard"&quantities=["row_grad_norm","input_grad_norm"]'
        chosen += '&quantity="input_grad_norm"&row=9&step=200'
        words = "&".join(
            f"p.rowgrad.{name}={quote(value)}" for name, value in (e.split("=", 1) for e in chosen.split("&"))
        )
        page = open_tab(browser, address, f"rowgrad&{words}", 1400, 860)
        page.wait_for_timeout(5000)
        page.screenshot(path=IMAGES / "rows_control.png")
        page.close()
    shutil.rmtree(folder / "live", ignore_errors=True)
    training = subprocess.Popen(
        [sys.executable, PROJECT / "scripts" / "train.py", *LIVE, f"hydra.run.dir={folder / 'live' / 'gru_truncate'}"]
    )
    with tensorboard(folder / "live") as address:
        page = open_tab(browser, address, "rowgrad", 1400, 360, dark=True)
        page.frame_locator("iframe").get_by_text("% validation").wait_for(timeout=120_000)
        page.screenshot(path=IMAGES / "rows_live.png")
        page.close()
    training.wait()


def sweep(experiment: str, folder: Path, *words: str) -> None:
    """Runs an experiment in a folder, or goes on with it."""
    if not (NETWORK / "summary.json").exists():
        script("train.py", "scenario=baseline", "seed=0", f"hydra.run.dir={NETWORK}")
    parallel = ["sweep=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={folder}"]
    script("train.py", "-m", f"experiment={experiment}", *words, *parallel)


def gallery(folder: Path) -> None:
    """The experiments as small pages."""
    for file in sorted((PROJECT / "configs" / "experiment").glob("*.yaml")):
        if file.stem == "smoke":
            continue
        sweep(file.stem, folder / file.stem, SEEDS)
        page = GALLERY / f"{file.stem}.html"
        script("report.py", folder / file.stem, "--brief", "--steps", STEPS, "--out", page)
        assert page.stat().st_size < MEGABYTE, page


def main() -> None:
    """Trains missing runs and makes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for name, words in (dict.fromkeys(SCENARIOS, ()) | ALONE | CONTROLS).items():
        chosen = words or (f"scenario={name}",)
        if not (folder / name / "summary.json").exists():
            script("train.py", *chosen, "seed=0", "data.fallback=null", f"hydra.run.dir={folder / name}")
    for name in ALONE:
        events = EventAccumulator(str(folder / name / "tensorboard")).Reload()
        picture = events.Images("pictures/1_row_gradients")[-1].encoded_image_string
        (IMAGES / f"{name}.png").write_bytes(picture)
    figures = folder / "sequences"
    script("report.py", folder / "gru", folder / "truncate", "--out", figures, "--figures", figures)
    shutil.copyfile(figures / "heatmaps.png", IMAGES / "sequences.png")
    script("report.py", *(folder / name for name in SCENARIOS), "--figures", folder / "figures")
    for name in ("heatmaps", "row_profiles"):
        shutil.copyfile(folder / "figures" / f"{name}.png", IMAGES / f"{name}.png")
    together(folder, "scenarios", SCENARIOS)
    together(folder, "controls", ("augment", "modify", *CONTROLS))
    with chromium() as browser:
        rows(browser, folder)
        for shown, tab, size in TABS:
            with tensorboard(folder / shown) as address:
                page = open_tab(browser, address, tab, *size)
                page.wait_for_timeout(15_000)  # charts are drawn one after the other
                page.screenshot(path=IMAGES / f"{tab}.png")
        page = browser.new_page(viewport={"width": 1400, "height": 1100})
        page.goto((folder / "report" / "report.html").absolute().as_uri())
        page.wait_for_timeout(2000)
        page.screenshot(path=IMAGES / "page.png")
    gallery(folder / "gallery")
    for path in IMAGES.glob("*.png"):
        shrink(path)
        print(path.relative_to(PROJECT), f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
