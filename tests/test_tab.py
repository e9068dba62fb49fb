"""The tab *Rows* in a real Chromium, with runs of real digits: in TensorBoard, and as a page of its own.

The same assertions hold for both. The page is opened from disk, with the network off. `make test-browser`.
"""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import PROJECT, QUICK, TRAIN, done, summary, wait_until
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from rowgrad.folders import RunFolder
from rowgrad.results.page import Shown, make_page
from rowgrad.results.run import Run
from rowgrad.results.show import show
from rowgrad.watch.csv_file import NormsFile, write_facts
from rowgrad.watch.loggers import StepEvents
from rowgrad.watch.quantities import row_tags

pytestmark = pytest.mark.browser

# Playwright is installed by `make test-browser` alone; elsewhere these tests are not selected.
browser = pytest.importorskip("browser", exc_type=ImportError)

HOSTILE = "<img src=x onerror=document.title='taken'>"
RUNS = {
    "augment": ["scenario=augment"],
    "augment_1": ["scenario=augment", "seed=1"],
    "control": ["scenario=augment", "scenario.detach=false"],
    "truncate": ["model=gru", "scenario=truncate"],
}
# The colours of a canvas's pixels, as lists of rows of [red, green, blue, alpha].
PIXELS = """canvas => {
  const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const at = (row, column) => [...data.slice(4 * (row * width + column), 4 * (row * width + column) + 4)];
  return Array.from({ length: height }, (_, row) => Array.from({ length: width }, (_, column) => at(row, column)));
}"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tab") / "runs"
    for name, words in RUNS.items():
        done(TRAIN, *QUICK, *words, "trainer.max_epochs=2", f"hydra.run.dir={folder / name}", cwd=PROJECT)
    shutil.copytree(folder / "augment" / "tensorboard", folder / HOSTILE)
    return folder


@pytest.fixture(scope="module")
def address(runs):
    with browser.tensorboard(runs) as found:
        yield found


@pytest.fixture(scope="module")
def slow_address(runs):
    with browser.tensorboard(runs, "--load_fast=false") as found:
        yield found


@pytest.fixture(scope="module")
def file(runs, tmp_path_factory):
    """The page of the same runs, with the names that TensorBoard gives them."""
    found = {name: Run(RunFolder(runs / name)) for name in RUNS}
    shown = [Shown(run, f"{name}/tensorboard", name.removesuffix("_1")) for name, run in found.items()]
    shown.append(Shown(found["augment"], HOSTILE, "augment"))
    path = tmp_path_factory.mktemp("page") / "page.html"
    make_page(sorted(shown, key=lambda one: one.name)).save(path)
    return path


@pytest.fixture(params=["tensorboard", "page"])
def host(request):
    """Where the tab is: TensorBoard's address, or the page's file."""
    return request.getfixturevalue("address" if request.param == "tensorboard" else "file")


@pytest.fixture(params=["fast", "slow", "page"])
def any_host(request):
    """The same, with TensorBoard on either of its data loaders."""
    return request.getfixturevalue({"fast": "address", "slow": "slow_address", "page": "file"}[request.param])


def near(host, value):
    """What is shown of a number: TensorBoard has 32 bits, the page four digits."""
    return pytest.approx(float(f"{value:.3e}"), rel=1e-6) if isinstance(host, Path) else pytest.approx(value, rel=1e-5)


def open_rows(chromium, host, chosen="", dark=False, **size):
    """The tab, when all that is in sight is drawn: its frame, in a page that must have no error."""
    is_file = isinstance(host, Path)
    scheme = "dark" if dark else "light"
    page = chromium.new_page(viewport={"width": 1400, "height": 1400, **size}, color_scheme=scheme, offline=is_file)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    words = "".join(f"&p.rowgrad.{entry}" for entry in chosen.split("&") if entry)
    if is_file:
        page.on("request", lambda request: page.errors.append(f"asks for {request.url}"))
        page.on("console", lambda message: page.errors.append(message.text))  # as of the content policy
        mean = "" if "mean=" in chosen else "&p.rowgrad.mean=false"  # such a page begins with the means of seeds
        page.goto(f"{host.as_uri()}#{words}{mean}")
        assert page.errors == [f"asks for {host.as_uri()}"]
        page.errors.clear()
    else:
        page.goto(f"{host}/?darkMode={str(dark).lower()}#rowgrad{words}")
    frame = page if is_file else page.frame_locator("iframe")
    frame.locator("article .frame[aria-label]").first.wait_for(timeout=60_000)
    wait_until(page, lambda: not frame.locator(".heatmap.waits:not(.none)").count(), "not all heatmaps are drawn")
    return page, frame


def heatmap(frame, run, place=0):
    return heatmap_of(frame, run if run == HOSTILE else f"{run}/tensorboard", place)


def heatmap_of(frame, name, place=0):
    return frame.locator(f"article[data-name={json.dumps(name)}] .heatmap").nth(place)


def written(folder, quantity):
    """A quantity's numbers in the CSV: step -> a number for each row."""
    with (folder / "row_gradients.csv").open() as file:
        return {
            int(line["step"]): [float(line[f"{quantity}/row_{row:02d}"]) for row in range(28)]
            for line in csv.DictReader(file)
        }


def said(frame):
    """Row, step and value under the mouse."""
    match = re.fullmatch(r"row (\d+), step (\d+): (.*)", frame.locator(".reading").inner_text())
    assert match
    value = 0.0 if match[3] == "0 exactly" else float(match[3].removeprefix("× "))
    return int(match[1]), int(match[2]), value


def grey(frame):
    colour = frame.locator(":root").evaluate("e => getComputedStyle(e).getPropertyValue('--zero').trim()")
    return [*bytes.fromhex(colour[1:]), 255]


def test_the_tab_is_among_tensorboards_own(chromium, address):
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    page.goto(f"{address}/?darkMode=false")
    page.get_by_role("tab", name="Rows").click()
    page.frame_locator("iframe").locator("article").first.wait_for(timeout=60_000)
    assert "#rowgrad" in page.url


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_cut_rows_are_the_grey_of_zero_and_others_are_not(chromium, host, dark):
    page, frame = open_rows(chromium, host, dark=dark)
    zero = grey(frame)
    for run, place, cut in [("augment", 0, 14), ("augment", 1, 0), ("control", 0, 0), ("truncate", 1, 14)]:
        pixels = heatmap(frame, run, place).locator("canvas").evaluate(PIXELS)
        assert len(pixels) == 28
        for row, line in enumerate(pixels):
            assert all((pixel == zero) == (row < cut) for pixel in line), (run, place, row)
            assert all(pixel[3] == 255 for pixel in line)
    text = frame.locator("article[data-name='augment/tensorboard'] .card").inner_text()
    assert re.search(r"rows 0–13: exactly 0 at every step; \d+\.\d % of the squared gradient that arrives", text)
    assert "made by detach" in text
    paper, ink = (
        frame.locator(":root").evaluate(f"e => getComputedStyle(e).{name}") for name in ("backgroundColor", "color")
    )
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 3 for colour in (paper, ink)]
    assert (light[0] < 70 and light[1] > 180) if dark else (light[0] > 230 and light[1] < 80)
    assert page.errors == []


def test_what_is_said_of_a_run_is_what_its_summary_has(chromium, host, runs):
    _, frame = open_rows(chromium, host)
    for run in RUNS:
        facts = summary(runs / run)
        card = frame.locator(f"article[data-name='{run}/tensorboard'] .card").inner_text()
        assert f"{100 * facts['test/acc']:.2f} % test" in card
        assert "done" in card
        if facts["cut_fraction"]:
            assert f"{100 * facts['cut_fraction']:.1f} % of the squared gradient that arrives" in card
    assert frame.locator("article[data-name='truncate/tensorboard'] .edge").count() == 3
    assert frame.locator("article[data-name='augment/tensorboard'] .heatmap").first.locator(".selected").count() == 14


def test_the_value_under_the_mouse_is_that_of_the_csv(chromium, any_host, runs):
    page, frame = open_rows(chromium, any_host)
    for run, place, quantity in [("augment", 0, "row_grad_norm"), ("truncate", 1, "input_grad_norm")]:
        numbers = written(runs / run, quantity)
        box = heatmap(frame, run, place).locator(".frame").bounding_box()
        for step in (0, 7, len(numbers) - 1):
            for row in (2, 13, 14, 27):
                x = box["x"] + (step + 0.5) / len(numbers) * box["width"]
                page.mouse.move(x, box["y"] + (row + 0.5) / 28 * box["height"])
                wait_until(page, lambda want=(row, step): said(frame)[:2] == want, f"{row}, {step}")
                assert said(frame)[2] == near(any_host, numbers[step][row])
        # The same row and step in all others.
        place_of = "e => [getComputedStyle(e).top, getComputedStyle(e).left]"
        marks = frame.locator("article[data-name='augment/tensorboard'] .at-row").evaluate_all(
            f"es => es.map({place_of})"
        )
        assert len({tuple(mark) for mark in marks}) == 1


def test_a_click_shows_the_rows_curve_and_the_steps_profile(chromium, host, runs):
    page, frame = open_rows(chromium, host)
    box = heatmap(frame, "augment", 1).locator(".frame").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] * (9.5 / 28))
    frame.locator(".curve polyline").first.wait_for()
    points = "es => es.map(e => e.getAttribute('points').split(' ').length)"
    steps = len(written(runs / "augment", "input_grad_norm"))
    assert frame.locator(".curve polyline").evaluate_all(points) == [steps] * 5
    assert frame.locator(".profile polyline").evaluate_all(points) == [28] * 5
    assert "Row 9" in frame.locator(".detail").inner_text()
    # Under an exact zero of truncate's row 9 the curve lies in the strip of zeros, below all others.
    heights = "e => e.getAttribute('points').split(' ').map(p => Number(p.split(',')[1]))"
    curves = [frame.locator(".curve polyline").nth(place).evaluate(heights) for place in range(5)]
    lowest = max(curves[4])
    assert min(curves[4]) == lowest > max(curves[1])
    frame.get_by_title("Close").click()
    wait_until(page, lambda: not frame.locator(".detail").is_visible(), "the curves stay")


def test_a_drag_zooms_the_steps_and_the_address_keeps_it(chromium, host):
    page, frame = open_rows(chromium, host)
    box = heatmap(frame, "augment").locator(".frame").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 60, steps=4)
    page.mouse.up()
    wait_until(page, lambda: "p.rowgrad.from" in page.url, "the address does not say what is shown")
    shown = frame.locator(".axis").first.inner_text().split()
    other, again = open_rows(chromium, host, page.url.partition("&p.rowgrad.")[2].replace("p.rowgrad.", ""))
    assert again.locator(".axis").first.inner_text().split() == shown
    again.get_by_role("button", name="Show all").click()
    wait_until(other, lambda: "p.rowgrad.from" not in other.url, "the address keeps it")
    assert again.locator(".axis").first.inner_text().split() != shown


def test_divided_by_a_control_only_the_cut_is_zero(chromium, host, runs):
    page, frame = open_rows(chromium, host)
    frame.get_by_label("Divide by").select_option(label="control")
    frame.get_by_text("divided by the control's").first.wait_for()
    zero = grey(frame)
    pixels = heatmap(frame, "augment").locator("canvas").evaluate(PIXELS)
    assert all((pixel == zero) == (row < 14) for row, line in enumerate(pixels) for pixel in line)
    ours, its = (written(runs / run, "input_grad_norm") for run in ("truncate", "control"))
    box = heatmap(frame, "truncate", 1).locator(".frame").bounding_box()
    page.mouse.move(box["x"] + 5.5 / len(ours) * box["width"], box["y"] + 20.5 / 28 * box["height"])
    wait_until(page, lambda: said(frame)[:2] == (20, 5), "row 20, step 5")
    assert said(frame)[2] == pytest.approx(ours[5][20] / its[5][20], rel=1e-3)
    assert "against the control" in frame.locator("article[data-name='truncate/tensorboard'] .card").inner_text()


def test_seeds_become_one_line_their_mean(chromium, host, runs):
    page, frame = open_rows(chromium, host, "filter=%22scenario%3Daugment%20detach%3Dtrue%22")
    assert frame.locator("article").count() == 3  # the hostile copy is of seed 0 too
    frame.get_by_label("mean of seeds").check()
    wait_until(page, lambda: frame.locator("article").count() == 1, "not one line")
    frame.get_by_text("augment: mean of 3 runs").wait_for()
    wait_until(page, lambda: not frame.locator(".heatmap.waits").count(), "not drawn")
    first, second = (written(runs / run, "input_grad_norm") for run in ("augment", "augment_1"))
    box = frame.locator(".frame").nth(1).bounding_box()
    page.mouse.move(box["x"] + 3.5 / len(first) * box["width"], box["y"] + 4.5 / 28 * box["height"])
    wait_until(page, lambda: said(frame)[:2] == (4, 3), "row 4, step 3")
    assert said(frame)[2] == pytest.approx((2 * first[3][4] + second[3][4]) / 3, rel=5e-4)


def test_the_keyboard_does_what_the_mouse_does(chromium, host, runs):
    page, frame = open_rows(chromium, host)
    heatmap(frame, "augment", 1).locator(".frame").focus()
    for key in ["ArrowRight", "ArrowRight", "ArrowDown", "Shift+ArrowDown"]:
        page.keyboard.press(key)
    wait_until(page, lambda: said(frame)[:2] == (11, 2), "row 11, step 2")
    assert said(frame)[2] == near(host, written(runs / "augment", "input_grad_norm")[2][11])
    page.keyboard.press("Enter")
    frame.locator(".curve polyline").first.wait_for()
    page.keyboard.press("Escape")
    wait_until(page, lambda: not frame.locator(".detail").is_visible(), "the curves stay")
    page.keyboard.press("+")
    wait_until(page, lambda: "p.rowgrad.to" in page.url, "no zoom")
    page.keyboard.press("0")
    wait_until(page, lambda: "p.rowgrad.to" not in page.url, "zoomed still")
    with page.expect_download() as download:
        page.keyboard.press("s")
    assert download.value.suggested_filename == "augment.input_grad_norm.png"
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_ticks_and_own_scales(chromium, host):
    page, frame = open_rows(chromium, host)
    frame.get_by_label("row_update_norm").uncheck()
    wait_until(page, lambda: frame.locator("article").first.locator(".heatmap").count() == 2, "three quantities still")
    frame.locator("article[data-name='truncate/tensorboard'] input").uncheck()
    wait_until(page, lambda: not heatmap(frame, "truncate").is_visible(), "it is there still")
    frame.get_by_label("own scales").check()
    frame.get_by_text("each heatmap from its own smallest value").wait_for()
    assert all(part in page.url for part in ("p.rowgrad.quantities", "p.rowgrad.hidden", "p.rowgrad.own"))
    frame.get_by_role("button", name="Reset").click()
    wait_until(page, lambda: "p.rowgrad" not in page.url, "it is chosen still")
    assert page.errors == []


def test_a_runs_name_is_text(chromium, host):
    page, frame = open_rows(chromium, host)
    frame.locator(".name").get_by_text(HOSTILE).wait_for()
    frame.get_by_label("Divide by").select_option(label=HOSTILE)
    heatmap(frame, HOSTILE).locator(".frame").click()
    frame.locator(".keys").get_by_text(HOSTILE).wait_for()
    assert frame.locator("img").count() == 0
    assert "taken" not in page.title()


@pytest.mark.parametrize(
    "chosen", ["from=%22x%22&to=null", "hidden=7&quantities=%22a%22", "row=9&step=%22", "filter=["]
)
def test_somebodys_broken_host_is_shown_all_the_same(chromium, host, chosen):
    page, _ = open_rows(chromium, host, chosen)
    assert page.errors == []


def test_a_narrow_window_shows_all(chromium, host):
    _, frame = open_rows(chromium, host, width=420)
    wide = frame.locator(":root").evaluate("e => e.scrollWidth")
    assert wide <= 420
    assert heatmap(frame, "augment").locator("canvas").bounding_box()["width"] > 80


TOKENS, STEPS = 4096, 40


@pytest.fixture(scope="module")
def taps(tmp_path_factory):
    """A run of somebody's taps: 4,096 tokens, of which every 512th gets nothing and no other, and six named heads.

    The gradient of a token is its number ÷ 1000, plus the step.
    """
    folder = tmp_path_factory.mktemp("taps") / "version_0"
    folder.mkdir()
    steps = torch.arange(STEPS)
    tokens = torch.arange(TOKENS)[None] / 1000 + steps[:, None]
    tokens[:, ::512] = 0
    heads = torch.ones(STEPS, 6).double()
    heads[:, 1] = 0
    file = NormsFile(folder / "row_gradients.csv")
    norms = {"tap_grad_norm": tokens.double(), "heads_grad_norm": heads, "unused_grad_norm": heads}
    file.append(steps.tolist(), norms, rows={"unused_grad_norm": torch.zeros(STEPS, dtype=torch.long)})
    file.close()
    labels = ["query", "key", "value", "left", "right", HOSTILE]
    write_facts(file.path, {"tap_grad_norm": {"kind": "token"}, "heads_grad_norm": {"kind": "head", "labels": labels}})
    path = tmp_path_factory.mktemp("page") / "page.html"
    show(folder).save(path)
    return path


def of_taps(frame, place):
    return heatmap_of(frame, "version_0", place)


def test_rows_are_called_what_they_are(chromium, taps):
    page, frame = open_rows(chromium, taps)
    assert "heads_grad_norm: head key: exactly 0 at every step" in frame.locator(".card").inner_text()
    assert "unused_grad_norm: nothing was recorded" in frame.locator(".card").inner_text()
    assert "6 heads, 40 steps" in of_taps(frame, 0).locator(".frame").get_attribute("aria-label")
    box = of_taps(frame, 0).locator(".frame").bounding_box()
    for row, name in [(1, "key"), (5, HOSTILE)]:
        page.mouse.move(box["x"] + 5, box["y"] + (row + 0.5) / 6 * box["height"])
        frame.get_by_text(f"{name}, step 0: ").wait_for()
    page.mouse.click(box["x"] + 5, box["y"] + 1.5 / 6 * box["height"])
    assert frame.locator(".chart").nth(0).inner_text().startswith("key: What comes back through heads")
    assert frame.locator(".chart").nth(1).inner_text().startswith("Step 0: the profile over heads")
    assert "loss per unit of x" in frame.locator(".head").inner_text()
    assert page.errors == []


def test_many_rows_are_binned_and_no_row_is_lost_to_the_eye(chromium, taps):
    page, frame = open_rows(chromium, taps)
    zero = grey(frame)
    pixels = of_taps(frame, 1).locator("canvas").evaluate(PIXELS)
    assert len(pixels) == 112
    assert not [line for line in pixels if zero in line]  # a token without gradient has neighbours that get some
    box = of_taps(frame, 1).locator(".frame").bounding_box()
    page.mouse.move(box["x"] + 5.5 / STEPS * box["width"], box["y"] + (50.5 / 112) * box["height"])
    top, bottom = 50 * TOKENS // 112, 51 * TOKENS // 112
    frame.get_by_text(f"token {bottom - 1}, step 5: ").wait_for()  # the largest of its bin
    assert re.search(rf": {5 + (bottom - 1) / 1000:.4g}$", frame.locator(".reading").inner_text())
    frame.get_by_label("Rows by").select_option("mean")
    wait_until(page, lambda: "p.rowgrad.rows" in page.url, "the address does not say it")
    page.mouse.move(box["x"] + 6.5 / STEPS * box["width"], box["y"] + (50.5 / 112) * box["height"])
    middle = int(50.5 / 112 * TOKENS)
    assert top < middle < bottom
    frame.get_by_text(f"token {middle}, step 6: ").wait_for()


def test_a_steep_drag_zooms_rows_and_zeros_are_grey_there(chromium, taps):
    page, frame = open_rows(chromium, taps)
    box = of_taps(frame, 1).locator(".frame").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + box["height"] * (500 / TOKENS))
    page.mouse.down()
    page.mouse.move(box["x"] + 52, box["y"] + box["height"] * (560 / TOKENS) + 6, steps=4)
    page.mouse.up()
    wait_until(page, lambda: "p.rowgrad.bottom" in page.url, "not zoomed")
    first, last = (int(re.search(rf"p\.rowgrad\.{end}=(\d+)", page.url)[1]) for end in ("top", "bottom"))
    assert first <= 512 < last
    of_taps(frame, 1).locator(".frame").focus()
    page.mouse.move(5, 5)
    page.keyboard.press("ArrowDown")  # without a mouse, keys stay in what is shown
    wait_until(page, lambda: re.search(r"token (\d+), step", frame.locator(".reading").inner_text()), "no reading")
    assert first <= int(re.search(r"token (\d+), step", frame.locator(".reading").inner_text())[1]) < last
    page.mouse.move(box["x"] + 5, box["y"] + (512.5 - first) / (last - first) * box["height"])
    page.keyboard.press(">")
    wait_until(page, lambda: f"top={first}&" not in page.url, "the keyboard does not zoom")
    page.keyboard.press("0")
    wait_until(page, lambda: "top" not in page.url, "zoomed still")


def test_of_zoomed_rows_the_zeros_are_grey(chromium, taps):
    page, frame = open_rows(chromium, taps, "top=500&bottom=560")
    pixels = of_taps(frame, 1).locator("canvas").evaluate(PIXELS)
    zero = grey(frame)
    assert [500 + place for place, line in enumerate(pixels) if line == [zero] * len(line)] == [512]
    box = of_taps(frame, 1).locator(".frame").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 12.5 / 60 * box["height"])
    frame.get_by_text("token 512, step 0: 0 exactly").wait_for()
    frame.get_by_role("button", name="Show all").click()
    wait_until(page, lambda: "top" not in page.url, "zoomed still")
    of_taps(frame, 1).locator(".frame").focus()
    with page.expect_download() as download:
        page.keyboard.press("s")
    with Image.open(download.value.path()) as picture:
        assert picture.height < 1000


def test_new_steps_come_by_themselves_while_a_run_trains(chromium, tmp_path):
    run = tmp_path / "runs" / "live"
    words = [*QUICK, "trainer.max_epochs=100000", "callbacks.recorder.flush_every_n_steps=20", f"hydra.run.dir={run}"]
    training = subprocess.Popen([sys.executable, TRAIN, *words], stdout=subprocess.DEVNULL, cwd=tmp_path)
    try:
        with browser.tensorboard(tmp_path / "runs") as address:
            page, frame = open_rows(chromium, address)
            label = heatmap(frame, "live").locator(".frame")

            def steps():
                found = re.search(r"(\d+) steps", label.get_attribute("aria-label") or "")
                return int(found[1]) if found else 0  # a heatmap that is made anew has no label yet

            assert frame.locator(".state").inner_text() == "live"
            first, asked = steps(), []
            page.on("request", lambda request: asked.append(request.url))
            wait_until(page, lambda: steps() > first + 20, "no new steps")
            fetched = [url for url in asked if "/norms?" in url]
            assert fetched
            assert all("after=" in url for url in fetched)  # what is new alone
            page.get_by_role("tab", name=re.compile(r"^\s*scalars", re.IGNORECASE)).click()
            page.wait_for_timeout(1500)
            asked.clear()
            page.wait_for_timeout(7000)
            assert not [url for url in asked if "/plugin/rowgrad/" in url]  # nobody can see it
            page.get_by_role("tab", name="Rows").click()
            before = steps()
            wait_until(page, lambda: steps() > before, "no new steps when the tab is back")
    finally:
        training.terminate()
        training.wait()


def test_a_sample_of_the_steps_is_called_one(chromium, tmp_path):
    tags = row_tags("tap_grad_norm", 3)
    writer = SummaryWriter(str(tmp_path / "long"))
    StepEvents(writer, tags).write(range(1500), torch.arange(1500)[:, None] + torch.arange(1, 4))
    writer.close()
    for flags, sampled in [((), True), (("--samples_per_plugin", "scalars=0"), False)]:
        with browser.tensorboard(tmp_path, *flags) as address:
            page, frame = open_rows(chromium, address)
            label = heatmap_of(frame, "long").locator(".frame").get_attribute("aria-label")
            assert f"3 rows, {1000 if sampled else 1500} steps" in label
            notes = frame.locator(".notes").inner_text()
            assert ("A sample of the steps: TensorBoard has kept 1000 up to step 1499 of long" in notes) == sampled
            assert ("--samples_per_plugin=scalars=0" in notes) == sampled
            assert page.errors == []


def test_the_benchmark_of_the_tab_runs_through(tmp_path):
    arguments = [sys.executable, PROJECT / "benchmarks" / "tab.py", "--quick", "--out", tmp_path]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (written_,) = json.loads((tmp_path / "tab_cpu.json").read_text())["results"]
    assert all(len(numbers) == 1 and numbers[0] > 0 for numbers in written_["values"].values())


def test_tensorboards_own_reload_button_works_too(chromium, address):
    page, _ = open_rows(chromium, address)
    page.wait_for_timeout(500)
    with page.expect_request(lambda request: request.url.endswith("/plugin/rowgrad/runs"), timeout=2500):
        page.get_by_label("Reload data").or_(page.locator("button.reload-button")).first.click()
