"""Reports of many runs with long names in a real Chromium: no label lies upon another. `make test-browser`."""

import shutil

import pytest
from conftest import configure, train
from omegaconf import OmegaConf

from rowgrad import open_run
from rowgrad.results.figure_files import write_figures
from rowgrad.results.report import draw, write_report
from rowgrad.results.runs import RunSet

pytestmark = pytest.mark.browser

QUICK = ["data=digits", "callbacks.progress=null", "trainer.accelerator=cpu", "trainer.max_steps=4", "model=mlp"]
SHARE = 0.12  # of the lower box: fonts have room above and below their letters

# Boxes of all texts of an SVG; those that lie upon each other, and those that stand out of the figure.
LOOK = f"""svg => {{
  const frame = svg.getBoundingClientRect(), found = [];
  const texts = [...svg.querySelectorAll('text')].filter(t => t.textContent.trim());
  const boxes = texts.map(t => [t.textContent, t.getBoundingClientRect()]);
  for (const [i, [words, a]] of boxes.entries()) {{
    if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 || a.bottom > frame.bottom + 1)
      found.push(words + ' leaves the figure');
    for (const [others, b] of boxes.slice(i + 1)) {{
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      const low = Math.min(a.height, a.width, b.height, b.width);
      if (wide > {SHARE} * low && high > {SHARE} * low) found.push(words + ' lies upon ' + others);
    }}
  }}
  return [boxes.length, frame.height, found];
}}"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A report of fifteen runs: fourteen settings, thirteen with long names, and one with two seeds."""
    root = tmp_path_factory.mktemp("many")
    train(configure(*QUICK, "scenario=augment", "corruption=row_shift"), root / "first")
    runs = []
    for number in range(14):
        folder = root / f"run_{number}"
        shutil.copytree(root / "first", folder)
        config = OmegaConf.load(folder / "config.yaml")
        values = {"scenario.rows": [f"{number}:14", -number - 1], "optimizer.lr": 0.0123456 * (number + 1)}
        values |= {"scenario.operation": f"shift {number}.123456", "data.batch_size": 64 + number}
        values |= {"scenario.probability": 0.123456 + number / 100, "seed": 0}
        if number == 13:
            values = {"seed": 1}
        for key, value in values.items():
            OmegaConf.update(config, key, value)
        OmegaConf.save(config, folder / "config.yaml")
        runs.append(open_run(folder))
    runs.append(open_run(root / "first"))
    write_figures(draw(RunSet(runs)), root / "report" / "figures")
    return write_report(RunSet(runs), root / "report")


def test_no_label_lies_upon_another_and_no_figure_is_higher_than_the_screen(chromium, many):
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    page.goto(many.as_uri())
    figures = page.locator("figure svg:visible")
    assert figures.count() == 6  # two each of θ and of repairs; the heatmaps are interactive
    for number in range(figures.count()):
        count, height, found = figures.nth(number).evaluate(LOOK)
        assert count > 10
        assert height < 900
        assert found == []


@pytest.mark.parametrize("size", ["", "_column"])
def test_no_label_lies_upon_another_in_the_files_for_print(chromium, many, size):
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    files = [file for file in sorted(many.parent.glob("figures/*.svg")) if file.stem.endswith(size)]
    files = [file for file in files if size or not file.stem.endswith("_column")]
    assert len(files) == 10
    for file in files:
        page.goto(file.as_uri())
        count, _, found = page.locator("svg").first.evaluate(LOOK)
        assert count > 10
        assert found == [], file.name


@pytest.mark.parametrize("width", [1400, 600])
def test_the_page_and_its_tables_are_not_wider_than_the_screen(chromium, many, width):
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.goto(many.as_uri())
    page.get_by_text("Each run by itself").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for box in page.locator(".wide").all():
        assert box.evaluate("e => e.scrollWidth <= e.clientWidth")
    for number in range(page.locator("figure svg:visible").count()):
        *_, found = page.locator("figure svg:visible").nth(number).evaluate(LOOK)
        assert found == []
