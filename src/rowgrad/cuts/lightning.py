"""A LightningModule's training step as a step of `find_cuts`: what it logs goes nowhere, and nothing is counted."""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import lightning.pytorch as pl
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.loggers.logger import DummyLogger
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_leaves

from rowgrad.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import Tensor, nn


class TrainingStep:
    """Calls `training_step` on a batch.

    Args:
        module: the LightningModule, with a Trainer or without.
        batch: what its `training_step` gets; it is moved to the module's device.
        number: of the batch.

    Attributes:
        optimizers: the Trainer's; without one, those of `configure_optimizers`, if it does without a Trainer.
        others: the schedulers, which a step may change.

    Raises:
        UserError: the module is no LightningModule.
    """

    def __init__(self, module: nn.Module, batch: Any, number: int = 0) -> None:
        if not isinstance(module, pl.LightningModule):
            name = type(module).__name__
            raise UserError(f"find_cuts({name}, …) needs a function without arguments that returns the loss.")
        self.module, self.number = module, number
        self.batch = move_data_to_device(batch, module.device)
        self.trainer: pl.Trainer | None = module._trainer  # noqa: SLF001
        self.optimizers, self.schedulers = self._configured()
        self.others = self.schedulers

    def __call__(self) -> Any:
        """One training step. Its optimizers are torch's own, so that the Trainer counts no step."""
        names = inspect.signature(self.module.training_step).parameters
        arguments = [self.batch, self.number][: max(len(names), 1)]
        with self._apart():
            return self.module.training_step(*arguments)

    def _configured(self) -> tuple[list[Optimizer], list[Any]]:
        if self.trainer is not None:
            return list(self.trainer.optimizers), [config.scheduler for config in self.trainer.lr_scheduler_configs]
        try:
            configured = self.module.configure_optimizers()
        except Exception:  # noqa: BLE001 (it may need a Trainer)
            return [], []
        found = tree_leaves(configured)
        optimizers = [one for one in found if isinstance(one, Optimizer)]
        return optimizers, [one for one in found if isinstance(one, LRScheduler)]

    @contextmanager
    def _apart(self) -> Generator[None]:
        with ExitStack() as stack:
            for part in self.module.modules():
                if isinstance(part, pl.LightningModule):
                    stack.enter_context(patch.dict(part.__dict__, {"log": _nothing, "log_dict": _nothing}))
            own = {
                "optimizers": self._given_optimizers,
                "lr_schedulers": lambda: _one_or_all(self.schedulers),
                "manual_backward": _backward,
            }
            stack.enter_context(patch.dict(self.module.__dict__, own))
            if self.trainer is not None:
                loggers = [DummyLogger() for _ in self.trainer.loggers]
                stack.enter_context(patch.object(self.trainer, "_loggers", loggers))
                stack.enter_context(self.trainer.precision_plugin.train_step_context())
            else:
                toggles = {"toggle_optimizer": _nothing, "untoggle_optimizer": _nothing, "clip_gradients": _nothing}
                stack.enter_context(patch.dict(self.module.__dict__, toggles))
            yield

    def _given_optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """As `LightningModule.optimizers`."""
        return _one_or_all(self.optimizers)


def _one_or_all(found: list[Any]) -> Any:
    return found[0] if len(found) == 1 else found


def _nothing(*_: Any, **__: Any) -> None:
    """Does nothing."""


def _backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
    loss.backward(*args, **kwargs)
