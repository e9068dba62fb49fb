"""Resumable batches: uint8 images are stored on the training device, and gathered and normalised there."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rowgrad.randomness import Draw, hash64

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rowgrad.data.sources import Images


class Batch(NamedTuple):
    """One micro-batch of one optimizer step.

    Attributes:
        images: (B, C, H, W), normalised.
        labels: (B,), int64.
        first: index of the first image among all images of the optimizer step, over micro-batches and ranks.
        weight: factor of this micro-batch's mean loss. Lightning averages over micro-batches and ranks; with this
            factor its average is the mean over all images of the step. 1.0 if all micro-batches have the same size.
    """

    images: Tensor
    labels: Tensor
    first: int
    weight: float


class Resident:
    """Images on the training device, from which normalised batches are gathered.

    Args:
        images: the images of one split.
        scaling: mean and standard deviation of pixels in [0, 1], from `DataSet.normalization()`.
        device: the device that stores the images.
        margin: width of the black border around each image, in pixels. A shift by at most `margin` pixels is then a
            gather as well.

    Attributes:
        shape: (C, H, W) of an image without its border.
    """

    def __init__(
        self, images: Images, scaling: tuple[float | Tensor, float | Tensor], device: torch.device, margin: int = 0
    ) -> None:
        padded = torch.nn.functional.pad(images.pixels, (margin,) * 4)
        if padded.ndim == 3:  # noqa: PLR2004  (one channel, left out of the shape)
            padded = padded.unsqueeze(1)
        self.shape = (padded.shape[1], *images.pixels.shape[-2:])
        self.labels = images.labels.to(device)
        self.mean, self.std = (value.to(device) if isinstance(value, Tensor) else value for value in scaling)
        self.width, self.area = padded.shape[3], padded[0].numel()
        # A strided view of all windows of an image's size, indexed by the flat position of the upper left pixel.
        strides = padded.shape[2] * self.width, self.width, 1
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, strides, strict=True))
        pixels = padded.to(device).flatten()
        self.windows = pixels.as_strided((pixels.numel() - reach, *self.shape), (1, *strides))

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, corner: Tensor) -> Tensor:
        """Returns the normalised images (B, C, H, W) whose upper left pixels have the flat positions `corner` (B,)."""
        return self.windows.index_select(0, corner).float().div_(255).sub_(self.mean).div_(self.std)


class TrainLoader:
    """Batches whose order and shifts are a pure function of (seed, epoch), with a position that can be restored.

    The micro-batches of one optimizer step, rank after rank, are consecutive in the epoch's order. An optimizer step
    therefore sees the same images for every split into micro-batches and ranks.

    Args:
        data: the training images; their margin is the largest shift.
        batch_size: images of one micro-batch on one rank.
        seed: the run's seed.
        accumulate: micro-batches per optimizer step.
        rank: index of this process.
        world: number of processes.
        limit: batches per epoch: a number of batches (int), or a fraction of all batches (float).
        same: whether every epoch repeats the first one exactly.

    Attributes:
        batches: batches per epoch, after `limit`. `len()` ignores the limit, which Lightning applies by itself.
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
            del self.edges[-2]  # fewer images than ranks: they join the previous batch
        self.batches = min(limit, len(self)) if isinstance(limit, int) else int(limit * len(self))
        self.epoch, self.position = 0, 0
        self._restored = False

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __iter__(self) -> Iterator[Batch]:
        if self.position and not self._restored:
            self.epoch, self.position = self.epoch + 1, 0  # the previous iteration stopped in mid-epoch
        self._restored = False
        order, corner = self._epoch_order()
        for position in range(self.position, self.batches):
            start, end = self.edges[position : position + 2]
            window = position - position % self.accumulate
            window_start, window_end = self.edges[window], self.edges[min(window + self.accumulate, self.batches)]
            first, last = (start + (end - start) * rank // self.world for rank in (self.rank, self.rank + 1))
            share = (last - first) / (window_end - window_start)
            # Before the yield: a state that is saved during this step continues with the next batch.
            self.position = (position + 1) % self.batches
            self.epoch += self.position == 0
            yield Batch(
                self.data.gather(corner[first:last]),
                self.data.labels[order[first:last]],
                first - window_start,
                share * self.accumulate * self.world,
            )

    def _epoch_order(self) -> tuple[Tensor, Tensor]:
        """The epoch's order of images (N,), and the flat position of each one's shifted upper left pixel (N,)."""
        device, count, epoch = self.data.labels.device, len(self.data), 0 if self.same else self.epoch
        generator = torch.Generator().manual_seed(hash64(self.seed, epoch, "order"))
        order = torch.randperm(count, generator=generator).to(device)
        reach = self.data.width - self.data.shape[2] + 1
        chosen = Draw(self.seed, epoch).uniform("shift", (count, 2), device).mul_(reach).long()
        return order, order * self.data.area + chosen[:, 0] * self.data.width + chosen[:, 1]

    def state_dict(self) -> dict[str, int]:
        """Returns epoch and position of the next batch."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues from the batch that `state_dict` named."""
        self.epoch, self.position = state["epoch"], state["position"]
        self._restored = True


class EvalLoader:
    """Every image once, in the order of the data set. With several ranks, each rank gets its own part."""

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
