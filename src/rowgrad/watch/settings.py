"""The settings of the callbacks that watch: every default and every limit. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rowgrad.config import BOOLEAN, Limit, Settings, or_null, setting, whole
from rowgrad.errors import UserError, nearest
from rowgrad.watch.quantities import GRAD_NORM, KNOWN, Quantity


def _is_list_of(fits: Any) -> Any:
    return lambda value: isinstance(value, Sequence) and not isinstance(value, str) and all(map(fits, value))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_quantity(value: Any) -> bool:
    if isinstance(value, str):
        return value in KNOWN or value.endswith(GRAD_NORM)
    return isinstance(value, Quantity) or (isinstance(value, Mapping) and "_target_" in value)


def read_modules(value: Any, key: str) -> dict[str, Mapping[str, Any]]:
    """Submodules that are tapped: one name, a list of names, or for each name what is tapped, or null."""
    if isinstance(value, Mapping):
        return {name: _read_place(place or {}, f"{key}.{name}") for name, place in value.items()}
    names = [value] if isinstance(value, str) else value
    if not _is_list_of(_is_name)(names):
        raise UserError(f"{key}={value} is not the name of a submodule, a list of names, or a mapping of them.")
    return {name: {} for name in names}


def _read_place(place: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(place, Mapping):
        raise UserError(f"{key}={place} is not a mapping with any of {', '.join(PLACE)}.")
    for name, value in place.items():
        if name not in PLACE:
            raise UserError(f"{key}.{name} is unknown{nearest(str(name), PLACE)} Accepted: {', '.join(PLACE)}.")
        PLACE[name](value, f"{key}.{name}")
    return {name: str(value) if name == "argument" else value for name, value in place.items()}


A_DIMENSION = Limit(lambda v: isinstance(v, int) and not isinstance(v, bool), "the number of a dimension")
# What is tapped at a submodule: the fields of `rowgrad.attach.Place`.
PLACE: Mapping[str, Callable[[Any, str], Any]] = {
    "argument": Limit(lambda value: isinstance(value, str | int), "the name of an argument"),
    "output": BOOLEAN,
    "dim": A_DIMENSION,
    "batch_dim": A_DIMENSION,
    "rows": whole(1),
    "collect": BOOLEAN,
    "kind": Limit(_is_name, "what a row is, as token"),
    "labels": Limit(_is_list_of(lambda label: isinstance(label, str)), "a list of the rows' names"),
}
QUANTITIES = Limit(
    lambda value: bool(value) and _is_list_of(_is_quantity)(value),
    f"a list of one or more of {', '.join(sorted(KNOWN))}",
)
PAIRS = Limit(
    _is_list_of(lambda pair: _is_list_of(_is_name)(pair) and len(pair) == len(("before", "after"))),
    "a list of pairs of taps, as [[before,after]]",
)


@dataclass(frozen=True, kw_only=True)
class RecorderSettings(Settings, key="callbacks.recorder"):
    """Which steps are recorded, and what of them."""

    every_n_steps: int = setting(1, whole(1), "optimizer steps from one record to the next")
    flush_every_n_steps: int = setting(100, whole(1), "recorded steps that are written at once")
    quantities: Sequence[Any] | None = setting(
        None, or_null(QUANTITIES), "what is recorded of each row; null for all; of your own by a _target_"
    )
    modules: Mapping[str, Mapping[str, Any]] = setting(
        [], read_modules, "submodules, as network.layers.3, whose input is tapped too; a mapping says what else"
    )
    pairs: Sequence[Sequence[str]] = setting(
        [], PAIRS, "further pairs of taps, before and after a cut, for grad_flow/cut_fraction"
    )
    layers: bool | int = setting(
        False,
        Limit(
            lambda v: isinstance(v, bool) or whole(1).fits(v), "true, false, or how many parts of a name are a layer"
        ),
        "norms of each layer's parameters' gradients, too; a number joins layers by the first parts of their names",
    )
    update_ratios: bool = setting(False, BOOLEAN, "how far each step moves each layer, too; needs layers")
    bins: int | None = setting(None, or_null(whole(1)), "the most norms of a quantity at a step; more rows are joined")


@dataclass(frozen=True, kw_only=True)
class PicturesSettings(Settings, key="callbacks.pictures"):
    """When pictures are drawn, and of how many images."""

    first: int = setting(50, whole(1), "optimizer steps until the first set of pictures")
    every_n_steps: int = setting(1000, whole(1), "optimizer steps from one set to the next; the last is at the end")
    digits: int = setting(4, whole(1), "images in the grid of digits")


@dataclass(frozen=True, kw_only=True)
class BiasSettings(Settings, key="callbacks.bias"):
    """When the gradient is compared with the one without detach."""

    every_n_steps: int = setting(100, whole(1), "optimizer steps from one pass without detach to the next")


@dataclass(frozen=True, kw_only=True)
class HistogramsSettings(Settings, key="callbacks.histograms"):
    """When histograms over single images are taken."""

    every_n_steps: int = setting(50, whole(1), "optimizer steps from one set of histograms to the next")
