"""What ends a run before its time: a signal, or a loss that is not finite."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from rowgrad.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

    from torch import Tensor

# Ctrl-C, and what batch systems send before they take the machine away; SIGUSR2 is submitit's.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class GracefulStop(pl.Callback):
    """On a signal, lets the optimizer step in progress finish and stops training. A second signal leaves at once.

    Attributes:
        received: the name of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._step = -1
        self._listens = False

    @contextmanager
    def listening(self) -> Generator[None]:
        """Inside, signals ask for a stop."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread alone
            return
        before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        self._listens = True
        try:
            yield
        finally:
            self._listens = False
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            if number == signal.SIGTERM and self.received.startswith("SIGUSR"):
                return  # a batch system warns first, and then means the same
            os._exit(128 + number)  # files are whole at any moment, so there is nothing to tidy up
        self.received = signal.Signals(number).name
        os.write(sys.stderr.fileno(), f"\n{self.received}: finishing this step, then saving.\n".encode())

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals back from Lightning's own handlers; stops if one came while things were set up."""
        if self._listens:
            for number in SIGNALS:
                signal.signal(number, self._receive)
        self._step = trainer.global_step
        self._stop_if_received(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops after a whole optimizer step, never between two micro-batches."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self._stop_if_received(trainer)

    def _stop_if_received(self, trainer: pl.Trainer) -> None:
        received = self.received is not None
        if trainer.world_size > 1:  # all ranks stop after the same step, whichever got the signal
            received = trainer.strategy.reduce_boolean_decision(received, all=False)
        if received:
            self.received = self.received or "another rank's signal"
            trainer.should_stop = True
            if not trainer.is_last_batch:
                trainer.limit_val_batches = 0  # a batch system waits only so long


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
