"""The row grammar: `"0:14"` -> which of H image rows are meant. Row 0 is the top.

`all`, `none`, `5`, `-1`, `0:14`, `::2` and lists of these, with Python's slice rules.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from rowgrad.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

RowSpec = str | int | list["str | int"] | tuple["str | int", ...]

GRAMMAR = "all, none, an index (5, -1), a slice (0:14, ::2) or a list of these ([0:3,-1])"
BASE_60 = 60  # YAML 1.1 reads an unquoted 14:28 as a number of minutes and seconds, 868
_INDEX = re.compile(r"[+-]?\d+")
_SLICE = re.compile(r"([+-]?\d+)?:([+-]?\d+)?(?::([+-]?\d+)?)?")


def select_rows(spec: RowSpec, height: int, key: str = "scenario.rows") -> tuple[bool, ...]:
    """Reads a row selection.

    Args:
        spec: the selection in the row grammar.
        height: H, the number of rows of an image.
        key: what a mistake is called by.

    Returns:
        H booleans, true for the rows that are meant.

    Raises:
        UserError: malformed, an index outside 0...H-1 (after counting negative ones from the end), or a selection that
            names no row without saying `none`.
    """
    parts = spec if isinstance(spec, list | tuple) else [spec]
    if not parts:
        raise UserError(f"{key}=[] names no row; for no row write none. Accepted: {GRAMMAR}.")
    chosen = {row for part in parts for row in _one(part, height, key)}
    return tuple(row in chosen for row in range(height))


def _one(part: str | int, height: int, key: str) -> range:
    text = str(part).strip()
    rows = range(height)
    if text == "all":
        return rows
    if text == "none":
        return rows[:0]
    pieces = _SLICE.fullmatch(text)
    if isinstance(part, bool) or not (_INDEX.fullmatch(text) or pieces):
        raise UserError(f"{key}={text} is not a row selection. Accepted: {GRAMMAR}.")
    limits = f"an image has {height} rows, 0 to {height - 1} (or -{height} to -1 from the bottom)"
    if pieces is None:
        index = int(text)
        if not -height <= index < height:
            hint = (
                f'; in a YAML file write "{index // BASE_60}:{index % BASE_60}" in quotes' if index >= BASE_60 else ""
            )
            raise UserError(f"{key}={text} is out of range: {limits}{hint}.")
        return rows[index : index + 1 or None]
    start, stop, step = (int(n) if n else None for n in pieces.groups())
    if step == 0:
        raise UserError(f"{key}={text}: a slice's step cannot be 0.")
    selected = rows[start:stop:step]
    if not selected:
        raise UserError(f"{key}={text} names no row: {limits}. For no row write none.")
    return selected


def name_rows(selected: Sequence[bool]) -> str:
    """Says a selection in words: `rows 0-13`, `row 5`, `rows 0-2, 7`, `all rows`, `no row` (with en dashes)."""
    indices = [row for row, chosen in enumerate(selected) if chosen]
    if not indices:
        return "no row"
    if len(indices) == len(selected):
        return "all rows"
    starts = [indices[0]] + [b for a, b in pairwise(indices) if b > a + 1]
    ends = [a for a, b in pairwise(indices) if b > a + 1] + [indices[-1]]
    spans = [f"{a}" if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True)]
    return ("row " if len(indices) == 1 else "rows ") + ", ".join(spans)
