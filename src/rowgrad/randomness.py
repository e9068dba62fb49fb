"""Random numbers that are a pure function of (seed, step, purpose, image), without a state to save or restore.

A counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with the mixing
function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). Image i of a step gets the same numbers for every split
into micro-batches and ranks, on a CPU and on a GPU, and after a resume.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Generator

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def hash64(*numbers: int | str) -> int:
    """Hashes integers and strings (by their first eight bytes) to 64 bits; the same in every process."""
    state = 0
    for number in numbers:
        value = int.from_bytes(number.encode(), "little") if isinstance(number, str) else number
        state = (state ^ (value & _WORD)) + _GOLDEN & _WORD
        for shift, factor in zip((30, 27), _MIX, strict=True):
            state = ((state ^ (state >> shift)) * factor) & _WORD
        state ^= state >> 31
    return state


@dataclass(frozen=True)
class Draw:
    """Randomness for a range of images of one optimizer step.

    Example:
        >>> Draw(seed=0, step=3).uniform("noise", (2, 28)).shape
        torch.Size([2, 28])

    Example:
        >>> four = Draw(seed=0, step=3).uniform("noise", (4,))
        >>> last = Draw(seed=0, step=3, first=3).uniform("noise", (1,))
        >>> bool(four[3] == last[0])  # an image's numbers do not depend on its batch
        True

    Attributes:
        seed: the run's seed.
        step: the optimizer step, counted from 0.
        first: index of the first image among all images of the step, over micro-batches and ranks.
    """

    seed: int
    step: int
    first: int = 0

    def uniform(self, purpose: str, shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
        """Returns uniform float32 numbers in [0, 1).

        Args:
            purpose: names the stream; strings that differ in their first eight characters give independent numbers.
            shape: (B, ...). The numbers of image `first + b` do not depend on B.
            device: the device of the result. The numbers do not depend on it.
        """
        each = math.prod(shape[1:])
        counter = torch.arange(self.first * each, (self.first + shape[0]) * each, device=device)
        bits = _mix(counter * _signed(_GOLDEN) + _signed(hash64(self.seed, self.step, purpose)))
        return (_shift_right(bits, 40).to(torch.float32) * 2**-24).view(shape)

    def normal(self, purpose: str, shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
        """Returns standard normal float32 numbers of `shape`, by the Box-Muller transform (1958)."""
        assert len(purpose) <= 6, "radius and angle must differ within eight characters"  # noqa: PLR2004
        radius = (-2 * torch.log1p(-self.uniform(purpose + " radius", shape, device))).sqrt()
        return radius * torch.cos(2 * math.pi * self.uniform(purpose + " angle", shape, device))

    @contextmanager
    def torch_seeded(self, purpose: str, device: torch.device) -> Generator[None]:
        """Seeds torch's own generators from (seed, step) inside the block and restores their states afterwards."""
        seed, on_gpu = hash64(self.seed, self.step, purpose), device.type == "cuda"
        with torch.random.fork_rng(devices=[device] if on_gpu else []):
            # Not torch.manual_seed, which would also seed the other GPUs, whose states fork_rng does not restore.
            torch.default_generator.manual_seed(seed)
            if on_gpu:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield


def _signed(word: int) -> int:
    """The int64 with the same bits."""
    return word - (1 << 64) if word >> 63 else word


def _shift_right(bits: Tensor, by: int) -> Tensor:
    """Logical right shift of int64 words."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser, on int64 words with wraparound."""
    for shift, factor in zip((30, 27), _MIX, strict=True):
        bits = (bits ^ _shift_right(bits, shift)) * _signed(factor)
    return bits ^ _shift_right(bits, 31)
