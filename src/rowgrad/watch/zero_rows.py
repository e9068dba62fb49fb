"""Which line makes the zeros of a tap's rows that never get gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowgrad.cuts.finder import Finder
from rowgrad.scenario.rows import name_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rowgrad.cuts.lightning import TrainingStep
    from rowgrad.tap import RowTap

ZERO = "got exactly 0 in each of the first steps"


def find_makers(step: TrainingStep, taps: Mapping[str, RowTap], rows: Mapping[str, Sequence[bool]]) -> list[str]:
    """Finds the lines by letting each place through where gradient ends.

    Args:
        step: of training.
        taps: by their names.
        rows: which of H rows get exactly zero, by the tap's name.

    Returns:
        A sentence for each tap and line, and for rows to which no single line keeps gradient from coming.
    """
    finder = Finder(step.module, step, step.optimizers, step.others, list(taps.values()))
    finder.find()
    sentences = []
    for place, (name, tap) in enumerate(taps.items()):
        left = {row for row, is_zero in enumerate(rows[name]) if is_zero}
        for cut, arrived in finder.arrived.items():
            found = {row for row in left if _gets_gradient(arrived[place], row)}
            left -= found
            sentences += [_sentence(name, tap, found, len(rows[name]), f"{cut.kind} at {cut.place}")] if found else []
        if left:
            why = "the loss does not use them, or something on the way has no derivative"
            sentences.append(_sentence(name, tap, left, len(rows[name]), f"no single line cuts them off; {why}"))
    return sentences


def unexplained(name: str, tap: RowTap, rows: Sequence[bool]) -> str:
    """The sentence on a tap's rows, for a loop whose step cannot be run again from here."""
    return f"{name}: {name_rows(rows, tap.kind, tap.labels)} {ZERO}. find_cuts(module, step) says why."


def _gets_gradient(grad: Tensor | None, row: int) -> bool:
    return grad is not None and row < grad.shape[-2] and bool(grad[..., row, :].any())


def _sentence(name: str, tap: RowTap, rows: set[int], height: int, why: str) -> str:
    selected = [row in rows for row in range(height)]
    return f"{name}: {name_rows(selected, tap.kind, tap.labels)} {ZERO}: {why}."
