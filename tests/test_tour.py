"""The lesson docs/tour.ipynb runs from top to bottom, and its stored outputs are complete and name no machine."""

import re

import nbformat
import pytest
from conftest import PROJECT
from tour import TOUR, execute

NOTEBOOK = nbformat.read(TOUR, as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
PROSE = "\n".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown")
SHOWS = re.compile(r"^(?!def |    return).*(print\(|\.figures\(\)|rowgrad\.show\(|= train\()", re.MULTILINE)
HOMES = r"/(tmp|home|root|work|Users|usr|opt|var|mnt|content|private)/|[A-Z]:\\\\"


def printed(cells):
    """The text that cells have printed."""
    return "".join(output.get("text", "") for cell in cells for output in cell.outputs)


def shows(cell):
    """Whether a cell prints, trains or draws outside the functions that it defines."""
    return bool(SHOWS.search(cell.source))


@pytest.mark.slow
@pytest.mark.mnist
def test_every_cell_runs_and_prints_what_the_lesson_says(tmp_path, mnist, monkeypatch):
    monkeypatch.setenv("MNIST_ROOT", str(mnist.absolute()))
    cells = [cell for cell in execute(tmp_path).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert [len(cell.outputs) > 0 for cell in cells] == [shows(cell) for cell in cells]
    text = printed(cells)
    assert "9.0 3.0" in text
    assert text.count("[-8., -8., -8.]") == 3
    assert "[104., 104., 104.]" in text
    assert "augment, with detach and without: identical = False" in text
    assert "modify,  with detach and without: identical = True" in text
    assert re.findall(r"zeros in row 14: +(\d+) of 100, made by (.*)", text) == [
        ("100", "detach"),
        ("0", "none"),
        ("100", "the loss"),
        ("100", "the loss"),
    ]
    assert "rows that nothing reached: [0, 1]" in text
    assert "gradient ends at 3 places" in text
    assert re.findall(r"^\d\. cell, line (\d+)  (.*)", text, re.MULTILINE) == [
        ("10", "detach"),
        ("15", "no_grad"),
        ("17", "zero derivative (round)"),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"logs"}


def test_outputs_are_stored_and_free_of_errors():
    assert [len(cell.outputs) > 0 for cell in CODE] == [shows(cell) for cell in CODE]
    outputs = [output for cell in CODE for output in cell.outputs]
    assert all(output.get("name") != "stderr" and output.output_type != "error" for output in outputs)
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 5
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))


def test_the_file_is_small_and_names_no_machine_and_no_time():
    assert TOUR.stat().st_size < 1_000_000
    text = re.sub(r'"image/png": "[^"]*"', "", TOUR.read_text())
    assert not re.search(HOMES, text)
    assert str(PROJECT) not in text
    assert all(not cell.metadata for cell in NOTEBOOK.cells)
    assert NOTEBOOK.metadata.language_info == {"name": "python"}


def test_every_question_has_a_folded_answer():
    questions = re.split(r"^\*\*\d+\.\*\* ", PROSE, flags=re.MULTILINE)[1:]
    assert len(questions) == 7
    for question in questions:
        assert re.search(r"\n\n<details><summary>Answer</summary>\n\n.+\n\n</details>", question, re.DOTALL)


def test_every_page_that_the_lesson_links_to_exists():
    links = re.findall(r"\]\(([^):]*)\)", PROSE)
    assert len(links) > 2
    assert all((TOUR.parent / link).is_file() for link in links)


def test_the_first_cell_installs_nothing_if_the_package_is_installed(monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("something was installed"))
    exec(CODE[0].source, {})
