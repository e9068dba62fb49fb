"""Plain networks from images (B, 1, H, W) to logits (B, classes)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence


class StridedConvNet(nn.Module):
    """Convolutions of stride 2, each with batch normalisation and ReLU, and one linear layer.

    Args:
        channels: output channels of each convolution.
        kernels: kernel size of each convolution, odd.
        height: H of the images.
        width: W of the images.
        classes: number of classes.
    """

    def __init__(
        self,
        channels: Sequence[int] = (24, 48, 64),
        kernels: Sequence[int] = (5, 3, 3),
        *,
        height: int = 28,
        width: int = 28,
        classes: int = 10,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for (into, out), kernel in zip(pairwise([1, *channels]), kernels, strict=True):
            convolution = nn.Conv2d(into, out, kernel, stride=2, padding=kernel // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            height, width = (height + 1) // 2, (width + 1) // 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * height * width, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 1, H, W) -> logits (B, classes)."""
        return self.layers(images)


class MLP(nn.Module):
    """Linear layers with ReLU and dropout between them.

    Args:
        hidden: width of each hidden layer.
        dropout: chance that a hidden unit is dropped in training.
        height: H of the images.
        width: W of the images.
        classes: number of classes.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (256, 128),
        dropout: float = 0.0,
        *,
        height: int = 28,
        width: int = 28,
        classes: int = 10,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        widths = [height * width, *hidden]
        for into, out in pairwise(widths):
            layers += [nn.Linear(into, out), nn.ReLU(inplace=True)]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 1, H, W) -> logits (B, classes)."""
        return self.layers(images)
