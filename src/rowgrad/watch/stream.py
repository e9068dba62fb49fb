"""The recorded steps of one optimizer: gradients on the device -> norms -> the CSV file and the loggers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed
from torch.nn.functional import pad

from rowgrad.errors import UserError
from rowgrad.tap import stacked
from rowgrad.watch.csv_file import DOUBLE, SINGLE, Norms, NormsFile, read_norms
from rowgrad.watch.loggers import Scalars, log_steps
from rowgrad.watch.norms import cut_fraction, means
from rowgrad.watch.quantities import ARRIVES, GRAD_NORM, REACHES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lightning.pytorch as pl

    from rowgrad.tap import Watched
    from rowgrad.watch.quantities import Quantity

BYTES = 32 * 2**20  # of gradients on the device; beyond that they are written at once


class Stream:
    """The steps of one optimizer.

    Args:
        name: the prefix of its tags; empty if there is only one optimizer.
        count: the steps that the optimizer has done.
        file: the CSV file.
        quantities: what is recorded.
        pairs: names of two taps each, before and after a cut.
        watched: what the module says of itself.
        keeps_history: whether all norms stay in memory too.

    Attributes:
        steps: recorded steps that are not written yet.
        nbytes: what the gradients of these steps take on the device.
        written: how many steps were written since the stream was made.
    """

    def __init__(
        self,
        name: str,
        count: int,
        file: NormsFile,
        quantities: Sequence[Quantity],
        pairs: Sequence[tuple[str, str]],
        watched: Watched,
        *,
        keeps_history: bool,
    ) -> None:
        self.prefix, self.count, self.file = f"{name}." if name else "", count, file
        self.quantities, self.pairs, self.watched = quantities, pairs, watched
        self.written, self._last, self._digits = 0, -1, SINGLE
        self._history: list[tuple[Tensor, Norms]] | None = None
        if keeps_history:
            earlier = read_norms(file.path)
            self._history = [earlier] if earlier[1] else []
        self._clear()

    def _clear(self) -> None:
        self.steps: list[int] = []
        self._outputs: list[Sequence[Tensor]] = []
        self._kept: list[Sequence[Tensor | None]] = []  # for each step, of each quantity (..., H, W)
        self.nbytes = 0

    def begin(self, step: int) -> bool:
        """Counts a step. False for a further gradient of the same step: line-search optimizers (LBFGS) take several."""
        is_new = step != self._last
        self._last = step
        self.count += is_new
        return is_new

    def add(self, step: int, kept: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> None:
        """Adds a step: what each quantity keeps of it, (..., H, W) or None, and the training step's outputs."""
        self.steps.append(step)
        self._kept.append(kept)
        self._outputs.append(outputs)
        for quantity, one in zip(self.quantities, kept, strict=True):
            if one is not None:
                self.nbytes += one.nbytes
                self._digits = DOUBLE if quantity.in_csv and one.dtype == torch.float64 else self._digits

    def flush(self, trainer: pl.Trainer, *, alone: bool) -> None:
        """Writes the recorded steps. `alone`: other ranks may be gone, so outputs are not averaged over them."""
        if not self.steps:
            return
        steps, norms, outputs = self._take()
        self.written += len(steps)
        if outputs.numel() and not alone:
            outputs = trainer.strategy.reduce(outputs, reduce_op="mean")
        if not trainer.is_global_zero:
            return
        if self._history is not None:
            self._history.append((torch.tensor(steps), norms))
        if in_csv := {q.name: norms[q.name] for q in self.quantities if q.in_csv}:
            self.file.append(steps, in_csv, self._digits)  # first: an error in what follows loses no step
        scalars = step_scalars(norms, outputs.double().cpu(), self.pairs, self.watched)
        log_steps(trainer, steps, scalars, norms, self.prefix)

    def in_file(self) -> dict[str, Any]:
        """What the file has on the disk: the number of steps, and the names of the quantities."""
        self.file.sync()
        return {"steps": self.file.count, "quantities": sorted(q.name for q in self.quantities if q.in_csv)}

    def recorded(self) -> tuple[Tensor, Norms]:
        """Steps (T,) and norms (T, H) by the names of their quantities: from the history, else from the file."""
        if not self._history:
            return read_norms(self.file.path)
        return torch.cat([steps for steps, _ in self._history]), {
            q.name: self._of_history(q.name) for q in self.quantities
        }

    def _of_history(self, name: str) -> Tensor:
        """A quantity's norms (T, H), NaN for steps that an earlier run wrote without it."""
        assert self._history is not None
        height = max(norms[name].shape[1] for _, norms in self._history if name in norms)
        parts = [norms.get(name, torch.full((len(steps), height), torch.nan)) for steps, norms in self._history]
        joined = torch.cat([pad(part, (0, height - part.shape[1])) for part in parts])
        return joined if self._digits == DOUBLE else joined.float()  # as the file has them

    def _take(self) -> tuple[list[int], Norms, Tensor]:
        """Removes all T steps: their norms (T, H) in float64 on the CPU, and their outputs (T, outputs)."""
        columns = zip(*self._kept, strict=True)
        norms = {q.name: _norms(q, kept).double().cpu() for q, kept in zip(self.quantities, columns, strict=True)}
        outputs = torch.zeros(len(self.steps), 0)
        if self._outputs[0]:
            outputs = torch.stack([value for step in self._outputs for value in step]).view(len(self.steps), -1)
        steps = self.steps
        self._clear()
        return steps, norms, outputs


def _norms(quantity: Quantity, kept: Sequence[Tensor | None]) -> Tensor:
    """Norms (T, H) of what was kept at T steps: zero at steps without it, (T, 0) if no step has it."""
    known = next((one for one in kept if one is not None), None)
    if known is None:
        return torch.zeros(len(kept), 0)
    return quantity.reduce(stacked([torch.zeros_like(known) if one is None else one for one in kept]))


def step_scalars(norms: Norms, outputs: Tensor, pairs: Sequence[tuple[str, str]], watched: Watched) -> Scalars:
    """The scalars of each recorded step, (T,) by their tags. A new one is added here.

    Args:
        norms: of T steps, (T, H) by the names of their quantities.
        outputs: (T, outputs): `train/loss`, `train/acc`.
        pairs: names of two taps each: `grad_flow/cut_fraction`, with the taps' names behind it if there are several.
        watched: if its scenario selects rows: `grad_means/...`.

    Raises:
        UserError: a pair of taps with different numbers of rows.
    """
    scalars = {f"train/{name}": values for name, values in zip(watched.outputs, outputs.unbind(1), strict=True)}
    for name in (REACHES, ARRIVES) if watched.selected else ():
        if name in norms:
            for part, mean in means(norms[name], watched.selected).items():
                scalars[f"grad_means/{name}_{part}"] = mean
    for before, after in pairs:
        reaches, arrives = norms[before + GRAD_NORM], norms[after + GRAD_NORM]
        if reaches.shape != arrives.shape:
            heights = f"{before} has {reaches.shape[1]} rows and {after} has {arrives.shape[1]}"
            raise UserError(f"pairs: {heights}; the taps of a pair need the same number of rows.")
        suffix = f"_{before}_{after}" if len(pairs) > 1 else ""
        scalars[f"grad_flow/cut_fraction{suffix}"] = cut_fraction(reaches, arrives)
    return scalars


class RankMean:
    """Means over the ranks (processes) of a trainer: the gradient of the loss of the whole step.

    With one process, everything is returned as it is.

    Args:
        trainer: the trainer.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self.strategy, self.is_alone = trainer.strategy, trainer.world_size == 1
        self._kinds: dict[str, tuple[torch.Size, torch.dtype]] = {}

    def __call__(self, name: str, kept: Tensor | None) -> Tensor | None:
        """The mean over all ranks, which must all call this at once; None if no rank has a gradient yet.

        Args:
            name: what it is the mean of, for messages.
            kept: this rank's tensor, which is changed; None if this rank has no gradient yet.

        Raises:
            UserError: the ranks' tensors have different shapes.
        """
        if self.is_alone:
            return kept
        if name not in self._kinds:
            kinds: list[Any] = [None] * distributed.get_world_size()  # ty: ignore[possibly-missing-attribute]
            own = None if kept is None else (kept.shape, kept.dtype)
            distributed.all_gather_object(kinds, own)  # ty: ignore[possibly-missing-attribute]
            known = [kind for kind in kinds if kind is not None]
            if not known:
                return None
            _check_shapes(name, *(shape for shape, _ in known))
            self._kinds[name] = known[0]
        shape, dtype = self._kinds[name]
        if kept is None:
            kept = torch.zeros(shape, dtype=dtype, device=self.strategy.root_device)
        _check_shapes(name, shape, kept.shape)
        return self.strategy.reduce(kept, reduce_op="mean")


def _check_shapes(name: str, *shapes: torch.Size) -> None:
    if len(set(shapes)) > 1:
        words = " and ".join(map(str, sorted(map(tuple, set(shapes)))))
        raise UserError(
            f"{name} has different shapes, {words}: with several processes the shape must be the same in each process"
            " and at each step. For sequences of different lengths: RowTap(rows=the longest)."
        )
