"""What the callbacks that watch may say: every default and every limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rowgrad.config import Limit, Settings, setting, whole
from rowgrad.watch.quantities import ARRIVES, REACHES, Quantity, quantity_names

QUANTITIES = (REACHES, ARRIVES, "row_update_norm")  # what is recorded where nothing is said


def _is_quantity(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" in value
    return isinstance(value, Quantity) or value in quantity_names()


def _some_quantities(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and not isinstance(value, str) and all(map(_is_quantity, value))


@dataclass(frozen=True, kw_only=True)
class RecorderSettings(Settings, key="callbacks.recorder"):
    """Which steps are recorded, and what of them."""

    every: int = setting(1, whole(1), "optimizer steps from one record to the next")
    flush_every: int = setting(100, whole(1), "recorded steps that are written at once")
    quantities: Sequence[Any] = setting(
        QUANTITIES,
        Limit(_some_quantities, f"a list of one or more of {', '.join(QUANTITIES)}"),
        "what is recorded of each row; of your own by a _target_",
    )


@dataclass(frozen=True, kw_only=True)
class PicturesSettings(Settings, key="callbacks.pictures"):
    """When pictures are drawn, and of how many images."""

    every: int = setting(1000, whole(1), "optimizer steps from one set of pictures to the next; the last is at the end")
    digits: int = setting(4, whole(1), "images in the grid of digits")


@dataclass(frozen=True, kw_only=True)
class HistogramsSettings(Settings, key="callbacks.histograms"):
    """When single images are looked at."""

    every: int = setting(200, whole(1), "optimizer steps from one look at single images to the next")
