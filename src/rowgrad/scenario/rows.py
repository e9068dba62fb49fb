"""The row grammar: `"0:14"` -> a selection of H image rows. Row 0 is the top.

Accepted are `all`, `none`, `5`, `-1`, `0:14`, `::2` and lists of these, with Python's slice rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from rowgrad.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

RowSpec = str | int | list["str | int"] | tuple["str | int", ...]

GRAMMAR = "all, none, an index (5, -1), a slice (0:14, ::2) or a list of these ([0:3,-1])"
BASE_60 = 60  # YAML 1.1 reads an unquoted 14:28 as a sexagesimal number, 868
_INDEX = re.compile(r"[+-]?\d+")
_SLICE = re.compile(r"([+-]?\d+)?:([+-]?\d+)?(?::([+-]?\d+)?)?")


@dataclass(frozen=True)
class Rows:
    """A parsed row selection, for images of any height.

    Attributes:
        parts: indices and slices, each with its text.
        key: the config key, for error messages.
    """

    parts: tuple[tuple[str, int | slice], ...]
    key: str = "scenario.rows"

    @property
    def spec(self) -> str:
        """The selection in the row grammar."""
        texts = [text for text, _ in self.parts]
        return texts[0] if len(texts) == 1 else f"[{','.join(texts)}]"

    def select(self, height: int) -> tuple[bool, ...]:
        """Returns for each of `height` rows whether it is selected.

        Raises:
            UserError: an index outside -H...H-1, or a slice that selects no row.
        """
        chosen = {row for part in self.parts for row in self._one(*part, height)}
        return tuple(row in chosen for row in range(height))

    def names(self, row: int, height: int) -> bool:
        """Whether the selection contains `row` as a single index, not only within a slice."""
        return any(isinstance(part, int) and part % height == row for _, part in self.parts)

    def cut(self, height: int) -> list[str]:
        """Returns the text of each slice that reaches beyond `height` rows; Python's slice rules shorten it."""
        inside = range(-height, height + 1)
        return [
            text
            for text, part in self.parts
            if isinstance(part, slice) and any(end is not None and end not in inside for end in (part.start, part.stop))
        ]

    def _one(self, text: str, part: int | slice, height: int) -> range:
        rows = range(height)
        limits = f"an image has {height} rows, 0 to {height - 1} (or -{height} to -1 from the bottom)"
        if isinstance(part, int):
            if not -height <= part < height:
                hint = (
                    f'; in a YAML file write "{part // BASE_60}:{part % BASE_60}" in quotes' if part >= BASE_60 else ""
                )
                raise UserError(f"{self.key}={text} is out of range: {limits}{hint}.")
            return rows[part : part + 1 or None]
        selected = rows[part]
        if not selected and text != "none":
            raise UserError(f"{self.key}={text} names no row: {limits}. For no row write none.")
        return selected


def read_rows(spec: RowSpec | Rows, key: str = "scenario.rows") -> Rows:
    """Parses a row selection.

    Example:
        >>> read_rows(["0:3", -1]).select(5)
        (True, True, True, False, True)

    Args:
        spec: the selection in the row grammar.
        key: the config key, for error messages.

    Raises:
        UserError: `spec` is not in the row grammar, or is an empty list.
    """
    if isinstance(spec, Rows):
        return spec
    parts = spec if isinstance(spec, list | tuple) else [spec]
    if not parts:
        raise UserError(f"{key}=[] names no row; for no row write none. Accepted: {GRAMMAR}.")
    return Rows(tuple(_part(part, key) for part in parts), key)


def _part(part: str | int, key: str) -> tuple[str, int | slice]:
    text = str(part).strip()
    if text in {"all", "none"}:
        return text, slice(None if text == "all" else 0)
    pieces = _SLICE.fullmatch(text)
    if isinstance(part, bool) or not (_INDEX.fullmatch(text) or pieces):
        raise UserError(f"{key}={text} is not a row selection. Accepted: {GRAMMAR}.")
    if pieces is None:
        return text, int(text)
    start, stop, step = (int(n) if n else None for n in pieces.groups())
    if step == 0:
        raise UserError(f"{key}={text}: a slice's step cannot be 0.")
    return text, slice(start, stop, step)


def name_rows(selected: Sequence[bool], kind: str = "row", labels: Sequence[str] = ()) -> str:
    """Describes a selection: `rows 0–13`, `row 5`, `rows 0–2, 7`, `all rows`, `no row`.

    Args:
        selected: which of H rows.
        kind: what a row is, in the singular.
        labels: the names of the first rows; the others go by their number.
    """
    indices = [row for row, chosen in enumerate(selected) if chosen]
    if not indices:
        return f"no {kind}"
    if len(indices) == len(selected):
        return f"all {kind}s"
    starts = [indices[0]] + [b for a, b in pairwise(indices) if b > a + 1]
    ends = [a for a, b in pairwise(indices) if b > a + 1] + [indices[-1]]
    names = [*labels, *map(str, range(len(labels), len(selected)))]
    spans = [names[a] if a == b else f"{names[a]}–{names[b]}" for a, b in zip(starts, ends, strict=True)]
    return f"{kind}{'s' * (len(indices) > 1)} {', '.join(spans)}"


def short_rows(selected: Sequence[bool], kind: str = "row", labels: Sequence[str] = ()) -> str:
    """The same without the word row, as in a table: `0–13`, `none`."""
    words = name_rows(selected, kind, labels).removeprefix(f"{kind}s ").removeprefix(f"{kind} ")
    return "none" if words == f"no {kind}" else words
