"""Networks from images (B, C, H, W) to logits (B, classes).

To use another `nn.Module`, name it by `model.network._target_`. Of `height`, `width`, `in_channels` and `classes` it
receives those that its constructor names.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rowgrad.config import SHARE, Limit, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTHS = Limit(
    lambda value: isinstance(value, list | tuple) and all(map(whole(1).fits, value)),
    "a list of whole numbers of at least 1",
)
SOME_WIDTHS = Limit(
    lambda value: WIDTHS.fits(value) and len(value) > 0, "a list of one or more whole numbers of at least 1"
)


class StridedConvNet(nn.Module):
    """2×2 pixels folded into four channels, 3×3 convolutions with batch normalisation and ReLU, one linear layer.

    The first convolution has stride 1, the others stride 2. Folding pixels into channels makes the input gradient
    cheap: a convolution of one channel computes it slowly. Weights in channels-last order make it cheaper still.

    Args:
        channels: output channels of each convolution.
        in_channels: C of the images.
        height: H of the images.
        width: W of the images.
        classes: number of classes.
    """

    def __init__(self, channels: Sequence[int], *, height: int, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        SOME_WIDTHS(channels, "model.network.channels")
        odd = height % 2, width % 2
        layers: list[nn.Module] = [nn.ZeroPad2d((0, odd[1], 0, odd[0]))] if any(odd) else []
        layers.append(nn.PixelUnshuffle(2))
        height, width = -(-height // 2), -(-width // 2)
        for number, (into, out) in enumerate(pairwise([4 * in_channels, *channels])):
            stride = 2 if number else 1
            layers += [
                nn.Conv2d(into, out, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
            ]
            height, width = -(-height // stride), -(-width // stride)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * height * width, classes))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, classes)."""
        return self.layers(images)


class MLP(nn.Module):
    """Linear layers with ReLU and dropout between them.

    Args:
        hidden: width of each hidden layer.
        dropout: probability that a hidden unit is dropped in training.
        in_channels: C of the images.
        height: H of the images.
        width: W of the images.
        classes: number of classes.
    """

    def __init__(
        self,
        hidden: Sequence[int],
        dropout: float = 0.0,
        *,
        height: int,
        width: int,
        in_channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        WIDTHS(hidden, "model.network.hidden")
        SHARE(dropout, "model.network.dropout")
        layers: list[nn.Module] = [nn.Flatten()]
        widths = [in_channels * height * width, *hidden]
        for into, out in pairwise(widths):
            layers += [nn.Linear(into, out), nn.ReLU(inplace=True)]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, classes)."""
        return self.layers(images)
