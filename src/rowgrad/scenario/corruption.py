"""A broken camera: a fixed offset for each image row, added to every image before θ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rowgrad.randomness import Draw
from rowgrad.scenario.rows import name_rows

if TYPE_CHECKING:
    from rowgrad.scenario.settings import CorruptionSettings


class Corruption(nn.Module):
    """x + offset for each row, the same in every image of training, validation and test.

    Args:
        settings: what `corruption` says. The run's seed does not change its numbers.
        height: H of the images.

    Attributes:
        offsets: (H,), what is added to each row; 0 where nothing is.
        is_noop: whether nothing is added anywhere.

    Raises:
        UserError: rows that such images do not have.
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
        """Images (B, C, H, W) as the camera gives them."""
        return images if self.is_noop else images + self.offsets[:, None]

    def sentence(self) -> str:
        """The damage in one plain sentence; empty where there is none."""
        if self.is_noop:
            return ""
        fixed = [f"{self.offset:+g}"] if self.offset else []
        random = [f"a number for each row (standard deviation {self.std:g})"] if self.std else []
        return f"The camera adds {' and '.join(fixed + random)} to {self.rows} of every image."
