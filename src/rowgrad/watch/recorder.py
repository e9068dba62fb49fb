"""The recorder: a Lightning callback that records each tap's gradient, row by row, at every optimizer step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from rowgrad.errors import UserError, nearest
from rowgrad.tap import attach, find_taps, watched_of
from rowgrad.watch.csv_file import open_norms_file
from rowgrad.watch.loggers import add_facts, save_loggers, writers
from rowgrad.watch.quantities import GRAD_NORM, KNOWN, SELECTED, Quantity, TapNorm
from rowgrad.watch.settings import RecorderSettings
from rowgrad.watch.stream import BYTES, RankMean, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle

    from rowgrad.tap import RowTap, Watched

FIRST = 10  # recorded steps of the first flush; each flush then takes as many as all before it, up to the setting
RECORDED = "recorded"  # the key in a checkpoint of what the CSV files contain


class RowGradientRecorder(pl.Callback):
    """Records the norm of each row's gradient at every optimizer step, for any LightningModule with taps.

    Gradients stay on the device, and many steps are written at once. Norms are of the gradient of the mean loss over
    the whole optimizer step (all micro-batches and ranks), without the loss scale of mixed precision, before clipping.
    Zeros are exact; other norms have the precision of training. A step that the scaler skips is not recorded. With
    several optimizers (manual optimization), each has its own record: the gradient since the last step of any of them.

    Logs, one event a step, to TensorBoard, to any other logger, and to `row_gradients.csv`:
        * `<tap>_grad_norm/row_00` ... of each tap, by its attribute's name: ‖∂L/∂x_r‖, in loss units per unit of x
        * `<quantity>/row_00` ... of each further quantity; of modules with θ `row_update_norm`, ‖θ_r(t+1) − θ_r(t)‖₂
        * `grad_flow/cut_fraction` of two taps, before and after a cut: the share of the squared gradient after it in
          rows that none reached before it
        * if the module's `watched` names them, outputs of its training step (`train/loss`, `train/acc`) and means over
          the rows that a scenario selects and over the others (`grad_means/...`)

    Step t, counted from 0, is the one that turns the weights of t into those of t+1.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[RowGradientRecorder()], logger=False)  # for a module that has a RowTap
        >>> recorder = RowGradientRecorder(modules="backbone.conv1", every_n_steps=10)  # for one that has none

    Args:
        every_n_steps: optimizer steps from one record to the next.
        flush_every_n_steps: recorded steps that are written at once; fewer at first, so that charts fill soon.
        quantities: which norms, by name, or quantities of your own; None for all: each tap's, and for modules with θ
            the norm of its gradient and of its updates.
        modules: names of submodules; their input is tapped from outside.
        pairs: names of two taps each, before and after a cut.
        dirpath: the folder of `row_gradients.csv`; by default the logger's, else the trainer's `default_root_dir`.

    Raises:
        UserError: a value that is not accepted; it names the key. When training starts: nothing to record, or an
            unknown name.
    """

    def __init__(
        self,
        every_n_steps: int = RecorderSettings.every_n_steps,
        flush_every_n_steps: int = RecorderSettings.flush_every_n_steps,
        quantities: Sequence[str | Quantity] | None = RecorderSettings.quantities,
        modules: str | Sequence[str] = (),
        pairs: Sequence[Sequence[str]] = (),
        dirpath: Path | None = None,
    ) -> None:
        self.settings = RecorderSettings(
            every_n_steps=every_n_steps,
            flush_every_n_steps=flush_every_n_steps,
            quantities=quantities,
            modules=modules,
            pairs=pairs,
        )
        self.dirpath = dirpath
        self.keeps_history = False  # whether `recorded` has quantities that are in no file, too
        self.taps: dict[str, RowTap] = {}
        self._handles: list[RemovableHandle] = []
        self._streams: list[Stream] = []
        self._counts: list[int] = []
        self._pending: tuple[Stream, int, list[Tensor | None]] | None = None
        self._outputs: list[Sequence[Tensor]] = []
        self._scale = 1.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the taps, and attaches those of `modules`."""
        self._attach(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the files."""
        count = len(trainer.optimizers)
        names = [f"optimizer_{number}" for number in range(count)] if count > 1 else [""]
        counts = self._counts if len(self._counts) == count else [trainer.global_step] * count
        files = [open_norms_file(trainer, self.dirpath, name, self.quantities) for name in names]
        keeps_history = self.keeps_history and trainer.is_global_zero
        self._streams = [
            Stream(name, done, file, self.quantities, self.pairs, self.watched, keeps_history=keeps_history)
            for name, done, file in zip(names, counts, files, strict=True)
        ]
        self._rank_mean, self._step = RankMean(trainer), trainer.global_step
        self._scaler: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
        self._counts, self._pending, self._outputs = [], None, []
        selected = [row for row, is_selected in enumerate(self.watched.selected) if is_selected]
        for writer in writers(trainer) if trainer.global_step == 0 else ():
            # Written even if empty: with such a record, TensorBoard shows the tab Rows from the start.
            add_facts(writer, SELECTED, {"selected": selected} if selected else {})

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Switches the taps on for a recorded step; with several optimizers, for each: any may be the next to step."""
        due = len(self._streams) > 1 or trainer.global_step % self.settings.every_n_steps == 0
        for tap in self.taps.values():
            tap.enabled = due and tap in self._recorded

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Takes the step's gradients: after unscaling, before clipping."""
        place = next((place for place, known in enumerate(trainer.optimizers) if known is optimizer), 0)
        stream = self._streams[place]
        is_new = stream.begin(trainer.global_step)
        if is_new:
            self._complete(trainer, pl_module)
        if not is_new or (stream.count - 1) % self.settings.every_n_steps:
            for tap in self.taps.values():
                tap.reset()
            return
        self._scale = 1.0 if self._scaler is None else self._scaler.get_scale()
        kept = [self._take(quantity, pl_module, optimizer) for quantity in self.quantities]
        self._pending = stream, trainer.global_step, kept

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collects outputs over micro-batches and, after the optimizer's step, completes the record."""
        if self.watched.outputs:
            self._outputs.append([outputs[name] for name in self.watched.outputs])
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        self._complete(trainer, pl_module)
        self._outputs = []

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Writes all recorded steps, so that the files on the disk have each step before the checkpoint."""
        self.flush(trainer)
        checkpoint[RECORDED] = {stream.file.path.name: stream.in_file() for stream in self._streams}
        save_loggers(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the remaining steps and closes the files."""
        self._close(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Writes every step that was completed before the failure."""
        self._close(trainer, alone=True)
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leaves the module as it was before training."""
        self._leave()

    def state_dict(self) -> dict[str, Any]:
        """The number of steps of each optimizer, if there are several."""
        counts = [stream.count for stream in self._streams]
        return {"counts": counts} if len(counts) > 1 else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self._counts = state_dict["counts"]

    def flush(self, trainer: pl.Trainer, *, alone: bool = False) -> None:
        """Writes the recorded steps to the CSV file and the loggers.

        Args:
            trainer: the trainer.
            alone: whether other ranks may be gone. Norms are the same on all ranks; outputs are then this rank's.
        """
        for stream in self._streams:
            stream.flush(trainer, alone=alone)

    def recorded(self, optimizer: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """All steps that were flushed, also those from before a resume.

        Args:
            optimizer: the index of the optimizer.

        Returns:
            Optimizer steps (T,) and norms (T, H) by the names of their quantities, as `row_gradients.csv` has them;
            with `keeps_history` those of all quantities, NaN for steps that an earlier run wrote without them.
        """
        return self._streams[optimizer].recorded() if self._streams else (torch.zeros(0, dtype=torch.long), {})

    def check(self, module: pl.LightningModule) -> None:
        """Checks before training that the module has everything that is to be recorded.

        Raises:
            UserError: it does not.
        """
        self._attach(module)
        self._leave()

    def _attach(self, module: pl.LightningModule) -> None:
        """Finds the module's taps, attaches those of `modules`, and chooses what is recorded."""
        self.taps, self.watched = find_taps(module), watched_of(module)
        self._enabled = {tap: tap.enabled for tap in self.taps.values()}
        try:
            for name in self.settings.modules:
                self.taps[name], handle = attach(module, name)
                self._handles.append(handle)
            self.quantities = choose_quantities(module, self.taps, self.settings.quantities)
            self.pairs = choose_pairs(self.watched, self.taps, self.settings.pairs, self.quantities)
        except UserError:
            self._leave()
            raise
        self._recorded = {quantity.tap for quantity in self.quantities if isinstance(quantity, TapNorm)}

    def _leave(self) -> None:
        """Removes the attached taps, and restores the module's own."""
        for tap in self.taps.values():
            tap.reset()
            tap.enabled = self._enabled.get(tap, False)
        for handle in self._handles:
            handle.remove()
        self.taps, self._handles = {}, []

    def _take(self, quantity: Quantity, module: pl.LightningModule, optimizer: Optimizer) -> Tensor | None:
        """What a quantity keeps of the coming step: unscaled, averaged over ranks, and shared with nothing else."""
        kept = quantity.before_step(module)
        if kept is not None and not isinstance(quantity, TapNorm):  # a tap has dropped its own reference
            kept = kept.detach().clone()
        if quantity.of_rank:
            kept = self._rank_mean(quantity.name, kept)
        if kept is not None and self._scale != 1 and quantity.is_scaled(optimizer):
            kept = kept / self._scale
        return kept

    def _complete(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Adds the pending step, now that the optimizer has done it."""
        if self._pending is None:
            return
        (stream, step, kept), self._pending = self._pending, None
        if self._scaler is not None and self._scaler.get_scale() < self._scale:  # the scaler has skipped the step
            return
        for quantity, one in zip(self.quantities, kept, strict=True):
            if one is not None:
                quantity.after_step(one, module)
        stream.add(step, kept, self._summed_outputs(trainer))
        if len(stream.steps) >= min(self.settings.flush_every_n_steps, max(FIRST, stream.written)) or (
            stream.nbytes > BYTES
        ):
            self.flush(trainer)

    def _summed_outputs(self, trainer: pl.Trainer) -> Sequence[Tensor]:
        """Outputs of the whole step. Lightning has already divided the loss by the number of micro-batches."""
        if len(self._outputs) == 1 and trainer.accumulate_grad_batches == 1:
            return self._outputs[0]
        share = 1 / trainer.accumulate_grad_batches
        names = self.watched.outputs
        columns = zip(*self._outputs, strict=True)
        return [sum(parts) * (1 if name == "loss" else share) for name, parts in zip(names, columns, strict=False)]

    def _close(self, trainer: pl.Trainer, *, alone: bool = False) -> None:
        self.flush(trainer, alone=alone)
        for stream in self._streams:
            stream.file.close()


def choose_quantities(
    module: pl.LightningModule, taps: Mapping[str, RowTap], chosen: Sequence[str | Quantity] | None
) -> list[Quantity]:
    """What is recorded of a module: all that it has, or the chosen part of that, and quantities of one's own.

    Raises:
        UserError: there is nothing to record, or no quantity of a name.
    """
    if chosen is None and not taps:
        raise UserError(
            f"RowGradientRecorder finds no tap in {type(module).__name__}: put self.tap = RowTap() into __init__ and"
            ' x = self.tap(x) into forward, or name a submodule: RowGradientRecorder(modules="encoder").'
        )
    norms = [TapNorm(name, tap) for name, tap in taps.items()]
    others = [quantity for quantity in KNOWN.values() if not isinstance(quantity, TapNorm) and quantity.fits(module)]
    found: dict[str, Quantity] = {quantity.name: quantity for quantity in [*norms, *others]}  # θ's own before its tap's
    if chosen is None:
        return list(found.values())
    for name in chosen:
        if isinstance(name, str) and name not in found:
            hint = f"{nearest(name, found)} Accepted: {', '.join(found)}."
            raise UserError(f"callbacks.recorder.quantities: {type(module).__name__} has no {name}{hint}")
    own = [quantity for quantity in chosen if isinstance(quantity, Quantity)]
    return [*(quantity for name, quantity in found.items() if name in chosen), *own]


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


def recorder_of(trainer: pl.Trainer) -> RowGradientRecorder | None:
    """The recorder among a trainer's callbacks."""
    return next((c for c in getattr(trainer, "callbacks", []) if isinstance(c, RowGradientRecorder)), None)
