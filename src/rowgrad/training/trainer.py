"""Lightning's Trainer with what watches, saves and stops a run."""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint, ProgressBar, RichProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import (
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.profilers import PassThroughProfiler, Profiler
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from rowgrad.errors import UserError
from rowgrad.training.build import make_target
from rowgrad.training.checkpoints import AtomicCheckpointIO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rowgrad.folders import RunFolder
    from rowgrad.training.settings import RunSettings

NOTHING = nullcontext()


def be_quiet() -> None:
    """Leaves out what Lightning says and whoever runs this can do nothing about."""
    # Lightning 2.6 uses a name that torch deprecates.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")
    # Who says trainer.accelerator=cpu knows of the GPU.
    warnings.filterwarnings("ignore", message="GPU available but not used")
    # A frozen network is in evaluation mode on purpose.
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode at the start of training")
    # Lightning greets at length; its warnings are shown, and the tables of a profiler that was asked for.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)


def compute_in_32_bits() -> None:
    """Makes `trainer.precision=32-true` mean it on a GPU too.

    Unless told otherwise, cuDNN rounds what its convolutions and recurrent layers multiply to ten bits (TF32).
    """
    torch.backends.cudnn.allow_tf32 = False


def skip_driver_checks() -> None:
    """Takes back what Lightning sets on import: without a GPU, torch's optimizers would look for one at every step.

    That takes 0.3 ms. Where there is a GPU, it is left as Lightning has it.
    """
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


class Unprofiled(PassThroughProfiler):
    """No profiler. Lightning enters one fifty times a step, and its own empty one is a generator each time."""

    def profile(self, action_name: str) -> Any:
        """Measures nothing."""
        return NOTHING


class Progress(RichProgressBar):
    """Lightning's progress bar, which counts epochs from 1."""

    def _get_train_description(self, current_epoch: int) -> str:  # there is no public hook for these words
        epochs = self.trainer.max_epochs
        return f"Epoch {current_epoch + 1}" + (f" of {epochs}" if epochs and epochs > 0 else "")


def make_trainer(
    settings: RunSettings, folder: RunFolder, callbacks: Sequence[pl.Callback], purge_step: int | None
) -> pl.Trainer:
    """Lightning's trainer with the config's callbacks and more.

    Args:
        settings: the run's.
        folder: where everything goes.
        callbacks: besides those of the config.
        purge_step: events from this step on are taken back.

    Raises:
        UserError: an argument that there is not, or a device that cannot be had.
    """
    offered = {"dirpath": folder.path, "save_dir": str(folder), "purge_step": purge_step}
    watchers, loggers = (
        [
            _of_kind(make_target(node, f"{key}.{name}", settings.trusted, offered), kind, f"{key}.{name}")
            for name, node in nodes.items()
            if node is not None
        ]
        for key, nodes, kind in (
            ("callbacks", settings.callbacks, pl.Callback),
            ("logger", settings.logger, Logger),
        )
    )
    _check_machines(settings.trainer.num_nodes)
    arguments = {"profiler": Unprofiled(), **settings.trainer.arguments()}
    return lightning_trainer(
        settings,
        arguments,
        callbacks=[*watchers, *callbacks],
        logger=loggers or False,
        default_root_dir=str(folder),
        plugins=[AtomicCheckpointIO()],
        # Lightning would add its own where there are none.
        enable_progress_bar=any(isinstance(watcher, ProgressBar) for watcher in watchers),
        enable_checkpointing=any(isinstance(watcher, Checkpoint) for watcher in watchers),
    )


def _of_kind(made: Any, kind: type, key: str) -> Any:
    if not isinstance(made, kind):
        raise UserError(f"{key} is a {type(made).__name__}. Accepted: a {kind.__module__}.{kind.__name__}.")
    return made


def _check_machines(count: int) -> None:
    """Several machines have to find each other: one alone would wait for the others without a word."""
    environments = (SLURMEnvironment, TorchElasticEnvironment, LSFEnvironment, MPIEnvironment)
    if count > 1 and "MASTER_ADDR" not in os.environ and not any(found.detect() for found in environments):
        raise UserError(
            f"trainer.num_nodes={count} needs the same command on {count} machines, by torchrun or SLURM, or with"
            " MASTER_ADDR, MASTER_PORT and NODE_RANK set."
        )


def lightning_trainer(settings: RunSettings, arguments: dict[str, Any], **ours: Any) -> pl.Trainer:
    """A Trainer; what it refuses is said in plain words."""
    made = {
        name: make_target(value, f"trainer.{name}", settings.trusted)
        if isinstance(value, dict) and "_target_" in value
        else value
        for name, value in arguments.items()
    }
    if not isinstance(arguments.get("profiler"), str | None):
        _of_kind(made["profiler"], Profiler, "trainer.profiler")
    try:
        return pl.Trainer(**{**made, **ours})
    except (TypeError, ValueError) as error:
        raise UserError(f"trainer: {error}") from error
    except MisconfigurationException as error:
        if named := [key for key in settings.trainer.others if f"`{key}`" in str(error)]:
            raise UserError(f"trainer.{named[0]}={arguments[named[0]]}: {error}") from error
        chosen = ", ".join(f"trainer.{key}={arguments[key]}" for key in ("accelerator", "devices", "precision"))
        raise UserError(f"{chosen} cannot be had here: {error}") from error


def notes_on_steps(trainer: pl.Trainer, batches: Mapping[str, int]) -> list[str]:
    """A limit of steps that a limit of epochs ends earlier."""
    limit, epochs = trainer.limit_train_batches, trainer.max_epochs
    there = min(limit, batches["train"]) if isinstance(limit, int) else int(limit * batches["train"])
    steps = -(-there // trainer.accumulate_grad_batches) * (epochs or -1)
    if not 0 < steps < trainer.max_steps:
        return []
    words = (
        f"trainer.max_epochs={epochs} ends the run after {steps} steps, before trainer.max_steps={trainer.max_steps}."
    )
    return [f"{words} trainer.max_epochs=-1 does not."]


def check_batches(trainer: pl.Trainer, batches: Mapping[str, int]) -> None:
    """Sees whether a trainer's limits leave batches of each stage.

    Args:
        trainer: the trainer.
        batches: how many there are for `train`, `val` and `test`.

    Raises:
        UserError: a share of them is less than one, or validation would never be due.
    """
    for stage, count in batches.items():
        limit = getattr(trainer, f"limit_{stage}_batches")
        if isinstance(limit, float) and limit > 0 and int(limit * count) == 0:
            overfit = getattr(trainer, "overfit_batches", 0) > 0 and stage != "test"
            name = "overfit_batches" if overfit else f"limit_{stage}_batches"
            raise UserError(f"trainer.{name}={limit} is less than one of the {count} batches of {stage}.")
    limit, every = trainer.limit_train_batches, trainer.val_check_interval
    there = min(limit, batches["train"]) if isinstance(limit, int) else int(limit * batches["train"])
    validates = trainer.limit_val_batches > 0 and trainer.check_val_every_n_epoch is not None
    if validates and isinstance(every, int) and every > there:
        raise UserError(
            f"trainer.val_check_interval={every} is more than the {there} batches of an epoch."
            " trainer.check_val_every_n_epoch=null counts over epochs."
        )
