"""A broken camera: fixed offsets per image row, added to every image before θ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rowgrad.randomness import Draw
from rowgrad.scenario.rows import name_rows

if TYPE_CHECKING:
    from rowgrad.scenario.settings import CorruptionSettings


class Corruption(nn.Module):
    """Adds a fixed offset to each row of every image, in training, validation and test.

    Args:
        settings: the settings of `corruption`. Random offsets depend on `settings.seed`, not on the run's seed.
        height: H of the images.

    Attributes:
        offsets: (H,), the offset of each row in normalised units; 0 for rows that are not selected.
        is_noop: whether every offset is 0.

    Raises:
        UserError: a row that images of this height do not have.
    """

    offsets: Tensor

    def __init__(self, settings: CorruptionSettings, *, height: int) -> None:
        super().__init__()
        selected = settings.rows.select(height)
        offset, std = settings.offset, settings.std
        offsets = offset + std * Draw(settings.seed, 0).normal("camera", (height,))
        self.name, self.rows, self.offset, self.std = settings.name, name_rows(selected), offset, std
        self.is_noop = not any(selected) or offset == std == 0
        self.register_buffer("offsets", torch.where(torch.tensor(selected), offsets, 0.0), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> images with the offsets added."""
        return images if self.is_noop else images + self.offsets[:, None]

    def sentence(self) -> str:
        """Describes the damage in one sentence; empty for an intact camera."""
        if self.is_noop:
            return ""
        fixed = [f"{self.offset:+g}"] if self.offset else []
        random = [f"a number for each row (standard deviation {self.std:g})"] if self.std else []
        return f"The camera adds {' and '.join(fixed + random)} to {self.rows} of every image."
