"""The pictures of a run: norms of all rows at all steps, θ, and digits as who sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import PolyCollection

from rowgrad.watch.drawing import (
    OTHER,
    SELECTED,
    draw_heatmap,
    draw_scale,
    draw_theta,
    key_of,
    log_scale,
    mark_rows,
    new_figure,
    title_of,
    unit_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

GAP = 5  # pixels between two strips of digits
WIDTH = 3.8  # inches: TensorBoard shows a picture as wide as a card, so what is narrower has the larger print


def heatmaps(steps: Tensor, norms: Mapping[str, Tensor], selected: Sequence[bool], words: str = "") -> Figure:
    """Rows × steps of one run.

    Args:
        steps: optimizer steps, (T,).
        norms: norms (T, H) by their names, a panel each; what has one unit is on one scale.
        selected: the scenario's rows, marked in the margin.
        words: what there is to see in them, written above.
    """
    figure = new_figure(WIDTH, 1.65 * len(norms) + (0.95 if words else 0.5))
    inches = figure.get_figheight()
    panels = figure.subplots(len(norms), 1, squeeze=False, sharex=True)[:, 0]
    figure.subplots_adjust(
        left=0.15, right=0.76, bottom=0.75 / inches, top=1 - (0.68 if words else 0.25) / inches, hspace=0.27
    )
    for panel, (quantity, values) in zip(panels, norms.items(), strict=True):
        scale = log_scale([norms[other] for other in norms if unit_of(other) == unit_of(quantity)])
        image = draw_heatmap(panel, steps, values, selected, scale)
        panel.set_title(title_of(quantity).partition(", ‖")[0], fontsize=11, y=1.01)
        draw_scale(panel, image, unit_of(quantity))
        panel.set_ylabel("image row")
    panels[-1].set_xlabel("optimizer step")
    figure.legend(handles=key_of(selected), loc="lower center", ncols=3, fontsize=9, frameon=False)
    if words:
        figure.text(
            0.5, 1 - 0.06 / inches, words.replace("; ", "\n"), ha="center", va="top", fontsize=9, color=SELECTED
        )
    return figure


def learnt_rows(theta: Tensor, selected: Sequence[bool]) -> Figure:
    """θ (C, H, W) as a picture."""
    figure = new_figure(WIDTH, 3.3)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.15, right=0.75, bottom=0.13, top=0.91)
    image = draw_theta(axes, theta, selected, float(theta.abs().max()))
    axes.set_title("What the rows have learnt to add", fontsize=11, y=1.01)
    axes.set_ylabel("image row (0 = top)")
    draw_scale(axes, image, "normalised pixels")
    if any(selected):
        figure.legend(handles=key_of(selected)[1:], loc="lower center", fontsize=9, frameon=False)
    return figure


def digits(views: Mapping[str, Tensor], bars: Mapping[str, tuple[str, Tensor]], selected: Sequence[bool]) -> Figure:
    """The same digits as they are, as the network saw them and as the observers saw them.

    Args:
        views: images (N, C, H, W) by what they are, one strip each, averaged over channels, on one grey scale.
        bars: for some of the views, what is shown beside them: its name and a number for each row, (H,).
        selected: the scenario's rows, marked in the margin.
    """
    figure = new_figure(4.6, 1.05 * len(views) + 0.75)
    left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
    figure.subplots_adjust(left=0.235, right=0.96, bottom=0.62 / figure.get_figheight(), top=0.985, wspace=0.03)
    _draw_strips(left, views, len(selected))
    right.set_yticks([])
    right.set_xlabel("mean norm over all steps", fontsize=8)
    right.tick_params(labelsize=8)
    right.spines[["top", "right"]].set_visible(False)
    pitch = len(selected) + GAP
    for axes in (left, right):  # the same rows at the same heights, with room for a title above the first
        axes.set_ylim(len(views) * pitch - GAP - 0.5, -GAP - 0.5)
    for i, name in enumerate(views):
        mark_rows(left, i * pitch + np.flatnonzero(selected))
        if name in bars:
            _draw_bars(right, i * pitch, *bars[name], selected)
        elif name.startswith("observer"):
            words = "observers send\nno gradient back"
            _write(right, i * pitch + len(selected) / 2, words, size=8)
    if any(selected):
        figure.legend(handles=key_of(selected)[1:], loc="lower left", fontsize=9, frameon=False)
    return figure


def _draw_strips(axes: Axes, views: Mapping[str, Tensor], height: int) -> None:
    """A strip of digits for each view, from top to bottom."""
    strips = [np.concatenate(list(images.float().mean(1).numpy()), axis=1) for images in views.values()]
    gap = np.full((GAP, strips[0].shape[1]), np.nan)
    axes.imshow(np.concatenate([part for strip in strips for part in (strip, gap)][:-1]), cmap="gray", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([i * (height + GAP) + height / 2 for i in range(len(views))], list(views))
    axes.tick_params(length=0, pad=8)
    axes.spines[:].set_visible(False)


def _draw_bars(axes: Axes, top: int, title: str, values: Tensor, selected: Sequence[bool]) -> None:
    """A bar for each row, beside the strip that begins at `top`."""
    colors = [SELECTED if is_selected else OTHER for is_selected in selected]
    lengths, edges = values.numpy(), top + np.arange(len(selected))[:, None] + [-0.4, -0.4, 0.4, 0.4]
    # One artist, where barh would make one for each row.
    corners = np.stack([lengths[:, None] * [0, 1, 1, 0], edges], 2)
    axes.add_collection(PolyCollection(list(corners), facecolors=colors))
    _write(axes, top - GAP / 2 - 0.5, title)
    if any(selected) and not values[list(selected)].any():
        _write(axes, top + np.flatnonzero(selected).mean(), "exactly 0", color=SELECTED)


def _write(axes: Axes, height: float, words: str, size: int = 9, color: str | None = None) -> None:
    """Words at the height of a row."""
    across = axes.get_yaxis_transform()
    axes.text(0.03, height, words, va="center", fontsize=size, color=color, transform=across)
