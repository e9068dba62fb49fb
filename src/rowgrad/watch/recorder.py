"""Records every row's gradient norms at every optimizer step, to TensorBoard and `row_gradients.csv`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from rowgrad.folders import RunFolder
from rowgrad.watch.events import StepEvents, classifier, event_file
from rowgrad.watch.gradients import cut_fraction, means
from rowgrad.watch.norms import Norms, NormsFile, cut_back, read_norms, row_tags
from rowgrad.watch.quantities import ARRIVES, REACHES, Quantity, find_quantity
from rowgrad.watch.settings import RecorderSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer

METRICS = ("train/loss", "train/acc")


class RowGradientRecorder(pl.Callback):
    """Keeps each step's gradients in a ring on the device and writes many steps at a time.

    Norms are of the gradient of the mean loss over the whole optimizer step (all micro-batches and ranks), in loss
    units per normalised pixel, without the loss scale of mixed precision, and from before clipping. A step that the
    scaler skips is not recorded.

    Logs, one event a step:
        * `train/loss`, `train/acc`
        * `<quantity>/row_00` ... of each quantity: `row_grad_norm`, ‖∂L/∂θ_r‖₂; `input_grad_norm`, ‖∂L/∂τ_r‖₂;
          `row_update_norm`, ‖θ_r(t+1) − θ_r(t)‖₂; and those of your own
        * `grad_flow/cut_fraction`: share of the squared input gradient in rows that no gradient reached
        * `grad_means/row_grad_norm_selected`, `..._other` and the same of `input_grad_norm`: means over the rows that
          the scenario selects and over the others

    The two gradient norms also go to `row_gradients.csv` in the trainer's `default_root_dir`. Step t, counted from 0,
    is the one that turns θ(t) into θ(t+1).

    Args:
        every: optimizer steps from one record to the next.
        flush_every: recorded steps that are written at once.
        quantities: which norms: names of files in `watch/quantities`, or quantities of your own.

    Raises:
        UserError: a value that is not accepted; it names the key.
    """

    def __init__(
        self,
        every: int = RecorderSettings.every,
        flush_every: int = RecorderSettings.flush_every,
        quantities: Sequence[str | Quantity] = RecorderSettings.quantities,
    ) -> None:
        settings = RecorderSettings(every=every, flush_every=flush_every, quantities=quantities)
        self.every, self.flush_every = settings.every, settings.flush_every
        chosen = [q if isinstance(q, Quantity) else find_quantity(q) for q in settings.quantities]
        order = [*RecorderSettings.quantities, *(q.name for q in chosen)]
        self.quantities = sorted(chosen, key=lambda quantity: order.index(quantity.name))
        self._steps: list[int] = []
        self._history: list[tuple[Tensor, Norms]] = []
        self._pending = False
        self._scale = 1.0
        self._csv: NormsFile | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Switches the tap on where a quantity needs it."""
        if stage == "fit":
            classifier(pl_module).tap.requires_grad_(any(quantity.needs_tap for quantity in self.quantities))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Makes the ring and opens the CSV file."""
        module = classifier(pl_module)
        theta = module.theta
        self._selected = module.scenario.selected.tolist()
        self._ring = torch.zeros(self.flush_every, len(self.quantities), *theta.shape, device=theta.device)
        self._metrics = torch.zeros(self.flush_every, len(METRICS), device=theta.device)
        self._metric = torch.zeros(len(METRICS), device=theta.device)
        in_csv = [quantity.name for quantity in self.quantities if quantity.in_csv]
        if trainer.is_global_zero and in_csv:
            path = RunFolder(Path(trainer.default_root_dir)).norms_file
            cut_back(path, trainer.global_step)
            earlier = read_norms(path)
            self._history = [earlier] if earlier[1] else []
            self._csv = NormsFile(path, in_csv, len(self._selected))

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        """A new optimizer step begins."""
        self._metric.zero_()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Copies the step's gradients into the ring: after unscaling, before clipping."""
        if trainer.global_step % self.every:
            return
        module, scaler = classifier(pl_module), _scaler(trainer)
        self._scale = 1.0 if scaler is None else scaler.get_scale()
        for slot, quantity in zip(self._ring[len(self._steps)], self.quantities, strict=True):
            kept = quantity.before_step(module)
            assert kept is not None, "the scenario keeps θ and τ in the graph"
            slot.copy_(kept)
            if self._scale != 1 and quantity.is_scaled(optimizer):
                slot.div_(self._scale)
        self._pending = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds up loss and accuracy over micro-batches and, after the optimizer's step, completes the record."""
        self._metric[0].add_(outputs["loss"])
        self._metric[1].add_(outputs["acc"], alpha=1 / trainer.accumulate_grad_batches)
        if not self._pending:
            return
        self._pending = False
        scaler = _scaler(trainer)
        if scaler is not None and scaler.get_scale() < self._scale:  # so a scaler says that it skipped the step
            return
        self._metrics[len(self._steps)] = self._metric
        for slot, quantity in zip(self._ring[len(self._steps)], self.quantities, strict=True):
            quantity.after_step(slot, classifier(pl_module))
        self._steps.append(trainer.global_step - 1)
        if len(self._steps) == self.flush_every:
            self.flush(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint never knows more steps than the files."""
        self.flush(trainer)
        if trainer.logger is not None and trainer.is_global_zero:
            event_file(trainer).flush()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes what is left."""
        self._close(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Writes what is left: every step that was completed before the failure."""
        self._close(trainer, alone=True)

    def flush(self, trainer: pl.Trainer, *, alone: bool = False) -> None:
        """Writes the recorded steps to TensorBoard and the CSV file.

        Args:
            trainer: the trainer.
            alone: whether other ranks may be gone. Norms are the same on all ranks; the loss is then this rank's.
        """
        count = len(self._steps)
        if not count:
            return
        metrics = self._metrics[:count]
        if not alone:
            metrics = trainer.strategy.reduce(metrics, reduce_op="mean")
        if trainer.is_global_zero:
            kept = self._ring[:count].unbind(1)
            norms = {q.name: q.reduce(values).cpu() for q, values in zip(self.quantities, kept, strict=True)}
            self._history.append((torch.tensor(self._steps), norms))
            if trainer.logger is not None:
                self._write_events(trainer, norms, metrics.double().cpu())
            if self._csv is not None:
                self._csv.append(self._steps, norms)
        self._steps.clear()

    def recorded(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Everything that was flushed, from before a resume too.

        Returns:
            Optimizer steps (T,) and the norms (T, H) by their names. A quantity that is not in `row_gradients.csv` is
            NaN before a resume.
        """
        steps = [steps for steps, _ in self._history]
        if not steps:
            return torch.zeros(0, dtype=torch.long), {}
        lost = torch.full((len(steps[0]), len(self._selected)), torch.nan)
        return torch.cat(steps), {
            quantity.name: torch.cat([norms.get(quantity.name, lost).float() for _, norms in self._history])
            for quantity in self.quantities
        }

    def _write_events(self, trainer: pl.Trainer, norms: Norms, metrics: Tensor) -> None:
        names = [*METRICS, *(tag for name in norms for tag in row_tags(name, len(self._selected)))]
        columns = [metrics, *norms.values()]
        for quantity in (REACHES, ARRIVES):
            if quantity in norms:
                for part, mean in means(norms[quantity], self._selected).items():
                    names.append(f"grad_means/{quantity}_{part}")
                    columns.append(mean[:, None])
        if {REACHES, ARRIVES} <= norms.keys():
            names.append("grad_flow/cut_fraction")
            columns.append(cut_fraction(norms[REACHES], norms[ARRIVES])[:, None])
        StepEvents(event_file(trainer), names).write(self._steps, torch.cat(columns, 1))

    def _close(self, trainer: pl.Trainer, *, alone: bool = False) -> None:
        self.flush(trainer, alone=alone)
        if self._csv is not None:
            self._csv.close()
            self._csv = None


def _scaler(trainer: pl.Trainer) -> torch.amp.GradScaler | None:
    return getattr(trainer.precision_plugin, "scaler", None)


def recorder_of(trainer: pl.Trainer) -> RowGradientRecorder | None:
    """The recorder among a trainer's callbacks."""
    return next((c for c in getattr(trainer, "callbacks", []) if isinstance(c, RowGradientRecorder)), None)
