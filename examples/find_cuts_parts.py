"""The parts of the model in `find_cuts.py`: an encoder of pictures, and helpers."""

import torch
from torch import nn


def snapshot(x):
    """A copy to look at, as in a plot."""
    return x.detach().clone()


def centred(x):
    """Subtracts the mean of each picture and channel."""
    x = snapshot(x)
    return x - x.mean((-2, -1), keepdim=True)


def standardized(x):
    """Mean 0 and variance 1 in each picture and channel."""
    x = centred(x)
    return x / (x.square().mean((-2, -1), keepdim=True) + 1e-5).sqrt()


class Pictures(nn.Module):
    """Pictures (B, 3, 32, 32) -> features (B, 16)."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2)
        self.second = nn.Conv2d(8, 16, 3, stride=2)

    def forward(self, x):
        x = torch.relu(standardized(self.first(x)))
        return torch.relu(self.second(x)).mean((-2, -1))
