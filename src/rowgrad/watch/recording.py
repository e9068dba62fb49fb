"""A recording: what is recorded of a module, from its taps to the files, whoever runs the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rowgrad.attach import Place, attach
from rowgrad.errors import UserError, nearest
from rowgrad.tap import find_taps, named_parts, watched_of
from rowgrad.watch.alarms import Alarms
from rowgrad.watch.csv_file import write_facts
from rowgrad.watch.loggers import Log
from rowgrad.watch.passes import BackwardPasses, Weights
from rowgrad.watch.quantities import (
    GRAD_NORM,
    KNOWN,
    LayerGradNorm,
    LayerUpdateRatio,
    Quantity,
    TapNorm,
    describe_facts,
)
from rowgrad.watch.stream import BYTES, RankMean, Stream, is_first_rank

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle

    from rowgrad.tap import RowTap, Watched
    from rowgrad.watch.csv_file import NormsFile
    from rowgrad.watch.settings import RecorderSettings

FIRST = 10  # recorded steps of the first flush; each flush then takes as many as all before it, up to the setting
MUCH = 64 * 2**10  # bytes of a step in an event file and the CSV, above which `bins` is recommended
EACH = 50  # about as many bytes a row takes there


class Recording:
    """Finds the taps of a module, attaches those of `modules`, and chooses what is recorded.

    Then come `follow`, `open`, and for each step `before_step` and `after_step`; at the end `close` and `leave`.

    Args:
        module: the module.
        settings: which steps are recorded, and what of them.
        tell: is called with a sentence that people should know.
        warn: is called with a sentence about something that is probably wrong.

    Attributes:
        taps: by their names.
        quantities: what is recorded.
        pairs: names of two taps each, before and after a cut.
        watched: what the module says of itself.
        streams: of each optimizer, once it is open.

    Raises:
        UserError: there is nothing to record, or an unknown name.
    """

    def __init__(
        self,
        module: nn.Module,
        settings: RecorderSettings,
        tell: Callable[[str], None] = lambda _: None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.module, self.settings, self._warn = module, settings, warn
        self.taps, self.watched = find_taps(module), watched_of(module)
        for name, tap in self.taps.items():
            tap.name = tap.name or name
        self._handles: list[RemovableHandle] = []
        self._attached: dict[RowTap, str] = {}
        self.streams: list[Stream] = []
        self._alarms: list[Alarms] = []
        self.log = Log()
        self._optimizers: Sequence[Optimizer] = ()
        self._weights: list[Weights] = []
        self._passes: BackwardPasses | None = None
        self._pending: tuple[Stream, int, int, list[Tensor | None]] | None = None
        self._scale = 1.0
        self._scaler: torch.amp.GradScaler | None = None
        self._is_checked = False
        try:
            for name, place in settings.modules.items():
                self.taps[name], handle = attach(module, name, Place(**place), tell, warn)
                self._attached[self.taps[name]] = name
                self._handles.append(handle)
            layers = layer_quantities(module, settings)
            self.quantities = choose_quantities(module, self.taps, settings.quantities, layers)
            self.pairs = choose_pairs(self.watched, self.taps, settings.pairs, self.quantities)
        except UserError:
            self.leave()
            raise
        self._recorded = {tap for quantity in self.quantities if (tap := _tap_of(quantity)) is not None}

    def follow(self, optimizers: Sequence[Optimizer], scaler: torch.amp.GradScaler | None = None) -> None:
        """Begins to follow backward passes.

        Args:
            optimizers: each has a record of its own. Without any, one has all parameters of the module.
            scaler: of mixed precision in 16 bits.
        """
        self._optimizers, self._scaler = optimizers, scaler
        self._weights = [Weights(_parameters_of(one)) for one in optimizers] or [Weights(self.module.parameters)]
        self._passes = BackwardPasses(self._recorded, self._weights, self._note_scale)
        for tap in self.taps.values():
            tap.hold(self, on=tap in self._recorded)

    @property
    def needs_state_before(self) -> bool:
        """Whether a quantity compares what is before an optimizer's step with what is after it."""
        return any(type(quantity).after_step is not Quantity.after_step for quantity in self.quantities)

    @property
    def names(self) -> dict[str, Sequence[str]]:
        """The names of rows, of quantities that have any."""
        return {quantity.name: quantity.names for quantity in self.quantities if quantity.names}

    @property
    def facts(self) -> dict[str, Any]:
        """What charts need to know of the recording: in which order layers are, and what the quantities' rows are."""
        layers = {"layers": list(next(iter(self.names.values())))} if self.names else {}
        is_whole = self.settings.bins is None  # else a row of the file is several rows
        told = describe_facts(self.quantities, with_labels=is_whole)
        return layers | ({"quantities": told} if told else {})

    def open(
        self, file_of: Callable[[str], NormsFile], log: Log, *, counts: Sequence[int], keeps_history: bool = False
    ) -> None:
        """Opens the files.

        Args:
            file_of: opens the file of an optimizer by its name, which is empty if there is only one.
            log: where steps are shown, too.
            counts: how many steps each optimizer has done.
            keeps_history: whether all norms stay in memory, also those that are in no file.
        """
        several = len(self._weights) > 1
        names = [f"optimizer_{number}" if several else "" for number in range(len(self._weights))]
        self._ranks, self.log = RankMean(_device_of(self.module)), log
        self.streams = [
            Stream(
                name,
                count,
                file_of(name),
                self.quantities,
                self.pairs,
                self.watched,
                bins=self.settings.bins,
                keeps_history=keeps_history,
            )
            for name, count in zip(names, counts, strict=True)
        ]
        if is_first_rank():
            for stream in self.streams:
                write_facts(stream.file.path, self.facts.get("quantities", {}))
        self._alarms = [Alarms(self._warn, self.quantities) for _ in self.streams]
        self._switch_taps()

    def before_step(self, number: int, step: int, shown: int) -> None:
        """Takes the gradients of the coming step, after unscaling and before clipping.

        Args:
            number: the index of the optimizer.
            step: the optimizer step.
            shown: the step at which loggers show it.
        """
        stream, every = self.streams[number], self.settings.every_n_steps
        if not stream.begin(step):  # a line search looks at a further gradient
            return
        self.after_step()
        assert self._passes is not None
        self._passes.follow_new_weights()
        if (stream.count - 1) % every == 0:
            optimizer = self._optimizers[number] if self._optimizers else None
            self._pending = stream, step, shown, self._take(self._weights[number].take(), optimizer)
            self._check_pairs(self._pending[-1])
        self._switch_taps()

    def after_step(self, outputs: Callable[[], Sequence[Tensor]] = tuple) -> None:
        """Adds the pending step, now that the optimizer has done it.

        Args:
            outputs: returns those of the training step.
        """
        if self._pending is None:
            return
        (stream, step, shown, kept), self._pending = self._pending, None
        if self._scaler is not None and self._scaler.get_scale() < self._scale:  # the scaler has skipped the step
            return
        for quantity, one in zip(self.quantities, kept, strict=True):
            if one is not None:
                quantity.after_step(one, self.module)
        if not self._is_checked and self._passes is not None and self._passes.count:
            self._check_first(kept)
        stream.add(step, shown, kept, outputs())
        most = min(self.settings.flush_every_n_steps, max(FIRST, stream.written))
        if len(stream.steps) >= most or stream.nbytes > BYTES:
            self.flush()

    def flush(self, *, alone: bool = False) -> None:
        """Writes the recorded steps to the files and the loggers. `alone`: other ranks may be gone."""
        for stream, alarms in zip(self.streams, self._alarms, strict=True):
            stream.flush(self.log, alarms, alone=alone)

    def take_zero_rows(self) -> dict[str, list[bool]]:
        """Which rows of taps got exactly zero in all of the first steps, by the tap's name; only once."""
        if self.settings.bins is not None or self.watched.pair is not None:  # a cut of which the module says itself
            return {}
        before_cuts = {before for before, _ in self.pairs}  # there, a cut is expected
        found: dict[str, list[bool]] = {}
        for alarms in self._alarms:
            for name, rows in alarms.zero_rows.items():
                found.setdefault(name.removesuffix(GRAD_NORM), rows)
            alarms.zero_rows = {}
        return {
            name: rows for name, rows in found.items() if any(rows) and name in self.taps and name not in before_cuts
        }

    def known(self) -> dict[str, Any]:
        """What a checkpoint says of the files, by their names."""
        self.flush()
        return {stream.file.path.name: stream.file.known() for stream in self.streams}

    def close(self, *, alone: bool = False) -> None:
        """Writes the remaining steps and closes the files."""
        self.flush(alone=alone)
        for stream in self.streams:
            stream.file.close()

    def leave(self) -> None:
        """Leaves the module as it was: attached taps are removed, and its own are restored."""
        for handle in self._handles:
            handle.remove()
        if self._passes is not None:
            self._passes.close()
        for tap in self.taps.values():
            tap.reset()
            tap.hold(self, on=None)
        self._handles, self._passes, self._pending = [], None, None

    def _switch_taps(self) -> None:
        """Switches the taps on for a step that is recorded; with several optimizers, any may be the next to step."""
        is_due = len(self.streams) > 1 or self.streams[0].count % self.settings.every_n_steps == 0
        for tap in self.taps.values():
            tap.hold(self, on=is_due and tap in self._recorded)

    def _note_scale(self) -> None:
        self._scale = 1.0 if self._scaler is None else self._scaler.get_scale()

    def _take(self, grads: Mapping[RowTap, Tensor], optimizer: Optimizer | None) -> list[Tensor | None]:
        """What each quantity keeps of the coming step: unscaled, averaged over ranks, shared with nothing else."""
        kept: dict[str, Tensor | None] = {}
        for quantity in self.quantities:
            if (tap := _tap_of(quantity)) is not None:
                kept[quantity.name] = grads.get(tap)  # a pass never changes an earlier one's gradient
            else:
                one = quantity.before_step(self.module)
                kept[quantity.name] = None if one is None else one.detach().clone()
        rows = {q.name: tap.rows if (tap := _tap_of(q)) else None for q in self.quantities if q.of_rank}
        kept |= self._ranks({name: kept[name] for name in rows}, rows)
        return [self._unscaled(quantity, kept[quantity.name], optimizer) for quantity in self.quantities]

    def _unscaled(self, quantity: Quantity, kept: Tensor | None, optimizer: Optimizer | None) -> Tensor | None:
        is_scaled = kept is not None and self._scale != 1 and quantity.is_scaled(optimizer)
        return kept / self._scale if is_scaled else kept

    def _check_pairs(self, kept: Sequence[Tensor | None]) -> None:
        """Refuses, at the first step, pairs of taps with different numbers of rows."""
        heights = {q.name: one.shape[-2] for q, one in zip(self.quantities, kept, strict=True) if one is not None}
        for pair in self.pairs if not self._is_checked else ():
            found = [heights[name + GRAD_NORM] for name in pair if name + GRAD_NORM in heights]
            if len(set(found)) > 1:
                words = " and ".join(f"{name} has {height} rows" for name, height in zip(pair, found, strict=True))
                raise UserError(f"pairs: {words}; the taps of a pair need the same number of rows.")

    def _check_first(self, kept: Sequence[Tensor | None]) -> None:
        """Says at the first step what is not recorded, and why, and if a step writes much."""
        self._is_checked = True
        size = 0
        for quantity, one in zip(self.quantities, kept, strict=True):
            if one is not None:
                size += EACH * min(one.shape[-2], self.settings.bins or one.shape[-2])
            elif (tap := _tap_of(quantity)) is not None and tap.enabled:
                self._warn(f"{quantity.name} is not recorded yet: {self._why_silent(tap)}.")
        if size > MUCH:
            self._warn(
                f"each step writes {size // 1024} KB. bins=32 joins neighbouring rows to 32 norms, every_n_steps=10"
                " records every tenth step."
            )

    def _why_silent(self, tap: RowTap) -> str:
        name = self._attached.get(tap)
        if tap.grad is not None:
            return "no backward pass has reached weights of the optimizer"
        if name is None:
            return "nothing has gone through the tap in the first step"
        words = f"the first step has not called {name}.forward"
        if _is_compiled(self.module, name):
            return f"{words}, or it was compiled before training began: compile it in configure_model, or tap the input"
        return f"{words}. Its parent may use its weights without calling it, as nn.MultiheadAttention does"


def _tap_of(quantity: Quantity) -> RowTap | None:
    return quantity.tap if isinstance(quantity, TapNorm) else None


def _parameters_of(optimizer: Optimizer) -> Callable[[], list[Tensor]]:
    return lambda: [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _device_of(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _is_compiled(module: nn.Module, name: str) -> bool:
    """Whether a submodule, or a module around it, is compiled."""
    parts = {"": module, **named_parts(module)}
    around = [part for other, part in parts.items() if f"{name}.".startswith(f"{other}." if other else "")]
    return any(getattr(part, "_compiled_call_impl", None) or hasattr(part, "_orig_mod") for part in around) or any(
        "_orig_mod" in other for other, _ in module.named_modules()
    )


def choose_quantities(
    module: nn.Module,
    taps: Mapping[str, RowTap],
    chosen: Sequence[str | Quantity] | None,
    layers: Sequence[Quantity] = (),
) -> list[Quantity]:
    """What is recorded of a module: all that it has, or the chosen part of that, and quantities of one's own.

    Raises:
        UserError: there is nothing to record, or no quantity of a name.
    """
    if chosen is None and not taps and not layers:
        raise UserError(
            f"RowGradientRecorder finds no tap in {type(module).__name__}: put self.tap = RowTap() into __init__ and"
            ' x = self.tap(x) into forward, or name a submodule: RowGradientRecorder(modules="encoder").'
        )
    norms = [TapNorm(name, tap) for name, tap in taps.items()]
    others = [quantity for quantity in KNOWN.values() if not isinstance(quantity, TapNorm) and quantity.fits(module)]
    every = [*norms, *others, *layers]  # θ's own before its tap's
    found: dict[str, Quantity] = {quantity.name: quantity for quantity in every}
    if chosen is None:
        return list(found.values())
    for name in chosen:
        if isinstance(name, str) and name not in found:
            hint = f"{nearest(name, found)} Accepted: {', '.join(found)}."
            raise UserError(f"callbacks.recorder.quantities: {type(module).__name__} has no {name}{hint}")
    own = [quantity for quantity in chosen if isinstance(quantity, Quantity)]
    return [*(quantity for name, quantity in found.items() if name in chosen), *own]


def layer_quantities(module: nn.Module, settings: RecorderSettings) -> list[Quantity]:
    """What is recorded of each layer's parameters."""
    if settings.layers is False:
        return []
    depth = None if settings.layers is True else settings.layers
    kinds = [LayerGradNorm, LayerUpdateRatio] if settings.update_ratios else [LayerGradNorm]
    return [kind(module, depth) for kind in kinds]


def choose_pairs(
    watched: Watched, taps: Mapping[str, RowTap], chosen: Sequence[Sequence[str]], quantities: Sequence[Quantity]
) -> list[tuple[str, str]]:
    """The module's own pair of taps and the chosen ones, as far as both taps are recorded.

    Raises:
        UserError: a chosen pair names no tap.
    """
    for name in (name for pair in chosen for name in pair):
        if name not in taps:
            raise UserError(f"pairs: {name} is not a tap{nearest(name, taps, most=3)}")
    own = [] if watched.pair is None else [watched.pair]
    recorded = {quantity.name.removesuffix(GRAD_NORM) for quantity in quantities}
    return [
        (before, after) for before, after in dict.fromkeys([*own, *map(tuple, chosen)]) if {before, after} <= recorded
    ]
