"""The maps of README and CONTRIBUTING are those of the package; import-linter checks who imports what."""

import re
import tomllib

import pytest
from conftest import PROJECT

SOURCE = PROJECT / "src" / "rowgrad"
CONTRIBUTING = (PROJECT / "CONTRIBUTING.md").read_text()


def map_in(page):
    """The lines of a page's map below `src/rowgrad/`."""
    return re.search(r"^src/rowgrad/\n((?:  .*\n)+)", (PROJECT / page).read_text(), re.MULTILINE)[1]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_rooms_of_a_map_are_in_the_order_of_imports(page):
    contract = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    packages = {file.parent.name for file in SOURCE.glob("*/__init__.py")}
    layers = [name for layer in reversed(contract["layers"]) for name in layer.split(" : ") if name in packages]
    assert re.findall(r"^  (\w+)/", map_in(page), re.MULTILINE) == layers
    assert set(layers) == packages


def test_every_file_is_on_the_map():
    files = [file for file in SOURCE.rglob("*.py") if not file.name.startswith("__")]
    assert len(files) > 30
    assert [file for file in files if file.name not in map_in("CONTRIBUTING.md")] == []


def test_the_answers_of_where_to_look_exist():
    answers = re.findall(r"^\| [^|]*\? \| \[[^]]*\]\(([^)]*)\)", CONTRIBUTING, re.MULTILINE)
    assert len(answers) > 10
    assert [answer for answer in answers if not (PROJECT / answer).exists()] == []


def test_the_gallery_has_a_small_page_of_each_experiment():
    experiments = {file.stem for file in (PROJECT / "configs" / "experiment").glob("*.yaml")} - {"smoke"}
    pages = sorted((PROJECT / "docs" / "gallery").iterdir())
    assert {page.name for page in pages} == {f"{name}.html" for name in experiments}
    for page in pages:
        assert page.stat().st_size < 1_000_000
        assert not re.search(r"<code>/", page.read_text())  # no folder of the machine that made it
