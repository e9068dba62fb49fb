"""A broken camera: a fixed offset for each image row, added to every image before θ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rowgrad.randomness import Draw
from rowgrad.rows import name_rows, select_rows
from rowgrad.settings import check

if TYPE_CHECKING:
    from rowgrad.rows import RowSpec


class Corruption(nn.Module):
    """x + offset for each row, the same in every image of training, validation and test.

    Args:
        name: what the damage is called.
        rows: which rows are damaged, in the row grammar.
        offset: what is added to each of them, in normalised units.
        std: standard deviation of what is added besides, a number of its own for each row, from N(0, std²).
        seed: of these numbers; the run's seed does not change them.
        height: H of the images.

    Attributes:
        offsets: (H,), what is added to each row; 0 where nothing is.

    Raises:
        UserError: a value that is not accepted; it names the key.
    """

    offsets: Tensor

    def __init__(
        self,
        name: str = "custom",
        rows: RowSpec = "none",
        offset: float = 0.0,
        std: float = 0.0,
        seed: int = 0,
        *,
        height: int,
    ) -> None:
        super().__init__()
        for key, value in {"offset": offset, "std": std, "seed": seed}.items():
            check(f"corruption.{key}", value)
        selected = select_rows(rows, height, "corruption.rows")
        offsets = offset + std * Draw(seed, 0).normal("camera", (height,))
        self.name, self.rows, self.offset, self.std = name, name_rows(selected), offset, std
        self.idle = not any(selected) or offset == std == 0
        self.register_buffer("offsets", torch.where(torch.tensor(selected), offsets, 0.0), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 1, H, W) as the camera gives them."""
        return images if self.idle else images + self.offsets[:, None]

    def sentence(self) -> str:
        """The damage in one plain sentence; empty where there is none."""
        if self.idle:
            return ""
        fixed = [f"{self.offset:+g}"] if self.offset else []
        random = [f"a number for each row (standard deviation {self.std:g})"] if self.std else []
        return f"The camera adds {' and '.join(fixed + random)} to {self.rows} of every image."
