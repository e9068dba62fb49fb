"""The LightningDataModule: training, validation and test images on the training device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl

from rowgrad.data.batches import EvalLoader, Resident, TrainLoader
from rowgrad.data.sources import SOURCES, DataSet, MissingError
from rowgrad.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from rowgrad.data.batches import Batch
    from rowgrad.data.settings import DataSettings
    from rowgrad.data.sources import Images


class ImageData(pl.LightningDataModule):
    """A data set, resident on the training device.

    Args:
        settings: the settings of `data`.
        seed: the run's seed.
        source: a function that returns the data set; without it, `settings.name` is loaded.

    Attributes:
        name: name of the data set in use; the fallback's name if `settings.name` is not available.
        missing: why `settings.name` is not available; None if it is.
        dataset: the images.

    Raises:
        UserError: the data set is not available, or it has fewer training images than one batch.
    """

    def __init__(self, settings: DataSettings, seed: int = 0, source: Callable[[], DataSet] | None = None) -> None:
        super().__init__()
        self.settings, self.seed = settings, seed
        self._loader: TrainLoader | None = None
        self._position: dict[str, int] | None = None
        self.name, self.missing, root = settings.name, None, Path(settings.root)
        try:
            self.dataset = SOURCES[self.name](root, download=settings.download) if source is None else source()
        except MissingError as error:
            if settings.fallback in {None, self.name}:
                raise
            self.name, self.missing = str(settings.fallback), str(error)
            self.dataset = SOURCES[self.name](root, download=settings.download)
        if not isinstance(self.dataset, DataSet):
            raise UserError(f"data.source returns a {type(self.dataset).__name__}, not a rowgrad.data.sources.DataSet.")
        settings.check_shift(self.dataset.shape)
        count = len(self.dataset.train.labels)
        if settings.batch_size > count:
            raise UserError(
                f"data.batch_size={settings.batch_size} is larger than the {count} training images of {self.name}."
            )

    def examples(self, count: int) -> Tensor:
        """Returns the first `count` training images, normalised, (B, C, H, W), on the CPU."""
        shape, (mean, std) = self.dataset.shape, self.dataset.normalization()
        pixels = self.dataset.train.pixels[:count].reshape(-1, shape.channels, shape.height, shape.width)
        return (pixels / 255 - mean) / std

    def train_dataloader(self) -> TrainLoader:
        """Returns the loader of the training images, at the restored position if a checkpoint was loaded."""
        trainer = self._trainer()
        self._loader = TrainLoader(
            self._resident(self.dataset.train, self.settings.shift),
            self.settings.batch_size,
            self.seed,
            accumulate=trainer.accumulate_grad_batches,
            rank=trainer.global_rank,
            world=trainer.world_size,
            limit=trainer.limit_train_batches,
            same=getattr(trainer, "overfit_batches", 0) > 0,  # an attribute that Lightning sets dynamically
        )
        # With reload_dataloaders_every_n_epochs, Lightning calls this at each epoch: start at the current one.
        start = {"epoch": trainer.current_epoch, "position": 0}
        position, self._position = self._position or start, None
        self._loader.load_state_dict(position)
        return self._loader

    def val_dataloader(self) -> EvalLoader:
        """Returns the loader of the validation images."""
        return self._eval(self.dataset.val)

    def test_dataloader(self) -> EvalLoader:
        """Returns the loader of the test images."""
        return self._eval(self.dataset.test)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Returns the batch as it is: it is on the device already, and Lightning's default would search its fields."""
        return batch

    def state_dict(self) -> dict[str, int]:
        """Returns the training loader's position. Lightning also saves it, but restores it in mid-epoch only."""
        return self._loader.state_dict() if self._loader is not None else {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Stores the position for the training loader, which is created later."""
        self._position = state_dict or None

    def _eval(self, images: Images) -> EvalLoader:
        trainer = self._trainer()
        size = self.settings.eval_batch_size
        return EvalLoader(self._resident(images), size, rank=trainer.global_rank, world=trainer.world_size)

    def _resident(self, images: Images, margin: int = 0) -> Resident:
        return Resident(images, self.dataset.normalization(), self._trainer().strategy.root_device, margin)

    def _trainer(self) -> pl.Trainer:
        assert self.trainer is not None, "called by the trainer"
        return self.trainer
