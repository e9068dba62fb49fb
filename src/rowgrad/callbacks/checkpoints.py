"""`checkpoints/last.ckpt`, from which a run can go on, and `checkpoints/best.ckpt`, best by `val/acc`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from torch import Tensor

MONITOR = "val/acc"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and moves into place, so that a checkpoint is whole or not there."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Saves a checkpoint under `path`; `storage_options` is ignored."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


class Checkpoints(Checkpoint):
    """Saves at the end of each epoch and where training stops, and keeps the best by `val/acc`.

    Files go to `checkpoints/` in the trainer's `default_root_dir`.
    """

    def __init__(self) -> None:
        self.best: float | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lets a run that ends in mid-epoch validate its last weights, as one that ends with an epoch does."""
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves `best.ckpt` when `val/acc` is higher than ever."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or MONITOR not in trainer.callback_metrics:
            return
        score: Tensor = trainer.callback_metrics[MONITOR]
        if self.best is None or score > self.best:
            self.best = float(score)
            self._save(trainer, "best.ckpt")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves `last.ckpt`."""
        self._save(trainer, "last.ckpt")

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the best score so far from a checkpoint."""
        self.best = state_dict["best"]

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / name)
