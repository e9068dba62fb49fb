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

from rowgrad.gradients import cut_fraction, row_norms
from rowgrad.settings import QUANTITIES, check

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import TextIOWrapper

    from torch.optim import Optimizer

    from rowgrad.module import RowClassifier

Summary: Any = getattr(summary_pb2, "Summary")  # noqa: B009  (made at import, so type checkers do not see it)
CSV_QUANTITIES = QUANTITIES[:2]


def row_tags(quantity: str, height: int) -> list[str]:
    """TensorBoard tags and CSV columns of a quantity: `row_grad_norm/row_00`, ..., one for each of the H rows."""
    return [f"{quantity}/row_{row:02d}" for row in range(height)]


class RowGradientRecorder(pl.Callback):
    """Keeps each step's gradients in a ring on the device and writes many steps at a time.

    Norms are of the gradient of the mean loss over the whole optimizer step (all micro-batches and ranks), in loss
    units per normalised pixel, without the loss scale of mixed precision, and from before clipping. A step that the
    scaler skips is not recorded.

    Logs, one event a step:
        * `train/loss`
        * `row_grad_norm/row_00` ...: ‖∂L/∂θ_r‖₂
        * `input_grad_norm/row_00` ...: ‖∂L/∂τ_r‖₂
        * `row_update_norm/row_00` ...: ‖θ_r(t+1) − θ_r(t)‖₂
        * `grad_flow/cut_fraction`: share of the squared input gradient in rows that no gradient reached

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
        self._pending = False
        self._scale = 1.0
        self._csv: TextIOWrapper | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Switches the tap on where the input gradient is recorded."""
        module = _classifier(pl_module)
        if stage == "fit":
            module.tap.requires_grad_("input_grad_norm" in self.quantities)
            self._tags = {quantity: row_tags(quantity, len(module.rows)) for quantity in self.quantities}
        if stage == "fit" and trainer.is_global_zero and trainer.logger is not None and trainer.ckpt_path is None:
            self._writer(trainer).add_custom_scalars(
                {
                    "row gradients": {
                        "row gradient norm, every row": ["Multiline", [r"row_grad_norm/row_\d+"]],
                        "input gradient norm, every row": ["Multiline", [r"input_grad_norm/row_\d+"]],
                        "share of the gradient that the cut stops": ["Multiline", ["grad_flow/cut_fraction"]],
                        "how far each row moved": ["Multiline", [r"row_update_norm/row_\d+"]],
                    }
                }
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Makes the ring and opens the CSV file."""
        rows = _classifier(pl_module).rows
        self._ring = torch.zeros(self.flush_every, len(self.quantities), *rows.shape, device=rows.device)
        self._losses = torch.zeros(self.flush_every, device=rows.device)
        self._loss = torch.zeros((), device=rows.device)
        if trainer.is_global_zero and set(self.quantities) & set(CSV_QUANTITIES):
            path = Path(trainer.default_root_dir) / "row_gradients.csv"
            cut_back(path, trainer.global_step)
            self._csv = path.open("a", encoding="utf-8")
            if self._csv.tell() == 0:
                names = ["step", *(tag for q in CSV_QUANTITIES if q in self._tags for tag in self._tags[q])]
                self._csv.write(",".join(names) + "\n")

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        """A new optimizer step begins."""
        self._loss.zero_()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Copies the step's gradients into the ring: after unscaling, before clipping."""
        if trainer.global_step % self.every:
            return
        module, scaler = _classifier(pl_module), _scaler(trainer)
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
        """Adds up the loss over micro-batches and, after the optimizer's step, completes the record."""
        self._loss.add_(outputs["loss"])
        if not self._pending:
            return
        self._pending = False
        scaler = _scaler(trainer)
        if scaler is not None and scaler.get_scale() < self._scale:  # so a scaler says that it skipped the step
            return
        self._losses[len(self._steps)] = self._loss
        if "row_update_norm" in self.quantities:
            self._ring[len(self._steps), -1].sub_(_classifier(pl_module).rows.detach())
        self._steps.append(trainer.global_step - 1)
        if len(self._steps) == self.flush_every:
            self.flush(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint never knows more steps than the files."""
        self.flush(trainer)

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
        losses = self._losses[:count]
        if not alone:
            losses = trainer.strategy.reduce(losses, reduce_op="mean")
        if trainer.is_global_zero:
            norms = dict(zip(self.quantities, row_norms(self._ring[:count]).unbind(1), strict=True))
            self._write_events(trainer, norms, losses)
            self._write_csv(norms)
        self._steps.clear()

    def _write_events(self, trainer: pl.Trainer, norms: dict[str, Tensor], losses: Tensor) -> None:
        if trainer.logger is None:
            return
        names = ["train/loss", *(tag for tags in self._tags.values() for tag in tags)]
        columns = [losses.double()[:, None], *norms.values()]
        if set(CSV_QUANTITIES) <= norms.keys():
            names.append("grad_flow/cut_fraction")
            columns.append(cut_fraction(norms["row_grad_norm"], norms["input_grad_norm"])[:, None])
        writer = self._writer(trainer).file_writer
        for step, values in zip(self._steps, torch.cat(columns, 1).tolist(), strict=True):
            pairs = zip(names, values, strict=True)
            writer.add_summary(Summary(value=[Summary.Value(tag=tag, simple_value=v) for tag, v in pairs]), step)

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

    def _writer(self, trainer: pl.Trainer) -> Any:
        assert isinstance(trainer.logger, TensorBoardLogger), "the recorder writes TensorBoard's own events"
        return trainer.logger.experiment


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


def _classifier(module: pl.LightningModule) -> RowClassifier:
    from rowgrad.module import RowClassifier

    assert isinstance(module, RowClassifier)
    return module


def _scaler(trainer: pl.Trainer) -> torch.amp.GradScaler | None:
    return getattr(trainer.precision_plugin, "scaler", None)


def _unscales_itself(optimizer: Optimizer) -> bool:
    """Whether the optimizer divides by the loss scale inside its step, as torch's fused ones do."""
    return getattr(optimizer, "_step_supports_amp_scaling", False)
