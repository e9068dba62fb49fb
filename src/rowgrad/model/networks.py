"""Networks from images (B, C, H, W) to logits (B, classes).

To use another `nn.Module`, name it by `model.network._target_`. Of `height`, `width`, `in_channels` and `classes` it
receives those that its constructor names.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence


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
        _check_widths("channels", channels, least=1)
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


def check_share(name: str, value: float) -> None:
    """Raises a ValueError unless 0 <= value < 1."""
    if not isinstance(value, int | float) or not 0 <= value < 1:  # NaN fails both comparisons
        raise ValueError(f"{name}={value} is not a number from 0 to below 1.")


def check_whole(**values: int) -> None:
    """Raises a ValueError unless every value is a whole number of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value} is not a whole number of at least 1.")


def _check_widths(name: str, widths: Sequence[int], least: int) -> None:
    fits = isinstance(widths, list | tuple) and len(widths) >= least
    if not (fits and all(isinstance(width, int) and not isinstance(width, bool) and width > 0 for width in widths)):
        some = "one or more " if least else ""
        raise ValueError(f"{name}={widths} is not a list of {some}whole numbers of at least 1.")


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
        _check_widths("hidden", hidden, least=0)
        check_share("dropout", dropout)
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
