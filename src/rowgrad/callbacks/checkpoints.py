"""`checkpoints/last.ckpt`, from which a run goes on to the last bit, and `checkpoints/best.ckpt`, best by `val/acc`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from rowgrad.errors import UserError
from rowgrad.settings import check

if TYPE_CHECKING:
    import lightning.pytorch as pl

MONITOR = "val/acc"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


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
        part = target.with_name(f"{target.name}.part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if storage_options is not None and target.exists():
                target.replace(storage_options)
            part.replace(target)
        except RuntimeError as error:  # torch's words for a file that cannot be written to its end
            cause = error.__context__
            raise UserError(f"{target} cannot be written: {cause if isinstance(cause, OSError) else error}") from error
        finally:
            part.unlink(missing_ok=True)


class Checkpoints(Checkpoint):
    """Saves every so many optimizer steps, at the end of each epoch and where training stops.

    Files go to `checkpoints/` in the trainer's `default_root_dir`: `last.ckpt`, the one before it as `previous.ckpt`,
    and `best.ckpt`, the best by `val/acc`. They hold the state of torch's generators too, and load with
    `weights_only=True`.

    Args:
        every: optimizer steps from one `last.ckpt` to the next.

    Attributes:
        validation: the newest validation metrics by their tags.
        validated_step: the number of optimizer steps after which they were measured.

    Raises:
        UserError: a value that is not accepted.
    """

    def __init__(self, every: int = 100) -> None:
        check("callbacks.checkpoints.every", every)
        self.every = every
        self.best: float | None = None
        self.validation: dict[str, float] = {}
        self.validated_step: int | None = None
        self._generators: dict[str, torch.Tensor] = {}
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives torch's generators the state that they had in the checkpoint."""
        self._step = trainer.global_step
        if "cpu" in self._generators:
            torch.set_rng_state(self._generators["cpu"])
        if "cuda" in self._generators and pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(self._generators["cuda"], pl_module.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves `last.ckpt` when it is due; at the end of an epoch, validation comes first."""
        step = trainer.global_step
        if step == self._step or trainer.is_last_batch:
            return
        self._step = step
        if trainer.should_stop or step == trainer.max_steps or step % self.every == 0:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves `last.ckpt` when an epoch is complete."""
        if trainer.is_last_batch and trainer.global_step:
            self._save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the metrics, and `best.ckpt` when `val/acc` is higher than ever."""
        if trainer.sanity_checking or MONITOR not in trainer.callback_metrics:
            return
        self.validation = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val/")}
        self.validated_step = trainer.global_step
        if self.best is None or self.validation[MONITOR] > self.best:
            self.best = self.validation[MONITOR]
            best = folder_of(trainer) / BEST
            if trainer.state.fn == "fit":
                trainer.save_checkpoint(best)
            elif trainer.is_global_zero:  # validated after training: last.ckpt holds these weights
                shutil.copyfile(best.with_name(LAST), best.with_suffix(".part"))
                best.with_suffix(".part").replace(best)

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

    def _save_last(self, trainer: pl.Trainer) -> None:
        folder = folder_of(trainer)
        trainer.save_checkpoint(folder / LAST, storage_options=folder / PREVIOUS)


def folder_of(trainer: pl.Trainer) -> Path:
    """Where a trainer's checkpoints are."""
    return Path(trainer.default_root_dir) / "checkpoints"


def newest_good(run: Path) -> tuple[Path, int, list[Path]] | None:
    """The newest checkpoint of a run that can be read.

    Args:
        run: the run's folder.

    Returns:
        Its path, its optimizer step, and the newer ones that cannot be read; None where no checkpoint was written yet.

    Raises:
        UserError: there are checkpoints, and none can be read.
    """
    damaged = []
    found = [path for name in (LAST, PREVIOUS) if (path := run / "checkpoints" / name).exists()]
    for path in found:
        try:
            step = torch.load(path, map_location="cpu", weights_only=True)["global_step"]
        except Exception:  # noqa: BLE001  (whatever garbage does to torch.load, it is not a checkpoint)
            damaged.append(path)
        else:
            return path, step, damaged
    if damaged:
        raise UserError(f"resume={run}: no checkpoint can be read: {', '.join(map(str, damaged))}.")
    return None
