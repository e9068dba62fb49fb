"""Resumable batches: uint8 images that live on the training device, gathered and normalised there."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rowgrad.randomness import Draw, hash64

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rowgrad.data.sources import Images


class Batch(NamedTuple):
    """Some images of one optimizer step.

    Attributes:
        images: (B, C, H, W), normalised.
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
    """Images on the training device, from which normalised batches are gathered.

    Args:
        images: of a data set.
        greys: mean and std
        device: where they live.
        margin: black pixels around each image, so that shifts by up to `margin` pixels are gathers too.
    """

    def __init__(
        self, images: Images, greys: tuple[float | Tensor, float | Tensor], device: torch.device, margin: int = 0
    ) -> None:
        padded = torch.nn.functional.pad(images.pixels, (margin,) * 4)
        if padded.ndim == 3:  # noqa: PLR2004  (one channel that nobody wrote down)
            padded = padded.unsqueeze(1)
        self.shape = (padded.shape[1], *images.pixels.shape[-2:])
        self.labels = images.labels.to(device)
        self.mean, self.std = (grey.to(device) if isinstance(grey, Tensor) else grey for grey in greys)
        self.width, self.area = padded.shape[3], padded[0].numel()
        # Every window of an image's size that the pixels hold, by the place of its upper left pixel; nothing is copied.
        strides = padded.shape[2] * self.width, self.width, 1
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, strides, strict=True))
        pixels = padded.to(device).flatten()
        self.windows = pixels.as_strided((pixels.numel() - reach, *self.shape), (1, *strides))

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, corner: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) whose upper left pixels stand at the flat positions `corner` (B,)."""
        return self.windows.index_select(0, corner).float().div_(255).sub_(self.mean).div_(self.std)


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
        limit: how many batches an epoch takes of all that there are: a number, or a share.
        same: whether every epoch is like the first, to the last bit.

    Attributes:
        batches: how many batches an epoch takes. The length is what there are: Lightning counts by itself.
    """

    def __init__(
        self,
        data: Resident,
        batch_size: int,
        seed: int,
        *,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        limit: float = 1.0,
        same: bool = False,
    ) -> None:
        self.data, self.seed, self.accumulate, self.rank, self.world = data, seed, accumulate, rank, world
        self.same = same
        self.edges = [*range(0, len(data), batch_size * world), len(data)]
        if len(self) > 1 and self.edges[-1] - self.edges[-2] < world:
            del self.edges[-2]  # too few images for every rank: they join the batch before
        self.batches = min(limit, len(self)) if isinstance(limit, int) else int(limit * len(self))
        self.epoch, self.position = 0, 0
        self._restored = False

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __iter__(self) -> Iterator[Batch]:
        if self.position and not self._restored:
            self.epoch, self.position = self.epoch + 1, 0  # the last epoch was left in the middle
        self._restored = False
        order, corner = self._epoch_order()
        for position in range(self.position, self.batches):
            start, end = self.edges[position : position + 2]
            window = position - position % self.accumulate
            window_start, window_end = self.edges[window], self.edges[min(window + self.accumulate, self.batches)]
            first, last = (start + (end - start) * rank // self.world for rank in (self.rank, self.rank + 1))
            share = (last - first) / (window_end - window_start)
            # Before the yield, so that a state saved during this batch's step goes on with the next one.
            self.position = (position + 1) % self.batches
            self.epoch += self.position == 0
            yield Batch(
                self.data.gather(corner[first:last]),
                self.data.labels[order[first:last]],
                first - window_start,
                share * self.accumulate * self.world,
            )

    def _epoch_order(self) -> tuple[Tensor, Tensor]:
        """The epoch's order of images (N,) and where the upper left pixel of each is, shifted by up to the margin."""
        device, count, epoch = self.data.labels.device, len(self.data), 0 if self.same else self.epoch
        generator = torch.Generator().manual_seed(hash64(self.seed, epoch, "order"))
        order = torch.randperm(count, generator=generator).to(device)
        reach = self.data.width - self.data.shape[2] + 1
        chosen = Draw(self.seed, epoch).uniform("shift", (count, 2), device).mul_(reach).long()
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
