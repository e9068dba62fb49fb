"""Recorded steps that are not written yet: gradients on the device -> norms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from rowgrad.tap import stacked
from rowgrad.watch.csv_file import DOUBLE, SINGLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rowgrad.watch.csv_file import Norms
    from rowgrad.watch.quantities import Quantity

BYTES = 32 * 2**20  # of gradients on the device; then their norms are taken, whether or not they are written yet


class Records:
    """The steps of one optimizer.

    Args:
        quantities: what is recorded.

    Attributes:
        steps: the optimizer steps.
        digits: of their norms in the CSV: enough for what the gradients are of.
    """

    def __init__(self, quantities: Sequence[Quantity]) -> None:
        self.quantities, self.digits = quantities, SINGLE
        self._clear()

    def add(self, step: int, kept: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> None:
        """Adds a step.

        Args:
            step: the optimizer step.
            kept: of each quantity what was kept, (..., H, W); None where nothing is known of it yet. Nobody else may
                change it.
            outputs: of the training step, as many numbers for every step.
        """
        self.steps.append(step)
        self._outputs.append(outputs)
        for quantity, before, now in zip(self.quantities, self._kept, kept, strict=True):
            before.append(now)
            if now is not None:
                self._bytes += now.nbytes
                self.digits = DOUBLE if quantity.in_csv and now.dtype == torch.float64 else self.digits
        if self._bytes > BYTES:
            self._reduce()

    def take(self) -> tuple[list[int], Norms, Tensor]:
        """All T steps, their norms (T, H) in float64 on the CPU, and outputs (T, outputs). They are gone from here."""
        self._reduce()
        norms = {
            quantity.name: joined(parts).double().cpu()
            for quantity, parts in zip(self.quantities, self._norms, strict=True)
        }
        outputs = torch.zeros(len(self.steps), 0)
        if self._outputs[0]:
            outputs = torch.stack([output for one in self._outputs for output in one]).view(len(self.steps), -1)
        steps = self.steps
        self._clear()
        return steps, norms, outputs

    def _clear(self) -> None:
        self.steps: list[int] = []
        self._outputs: list[Sequence[Tensor]] = []
        self._kept: list[list[Tensor | None]] = [[] for _ in self.quantities]
        self._norms: list[list[Tensor]] = [[] for _ in self.quantities]
        self._bytes = 0

    def _reduce(self) -> None:
        for quantity, kept, norms in zip(self.quantities, self._kept, self._norms, strict=True):
            known = next((one for one in kept if one is not None), None)
            if known is None:
                norms.append(torch.zeros(len(kept), 0))
            else:
                nothing = torch.zeros_like(known)
                norms.append(quantity.reduce(stacked([nothing if one is None else one for one in kept])))
            kept.clear()
        self._bytes = 0


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Norms of different steps, (T, H) each, as one table: rows that there were not got nothing."""
    most = max(part.shape[1] for part in parts)
    return torch.cat([pad(part, (0, most - part.shape[1])).to(parts[-1].device) for part in parts])
