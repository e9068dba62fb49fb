"""Does gradient vanish on its way up? Row against row, at the first steps and the last. No Lightning, no files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rowgrad.watch.quantities import ARRIVES, REACHES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

FIRST, LAST = 20, 100  # recorded steps that are looked at
FAINT = 0.01  # of the strongest row: what gets less than this has hardly anything
TENTH = 0.1


class Contrast(NamedTuple):
    """The row that gets least beside the one that gets most.

    Attributes:
        weakest: a row.
        strongest: another.
        ratio: what the former gets of the latter, from 0 to 1.
    """

    weakest: int
    strongest: int
    ratio: float


def contrast(norms: Tensor) -> Contrast | None:
    """Weakest and strongest of the rows that get anything, by their mean over T steps (T, H).

    None where no row gets anything, or where what one gets is no number.
    """
    means = norms.double().nanmean(0)
    if not (means.isfinite().all() and (means > 0).any()):
        return None
    weakest = int(means.masked_fill(means == 0, float("inf")).argmin())
    strongest = int(means.argmax())
    return Contrast(weakest, strongest, float(means[weakest] / means[strongest]))


def first_and_last(norms: Tensor) -> tuple[Tensor, Tensor]:
    """The first `FIRST` and the last `LAST` of T recorded steps, (T, H)."""
    return norms[:FIRST], norms[-LAST:]


def share_of_rows(norms: Tensor) -> Tensor:
    """Each row's share of the gradient, (H,): its mean norm over T steps (T, H) ÷ the sum of all rows' means."""
    means = norms.double().nanmean(0)
    return means / means.sum()


def arrived(norms: Mapping[str, Tensor]) -> Tensor | None:
    """What is looked at, (T, H): what arrives at the network's input, else what reaches the rows."""
    return norms.get(ARRIVES, norms.get(REACHES))


def reached_a_tenth(steps: Tensor, norms: Tensor) -> int | None:
    """The first of T steps from which on row 0 gets a tenth of what the last row gets, by means over `FIRST` steps.

    Args:
        steps: optimizer steps (T,).
        norms: (T, H).

    Returns:
        The first step of the first such window; None where there is none.
    """
    if len(norms) < FIRST:
        return None
    top, bottom = (norms[:, row].double().unfold(0, FIRST, 1).mean(1) for row in (0, -1))
    there = (top >= TENTH * bottom) & (bottom > 0)
    return int(steps[int(there.int().argmax())]) if there.any() else None


def describe_vanishing(norms: Tensor | None) -> str:
    """Says it where the weakest row hardly gets anything at the first steps or at the last (T, H); else nothing."""
    if norms is None or not len(norms):
        return ""
    found = [contrast(part) for part in first_and_last(norms)]
    if any(one is None for one in found) or min(one.ratio for one in found if one) >= FAINT:
        return ""
    count = len(norms)
    parts = zip((f"first {min(FIRST, count)} step{'s' * (count > 1)}", f"last {min(LAST, count)}"), found, strict=True)
    return "; ".join(f"{when}: row {c.weakest} gets {_part(c.ratio)} of row {c.strongest}" for when, c in parts if c)


def _part(ratio: float) -> str:
    return f"1/{float(f'{1 / ratio:.2g}'):,.0f}" if ratio < FAINT else f"{ratio:.2f}"
