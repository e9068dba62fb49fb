"""Lightning's Trainer with the callbacks and loggers of the config, and with what ends a run early."""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint, ProgressBar, RichProgressBar, Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.profilers import PassThroughProfiler, Profiler
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from rowgrad.errors import UserError, in_one_line
from rowgrad.training.build import make_target
from rowgrad.training.checkpoints import AtomicCheckpointIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from rowgrad.folders import RunFolder
    from rowgrad.training.settings import RunSettings

NOTHING = nullcontext()
CHECKED = 50  # batches from one look at their losses to the next


def prepare_libraries() -> None:
    """Silences what users cannot act on, and sets torch so that `trainer.precision=32-true` means 32 bits."""
    # Lightning 2.6 uses a name that torch deprecates.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")
    # trainer.accelerator=cpu leaves the GPU unused on purpose.
    warnings.filterwarnings("ignore", message="GPU available but not used")
    # A frozen network is in evaluation mode on purpose.
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode at the start of training")
    # Lightning's warnings are shown, and the table of a profiler.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)
    # By default, cuDNN rounds the factors of convolutions and recurrent layers to ten bits (TF32).
    torch.backends.cudnn.allow_tf32 = False
    # Set by Lightning on import. Without a GPU, torch's optimizers would then look for one at every step, for 0.3 ms.
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


class Unprofiled(PassThroughProfiler):
    """No profiler. Lightning's own empty one enters a generator fifty times a step, 5 % of a small network's step."""

    def profile(self, action_name: str) -> Any:
        """Measures nothing."""
        return NOTHING


class Progress(RichProgressBar):
    """Lightning's progress bar, which counts epochs from 1."""

    def _get_train_description(self, current_epoch: int) -> str:  # Lightning has no public hook for the description
        epochs = self.trainer.max_epochs
        return f"Epoch {current_epoch + 1}" + (f" of {epochs}" if epochs and epochs > 0 else "")


class WholeSteps(Timer):
    """Lightning's timer, which ends training only after a whole optimizer step.

    Args:
        duration: `trainer.max_time`.

    Raises:
        UserError: it is not a time.
    """

    state_key = Timer.__qualname__  # the key in existing checkpoints

    def __init__(self, duration: Any = None) -> None:
        try:
            super().__init__(duration)
        except (MisconfigurationException, AttributeError, TypeError) as error:
            raise UserError(f"trainer.max_time={duration} is not a time (DD:HH:MM:SS), or null.") from error

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Checks the time."""
        if not trainer.fit_loop._should_accumulate():  # noqa: SLF001
            super().on_train_batch_end(trainer, *args, **kwargs)


class FiniteLoss(pl.Callback):
    """Ends a run whose loss or weights are not finite, before a checkpoint of it is written.

    Losses stay on the device. They are checked every `CHECKED` batches and before each checkpoint.

    Raises:
        UserError: names the first step whose loss was not finite.
    """

    def __init__(self) -> None:
        self._recent: list[tuple[int, Tensor]] = []

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Keeps the batch's loss."""
        self._recent.append((trainer.global_step, loss.detach()))
        if len(self._recent) >= CHECKED:
            self._check()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Checks losses and weights."""
        self._check()
        for name, tensor in checkpoint["state_dict"].items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise UserError(f"{name} is not finite after step {trainer.global_step - 1}. {_ADVICE}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the last losses."""
        self._check()

    def _check(self) -> None:
        recent, self._recent = self._recent, []
        if recent:
            finite = torch.stack([loss for _, loss in recent]).isfinite().tolist()
            for (step, loss), is_finite in zip(recent, finite, strict=True):
                if not is_finite:
                    raise UserError(f"the loss is {float(loss)} at step {step}. {_ADVICE}")


_ADVICE = "The last good checkpoint is kept. A lower optimizer.lr or trainer.gradient_clip_val=1 may help."


def make_trainer(
    settings: RunSettings, folder: RunFolder, callbacks: Sequence[pl.Callback], purge_step: int | None
) -> pl.Trainer:
    """Lightning's Trainer of a run.

    Args:
        settings: the run's.
        folder: where its files go.
        callbacks: besides those of the config.
        purge_step: TensorBoard's events from this step on are discarded.

    Raises:
        UserError: an argument that Lightning refuses, or a device that is not available.
    """
    offered = {"dirpath": folder.path, "save_dir": str(folder), "purge_step": purge_step}
    watchers, loggers = (
        [
            make_target(node, f"{key}.{name}", settings.trust, offered, kind)
            for name, node in nodes.items()
            if node is not None
        ]
        for key, nodes, kind in (
            ("callbacks", settings.callbacks, pl.Callback),
            ("logger", settings.logger, Logger),
        )
    )
    trainer = lightning_trainer(
        settings,
        {"profiler": Unprofiled(), **settings.trainer.arguments()},
        callbacks=[*watchers, *callbacks],
        logger=loggers or False,
        default_root_dir=str(folder),
        plugins=[AtomicCheckpointIO()],
        # Lightning would add its own if these were true without one.
        enable_progress_bar=any(isinstance(watcher, ProgressBar) for watcher in watchers),
        enable_checkpointing=any(isinstance(watcher, Checkpoint) for watcher in watchers),
    )
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment) and "MASTER_ADDR" not in os.environ:
        raise UserError(  # one machine alone would wait for the others
            f"trainer.num_nodes={trainer.num_nodes} needs the same command on {trainer.num_nodes} machines, by torchrun"
            " or SLURM, or with MASTER_ADDR, MASTER_PORT and NODE_RANK set."
        )
    return trainer


def lightning_trainer(settings: RunSettings, arguments: dict[str, Any], **ours: Any) -> pl.Trainer:
    """A Trainer.

    Args:
        settings: the run's.
        arguments: of the config; `_target_` nodes among them are built.
        ours: further arguments.

    Raises:
        UserError: Lightning refuses an argument, or a device is not available.
    """
    made = {
        name: make_target(value, f"trainer.{name}", settings.trust, kind=Profiler if name == "profiler" else None)
        if isinstance(value, dict) and "_target_" in value
        else value
        for name, value in arguments.items()
    }
    try:
        return pl.Trainer(**{**made, **ours})
    except Exception as error:  # Lightning refuses arguments by many exceptions, an accelerator by ImportError
        others = list(settings.trainer.others)
        named = [key for key in others if key in str(error)] or others or ["accelerator", "devices", "precision"]
        chosen = ", ".join(f"trainer.{key}={arguments.get(key)}" for key in named)
        raise UserError(f"{chosen} cannot be had here: {in_one_line(error)}") from error
