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
from rowgrad.process import SIGNALS
from rowgrad.results.run import read_checkpoint
from rowgrad.training.settings import CheckpointsSettings
from rowgrad.training.stops import validates_next
from rowgrad.watch.csv_file import count_lines, heights_of
from rowgrad.watch.outlets import save_loggers
from rowgrad.watch.recorder import RECORDED

if TYPE_CHECKING:
    import os

    import lightning.pytorch as pl

MONITOR = "val/acc"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, and moves into place: a checkpoint is whole or not there."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Saves a checkpoint.

        Args:
            checkpoint: what to save.
            path: where; an existing file is replaced.
            storage_options: the path to which an existing file is moved first, or None.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with whole_file(target, move_old_to=storage_options) as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # torch's words for a file that cannot be written to its end
            cause = error.__context__
            raise UserError(f"{target} cannot be written: {cause if isinstance(cause, OSError) else error}") from error


class Checkpoints(Checkpoint):
    """Saves every so many optimizer steps, at the end of each epoch and where training stops.

    Where a validation follows on a step it is saved later: a run goes on behind the validation, so it must be done.

    Files go to `checkpoints/` in the trainer's `default_root_dir`: `last.ckpt`, the one before it as `previous.ckpt`,
    and `best.ckpt`, the best by `val/acc`. They hold the state of torch's generators too, and load with
    `weights_only=True`.

    Args:
        every_n_steps: optimizer steps from one `last.ckpt` to the next.

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
        """A run that ended before its limits, and has the same ones now, is at its end."""
        trainer.should_stop |= self._ended == limits_of(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives torch's generators the state that they had in the checkpoint."""
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
        """What was logged before is on its way to the disk; of an epoch that is not complete, training may go on."""
        save_loggers(trainer)
        if self._loop is not None and trainer.training:
            checkpoint["loops"]["fit_loop"] = self._loop
        if trainer.should_stop and not SIGNALS.stops:
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
            elif trainer.is_global_zero and folder.last.is_file():  # after training: it holds these weights
                with folder.last.open("rb") as last, whole_file(folder.best) as best:
                    shutil.copyfileobj(last, best)

    def state_dict(self) -> dict[str, Any]:
        """Best score, newest validation and the state of torch's generators."""
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
        """Takes all of it from a checkpoint."""
        self.best, self.validation = state_dict["best"], state_dict["validation"]
        self.validated_step, self._generators = state_dict["validated_step"], state_dict["generators"]
        self._ended = state_dict.get("ended")

    def _save_last(self, trainer: pl.Trainer) -> None:
        self._late = False
        if is_dry(trainer):  # a dry run leaves nothing that looks as if it were trained
            return
        folder = folder_of(trainer)
        trainer.save_checkpoint(folder.last, storage_options=folder.previous)


def limits_of(trainer: pl.Trainer) -> list[int | None]:
    """Where a run ends at the latest: epochs and optimizer steps."""
    return [trainer.max_epochs, trainer.max_steps]


def begin_next_epoch(trainer: pl.Trainer) -> None:
    """Has a run that goes on at the end of an epoch begin the next one.

    Lightning 2.6 does, but not where there are `max_steps`: there it ends the epoch once more, and counts it twice.
    """
    loop = trainer.fit_loop
    if loop.restarted_on_epoch_end and trainer.is_last_batch:
        loop.epoch_progress.increment_completed()
        loop.reset_restart_stage()
        loop._restarting = loop.epoch_loop.restarting = False  # noqa: SLF001  (its own setter keeps it with max_steps)


def is_dry(trainer: pl.Trainer) -> bool:
    """Whether a trainer only shows, with a few batches, that all parts work."""
    return bool(getattr(trainer, "fast_dev_run", False))


def folder_of(trainer: pl.Trainer) -> RunFolder:
    """The folder of the run that a trainer trains."""
    return RunFolder(Path(trainer.default_root_dir))


class Found(NamedTuple):
    """A checkpoint from which a run can go on, its optimizer step, and the newer ones with what is wrong with each."""

    path: Path
    step: int
    unfit: dict[Path, str]


def newest_good(run: RunFolder) -> Found | None:
    """The newest checkpoint that can be read and knows no more steps than the run's files; None where there is none.

    Raises:
        UserError: there are checkpoints, and from none of them the run can go on.
    """
    unfit: dict[Path, str] = {}
    lost = ""
    for path in run.checkpoints:
        try:
            content = read_checkpoint(path)
            step, missing = content["global_step"], _missing_steps(run, content)
        except (UserError, AttributeError, KeyError, TypeError, ValueError):  # or it holds something else
            unfit[path] = "is damaged"
            continue
        if not missing:
            return Found(path, step, unfit)
        unfit[path], lost = f"knows more steps than the files ({missing})", f"{missing} of {path.name}"
    if lost:
        raise UserError(f"resume={run}: {lost}. Put the file back, or train the run again in another folder.")
    if unfit:
        raise UserError(f"resume={run}: no checkpoint can be read: {', '.join(map(str, unfit))}.")
    return None


def _missing_steps(run: RunFolder, checkpoint: dict[str, Any]) -> str:
    """Words for recorded steps that a checkpoint knows and a file beside `row_gradients.csv` has not; else empty."""
    for name, known in checkpoint.get(RECORDED, {}).items():
        file = run.norms_file.with_name(Path(name).name)  # wherever a foreign checkpoint wants to look
        same = sorted(heights_of(file)) == known["quantities"]
        count = count_lines(file, checkpoint["global_step"]) if same else 0
        if count < known["steps"]:
            return f"{file.name} has the norms of {count} of the {known['steps']} recorded steps"
    return ""
