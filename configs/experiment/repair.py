"""What is left of a broken camera's damage when the rows have learnt? A figure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rowgrad.results.plots import Plot, add_legend, in_parts, named_grid
from rowgrad.scenario.corruption import Corruption
from rowgrad.scenario.settings import CorruptionSettings
from rowgrad.watch.figures import INK, OTHER, SELECTED, ZERO, mark_selected
from rowgrad.watch.wording import range_in_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure
    from torch import Tensor

    from rowgrad.results.plots import Size
    from rowgrad.results.runs import RunSet

    Camera = tuple[Tensor, Tensor, Sequence[bool], float]  # damage (H,), row means of θ (H,), selected, test accuracy

MOST, GRID = 24, 8  # settings that are drawn, and in one figure


def figures(runs: RunSet) -> dict[str, Plot]:
    """The broken cameras and what the rows have made of them, of the first seed of each setting."""
    cameras: dict[str, Camera] = {}
    groups = runs.groups()[:MOST]
    for group in groups:
        run, theta = group.first, group.first.theta
        camera = Corruption(CorruptionSettings.read(run.config.get("corruption") or {}), height=run.height)
        if not camera.is_noop and theta is not None:
            accuracy = run.summary.get("test/acc", math.nan)
            cameras[group.name] = (camera.offsets, theta.float().mean((0, 2)), run.selected, accuracy)
    words = (
        "Grey: what the camera adds to each row. θ is drawn beside it, averaged over the row, and what is left of the"
        " damage; above it, the test accuracy."
    )
    if any(len(group.runs) > 1 for group in groups):
        words += " Of several seeds, the first run's."
    parts = [{name: cameras[name] for name in names} for names in in_parts(list(cameras), GRID)]
    return {f"repair_{n}" if n > 1 else "repair": _plot(part, words) for n, part in enumerate(parts, 1)}


def _plot(cameras: Mapping[str, Camera], words: str) -> Plot:
    verdict = range_in_settings("The test accuracy", {name: accuracy for name, (*_, accuracy) in cameras.items()})
    return Plot(verdict, words, lambda size: _draw(cameras, size))


def _draw(cameras: Mapping[str, Camera], size: Size) -> Figure:
    told = {
        name: f"{accuracy:.2%}" if math.isfinite(accuracy) else "no test accuracy"
        for name, (*_, accuracy) in cameras.items()
    }
    figure, panels = named_grid([f"{name}: {words}" for name, words in told.items()], 2.0, size)
    for panel, (damage, learnt, selected, _) in zip(panels, cameras.values(), strict=True):
        rows = np.arange(len(damage))
        panel.barh(rows, damage.numpy(), height=1, color=ZERO)
        panel.plot(learnt.numpy(), rows, color=OTHER)
        panel.plot((damage + learnt).numpy(), rows, color=SELECTED, ls="--")
        panel.axvline(0, color=INK, lw=0.6)
        mark_selected(panel, selected)
        panel.locator_params(axis="x", nbins=4)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    entries = [
        Patch(color=ZERO, label="damage, normalised pixels"),
        Line2D([], [], color=OTHER, label="θ, what the row learnt"),
        Line2D([], [], color=SELECTED, ls="--", label="what is left"),
        Line2D([], [], color=SELECTED, lw=4, label="selected rows"),
    ]
    add_legend(figure, entries, size)
    return figure
