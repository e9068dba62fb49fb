"""Records every row's gradient norms at every optimizer step, to TensorBoard and `row_gradients.csv`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto import summary_pb2
from torch import Tensor

from rowgrad.gradients import cut_fraction, means, row_norms
from rowgrad.runs import recorded_norms
from rowgrad.settings import QUANTITIES, check

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import TextIOWrapper

    from torch.optim import Optimizer

    from rowgrad.module import RowClassifier

Summary: Any = getattr(summary_pb2, "Summary")  # noqa: B009  (made at import, so type checkers do not see it)
CSV_QUANTITIES = QUANTITIES[:2]
METRICS = ("train/loss", "train/acc")


def row_tags(quantity: str, height: int) -> list[str]:
    """TensorBoard tags and CSV columns of a quantity: `row_grad_norm/row_00`, ..., one for each of the H rows."""
    return [f"{quantity}/row_{row:02d}" for row in range(height)]


class RowGradientRecorder(pl.Callback):
    """Keeps each step's gradients in a ring on the device and writes many steps at a time.

    Norms are of the gradient of the mean loss over the whole optimizer step (all micro-batches and ranks), in loss
    units per normalised pixel, without the loss scale of mixed precision, and from before clipping. A step that the
    scaler skips is not recorded.

    Logs, one event a step:
        * `train/loss`, `train/acc`
        * `row_grad_norm/row_00` ...: ‖∂L/∂θ_r‖₂
        * `input_grad_norm/row_00` ...: ‖∂L/∂τ_r‖₂
        * `row_update_norm/row_00` ...: ‖θ_r(t+1) − θ_r(t)‖₂
        * `grad_flow/cut_fraction`: share of the squared input gradient in rows that no gradient reached
        * `grad_means/row_grad_norm_selected`, `..._other` and the same of `input_grad_norm`: means over the rows that
          the scenario selects and over the others

    The first two norms also go to `row_gradients.csv` in the trainer's `default_root_dir`. Step t, counted from 0, is
    the one that turns θ(t) into θ(t+1).

    Args:
        every: records each so-manieth optimizer step.
        flush_every: recorded steps that are written at once.
        quantities: which norms, of `row_grad_norm`, `input_grad_norm` and `row_update_norm`.

    Raises:
        UserError: a value that is not accepted; it names the key.
    """

    def __init__(self, every: int = 1, flush_every: int = 100, quantities: Sequence[str] = QUANTITIES) -> None:
        for key, value in {"every": every, "flush_every": flush_every, "quantities": quantities}.items():
            check(f"callbacks.recorder.{key}", value)
        self.every, self.flush_every = every, flush_every
        self.quantities = [quantity for quantity in QUANTITIES if quantity in quantities]
        self._steps: list[int] = []
        self._history: list[tuple[Tensor, dict[str, Tensor]]] = []
        self._pending = False
        self._scale = 1.0
        self._csv: TextIOWrapper | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Switches the tap on where the input gradient is recorded."""
        module = classifier(pl_module)
        if stage == "fit":
            module.tap.requires_grad_("input_grad_norm" in self.quantities)
            self._tags = {quantity: row_tags(quantity, len(module.rows)) for quantity in self.quantities}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Makes the ring and opens the CSV file."""
        module = classifier(pl_module)
        rows = module.rows
        self._selected = module.scenario.selected.tolist()
        self._ring = torch.zeros(self.flush_every, len(self.quantities), *rows.shape, device=rows.device)
        self._metrics = torch.zeros(self.flush_every, len(METRICS), device=rows.device)
        self._metric = torch.zeros(len(METRICS), device=rows.device)
        if trainer.is_global_zero and set(self.quantities) & set(CSV_QUANTITIES):
            path = Path(trainer.default_root_dir) / "row_gradients.csv"
            cut_back(path, trainer.global_step)
            earlier = recorded_norms(path.parent)
            self._history = [earlier] if earlier[1] else []
            self._csv = path.open("a", encoding="utf-8")
            if self._csv.tell() == 0:
                names = ["step", *(tag for q in CSV_QUANTITIES if q in self._tags for tag in self._tags[q])]
                self._csv.write(",".join(names) + "\n")

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
        # The scaler unscales what is in the optimizer, so never τ, and leaves θ to optimizers that do it in their step.
        scaled = {"input_grad_norm"} | ({"row_grad_norm"} if _unscales_itself(optimizer) else set())
        slots = self._ring[len(self._steps)]
        for slot, quantity in zip(slots, self.quantities, strict=True):
            if quantity == "row_update_norm":
                slot.copy_(module.rows.detach())
                continue
            gradient = (module.rows if quantity == "row_grad_norm" else module.tap).grad
            assert gradient is not None, "the scenario keeps θ and τ in the graph"
            slot.copy_(gradient)
            if self._scale != 1 and quantity in scaled:
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
        if "row_update_norm" in self.quantities:
            self._ring[len(self._steps), -1].sub_(classifier(pl_module).rows.detach())
        self._steps.append(trainer.global_step - 1)
        if len(self._steps) == self.flush_every:
            self.flush(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint never knows more steps than the files."""
        self.flush(trainer)
        if trainer.logger is not None and trainer.is_global_zero:
            writer(trainer).flush()

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
            norms = dict(zip(self.quantities, row_norms(self._ring[:count]).cpu().unbind(1), strict=True))
            self._history.append((torch.tensor(self._steps), norms))
            self._write_events(trainer, norms, metrics.double().cpu())
            self._write_csv(norms)
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
            quantity: torch.cat([norms.get(quantity, lost).float() for _, norms in self._history])
            for quantity in self.quantities
        }

    def _write_events(self, trainer: pl.Trainer, norms: dict[str, Tensor], metrics: Tensor) -> None:
        if trainer.logger is None:
            return
        names = [*METRICS, *(tag for tags in self._tags.values() for tag in tags)]
        columns = [metrics, *norms.values()]
        for quantity in [q for q in CSV_QUANTITIES if q in norms]:
            for part, mean in means(norms[quantity], self._selected).items():
                names.append(f"grad_means/{quantity}_{part}")
                columns.append(mean[:, None])
        if set(CSV_QUANTITIES) <= norms.keys():
            names.append("grad_flow/cut_fraction")
            columns.append(cut_fraction(norms["row_grad_norm"], norms["input_grad_norm"])[:, None])
        file = writer(trainer).file_writer
        summary = Summary(value=[Summary.Value(tag=tag) for tag in names])
        slots = list(summary.value)
        for step, values in zip(self._steps, torch.cat(columns, 1).tolist(), strict=True):
            for slot, value in zip(slots, values, strict=True):
                slot.simple_value = value
            file.add_summary(summary, step)  # which copies it

    def _write_csv(self, norms: dict[str, Tensor]) -> None:
        if self._csv is None:
            return
        table = torch.cat([norms[quantity] for quantity in CSV_QUANTITIES if quantity in norms], 1).tolist()
        line = "%d" + ",%.9g" * len(table[0]) + "\n"
        self._csv.write("".join(line % (step, *values) for step, values in zip(self._steps, table, strict=True)))
        self._csv.flush()

    def _close(self, trainer: pl.Trainer, *, alone: bool = False) -> None:
        self.flush(trainer, alone=alone)
        if self._csv is not None:
            self._csv.close()
            self._csv = None


def cut_back(path: Path, step: int) -> None:
    """Removes the lines of step `step` and later, and a line that was not written to its end."""
    if not path.exists():
        return
    keep = 0
    with path.open("rb") as file:
        for number, line in enumerate(file):
            first = line.partition(b",")[0]
            if not line.endswith(b"\n") or (number > 0 and int(first) >= step):
                break
            keep += len(line)
    os.truncate(path, keep)


def writer(trainer: pl.Trainer) -> Any:
    """The run's event file."""
    assert isinstance(trainer.logger, TensorBoardLogger), "rowgrad writes TensorBoard's own events"
    return trainer.logger.experiment


def classifier(module: pl.LightningModule) -> RowClassifier:
    """The module that is trained, as what it is."""
    from rowgrad.module import RowClassifier

    assert isinstance(module, RowClassifier)
    return module


def _scaler(trainer: pl.Trainer) -> torch.amp.GradScaler | None:
    return getattr(trainer.precision_plugin, "scaler", None)


def _unscales_itself(optimizer: Optimizer) -> bool:
    """Whether the optimizer divides by the loss scale inside its step, as torch's fused ones do."""
    return getattr(optimizer, "_step_supports_amp_scaling", False)
