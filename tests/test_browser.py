"""What people look at, in a real Chromium: TensorBoard's pages of a real run, and the report. `make test-browser`."""

import pytest
from conftest import REPORT, TRAIN, done, summary, wait_until

pytestmark = pytest.mark.browser

# Playwright is installed by `make test-browser` alone; elsewhere these tests are not selected.
browser = pytest.importorskip("browser", exc_type=ImportError)

LINES = "es => es.filter(e => (e.getAttribute('d') || '').split('L').length > 5).length"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser") / "run"
    overrides = ["data=digits", "scenario=augment", "trainer.accelerator=cpu", f"hydra.run.dir={folder}"]
    overrides.append("callbacks.bias.every_n_steps=2")
    done(TRAIN, *overrides, "trainer.max_epochs=2", cwd=folder.parent)
    return folder


@pytest.fixture(scope="module")
def address(run):
    with browser.tensorboard(run) as found:
        yield found


def test_custom_scalars_draw_a_line_in_each_chart(chromium, address):
    page = browser.open_tab(chromium, address, "custom_scalars", height=3700)
    cards = page.locator("tf-custom-scalar-multi-line-chart-card")
    wait_until(page, lambda: cards.count() == 11, "not all charts are there")
    expected = ["Accuracy: training batches", "Loss: training batches", "Cut fraction", "cosine", "ratio of norms"]
    expected += [
        f"Mean {kind} gradient of the {part} rows" for kind in ("row", "input") for part in ("selected", "other")
    ]
    for title in expected:
        card = cards.filter(has=page.locator(".heading-label", has_text=title))
        assert card.count() == 1, title
        # TensorBoard draws each series twice, smoothed and as it is.
        wait_until(page, lambda c=card: c.locator("path.line").evaluate_all(LINES) == 2, title)


def test_images_load(chromium, address):
    page = browser.open_tab(chromium, address, "images", height=2500)
    shown = page.locator("tf-image-loader img")
    wait_until(page, lambda: shown.count() == 3, "not all images are there")
    sizes = "es => es.every(e => e.complete && e.naturalWidth > 300 && e.naturalHeight > 300)"
    wait_until(page, lambda: shown.evaluate_all(sizes), "an image does not load")
    for name in ("1_row_gradients", "2_digits", "3_learnt_rows"):
        page.locator("tf-image-dashboard").get_by_text(f"pictures/{name}").first.wait_for(timeout=60_000)


def test_hparams_list_scenario_and_final_metrics(chromium, address, run):
    page = browser.open_tab(chromium, address, "hparams")
    table = page.locator("tf-hparams-table-view vaadin-grid")
    facts = summary(run)
    columns = ["detach", "lr", "rows", "scenario", "seed", "test/acc", "test/loss", "grad_flow/mean_cut_fraction"]
    values = ["true", "0.010000", "0:14", "augment", *(f"{facts[k]:.5g}" for k in ("test/acc", "cut_fraction"))]
    for text in [*columns, *values]:
        table.get_by_text(text).first.wait_for(timeout=60_000)
    assert table.get_by_text("hp_metric").count() == 0


def test_texts_are_readable(chromium, address):
    page = browser.open_tab(chromium, address, "text")
    sentence = "Rows 0–13 are detached, shifted by +1 with probability 0.5 and fed to the network."
    page.get_by_text(sentence).first.wait_for(timeout=60_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_shows_its_figures_and_can_be_read(chromium, run, scheme):
    done(REPORT, run, cwd=run.parent)
    page = chromium.new_page(viewport={"width": 1100, "height": 900}, color_scheme=scheme)
    errors, asked = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((run / "report" / "report.html").as_uri())
    assert page.locator("tbody tr").count() == 1
    figures = page.locator("figure svg:visible")
    assert figures.count() == 3  # the heatmaps are interactive
    for i in range(3):
        box = figures.nth(i).bounding_box()
        assert box["width"] > 300
        assert box["height"] > 200
        assert box["x"] + box["width"] <= 1100
    assert "0–13" in page.locator("tbody").inner_text()
    brightness = "c => { const [r, g, b] = c.match(/[0-9.]+/g).map(Number); return (r + g + b) / 3; }"
    ink, paper = (
        page.evaluate(f"([s, p]) => ({brightness})(getComputedStyle(document.querySelector(s))[p])", [element, name])
        for element, name in (("figure svg text", "fill"), (":root", "backgroundColor"))
    )
    assert (paper > 200 and ink < 80) if scheme == "light" else (paper < 60 and ink > 180)
    assert not errors
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
