"""Ctrl-C, SIGTERM and SIGUSR1 during training: the optimizer step is finished and saved, and the exit code is 130.

Before and after training, Python's and Lightning's own handling is in place: nothing is lost by it, because files are
written atomically and a run resumes from its newest checkpoint.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities.exceptions import SIGTERMException

if TYPE_CHECKING:
    from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopOnSignal(pl.Callback):
    """On a signal, finishes the optimizer step in progress and stops training. A second signal leaves at once.

    While a run stops, `trainer.interrupted` is true. With several ranks, all stop after the same step.

    Attributes:
        stopped: the name of the signal that stopped training, or None.
    """

    def __init__(self) -> None:
        self.stopped: str | None = None
        self._received: str | None = None
        self._step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Installs the handler. Lightning restores the previous handlers at the end of `fit`, also after an error."""
        self._step = trainer.global_step
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            for number in STOPPING:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and background jobs ignore signals
                    signal.signal(number, self._receive)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops after an optimizer step, not between its micro-batches."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if not self._is_stopped(trainer):
            return
        # A validation that is due is done now. Another one, which Lightning adds wherever training stops, is not.
        if not trainer.should_stop and not validates_next(trainer):
            trainer.limit_val_batches = 0
        if not trainer.should_stop:  # else training ends by itself with this step
            trainer.state.status = TrainerStatus.INTERRUPTED
        trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A signal after the last step leaves the test to the resumed run."""
        self._is_stopped(trainer)

    def _is_stopped(self, trainer: pl.Trainer) -> bool:
        """Whether this rank, or another one, received a signal. All ranks must ask."""
        received = self._received is not None
        if trainer.world_size > 1:
            received = trainer.strategy.reduce_boolean_decision(received, all=False)
        if received:
            self.stopped = self._received or "a signal to another rank"
        return received

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._received is not None:
            os._exit(128 + number)
        self._received = signal.Signals(number).name
        os.write(2, f"\n{self._received}: finishing this step, then saving.\n".encode())


def is_interruption(error: BaseException) -> bool:
    """Whether an exception is Ctrl-C or SIGTERM outside of training.

    Lightning turns KeyboardInterrupt into SystemExit(1), and SIGTERM into SIGTERMException.
    """
    if isinstance(error, SystemExit):
        return isinstance(error, SIGTERMException) or isinstance(error.__context__, KeyboardInterrupt)
    return isinstance(error, KeyboardInterrupt)


def validates_next(trainer: pl.Trainer) -> bool:
    """Whether a validation follows the batch that was just trained."""
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher  # noqa: SLF001
    return fetcher is not None and loop.epoch_loop._should_check_val_fx(fetcher)  # noqa: SLF001
