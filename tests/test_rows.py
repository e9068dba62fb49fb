"""The row grammar, against Python's own indexing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowgrad.errors import UserError
from rowgrad.scenario.rows import name_rows, read_rows

NUMBER = st.none() | st.integers(-40, 40)


def chosen(spec, height):
    return [row for row, is_chosen in enumerate(read_rows(spec).select(height)) if is_chosen]


@given(NUMBER, NUMBER, NUMBER, st.integers(1, 40))
def test_slices_follow_pythons_rules(start, stop, step, height):
    text = ":".join("" if n is None else str(n) for n in (start, stop, step))
    expected = [] if step == 0 else sorted(range(height)[slice(start, stop, step)])
    if expected:
        assert chosen(text, height) == expected
    else:
        with pytest.raises(UserError, match="step cannot be 0" if step == 0 else f"names no row.*{height} rows"):
            read_rows(text).select(height)


@given(st.integers(-60, 60), st.integers(1, 40))
def test_an_index_counts_from_either_end_and_nowhere_else(index, height):
    if -height <= index < height:
        assert chosen(index, height) == chosen(str(index), height) == [range(height)[index]]
    else:
        with pytest.raises(UserError, match=f"{index} is out of range: an image has {height} rows, 0 to {height - 1}"):
            read_rows(index).select(height)


def test_words_and_lists():
    assert chosen("all", 3) == [0, 1, 2]
    assert chosen("none", 3) == []
    assert chosen(["0:2", -1, "1"], 5) == [0, 1, 4]


@given(st.text(max_size=8))
def test_any_other_text_is_refused_with_the_grammar_or_selects_rows(text):
    try:
        assert len(read_rows(text).select(28)) == 28
    except UserError as error:
        assert text.strip() in str(error)  # noqa: PT017
        assert "scenario.rows" in str(error)  # noqa: PT017


@pytest.mark.parametrize("spec", ["", "0-14", "1.5", "0:1:2:3", "top", True, "0:a"])
def test_malformed_selections_name_the_grammar(spec):
    with pytest.raises(UserError, match=r"is not a row selection\. Accepted: all, none, an index"):
        read_rows(spec).select(28)


def test_an_empty_list_is_an_error():
    with pytest.raises(UserError, match="for no row write none"):
        read_rows([]).select(28)


def test_a_slice_that_yaml_reads_as_a_base_60_number_is_an_error_that_says_so():
    with pytest.raises(UserError, match=r'868 is out of range.*write "14:28" in quotes'):
        read_rows(868).select(28)


@pytest.mark.parametrize(
    ("spec", "words"),
    [("0:14", "rows 0–13"), ("5", "row 5"), (["0:3", 7], "rows 0–2, 7"), ("all", "all rows"), ("none", "no row")],
)
def test_selections_are_named_in_words(spec, words):
    assert name_rows(read_rows(spec).select(28)) == words
