"""`checkpoints/last.ckpt`, from which a run goes on to the last bit, and `checkpoints/best.ckpt`, best by `val/acc`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from rowgrad.errors import UserError
from rowgrad.files import whole_file
from rowgrad.folders import RunFolder
from rowgrad.results.run import read_checkpoint
from rowgrad.training.settings import CheckpointsSettings
from rowgrad.training.signals import validates_next
from rowgrad.watch.csv_file import count_lines, holds
from rowgrad.watch.loggers import save_loggers
from rowgrad.watch.recorder import RECORDED

if TYPE_CHECKING:
    import os

    import lightning.pytorch as pl

MONITOR = "val/acc"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Atomic checkpoint writes that keep the checkpoint before.

    Lightning's own transactional saving writes to the system's temporary folder and moves the file from there, which is
    not atomic on another file system, does not sync the file, and keeps no checkpoint before.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Saves a checkpoint.

        Args:
            checkpoint: what to save.
            path: where; an existing file is replaced.
            storage_options: the path to which an existing file is moved first, or None.

        Raises:
            UserError: the file cannot be written, as on a full disk.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with whole_file(target, move_old_to=storage_options) as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # raised by torch if a write fails
            cause = error.__context__
            raise UserError(f"{target} cannot be written: {cause if isinstance(cause, OSError) else error}") from error


class Checkpoints(Checkpoint):
    """Saves every `every_n_steps` optimizer steps, at the end of each epoch, and when training stops.

    If a validation follows a step, the checkpoint is saved after it: a resumed run starts behind the validation.

    Files go to `checkpoints/` in the trainer's `default_root_dir`: `last.ckpt`, the one before it as `previous.ckpt`,
    and `best.ckpt`, the best by `val/acc`. They hold the states of torch's generators too, and load with
    `weights_only=True`.

    Args:
        every_n_steps: optimizer steps between two `last.ckpt`.

    Attributes:
        validation: the newest validation metrics by their tags.
        validated_step: the number of optimizer steps after which they were measured.

    Raises:
        UserError: a value that is not accepted.
    """

    def __init__(self, every_n_steps: int = CheckpointsSettings.every_n_steps) -> None:
        self.every_n_steps = CheckpointsSettings(every_n_steps=every_n_steps).every_n_steps
        self.best: float | None = None
        self.validation: dict[str, float] = {}
        self.validated_step: int | None = None
        self._generators: dict[str, torch.Tensor] = {}
        self._ended: list[int | None] | None = None
        self._loop: dict[str, Any] | None = None
        self._step, self._late = 0, False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Trains no more if the run stopped early, as by early stopping, and its limits are the same now."""
        trainer.should_stop |= self._ended == limits_of(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores the states of torch's generators from the checkpoint."""
        self._step, self._late, self._loop = trainer.global_step, False, None
        begin_next_epoch(trainer)
        if "cpu" in self._generators:
            torch.set_rng_state(self._generators["cpu"])
        if "cuda" in self._generators and pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(self._generators["cuda"], pl_module.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves `last.ckpt` when it is due; at the end of an epoch, validation comes first."""
        step = trainer.global_step
        if step == self._step:
            return
        self._step = step
        if trainer.is_last_batch:
            return
        self._loop = None
        self._late |= trainer.should_stop or step == trainer.max_steps or step % self.every_n_steps == 0
        if validates_next(trainer):
            self._loop = trainer.fit_loop.state_dict()
        elif self._late:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves `last.ckpt` when an epoch is complete, or when training stops after a validation within one."""
        if trainer.is_last_batch:
            self._loop = None
        if (trainer.is_last_batch and trainer.global_step) or self._loop is not None:
            self._save_last(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Flushes the loggers first. Within an epoch, stores the progress from before the validation."""
        save_loggers(trainer)
        if self._loop is not None and trainer.training:
            checkpoint["loops"]["fit_loop"] = self._loop
        if trainer.should_stop and not trainer.interrupted:
            checkpoint["callbacks"][self.state_key]["ended"] = limits_of(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the metrics, and `best.ckpt` when `val/acc` is higher than ever."""
        if trainer.sanity_checking or MONITOR not in trainer.callback_metrics:
            return
        self.validation = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val/")}
        self.validated_step = trainer.global_step
        if not is_dry(trainer) and (self.best is None or self.validation[MONITOR] > self.best):
            self.best = self.validation[MONITOR]
            folder = folder_of(trainer)
            if trainer.state.fn == "fit":
                trainer.save_checkpoint(folder.best)
            elif trainer.is_global_zero and folder.last.is_file():  # after training: last.ckpt holds these weights
                with folder.last.open("rb") as last, whole_file(folder.best) as best:
                    shutil.copyfileobj(last, best)

    def state_dict(self) -> dict[str, Any]:
        """Best score, newest validation and the states of torch's generators."""
        generators = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            generators["cuda"] = torch.cuda.get_rng_state()
        return {
            "best": self.best,
            "validation": self.validation,
            "validated_step": self.validated_step,
            "generators": generators,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.best, self.validation = state_dict["best"], state_dict["validation"]
        self.validated_step, self._generators = state_dict["validated_step"], state_dict["generators"]
        self._ended = state_dict.get("ended")

    def _save_last(self, trainer: pl.Trainer) -> None:
        self._late = False
        if is_dry(trainer):  # a dry run leaves no checkpoint
            return
        folder = folder_of(trainer)
        trainer.save_checkpoint(folder.last, storage_options=folder.previous)


def limits_of(trainer: pl.Trainer) -> list[int | None]:
    """The limits of a run: epochs and optimizer steps."""
    return [trainer.max_epochs, trainer.max_steps]


def begin_next_epoch(trainer: pl.Trainer) -> None:
    """Skips the finished epoch when a run is resumed at its end.

    Lightning 2.6 does so only without `max_steps`; with it, it ends the epoch once more, and counts it twice.
    """
    loop = trainer.fit_loop
    if loop.restarted_on_epoch_end and trainer.is_last_batch:
        loop.epoch_progress.increment_completed()
        loop.reset_restart_stage()
        loop._restarting = loop.epoch_loop.restarting = False  # noqa: SLF001  (its own setter keeps it with max_steps)


def is_dry(trainer: pl.Trainer) -> bool:
    """Whether `trainer.fast_dev_run` is set."""
    return bool(getattr(trainer, "fast_dev_run", False))


def folder_of(trainer: pl.Trainer) -> RunFolder:
    """The folder of the run."""
    return RunFolder(Path(trainer.default_root_dir))


class Found(NamedTuple):
    """A checkpoint to resume from.

    Attributes:
        path: its file.
        step: its number of optimizer steps.
        unfit: newer checkpoints, and what is wrong with each.
    """

    path: Path
    step: int
    unfit: dict[Path, str]


def newest_good(run: RunFolder) -> Found | None:
    """The newest checkpoint that can be read and has no more steps than the run's files; None without checkpoints.

    Raises:
        UserError: the run cannot be resumed from any of its checkpoints.
    """
    unfit: dict[Path, str] = {}
    for path in run.checkpoints:
        try:
            content = read_checkpoint(path)
            if not (missing := _missing_steps(run, content)):
                return Found(path, content["global_step"], unfit)
            unfit[path] = f"knows more steps than the files ({missing})"
        except (UserError, AttributeError, KeyError, TypeError, ValueError):  # it holds something else
            unfit[path] = "is damaged"
    if unfit:
        reasons = "; ".join(f"{path} {reason}" for path, reason in unfit.items())
        raise UserError(f"resume={run}: {reasons}. Put the files back, or train the run again in another folder.")
    return None


def _missing_steps(run: RunFolder, checkpoint: dict[str, Any]) -> str:
    """Says which file of norms lacks steps that the checkpoint knows as recorded; empty if none does."""
    for name, known in checkpoint.get(RECORDED, {}).items():
        file = run.norms_file.with_name(Path(name).name)  # a foreign checkpoint may name any path
        if not holds(file, known):
            count = count_lines(file, known["steps"])
            found = "other norms than those" if count == known["steps"] else f"the norms of {count}"
            return f"{file.name} has {found} of the {known['steps']} recorded steps"
    return ""
