"""The recorded steps of one optimizer: gradients on the device -> norms -> the CSV file and the loggers."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed
from torch.nn.functional import pad

from rowgrad.errors import UserError
from rowgrad.tap import stacked, summed
from rowgrad.watch.csv_file import DOUBLE, SINGLE, Norms, NormsFile, Rows, read_norms
from rowgrad.watch.norms import cut_fraction, means
from rowgrad.watch.quantities import ARRIVES, GRAD_NORM, REACHES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rowgrad.tap import Watched
    from rowgrad.watch.alarms import Alarms
    from rowgrad.watch.loggers import Log, Scalars
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
        bins: the most numbers that a quantity has at a step; more rows are joined.
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
        bins: int | None = None,
        keeps_history: bool = False,
    ) -> None:
        self.name, self.prefix, self.count, self.file = name, f"{name}." if name else "", count, file
        self.bins = bins
        self.quantities, self.pairs, self.watched = quantities, pairs, watched
        self.written, self._last, self._digits = 0, -1, SINGLE
        self._history: list[tuple[Tensor, Norms]] | None = None
        if keeps_history:
            earlier = read_norms(file.path)
            self._history = [earlier] if earlier[1] else []
        self._clear()

    def _clear(self) -> None:
        self.steps: list[int] = []
        self._shown: list[int] = []  # the loggers' steps
        self._outputs: list[Sequence[Tensor]] = []
        self._kept: list[Sequence[Tensor | None]] = []  # for each step, of each quantity (..., H, W)
        self.nbytes = 0

    def begin(self, step: int) -> bool:
        """Counts a step. False for a further gradient of the same step: line-search optimizers (LBFGS) take several."""
        is_new = step != self._last
        self._last = step
        self.count += is_new
        return is_new

    def add(self, step: int, shown: int, kept: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> None:
        """Adds a step.

        Args:
            step: the optimizer's.
            shown: the step at which loggers show it.
            kept: what each quantity keeps of it, (..., H, W), or None.
            outputs: of the training step.
        """
        self.steps.append(step)
        self._shown.append(shown)
        self._kept.append(kept)
        self._outputs.append(outputs)
        for quantity, one in zip(self.quantities, kept, strict=True):
            if one is not None:
                self.nbytes += one.nbytes
                self._digits = DOUBLE if quantity.in_csv and one.dtype == torch.float64 else self._digits

    def flush(self, log: Log, alarms: Alarms | None = None, *, alone: bool) -> None:
        """Writes the recorded steps. `alone`: other ranks may be gone, so outputs are not averaged over them."""
        if not self.steps:
            return
        steps, shown, norms, rows, outputs = self._take()
        self.written += len(steps)
        if outputs.numel() and not alone:
            outputs = mean_over_ranks(outputs)
        if not is_first_rank():
            return
        if self._history is not None:
            self._history.append((torch.tensor(steps), norms))
        if in_csv := {q.name: norms[q.name] for q in self.quantities if q.in_csv}:
            self.file.append(steps, in_csv, self._digits, rows)  # first: an error in what follows loses no step
        scalars = step_scalars(norms, outputs.double().cpu(), self.pairs, self.watched)
        log.write(shown, scalars, norms, self.prefix, {q.name: q.names for q in self.quantities})
        if alarms is not None and not alone:
            alarms.look(steps, norms, rows)

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

    def _take(self) -> tuple[list[int], list[int], Norms, Rows, Tensor]:
        """Removes all T steps: their norms (T, H) in float64 on the CPU, how many rows they have, their outputs."""
        columns = zip(*self._kept, strict=True)
        norms: Norms = {}
        rows: Rows = {}
        for quantity, kept in zip(self.quantities, columns, strict=True):
            norms[quantity.name], rows[quantity.name] = _norms(quantity, kept, self.bins)
        outputs = torch.zeros(len(self.steps), 0)
        if self._outputs[0]:
            outputs = torch.stack([value for step in self._outputs for value in step]).view(len(self.steps), -1)
        steps, shown = self.steps, self._shown
        self._clear()
        return steps, shown, norms, rows, outputs


def _norms(quantity: Quantity, kept: Sequence[Tensor | None], bins: int | None) -> tuple[Tensor, Tensor]:
    """Norms (T, H) of what was kept at T steps, NaN in rows that a step does not have, and the number of rows (T,)."""
    known = [one for one in kept if one is not None]
    if not known:
        return torch.zeros(len(kept), 0), torch.zeros(len(kept), dtype=torch.long)
    whole = stacked([torch.zeros_like(known[0]) if one is None else one for one in kept])
    norms = quantity.reduce(whole).double().cpu()
    if bins is not None and quantity.may_be_joined and norms.shape[1] > bins:
        norms = joined(norms, bins)
    height = norms.shape[1]
    each = whole.shape[-2] / height
    rows = torch.tensor([0 if one is None else ceil(one.shape[-2] / each) for one in kept])
    return norms.masked_fill(torch.arange(height) >= rows[:, None], torch.nan), rows


def joined(norms: Tensor, bins: int) -> Tensor:
    """Norms (T, H) of H rows as the norms (T, bins) of as many parts of neighbouring rows: roots of sums of squares."""
    parts = norms.tensor_split(bins, 1)
    return torch.stack([torch.linalg.vector_norm(part, dim=1) for part in parts], 1)


def step_scalars(norms: Norms, outputs: Tensor, pairs: Sequence[tuple[str, str]], watched: Watched) -> Scalars:
    """The scalars of each recorded step, (T,) by their tags. A new one is added here.

    Args:
        norms: of T steps, (T, H) by the names of their quantities.
        outputs: (T, outputs): `train/loss`, `train/acc`.
        pairs: names of two taps each: `grad_flow/cut_fraction`, with the taps' names behind it if there are several.
        watched: if its scenario selects rows: `grad_means/...`.
    """
    scalars = {f"train/{name}": values for name, values in zip(watched.outputs, outputs.unbind(1), strict=True)}
    for name in (REACHES, ARRIVES) if watched.selected else ():
        if name in norms:
            for part, mean in means(norms[name], watched.selected).items():
                scalars[f"grad_means/{name}_{part}"] = mean
    for before, after in pairs:
        reaches, arrives = norms[before + GRAD_NORM], norms[after + GRAD_NORM]
        if reaches.shape == arrives.shape:  # else one of the taps has not been used yet
            suffix = f"_{before}_{after}" if len(pairs) > 1 else ""
            scalars[f"grad_flow/cut_fraction{suffix}"] = cut_fraction(reaches, arrives)
    return scalars


def is_first_rank() -> bool:
    """Whether this process is the first of all, or the only one."""
    return not _has_ranks() or distributed.get_rank() == 0  # ty: ignore[possibly-missing-attribute]


def mean_over_ranks(numbers: Tensor) -> Tensor:
    """The mean over all processes, which must all call this at once."""
    if not _has_ranks():
        return numbers
    distributed.all_reduce(numbers)  # ty: ignore[possibly-missing-attribute]
    return numbers / distributed.get_world_size()  # ty: ignore[possibly-missing-attribute]


def _has_ranks() -> bool:
    if not distributed.is_available() or not distributed.is_initialized():  # ty: ignore[possibly-missing-attribute]
        return False
    return distributed.get_world_size() > 1  # ty: ignore[possibly-missing-attribute]


class RankMean:
    """Means over the ranks (processes): the gradient of the loss of the whole step.

    With one process, everything is returned as it is.

    Args:
        device: of this rank.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device, self.is_alone = device, not _has_ranks()
        self._kinds: dict[str, tuple[torch.Size, torch.dtype]] = {}

    def __call__(self, kept: Mapping[str, Tensor | None], rows: Mapping[str, int | None]) -> dict[str, Tensor | None]:
        """The means over all ranks, which must all call this at once; None for what no rank has.

        Args:
            kept: this rank's tensors, (..., rows, columns), by their names; None for what this rank does not have.
            rows: to how many rows each is padded, so that ranks may have different ones.

        Raises:
            UserError: the ranks' tensors have different shapes.
        """
        if self.is_alone or not kept:
            return dict(kept)
        heights = [0 if one is None else one.shape[-2] for one in kept.values()]
        tallest = torch.tensor(heights, device=self.device)
        distributed.all_reduce(tallest, distributed.ReduceOp.MAX)  # ty: ignore[possibly-missing-attribute]
        return {
            name: self._mean(name, one, height, rows.get(name)) if height else None
            for (name, one), height in zip(kept.items(), tallest.tolist(), strict=True)
        }

    def _mean(self, name: str, kept: Tensor | None, height: int, rows: int | None) -> Tensor:
        if kept is not None:
            kept = summed([kept], rows)
        if name not in self._kinds:
            kinds: list[Any] = [None] * distributed.get_world_size()  # ty: ignore[possibly-missing-attribute]
            own = None if kept is None else (kept.shape, kept.dtype)
            distributed.all_gather_object(kinds, own)  # ty: ignore[possibly-missing-attribute]
            known = [kind for kind in kinds if kind is not None]
            _check_shapes(name, *(shape for shape, _ in known))
            self._kinds[name] = known[0]
        shape, dtype = self._kinds[name]
        if kept is None:
            kept = torch.zeros(shape, dtype=dtype, device=self.device)
        _check_shapes(name, shape, kept.shape)
        return mean_over_ranks(kept.clone(memory_format=torch.contiguous_format))[..., :height, :]


def _check_shapes(name: str, *shapes: torch.Size) -> None:
    if len(set(shapes)) > 1:
        words = " and ".join(map(str, sorted(map(tuple, set(shapes)))))
        raise UserError(
            f"{name} has different shapes, {words}: with several processes the shape must be the same in each process"
            " and at each step. For sequences of different lengths: RowTap(rows=the longest)."
        )
