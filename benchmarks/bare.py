"""A plain training loop with a row parameter, with which the pipeline is compared. It imports torch alone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Iterable


def now() -> float:
    """The time after the device has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def bare_loop(
    images: Tensor,
    labels: Tensor,
    network: nn.Module,
    batch_size: int,
    steps: Iterable[int],
    clip: float | None = None,
) -> None:
    """Trains.

    Args:
        images: uint8 (N, H, W), on the device.
        labels: (N,), there too.
        network: to be trained.
        batch_size: B.
        steps: 0, 1, 2, ...; asked before each step, which is how a step is timed.
        clip: what the gradient's norm is clipped to.
    """
    device = images.device
    network = network.to(device).train()
    rows = nn.Parameter(torch.zeros(images.shape[1:], device=device))
    optimizer = torch.optim.AdamW([*network.parameters(), rows], lr=1e-2, betas=(0.9, 0.99), weight_decay=1e-2)
    order = torch.randperm(len(labels), device=device)
    for step in steps:
        place = step * batch_size % (len(labels) - batch_size)
        index = order[place : place + batch_size]
        x = images[index].unsqueeze(1).float().div_(255).sub_(0.1307).div_(0.3081)
        loss = cross_entropy(network(x + rows), labels[index], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_([*network.parameters(), rows], clip)
        optimizer.step()


class PlainGRU(nn.Module):
    """The network of `model=gru` in plain torch."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(28, 128, batch_first=True)
        self.linear = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 1, 28, 28) -> logits (B, 10)."""
        outputs, _ = self.gru(images.squeeze(1))
        return self.linear(outputs[:, -1])


def default_network() -> nn.Module:
    """The pipeline's default network in plain torch."""
    network = nn.Sequential(
        nn.PixelUnshuffle(2),
        nn.Conv2d(4, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
        nn.Conv2d(32, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(1024, 10),
    )  # fmt: skip
    return network.to(memory_format=torch.channels_last)
