"""Alarms: gradient that is not finite, explodes, vanishes, or never comes. Each is said once, in one line."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import nn

from rowgrad.watch.quantities import LAYER_GRAD, TOTAL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from rowgrad.watch.csv_file import Norms, Rows
    from rowgrad.watch.quantities import Quantity

USUAL = 20  # recorded steps whose median is the usual norm
EXPLODED = 1e3  # times the usual norm
VANISHED = 1e-6  # of the usual norm, or, of a layer, of the strongest layer's
LONG = 10  # recorded steps at a stretch, after which vanished or missing gradient is said


class Alarms:
    """Looks at the norms of each flush.

    Args:
        warn: is called with each alarm.
        quantities: what is recorded.
    """

    def __init__(self, warn: Callable[[str], None], quantities: Sequence[Quantity]) -> None:
        self._warn, self._quantities = warn, {quantity.name: quantity for quantity in quantities}
        self._said: set[str] = set()
        self._first: dict[str, list[float]] = {}  # the first norms of each series
        self._faint: dict[str, int] = {}  # for how many steps each series has been faint
        self._zeros: dict[str, tuple[int, Tensor]] = {}  # of how many steps, and which rows have been 0 in all of them
        self.zero_rows: dict[str, list[bool]] = {}  # which rows were exactly 0 in the first `LONG` recorded steps

    def look(self, steps: Sequence[int], norms: Norms, rows: Rows) -> None:
        """Looks at norms (T, H) of T steps, of which `rows` (T,) were recorded."""
        self._look_for_infinite(steps, norms, rows)
        for quantity, values in norms.items():
            if quantity == LAYER_GRAD:
                self._look_at_layers(steps, values)
            elif not self._quantities[quantity].names:
                self._look_for_zero_rows(quantity, values, rows[quantity])
                whole = torch.linalg.vector_norm(values.nan_to_num(0.0, torch.inf), dim=1)
                known = rows[quantity] > 0
                self._look_at(quantity, [*itertools.compress(steps, known.tolist())], whole[known])

    def _look_for_infinite(self, steps: Sequence[int], norms: Norms, rows: Rows) -> None:
        found = []
        for quantity, values in norms.items():
            described = self._quantities[quantity]
            if described.names and quantity != LAYER_GRAD:
                continue
            known = torch.arange(values.shape[1]) < rows[quantity][:, None]
            if quantity == LAYER_GRAD:
                known &= ~values.isnan() | values[:, -1:].isnan()
            bad = ~values.isfinite() & known
            if bad.any():
                step = int(bad.any(1).nonzero()[0])
                row = int(bad[step].nonzero()[0])
                where = f"{described.kind} {described.names[row] if described.names else row}"
                found.append((step, where if described.names else f"{quantity}, {where}"))
        if found:
            step, where = min(found, key=lambda one: one[0])
            self._say("finite", f"step {steps[step]}: gradient is not finite for the first time, at {where}.")

    def _look_for_zero_rows(self, quantity: str, values: Tensor, rows: Tensor) -> None:
        count, zero = self._zeros.get(quantity, (0, torch.ones(values.shape[1], dtype=torch.bool)))
        first = (rows > 0).nonzero()[: LONG - count, 0]
        if not len(first):
            return
        width = max(len(zero), values.shape[1])
        zero, values = (nn.functional.pad(one, (0, width - one.shape[-1])) for one in (zero, values))
        now = (values[first] == 0) & (torch.arange(width) < rows[first, None])
        self._zeros[quantity] = count + len(first), zero & now.all(0)
        if count + len(first) == LONG:
            self.zero_rows[quantity] = self._zeros[quantity][1].tolist()

    def _look_at_layers(self, steps: Sequence[int], values: Tensor) -> None:
        names = self._quantities[LAYER_GRAD].names
        strongest = values[:, :-1].nan_to_num(0.0).amax(1)
        for name, series in zip(names, values.unbind(1), strict=True):
            where = "all layers together" if name == TOTAL else f"layer {name}"
            missing = series.isnan() | (series == 0)
            self._look_at(where, steps, series.nan_to_num(0.0), strongest if name != TOTAL else None)
            if self._lasts(f"{where} missing", missing):
                what = "exactly 0" if not series.isnan().all() else "none"
                self._say(f"{where} missing", f"{where}: its gradient is {what} in the first {LONG} recorded steps.")

    def _look_at(self, where: str, steps: Sequence[int], series: Tensor, strongest: Tensor | None = None) -> None:
        first = self._first.setdefault(where, [])
        first += series[: USUAL - len(first)].tolist() if len(first) < USUAL else []
        usual = float(torch.tensor(first).median()) if first else 0.0
        if not usual > 0:
            return
        large = (series > EXPLODED * usual) & series.isfinite()
        if len(first) == USUAL and large.any():
            step = int(large.nonzero()[0])
            words = f"{float(series[step]):.2g}, {float(series[step]) / usual:.0f} times the usual {usual:.2g}"
            self._say(f"{where} explodes", f"step {steps[step]}: gradient explodes at {where}: norm {words}.")
        small = series < VANISHED * (usual if strongest is None else strongest)
        if self._lasts(f"{where} vanishes", small & (series > 0)):
            than = "the usual norm" if strongest is None else "the strongest layer's"
            self._say(
                f"{where} vanishes",
                f"step {steps[-1]}: gradient vanishes at {where}: norm {float(series[-1]):.2g}, for {LONG} recorded"
                f" steps less than {VANISHED:g} of {than}.",
            )

    def _lasts(self, what: str, holds: Tensor) -> bool:
        """Whether something has held for `LONG` steps at a stretch, over flushes."""
        count = self._faint.get(what, 0)
        longest = 0
        for one in holds.tolist():
            count = count + 1 if one else 0
            longest = max(longest, count)
        self._faint[what] = count
        return longest >= LONG

    def _say(self, what: str, words: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self._warn(words)
