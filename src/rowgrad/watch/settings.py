"""What the callbacks that watch may say: every default and every limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rowgrad.config import Limit, Settings, or_null, setting, whole
from rowgrad.errors import UserError
from rowgrad.watch.quantities import GRAD_NORM, Quantity, quantity_names


def _is_quantity(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" in value
    known = isinstance(value, str) and (value in quantity_names() or value.endswith(GRAD_NORM))
    return known or isinstance(value, Quantity)


def _some_quantities(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and not isinstance(value, str) and all(map(_is_quantity, value))


def read_names(value: Any, key: str) -> tuple[str, ...]:
    """Reads the names of submodules: one, or a list of them.

    Raises:
        UserError: something else.
    """
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{key}={value} is not the name of a submodule, or a list of them.")
    return tuple(names)


def _is_pairs(value: Any) -> bool:
    def is_pair(pair: Any) -> bool:
        named = isinstance(pair, Sequence) and all(isinstance(name, str) and name for name in pair)
        return named and not isinstance(pair, str) and len(pair) == len(("before", "after"))

    return isinstance(value, Sequence) and all(map(is_pair, value))


@dataclass(frozen=True, kw_only=True)
class RecorderSettings(Settings, key="callbacks.recorder"):
    """Which steps are recorded, and what of them."""

    every_n_steps: int = setting(1, whole(1), "optimizer steps from one record to the next")
    flush_every_n_steps: int = setting(100, whole(1), "recorded steps that are written at once")
    quantities: Sequence[Any] | None = setting(
        None,
        or_null(Limit(_some_quantities, f"a list of one or more of {', '.join(sorted(quantity_names()))}")),
        "what is recorded of each row, all where it is null; of your own by a _target_",
    )
    modules: Sequence[str] = setting(
        [], read_names, "submodules, as network.layers.3: what goes into them is tapped too"
    )
    pairs: Sequence[Sequence[str]] = setting(
        [],
        Limit(_is_pairs, "a list of pairs of taps, as [[before,after]]"),
        "taps before and after something, for grad_flow/cut_fraction; row and input are one",
    )


@dataclass(frozen=True, kw_only=True)
class PicturesSettings(Settings, key="callbacks.pictures"):
    """When pictures are drawn, and of how many images."""

    first: int = setting(50, whole(1), "optimizer steps until the first set of pictures")
    every_n_steps: int = setting(
        1000, whole(1), "optimizer steps from one set of pictures to the next; the last is at the end"
    )
    digits: int = setting(4, whole(1), "images in the grid of digits")


@dataclass(frozen=True, kw_only=True)
class BiasSettings(Settings, key="callbacks.bias"):
    """When the gradient is compared with the one without detach."""

    every_n_steps: int = setting(100, whole(1), "optimizer steps from one pass without detach to the next")


@dataclass(frozen=True, kw_only=True)
class HistogramsSettings(Settings, key="callbacks.histograms"):
    """When single images are looked at."""

    every_n_steps: int = setting(50, whole(1), "optimizer steps from one look at single images to the next")
