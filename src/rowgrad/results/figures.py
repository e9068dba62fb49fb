"""Runs side by side -> figures. Plain matplotlib: nothing is measured here, no file is read or written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rowgrad.watch.drawing import (
    INK,
    OTHER,
    SELECTED,
    ZERO,
    draw_heatmap,
    draw_theta,
    log_scale,
    mark_selected,
    title_of,
)
from rowgrad.watch.quantities import ARRIVES, REACHES, Quantity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from torch import Tensor

    from rowgrad.results.run import Curve

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", "--", ":", "-.")
POINTS = 60  # of a smoothed curve
LONG = 40  # letters of a name


def compared_heatmaps(runs: Mapping[str, tuple[Tensor, Mapping[str, Tensor], Sequence[bool]]]) -> Figure:
    """Row and input gradient norms of several runs, all on one colour scale.

    Args:
        runs: steps (T,), norms (T, H) by their names, and the selected rows, by the run's name.
    """
    figure = Figure(figsize=(9.2, 1.7 * len(runs) + 0.9), layout="constrained")
    quantities = (REACHES, ARRIVES)
    panels = figure.subplots(len(runs), 2, squeeze=False, sharey=True)
    scale = log_scale([norms[q] for _, norms, _ in runs.values() for q in quantities if q in norms])
    image = ScalarMappable(scale, "viridis")
    for pair, (name, (steps, norms, selected)) in zip(panels, runs.items(), strict=True):
        pair[0].set_ylabel(f"{name}\nimage row", fontsize=8)
        for panel, quantity in zip(pair, quantities, strict=True):
            if quantity in norms:
                draw_heatmap(panel, steps, norms[quantity], selected, scale)
            else:
                panel.text(0.5, 0.5, "not recorded", ha="center", transform=panel.transAxes)
    for panel, quantity in zip(panels[0], quantities, strict=True):
        panel.set_title(title_of(quantity), fontsize=10)
    for panel in panels[-1]:
        panel.set_xlabel("optimizer step")
    figure.colorbar(image, ax=panels, label=Quantity.unit, aspect=30, pad=0.01, format="%.0e")
    key = [Patch(color=ZERO, label="exactly 0"), Line2D([], [], color=SELECTED, lw=4, label="selected rows")]
    figure.legend(handles=key, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def learning_curves(curves: Mapping[str, Mapping[str, Sequence[Curve]]]) -> Figure:
    """Loss and accuracy over optimizer steps: training batches as lines, validation as dots.

    Args:
        curves: for each group of runs that differ in their seed alone, by its name: the runs' curves by their tags.
    """
    figure = Figure(figsize=(9.2, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, (metric, label) in zip(panels, {"loss": "loss", "acc": "accuracy, %"}.items(), strict=True):
        for group, style in zip(curves, styles(len(curves)), strict=True):
            for number, (steps, values) in enumerate(curves[group].get(f"train/{metric}", [])):
                centres, means = _smoothed(steps, values)
                shown = means * 100 if metric == "acc" else means
                panel.plot(centres, shown, lw=1.2, label=None if number else group, **style)
            for steps, values in curves[group].get(f"val/{metric}", []):
                panel.plot(steps, np.array(values) * (100 if metric == "acc" else 1), "o", color=style["color"], ms=5)
        panel.set(xlabel="optimizer step", ylabel=label)
        panel.grid(alpha=0.25)
    panels[0].set_yscale("log")
    panels[0].set_title("Loss of training batches (lines) and validation (dots)", fontsize=10)
    panels[1].set_title("Accuracy of training batches and validation", fontsize=10)
    name_groups(figure, curves)
    return figure


def row_profiles(profiles: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Mean norm of each row, with a band of one standard deviation over seeds.

    Args:
        profiles: for each group of runs that differ in their seed alone, by its name: norms by their names, averaged
            over steps, (N, H) for N seeds.
    """
    figure = Figure(figsize=(9.2, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    height = next(norms.shape[1] for group in profiles.values() for norms in group.values())
    for panel, quantity in zip(panels, (REACHES, ARRIVES), strict=True):
        for (group, norms), style in zip(profiles.items(), styles(len(profiles)), strict=True):
            if quantity not in norms:
                continue
            mean = norms[quantity].mean(0).numpy()
            rows = np.arange(len(mean))
            panel.plot(rows, mean, marker="o", ms=3, lw=1.2, label=group, **style)
            if len(norms[quantity]) > 1:
                spread = norms[quantity].std(0).numpy()
                panel.fill_between(rows, mean - spread, mean + spread, color=style["color"], alpha=0.2, lw=0)
        panel.set(xlabel="image row (0 = top)", title=title_of(quantity))
        panel.title.set_fontsize(10)
        panel.set_xticks(range(0, height, 7))
        panel.grid(alpha=0.25)
    panels[0].set_ylabel(f"mean over steps,\n{Quantity.unit}")
    name_groups(figure, profiles)
    return figure


def compared_theta(thetas: Mapping[str, tuple[Tensor, Sequence[bool]]]) -> Figure:
    """θ (C, H, W) of several runs on one colour scale, with the selected rows, by the run's name."""
    figure, panels, used = _grid(len(thetas), (2.3, 2.3), (1, 0.6))
    limit = max(float(theta.abs().max()) for theta, _ in thetas.values())
    images = []
    for panel, (name, (theta, selected)) in zip(used, thetas.items(), strict=True):
        images.append(draw_theta(panel, theta, selected, limit))
        panel.set_title(name, fontsize=8)
    figure.colorbar(images[0], ax=panels, label="θ, normalised pixels", aspect=30)
    return figure


def _grid(
    count: int, size: tuple[float, float], extra: tuple[float, float], *, sharex: bool = False
) -> tuple[Figure, Any, list[Axes]]:
    """A figure with a panel for each of `count` runs, four in a line; all its panels, and those in use."""
    across = min(count, 4)
    down = -(-count // across)
    figure = Figure(figsize=(size[0] * across + extra[0], size[1] * down + extra[1]), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=sharex, sharey=True)
    for panel in panels.flat[count:]:
        panel.set_visible(False)
    return figure, panels, list(panels.flat[:count])


def styles(count: int) -> list[dict[str, Any]]:
    """Colours and dashes that can be told apart, for so many groups."""
    return [{"color": PALETTE[i % len(PALETTE)], "ls": DASHES[i // len(PALETTE) % len(DASHES)]} for i in range(count)]


def name_groups(figure: Figure, groups: Mapping[str, Any]) -> None:
    """A legend of groups below a figure."""
    handles = [Line2D([], [], lw=2, label=g, **style) for g, style in zip(groups, styles(len(groups)), strict=True)]
    columns = 3 if max(map(len, groups), default=0) < LONG else 2
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def _smoothed(steps: Sequence[int], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Means over `POINTS` pieces of a curve, and the middles of the pieces."""
    pieces = min(POINTS, len(steps))
    split = zip(np.array_split(np.array(steps, float), pieces), np.array_split(np.array(values), pieces), strict=True)
    middles = [(part.mean(), value.mean()) for part, value in split]
    return np.array([m for m, _ in middles]), np.array([v for _, v in middles])


def repairs(cameras: Mapping[str, tuple[Tensor, Tensor, Sequence[bool], float]]) -> Figure:
    """What a camera adds to each row, what the rows have learnt to add, and what is left.

    Args:
        cameras: damage (H,), θ averaged over each row (H,), the selected rows and the test accuracy, by the run's name.
    """
    figure, panels, used = _grid(len(cameras), (2.5, 3.2), (0, 0.6), sharex=True)
    for panel, (name, (damage, learnt, selected, accuracy)) in zip(used, cameras.items(), strict=True):
        rows = np.arange(len(damage))
        panel.barh(rows, damage.numpy(), height=1, color=ZERO)
        panel.plot(learnt.numpy(), rows, color=OTHER, lw=1.5)
        panel.plot((damage + learnt).numpy(), rows, color=SELECTED, lw=1.5, ls="--")
        panel.axvline(0, color=INK, lw=0.6)
        mark_selected(panel, selected)
        words = f"{accuracy:.2%}" if math.isfinite(accuracy) else "no test accuracy"
        panel.set_title(name.replace(", ", "\n") + f"\n{words}", fontsize=8)
    for panel in panels[:, 0]:
        panel.set_ylabel("image row")
    for panel in panels[-1]:
        panel.set_xlabel("normalised pixels", fontsize=9)
    key = [
        Patch(color=ZERO, label="damage"),
        Line2D([], [], color=OTHER, label="θ, what the row learnt"),
        Line2D([], [], color=SELECTED, ls="--", label="what is left"),
        Line2D([], [], color=SELECTED, lw=4, label="cut rows"),
    ]
    figure.legend(handles=key, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def row_atlas(losses: Tensor, shares: Tensor, digit: Tensor | None) -> Figure:
    """What each row carries, as bars beside a mean digit.

    Args:
        losses: test accuracy that is lost where row r is cut, (N, H) for N seeds, as a share.
        shares: cut fraction where row r is cut, (N, H).
        digit: the data set's mean image, (H, W).
    """
    figure = Figure(figsize=(9.2, 4.2), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True, width_ratios=[1, 1.4, 1.4])
    rows = np.arange(losses.shape[1])
    if digit is not None:
        panels[0].imshow(digit.numpy(), cmap="gray", aspect="auto")
    panels[0].set(title="mean digit", xticks=[], ylabel="image row (0 = top)")
    titles = {"accuracy lost, percentage points": losses, "share of the squared input gradient, %": shares}
    for panel, (title, values) in zip(panels[1:], titles.items(), strict=True):
        spread = 100 * values.std(0).numpy() if len(values) > 1 else None
        panel.barh(
            rows, 100 * values.mean(0).numpy(), xerr=spread, height=0.8, color=OTHER, ecolor=INK, error_kw={"lw": 0.8}
        )
        panel.set_xlabel(title)
        panel.grid(axis="x", alpha=0.25)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    panels[0].set_yticks(range(0, len(rows), 7))
    return figure
