"""The house: rooms in one direction, small files, short functions, and maps that show what is there."""

import ast
import re
import tomllib

import pytest
from conftest import PROJECT

SOURCE = PROJECT / "src" / "rowgrad"
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 300, 40  # lines


def map_in(page):
    """The lines of a page's map below `src/rowgrad/`, and those that begin a room."""
    block = re.search(r"^src/rowgrad/\n((?:  .*\n)+)", (PROJECT / page).read_text(), re.MULTILINE)[1]
    return block, re.findall(r"^  (\w+)/", block, re.MULTILINE)


def rooms_and_what_they_import():
    """The rooms, each with the other rooms that its files import, inside of functions and for types too."""
    uses = {path.name: set() for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    for file in FILES:
        room = file.relative_to(SOURCE).parts[0]
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found = {name.split(".")[1] for name in names if name and name.startswith("rowgrad.")}
            if room in uses:
                uses[room] |= found & uses.keys() - {room}
    return uses


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_files_are_small_and_functions_short(file):
    text = file.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 < LONGEST_FUNCTION, node.name


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_a_room_imports_only_those_above_it_on_the_maps(page):
    rooms, uses = map_in(page)[1], rooms_and_what_they_import()
    assert sorted(rooms) == sorted(uses)
    for place, room in enumerate(rooms):
        assert uses[room] <= set(rooms[:place]), room
    assert uses[rooms[-1]] > {"watch", "results"}


def test_the_linters_layers_are_those_of_the_maps():
    contract = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    rooms = map_in("README.md")[1]
    assert [layer for layer in reversed(contract["layers"]) if layer in rooms] == rooms


def test_every_file_is_on_the_map():
    block, _ = map_in("CONTRIBUTING.md")
    for file in FILES:
        if not file.name.startswith("__") and file.parent.name != "quantities":
            assert file.name in block, file
    assert "quantities/" in block


def test_the_thirteen_questions_are_answered_by_files_that_exist():
    page = (PROJECT / "CONTRIBUTING.md").read_text()
    answers = re.findall(r"^\| [^|]*\? \| \[[^]]*\]\(([^)]*)\)", page, re.MULTILINE)
    assert len(answers) == 13
    assert all((PROJECT / answer).exists() for answer in answers)
