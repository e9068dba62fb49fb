"""Records what comes back through every tap, row by row, at every optimizer step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from rowgrad.watch.events import add_facts, add_layout
from rowgrad.watch.outlets import open_norms_file, save_loggers, writers
from rowgrad.watch.quantities import Quantity, TapNorm
from rowgrad.watch.ranks import Ranks
from rowgrad.watch.settings import RecorderSettings
from rowgrad.watch.stream import Stream
from rowgrad.watch.tags import SELECTED
from rowgrad.watch.taps import Tapped

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch.optim import Optimizer

FIRST = 10  # recorded steps that are written at once, at first: then twice as many each time, up to flush_every_n_steps
RECORDED = "recorded"  # of a checkpoint: what the files beside it have, by their names


class RowGradientRecorder(pl.Callback):
    """Keeps each step's gradients on the device and writes many steps at a time, for any LightningModule with taps.

    Norms are of the gradient of the mean loss over the whole optimizer step (all micro-batches and ranks), without the
    loss scale of mixed precision, and from before clipping. Zeros are exact; other norms are of the gradient that
    training used, in its own precision. A step that the scaler skips is not recorded. With several optimizers (manual
    optimization), each has its own record: what came back since the last step of any of them.

    Logs, one event a step, to TensorBoard, to any other logger, and to `row_gradients.csv`:
        * `<tap>_grad_norm/row_00` ... of each tap, by its attribute's name: ‖∂L/∂x_r‖₂, in loss units per unit of x
        * `<quantity>/row_00` ... of each further quantity, as `row_update_norm`, ‖θ_r(t+1) − θ_r(t)‖₂, where there is θ
        * `grad_flow/cut_fraction` of two taps, before and after a cut: the share of the squared gradient after it in
          rows that none reached before it
        * where the module's `watched` says so, outputs of its training step (`train/loss`, `train/acc`) and means over
          the rows that a scenario selects and over the others (`grad_means/...`)

    Step t, counted from 0, is the one that turns the weights of t into those of t+1.

    Example:
        >>> Trainer(callbacks=[RowGradientRecorder()])  # of a module that has a RowTap
        >>> Trainer(callbacks=[RowGradientRecorder(modules="backbone.conv1")])  # of one that has none

    Args:
        every_n_steps: optimizer steps from one record to the next.
        flush_every_n_steps: recorded steps that are written at once; fewer at first, so that charts fill soon.
        quantities: which norms; all that there are where it is None: those of the taps, names of files in
            `watch/quantities`, or quantities of your own.
        modules: names of submodules: what goes into them is tapped from outside.
        pairs: names of two taps each, before and after a cut.
        dirpath: where `row_gradients.csv` goes; without it, the logger's folder, else the trainer's `default_root_dir`.

    Raises:
        UserError: a value that is not accepted; it names the key. When training starts: nothing to record, or a name
            that there is not.
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
        settings = RecorderSettings(
            every_n_steps=every_n_steps,
            flush_every_n_steps=flush_every_n_steps,
            quantities=quantities,
            modules=modules,
            pairs=pairs,
        )
        self.every_n_steps, self.flush_every_n_steps, self.modules = (
            settings.every_n_steps,
            settings.flush_every_n_steps,
            settings.modules,
        )
        self.chosen, self.dirpath = settings.quantities, dirpath
        self.pairs: list[tuple[str, str]] = [(before, after) for before, after in settings.pairs]
        self.keeps_history = False
        self.tapped: Tapped | None = None
        self._streams: list[Stream] = []
        self._counts: list[int] = []
        self._pending: tuple[Stream, int, list[Tensor | None]] | None = None
        self._outputs: list[Sequence[Tensor]] = []
        self._recorded: dict[str, Any] = {}
        self._scale = 1.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the taps, and puts those of `modules`."""
        self.tapped = Tapped(pl_module, self.modules, self.chosen, self.pairs)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the files."""
        tapped = self._tapped
        count = len(trainer.optimizers)
        names = [f"optimizer_{number}" for number in range(count)] if count > 1 else [""]
        counts = self._counts if len(self._counts) == count else [trainer.global_step] * count
        files = [open_norms_file(trainer, self.dirpath, name, tapped.quantities) for name in names]
        self._streams = [
            Stream(name, done, file, tapped, keeps_history=self.keeps_history and trainer.is_global_zero)
            for name, done, file in zip(names, counts, files, strict=True)
        ]
        self._ranks, self._step = Ranks(trainer), trainer.global_step
        self._scaler: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
        self._counts, self._pending, self._outputs = [], None, []
        self._warn_of_lost_steps()
        if trainer.global_step == 0:
            for writer in writers(trainer):
                add_layout(writer, self._charts(trainer))
                selected = [row for row, chosen in enumerate(tapped.watched.selected) if chosen]
                # An empty one too: where there is such a record, TensorBoard shows the tab Rows from the start.
                add_facts(writer, SELECTED, {"selected": selected} if selected else {})

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Switches the taps on for a step that is recorded; of several optimizers, nobody knows yet whose it is."""
        self._tapped.listen(len(self._streams) > 1 or trainer.global_step % self.every_n_steps == 0)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Takes the step's gradients: after unscaling, before clipping."""
        place = next((place for place, known in enumerate(trainer.optimizers) if known is optimizer), 0)
        stream = self._streams[place]
        begins = stream.begin(trainer.global_step)
        if begins:
            self._complete(trainer, pl_module)
        if not begins or (stream.count - 1) % self.every_n_steps:
            self._tapped.forget()
            return
        self._scale = 1.0 if self._scaler is None else self._scaler.get_scale()
        kept = [self._take(quantity, pl_module, optimizer) for quantity in self._tapped.quantities]
        self._pending = stream, trainer.global_step, kept

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds up outputs over micro-batches and, after the optimizer's step, completes the record."""
        if self._tapped.watched.outputs:
            self._outputs.append([outputs[name] for name in self._tapped.watched.outputs])
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        self._complete(trainer, pl_module)
        self._outputs = []

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint never knows more steps than the files on the disk."""
        self.flush(trainer)
        checkpoint[RECORDED] = {stream.file.path.name: stream.in_file() for stream in self._streams}
        save_loggers(trainer)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keeps what the files had."""
        self._recorded = checkpoint.get(RECORDED, {})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes what is left."""
        self._close(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Writes what is left: every step that was completed before the failure."""
        self._close(trainer, alone=True)
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leaves the module as it was found."""
        if self.tapped is not None:
            self.tapped.leave()
            self.tapped = None

    def state_dict(self) -> dict[str, Any]:
        """How many steps each of several optimizers has done."""
        counts = [stream.count for stream in self._streams]
        return {"counts": counts} if len(counts) > 1 else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes them from a checkpoint."""
        self._counts = state_dict["counts"]

    def flush(self, trainer: pl.Trainer, *, alone: bool = False) -> None:
        """Writes the recorded steps to the loggers and the CSV file.

        Args:
            trainer: the trainer.
            alone: whether other ranks may be gone. Norms are the same on all ranks; outputs are then this rank's.
        """
        for stream in self._streams:
            stream.flush(trainer, alone=alone)

    def recorded(self, optimizer: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Everything that was flushed, from before a resume too.

        Args:
            optimizer: which one's, of several.

        Returns:
            Optimizer steps (T,) and norms (T, H) by the names of their quantities, as `row_gradients.csv` has them;
            with `keeps_history` those of all quantities, NaN where they were in no file before a resume.
        """
        return self._streams[optimizer].recorded() if self._streams else (torch.zeros(0, dtype=torch.long), {})

    def check(self, module: pl.LightningModule) -> None:
        """Sees whether all that was asked for is there, before anything is trained.

        Raises:
            UserError: it is not.
        """
        Tapped(module, self.modules, self.chosen, self.pairs).leave()

    def _charts(self, trainer: pl.Trainer) -> dict[str, str]:
        """The charts of *Custom Scalars*, those of other callbacks that have a dict `charts` too."""
        others = [getattr(callback, "charts", None) for callback in trainer.callbacks]  # ty: ignore[missing-attribute]
        every = [*(stream.charts() for stream in self._streams), *(one for one in others if isinstance(one, dict))]
        return {title: tags for charts in every for title, tags in charts.items()}

    @property
    def _tapped(self) -> Tapped:
        assert self.tapped is not None, "while it is trained"
        return self.tapped

    def _warn_of_lost_steps(self) -> None:
        """Says which files have fewer steps than the checkpoint knows; a file that is begun anew lacks none."""
        known, self._recorded = self._recorded, {}
        for file in (stream.file for stream in self._streams if stream.file.path.exists()):
            steps = known.get(file.path.name, {}).get("steps", 0)
            if file.count < steps:
                rank_zero_warn(f"{file.path} has the norms of {file.count} of the {steps} steps that were recorded.")

    def _take(self, quantity: Quantity, module: pl.LightningModule, optimizer: Optimizer) -> Tensor | None:
        """What a quantity keeps of the step that is due: unscaled, of all ranks, and nobody else's."""
        kept = quantity.before_step(module)
        if kept is not None and not isinstance(quantity, TapNorm):  # which gives away what it has
            kept = kept.detach().clone()
        if quantity.of_rank:
            kept = self._ranks.mean(quantity.name, kept)
        if kept is not None and self._scale != 1 and quantity.is_scaled(optimizer):
            kept = kept / self._scale
        return kept

    def _complete(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Adds the step that was taken before the optimizer's, now that it is done."""
        if self._pending is None:
            return
        (stream, step, kept), self._pending = self._pending, None
        if self._scaler is not None and self._scaler.get_scale() < self._scale:  # so it says that it skipped the step
            return
        for quantity, one in zip(self._tapped.quantities, kept, strict=True):
            if one is not None:
                quantity.after_step(one, module)
        stream.records.add(step, kept, self._summed_outputs(trainer))
        if len(stream.records.steps) >= min(self.flush_every_n_steps, max(FIRST, stream.written)):
            self.flush(trainer)

    def _summed_outputs(self, trainer: pl.Trainer) -> Sequence[Tensor]:
        """Outputs of the whole step; Lightning has divided the loss by the number of micro-batches already."""
        if len(self._outputs) == 1 and trainer.accumulate_grad_batches == 1:
            return self._outputs[0]
        share = 1 / trainer.accumulate_grad_batches
        names = self._tapped.watched.outputs
        columns = zip(*self._outputs, strict=True)
        return [sum(parts) * (1 if name == "loss" else share) for name, parts in zip(names, columns, strict=False)]

    def _close(self, trainer: pl.Trainer, *, alone: bool = False) -> None:
        self.flush(trainer, alone=alone)
        for stream in self._streams:
            stream.file.close()


def recorder_of(trainer: pl.Trainer) -> RowGradientRecorder | None:
    """The recorder among a trainer's callbacks."""
    return next((c for c in getattr(trainer, "callbacks", []) if isinstance(c, RowGradientRecorder)), None)
