"""Resumable batches: uint8 images that live on the training device, gathered and normalised there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor

from rowgrad.errors import UserError
from rowgrad.randomness import Draw, hash64
from rowgrad.settings import SIZE, check
from rowgrad.sources import SOURCES, Images, MissingError, Source

if TYPE_CHECKING:
    from collections.abc import Iterator


class Batch(NamedTuple):
    """Some images of one optimizer step.

    Attributes:
        images: (B, 1, H, W), normalised.
        labels: (B,), int64.
        first: place of the first image among all images of the step, over micro-batches and ranks.
        weight: what the mean loss of this micro-batch is multiplied with, so that the average that Lightning takes over
            micro-batches and ranks is the mean over the step's images. 1.0 where all are of one size.
    """

    images: Tensor
    labels: Tensor
    first: int
    weight: float


class Resident:
    """A data set on the training device, from which normalised images are gathered.

    Args:
        images: the data set.
        source: where it comes from.
        device: where it lives.
        margin: black pixels around each image, so that shifts by up to `margin` pixels are gathers too.
    """

    def __init__(self, images: Images, source: Source, device: torch.device, margin: int = 0) -> None:
        padded = torch.nn.functional.pad(images.pixels, (margin,) * 4)
        self.shape = images.pixels.shape[1:]
        pixels = padded.to(device).flatten()
        self.labels = images.labels.to(device)
        self.source = source
        self.width, self.area = padded.shape[2], padded[0].numel()
        # Every window of an image's size that the pixels hold, by the place of its upper left pixel; nothing is copied.
        reach = (self.shape[0] - 1) * self.width + self.shape[1] - 1
        self.windows = pixels.as_strided((pixels.numel() - reach, *self.shape), (1, self.width, 1))

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, corner: Tensor) -> Tensor:
        """Normalised images (B, 1, H, W) whose upper left pixels stand at the flat positions `corner` (B,)."""
        grey = self.windows.index_select(0, corner).float()
        return grey.div_(255).sub_(self.source.mean).div_(self.source.std).unsqueeze(1)


class TrainLoader:
    """Batches whose order and shifts are a pure function of (seed, epoch), with a position that can be restored.

    Consecutive micro-batches of one optimizer step, rank after rank, are consecutive in the epoch's order, so the same
    images make a step in whatever way it is cut.

    Args:
        data: the training images; their margin is the largest shift.
        batch_size: images of one micro-batch on one rank.
        seed: the run's seed.
        accumulate: micro-batches of one optimizer step.
        rank: which of the processes this is.
        world: how many processes there are.
    """

    def __init__(
        self, data: Resident, batch_size: int, seed: int, *, accumulate: int = 1, rank: int = 0, world: int = 1
    ) -> None:
        self.data, self.seed, self.accumulate, self.rank, self.world = data, seed, accumulate, rank, world
        self.edges = [*range(0, len(data), batch_size * world), len(data)]
        if len(self) > 1 and self.edges[-1] - self.edges[-2] < world:
            del self.edges[-2]  # too few images for every rank: they join the batch before
        self.epoch, self.position = 0, 0
        self._restored = False

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __iter__(self) -> Iterator[Batch]:
        if self.position and not self._restored:
            self.epoch, self.position = self.epoch + 1, 0  # the last epoch was left in the middle
        self._restored = False
        order, corner = self._epoch_order()
        for position in range(self.position, len(self)):
            start, end = self.edges[position : position + 2]
            window = position - position % self.accumulate
            window_start, window_end = self.edges[window], self.edges[min(window + self.accumulate, len(self))]
            first, last = (start + (end - start) * rank // self.world for rank in (self.rank, self.rank + 1))
            share = (last - first) / (window_end - window_start)
            # Before the yield, so that a state saved during this batch's step goes on with the next one.
            self.position = (position + 1) % len(self)
            self.epoch += self.position == 0
            yield Batch(
                self.data.gather(corner[first:last]),
                self.data.labels[order[first:last]],
                first - window_start,
                share * self.accumulate * self.world,
            )

    def _epoch_order(self) -> tuple[Tensor, Tensor]:
        """The epoch's order of images (N,) and where the upper left pixel of each is, shifted by up to the margin."""
        device, count = self.data.labels.device, len(self.data)
        generator = torch.Generator().manual_seed(hash64(self.seed, self.epoch, "order"))
        order = torch.randperm(count, generator=generator).to(device)
        reach = self.data.width - self.data.shape[1] + 1
        chosen = Draw(self.seed, self.epoch).uniform("shift", (count, 2), device).mul_(reach).long()
        return order, order * self.data.area + chosen[:, 0] * self.data.width + chosen[:, 1]

    def state_dict(self) -> dict[str, int]:
        """Epoch and position of the next batch."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where `state_dict` was called."""
        self.epoch, self.position = state["epoch"], state["position"]
        self._restored = True


class EvalLoader:
    """The images in their own order, each once; with several ranks each has its own part."""

    def __init__(self, data: Resident, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        self.data, self.batch_size = data, batch_size
        self.part = range(len(data))[len(data) * rank // world : len(data) * (rank + 1) // world]

    def __len__(self) -> int:
        return len(range(0, len(self.part), self.batch_size))

    def __iter__(self) -> Iterator[Batch]:
        for begin in range(0, len(self.part), self.batch_size):
            index = self.part[begin : begin + self.batch_size]
            corner = torch.arange(index.start, index.stop, device=self.data.labels.device) * self.data.area
            yield Batch(self.data.gather(corner), self.data.labels[index.start : index.stop], index.start, 1.0)


class ImageData(pl.LightningDataModule):
    """One of `SOURCES`, resident on the training device.

    Args:
        name: which data set.
        root: folder of the downloaded files.
        fallback: data set to use where `name` cannot be had, or None for an error.
        batch_size: images of one micro-batch on one rank.
        shift: training images are shifted by up to so many pixels in each direction.
        seed: the run's seed.
        eval_batch_size: images of one batch in validation and test.

    Attributes:
        name: the data set that is really used.
        missing: why `name` could not be had and the fallback is used, else None.

    Raises:
        UserError: a value that is not accepted, or data that cannot be had.
    """

    height = SIZE
    width = SIZE
    classes = 10

    def __init__(
        self,
        name: str,
        root: str,
        fallback: str | None,
        batch_size: int,
        shift: int = 0,
        seed: int = 0,
        eval_batch_size: int = 500,
    ) -> None:
        super().__init__()
        settings = {"name": name, "root": root, "fallback": fallback, "batch_size": batch_size, "shift": shift}
        for key, value in {**settings, "eval_batch_size": eval_batch_size}.items():
            check(f"data.{key}", value)
        self.root, self.batch_size, self.shift, self.seed = Path(root), batch_size, shift, seed
        self.eval_batch_size = eval_batch_size
        self._loader: TrainLoader | None = None
        self._position: dict[str, int] | None = None
        self.missing: str | None = None
        try:
            self.name, self.splits = name, SOURCES[name].load(self.root)
        except MissingError as error:
            if fallback is None or fallback == name:
                raise
            self.missing = str(error)
            self.name, self.splits = fallback, SOURCES[fallback].load(self.root)
        self.source = SOURCES[self.name]
        if batch_size > len(self.splits.train.labels):
            raise UserError(
                f"data.batch_size={batch_size} is larger than the {len(self.splits.train.labels)} training images of"
                f" {self.name}."
            )

    @property
    def black(self) -> float:
        """The value of a black pixel in normalised units."""
        return -self.source.mean / self.source.std

    @property
    def white(self) -> float:
        """The value of a white pixel in normalised units."""
        return (1 - self.source.mean) / self.source.std

    def train_dataloader(self) -> TrainLoader:
        """The training images on the trainer's device."""
        trainer = self._trainer()
        self._loader = TrainLoader(
            self._resident(self.splits.train, self.shift),
            self.batch_size,
            self.seed,
            accumulate=trainer.accumulate_grad_batches,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        if self._position is not None:
            self._loader.load_state_dict(self._position)
        return self._loader

    def val_dataloader(self) -> EvalLoader:
        """The validation images on the trainer's device."""
        return self._eval(self.splits.val)

    def test_dataloader(self) -> EvalLoader:
        """The test images on the trainer's device."""
        return self._eval(self.splits.test)

    def state_dict(self) -> dict[str, int]:
        """Where the training loader is. Lightning keeps that too, but gives it back in mid-epoch only."""
        return self._loader.state_dict() if self._loader is not None else {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Keeps the position for the training loader, which is made later."""
        self._position = state_dict or None

    def _eval(self, images: Images) -> EvalLoader:
        trainer = self._trainer()
        return EvalLoader(
            self._resident(images), self.eval_batch_size, rank=trainer.global_rank, world=trainer.world_size
        )

    def _resident(self, images: Images, margin: int = 0) -> Resident:
        return Resident(images, self.source, self._trainer().strategy.root_device, margin)

    def _trainer(self) -> pl.Trainer:
        assert self.trainer is not None, "the trainer calls this"
        return self.trainer
