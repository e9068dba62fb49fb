"""The article on its own tensor: the printed findings, and that a wrong measurement takes the verdict away."""

import io
import runpy
from contextlib import redirect_stdout

import pytest
import torch
from conftest import PROJECT

SCRIPT = PROJECT / "scripts" / "two_rows.py"


@pytest.fixture(scope="module")
def printed():
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output):
        patch.setenv("COLUMNS", "20")
        runpy.run_path(str(SCRIPT))["main"]()
    return output.getvalue()


@pytest.fixture(scope="module")
def sections(printed):
    """Each part's text in one line, and the rows of its grids, by its first word or two."""
    parts = {}
    for part in printed.split("\n\n\n")[1:]:
        lines = part.splitlines()
        grid = {
            line[:16].strip(): line[16:].replace("−", "-").split() for line in lines if line[:6] in {"first ", "second"}
        }
        parts[lines[0].partition(":")[0]] = (" ".join(part.split()), grid)
    return parts


def test_the_page_fits_80_columns_and_shows_the_articles_tensor(printed):
    assert max(map(len, printed.splitlines())) <= 80
    assert 'The article "How does pytorch.detach() affect two rows of pixels?" (2025-01-30)' in printed
    assert f"PyTorch {torch.__version__}" in printed
    assert "first row       1 2 3\nsecond row      4 5 6\n" in printed


TWICE = (
    "wrong twice: the replaced row gets 0, not 2; the loss sees augmented values, so the other row gets 8, not 2."
    " The 0 is detach's doing: without it 8"
)


# The numbers by hand: 2 (6 - 10) = -8; 2 (21 - 20) = 2; with the first row shifted by 1, 2 (24 - 20) = 8.
@pytest.mark.parametrize(
    ("part", "words", "first", "second"),
    [
        ("1 modify", "(6 − 10)² = 16; measured 16 by hand first row: 2 · (6 − 10) = −8", "-8 -8 -8", "0 0 0"),
        ("2 visualize", "(21 − 20)² = 1; measured 1 by hand both rows: 2 · (21 − 20) = 2", "2 2 2", "2 2 2"),
    ],
)
def test_loss_and_gradient_are_computed_by_hand_and_measured(sections, part, words, first, second):
    text, grid = sections[part]
    assert words in text
    assert grid == {"first row": first.split() * 3, "second row": second.split() * 3}  # by hand, measured, control


def test_the_augmented_row_is_compared_with_both_controls(sections):
    text, grid = sections["3 augment, out of place"]
    assert "the sum is 2 + 3 + 4 + 4 + 5 + 6 = 24, the loss (24 − 20)² = 16; measured 16" in text
    assert "second row: 2 · (24 − 20) = 8 for each pixel" in text
    assert "had nothing been augmented: 2 · (21 − 20) = 2" in text
    # By hand, measured, without detach, not augmented.
    assert " ".join(grid["first row"]) == "0 0 0 0 0 0 8 8 8 2 2 2"
    assert " ".join(grid["second row"]) == "8 8 8 8 8 8 8 8 8 2 2 2"


@pytest.mark.parametrize(
    ("part", "verdict"),
    [
        (
            "1 modify",
            "numbers right, reason wrong: without detach the second row gets 0 too, because the loss never uses it",
        ),
        ("2 visualize", "right"),
        ("3 augment, as published", "does not run"),
        ("3 augment, out of place", TWICE),
        ("storage", "right, and left out: changing it in place changes the original, silently"),
    ],
)
def test_each_claim_is_judged(sections, part, verdict):
    assert sections[part][0].endswith(f" verdict {verdict}")


def test_what_the_article_published_does_not_run_and_shared_memory_is_changed(sections):
    assert (
        "measured RuntimeError: a view of a leaf Variable that requires grad" in sections["3 augment, as published"][0]
    )
    before_and_after = [" ".join(row) for row in sections["storage"][1].values()]
    assert before_and_after == ["1 2 3 100 200 300", "4 5 6 4 5 6"]


@pytest.mark.parametrize("name", ["modify", "visualize", "augment"])
def test_a_measurement_that_differs_from_the_one_by_hand_takes_the_verdict_away(name):
    script = runpy.run_path(str(SCRIPT))
    examine, measure = script[name], script["measure"]
    assert "NONE" not in examine().verdict

    def wrong(target, **scenario):
        measured = measure(target, **scenario)
        measured.gradient[1][2] += 1e-6
        return measured

    examine.__globals__["measure"] = wrong
    assert examine().verdict.startswith("NONE: by hand the loss is ")
    assert examine().verdict.endswith("; one of them is wrong")
