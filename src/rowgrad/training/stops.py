"""What ends a run before its time: a signal, or a loss that is not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.trainer.states import TrainerFn

from rowgrad.errors import UserError
from rowgrad.process import LEAVING, SIGNALS

if TYPE_CHECKING:
    from torch import Tensor


class GracefulStop(pl.Callback):
    """On a signal, lets the optimizer step in progress finish and stops; a validation or test alone it ends at once."""

    def __init__(self) -> None:
        self._agreed = False
        self._step = -1

    def check(self, trainer: pl.Trainer) -> None:
        """Raises Interrupted if a signal came. Several ranks do, all or none, if it came while they trained."""
        if trainer.world_size == 1 or self._agreed:
            SIGNALS.check()

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals back from Lightning's own handlers."""
        SIGNALS.take_back()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same; stops if a signal came while things were set up."""
        SIGNALS.take_back()
        SIGNALS.doing = "finishing this step, then saving"
        self._step = trainer.global_step
        self._stop_if_received(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops after a whole optimizer step, never between two micro-batches."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self._stop_if_received(trainer, within=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What came after the last step counts too."""
        SIGNALS.doing = LEAVING
        self._stop_if_received(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals back again."""
        SIGNALS.take_back()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Leaves a validation for its own sake; one within training ends first."""
        if trainer.state.fn != TrainerFn.FITTING:
            self.check(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals back again."""
        SIGNALS.take_back()

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Leaves a test: a run that goes on begins it again."""
        self.check(trainer)

    def _stop_if_received(self, trainer: pl.Trainer, *, within: bool = False) -> None:
        received = SIGNALS.received is not None
        if trainer.world_size > 1:  # all ranks stop after the same step, whichever got the signal
            received = trainer.strategy.reduce_boolean_decision(received, all=False)
        if received:
            self._agreed = True
            SIGNALS.received = SIGNALS.received or "another rank's signal"
            # A validation that is due is not made up for; Lightning would validate wherever training stops.
            due = within and (trainer.should_stop or validates_next(trainer))
            SIGNALS.stops = not trainer.should_stop
            trainer.should_stop = True
            if not due:
                trainer.limit_val_batches = 0  # a batch system waits only so long


def validates_next(trainer: pl.Trainer) -> bool:
    """Whether a validation follows on the batch that is just done."""
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher  # noqa: SLF001
    return fetcher is not None and loop.epoch_loop._should_check_val_fx(fetcher)  # noqa: SLF001


class WholeSteps(Timer):
    """Lightning's timer, which ends training after a whole optimizer step only."""

    state_key = Timer.__qualname__  # as checkpoints of before have it

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Looks at the time."""
        if not trainer.fit_loop._should_accumulate():  # noqa: SLF001
            super().on_train_batch_end(trainer, *args, **kwargs)


class FiniteLoss(pl.Callback):
    """Ends a run whose loss or weights are no longer finite, before a checkpoint of it is written.

    Losses stay on the device and are looked at `every` so many batches and before each checkpoint.

    Raises:
        UserError: names the first step whose loss was not finite.
    """

    def __init__(self, every: int = 50) -> None:
        self.every = every
        self._recent: list[tuple[int, Tensor]] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remembers which step the batch belongs to."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the batch's loss for the next look."""
        self._recent.append((self._step, outputs["loss"]))
        if len(self._recent) >= self.every:
            self._look()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint that is written is a good one."""
        self._look()
        for name, tensor in checkpoint["state_dict"].items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise UserError(f"{name} is not finite after step {trainer.global_step - 1}. {_ADVICE}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks at what is left."""
        self._look()

    def _look(self) -> None:
        recent, self._recent = self._recent, []
        if recent:
            finite = torch.stack([loss for _, loss in recent]).isfinite().tolist()
            for (step, loss), is_finite in zip(recent, finite, strict=True):
                if not is_finite:
                    raise UserError(f"the loss is {float(loss)} at step {step}. {_ADVICE}")


_ADVICE = "The last good checkpoint is kept. A lower optimizer.lr or trainer.gradient_clip_val=1 may help."
