"""The recorded steps of one optimizer, from the device to where they are written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rowgrad.watch.csv_file import DOUBLE, Norms, NormsFile, read_norms
from rowgrad.watch.events import layout
from rowgrad.watch.outlets import derived, table_of, write_to_loggers
from rowgrad.watch.records import Records, joined

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from rowgrad.watch.taps import Tapped


class Stream:
    """The steps of one optimizer.

    Args:
        name: of the optimizer, which stands before its tags; empty where there is one alone.
        count: the steps that it has done.
        file: its `row_gradients.csv`.
        tapped: what is recorded of the module.
        keeps_history: whether all norms are kept in memory too.

    Attributes:
        records: what is not written yet.
        written: how many steps were, since it was made.
    """

    def __init__(
        self,
        name: str,
        count: int,
        file: NormsFile,
        tapped: Tapped,
        *,
        keeps_history: bool,
    ) -> None:
        self.prefix, self.count, self.file = f"{name}." if name else "", count, file
        self.quantities, self.pairs, self.watched = tapped.quantities, tapped.pairs, tapped.watched
        self.written = 0
        self._last: int | None = None
        self.records = Records(self.quantities)
        self._history: list[tuple[Tensor, Norms]] | None = None
        if keeps_history:
            earlier = read_norms(file.path)
            self._history = [earlier] if earlier[1] else []

    def begin(self, step: int) -> bool:
        """Counts a step; False where it is none: optimizers that search a line ask for several gradients."""
        new = step != self._last
        self._last = step
        self.count += new
        return new

    def flush(self, trainer: pl.Trainer, *, alone: bool) -> None:
        """Writes what was recorded; `alone` where other ranks may be gone."""
        if not self.records.steps:
            return
        steps, norms, outputs = self.records.take()
        self.written += len(steps)
        if outputs.numel() and not alone:
            outputs = trainer.strategy.reduce(outputs, reduce_op="mean")
        if not trainer.is_global_zero:
            return
        if self._history is not None:
            self._history.append((torch.tensor(steps), norms))
        if in_csv := {q.name: norms[q.name] for q in self.quantities if q.in_csv}:
            self.file.append(steps, in_csv, self.records.digits)  # first: a mistake in what follows loses no step
        names = [f"train/{name}" for name in self.watched.outputs]
        columns = dict(zip(names, outputs.double().cpu().unbind(1), strict=True))
        columns |= derived(norms, self.pairs, self.watched.selected)
        tags, table = table_of(norms, columns)
        write_to_loggers(trainer, steps, [self.prefix + tag for tag in tags], table)

    def in_file(self) -> dict[str, Any]:
        """What the file has on the disk: how many steps, and of which quantities."""
        self.file.sync()
        names = sorted(quantity.name for quantity in self.quantities if quantity.in_csv)
        return {"steps": self.file.count, "quantities": names}

    def charts(self) -> dict[str, str]:
        """The charts of *Custom Scalars*: regular expressions of tags by their titles."""
        charts = layout(
            means=[quantity.name for quantity in self.quantities] if any(self.watched.selected) else [],
            cut=bool(self.pairs),
            curves=bool(self.watched.outputs),
        )
        title = self.prefix.replace(".", ": ")
        return {title + chart: re.escape(self.prefix) + tags for chart, tags in charts.items()}

    def recorded(self) -> tuple[Tensor, Norms]:
        """Steps (T,) and norms (T, H) by their names: the history's, else the file's."""
        if self._history is None:
            return read_norms(self.file.path)
        steps = [steps for steps, _ in self._history]
        if not steps:
            return torch.zeros(0, dtype=torch.long), {}
        return torch.cat(steps), {quantity.name: self._of_history(quantity.name) for quantity in self.quantities}

    def _of_history(self, name: str) -> Tensor:
        assert self._history is not None
        rows = max(norms[name].shape[1] for _, norms in self._history if name in norms)
        parts = [norms.get(name, torch.full((len(steps), rows), torch.nan)) for steps, norms in self._history]
        # As the file has them, whether or not they went through it: what it has of 32 bits is known by those alone.
        return joined(parts) if self.records.digits == DOUBLE else joined(parts).float()
