"""Gradients -> norms: how each recorded number is computed. No Lightning, no files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


def row_norms(gradients: Tensor) -> Tensor:
    """‖g_r‖₂ of every row r, over channels and columns: N gradients (N, ..., H, W) -> (N, H).

    Computed in float64, and scaled so that no square under- or overflows: a norm is exactly 0.0 if and only if every
    entry of the row's gradient is.
    """
    others = [dim for dim in range(1, gradients.ndim) if dim != gradients.ndim - 2]
    if gradients.dtype != torch.float64:  # squares of shorter numbers fit into 64 bits
        return torch.linalg.vector_norm(gradients, dim=others, dtype=torch.float64)
    size = _size(gradients, others)
    return torch.linalg.vector_norm(gradients / size, dim=others) * size.amax(others)


def _size(numbers: Tensor, dim: list[int]) -> Tensor:
    """The power of two below the largest magnitude along `dim`; 1 if that is 0 or not finite.

    Division by it is exact, and squares of the quotients do not vanish, as that of 1e-200 would.
    """
    largest = numbers.abs().amax(dim, keepdim=True)
    return torch.where((largest > 0) & largest.isfinite(), largest / (2 * torch.frexp(largest).mantissa), 1.0)


def cut_rows(row_grad_norm: Tensor, input_grad_norm: Tensor) -> Tensor:
    """Which rows were cut (..., H): gradient arrived at the network's input there, and none of it reached the row."""
    return (row_grad_norm == 0) & (input_grad_norm > 0)


def cut_fraction(row_grad_norm: Tensor, input_grad_norm: Tensor) -> Tensor:
    """Share of the squared input gradient that the cut stopped: Σ over cut rows ÷ Σ over all rows.

    Args:
        row_grad_norm: ‖∂L/∂θ_r‖, (..., H).
        input_grad_norm: ‖∂L/∂τ_r‖, (..., H).

    Returns:
        (...), from 0 to 1; 0 if no gradient arrived at all.
    """
    arrived = input_grad_norm.double()
    energy = (arrived / _size(arrived, [-1])).square()
    total = energy.sum(-1)
    stopped = (energy * cut_rows(row_grad_norm, input_grad_norm)).sum(-1)
    return torch.where(total > 0, stopped / total.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def means(norms: Tensor, selected: Sequence[bool]) -> dict[str, Tensor]:
    """Means (...) of norms (..., H) over the selected rows and over the others; without such rows, no mean."""
    mask = torch.tensor(selected)
    parts = {"selected": mask, "other": ~mask}
    return {part: norms[..., rows].mean(-1) for part, rows in parts.items() if rows.any()}


# Vanishing: what the weakest row gets beside the strongest, at the first and the last recorded steps.
FIRST, LAST = 20, 100
FAINT = 0.01  # of the strongest row; less is called vanishing


class Contrast(NamedTuple):
    """The row with the smallest mean norm above 0, the row with the largest, and the ratio of these norms."""

    weakest: int
    strongest: int
    ratio: float


def contrast(norms: Tensor) -> Contrast | None:
    """Weakest and strongest row by mean norm over T steps (T, H); rows of zeros are left out.

    Returns:
        None if every norm is 0, or if a mean is not finite.
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
