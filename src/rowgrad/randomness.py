"""Random numbers that are a pure function of (seed, step, purpose, image): nothing to save, nothing to restore.

A counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with the mixing
function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). Image i of a step gets the same numbers however the step's
batch is cut into micro-batches or spread over ranks, on a CPU and on a GPU, and after a resume.
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
    """Mixes whole numbers and words (by their first eight bytes) into one of 64 bits, the same one in every process."""
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
    """The randomness of some images of one step.

    Example:
        >>> four = Draw(seed=0, step=3).uniform("noise", (4,))
        >>> last = Draw(seed=0, step=3, first=3).uniform("noise", (1,))
        >>> bool(four[3] == last[0])  # an image's numbers do not depend on its batch
        True

    Attributes:
        seed: the run's seed.
        step: the optimizer step, counted from 0.
        first: place of the first image among all images of the step (of every micro-batch and rank).
    """

    seed: int
    step: int
    first: int = 0

    def uniform(self, purpose: str, shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
        """Uniform float32 numbers in [0, 1).

        Args:
            purpose: a word; words that differ in their first eight letters give independent numbers.
            shape: (B, ...); image `first + b` of the step gets the same numbers in whatever B it arrives.
            device: where they are made; the numbers are the same everywhere.
        """
        each = math.prod(shape[1:])
        counter = torch.arange(self.first * each, (self.first + shape[0]) * each, device=device)
        bits = _mix(counter * _signed(_GOLDEN) + _signed(hash64(self.seed, self.step, purpose)))
        return (_shift_right(bits, 40).to(torch.float32) * 2**-24).view(shape)

    def normal(self, purpose: str, shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
        """Standard normal float32 numbers of `shape`, by the transform of Box and Muller (1958)."""
        assert len(purpose) <= 6, "radius and angle differ in the eighth letter"  # noqa: PLR2004
        radius = (-2 * torch.log1p(-self.uniform(purpose + " radius", shape, device))).sqrt()
        return radius * torch.cos(2 * math.pi * self.uniform(purpose + " angle", shape, device))

    @contextmanager
    def torch_seeded(self, purpose: str, device: torch.device) -> Generator[None]:
        """Code inside draws from torch's own generators as a function of (seed, step); they are put back afterwards."""
        seed, on_gpu = hash64(self.seed, self.step, purpose), device.type == "cuda"
        with torch.random.fork_rng(devices=[device] if on_gpu else []):
            # Not torch.manual_seed: it seeds all GPUs as well, whose generators nobody would put back.
            torch.default_generator.manual_seed(seed)
            if on_gpu:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield


def _signed(word: int) -> int:
    """The int64 with the same bits."""
    return word - (1 << 64) if word >> 63 else word


def _shift_right(bits: Tensor, by: int) -> Tensor:
    """Shifts int64 words as if they were unsigned."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 words, which wrap around."""
    for shift, factor in zip((30, 27), _MIX, strict=True):
        bits = (bits ^ _shift_right(bits, shift)) * _signed(factor)
    return bits ^ _shift_right(bits, 31)
