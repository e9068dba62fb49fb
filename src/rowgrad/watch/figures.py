"""Pictures of a run: norms of all rows at all steps, θ, and digits. The report draws its heatmaps with the same parts.

Colours are from Okabe and Ito's palette, viridis and PuOr, which colour-blind people tell apart. Lines, text and axes
without a colour of their own are drawn in `INK`, which a page replaces by the colour of its text. Plain matplotlib.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator
from PIL import Image

from rowgrad.scenario.rows import name_rows
from rowgrad.watch.quantities import KNOWN, describe_quantity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from torch import Tensor

    from rowgrad.watch.quantities import Description

INK = "#1f2328"
SELECTED, OTHER = "#D55E00", "#0072B2"
ZERO = "#c9ccd1"
COLUMNS = 600  # a heatmap averages steps into at most this many columns
GAP = 5  # pixels between two strips of digits
WIDTH = 3.8  # inches: TensorBoard scales a picture to the width of a card, so a narrow one has the larger print
DECADES = 1e-12  # of the largest norm: smaller ones have the darkest colour


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as a PNG file; compressed lightly, because the best compression takes as long as drawing."""
    figure.set_dpi(dpi)
    canvas, file = FigureCanvasAgg(figure), io.BytesIO()
    canvas.draw()  # once; `savefig` draws twice
    Image.fromarray(np.asarray(canvas.buffer_rgba())).save(file, "png", compress_level=1)
    return file.getvalue()


# ---- one heatmap


def draw_heatmap(axes: Axes, steps: Tensor, norms: Tensor, selected: Sequence[bool], scale: LogNorm) -> ScalarMappable:
    """Draws norms (T, H) of steps (T,) as rows × steps: exact zeros are grey, NaN (not recorded) is left out."""
    values = binned(norms)
    colors = ScalarMappable(scale, "viridis")
    pixels = colors.to_rgba(np.ma.masked_less_equal(values, 0).T, bytes=True)
    pixels[values.T == 0] = [*bytes.fromhex(ZERO[1:]), 255]
    last = float(steps[-1]) + (float(steps[-1] - steps[0]) / max(len(steps) - 1, 1) or 1)
    frame = (float(steps[0]), last, len(selected) - 0.5, -0.5)
    axes.imshow(pixels, aspect="auto", interpolation="nearest", extent=frame)
    mark_selected(axes, selected)
    return colors


def draw_scale(axes: Axes, colors: ScalarMappable, label: str, size: float, *, below: bool = False) -> None:
    """Draws a colour scale on axes of its own; matplotlib's colorbar makes hundreds of ticks, and takes longer."""
    low, high = colors.get_clim()
    ticks = np.array(round_logarithms(low, high)) if isinstance(colors.norm, LogNorm) else np.linspace(low, high, 5)
    ramp = np.linspace(0, 1, 256)
    axes.imshow(
        ramp[None] if below else ramp[:, None], cmap=colors.cmap, aspect="auto", origin="lower", extent=(0, 1, 0, 1)
    )
    along, across = (axes.xaxis, axes.yaxis) if below else (axes.yaxis, axes.xaxis)
    across.set_major_locator(NullLocator())
    along.set_ticks(np.asarray(colors.norm(ticks)), [f"{tick:.2g}" for tick in ticks], fontsize=size)
    along.set_label_text(label, fontsize=size)
    if not below:
        axes.yaxis.tick_right()
        axes.yaxis.set_label_position("right")


def log_scale(norms: Sequence[Tensor]) -> LogNorm:
    """One logarithmic colour scale for all values above 0 in some norms (T, H)."""
    values = np.concatenate([binned(n).ravel() for n in norms])
    values = values[(values > 0) & np.isfinite(values)]
    if not values.size:
        return LogNorm(1e-6, 1)
    return LogNorm(max(values.min(), values.max() * DECADES), values.max(), clip=True)


def round_logarithms(low: float, high: float) -> list[float]:
    """Up to seven round numbers between two positive ones, for a logarithmic axis."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    inside: list[float] = []
    for marks in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), [1 + n / 10 for n in range(90)]):
        inside = [tick for power in decades for mark in marks if low <= (tick := mark * 10.0**power) <= high]
        if len(inside) > 2:  # noqa: PLR2004
            break
    return inside[:: len(inside) // 7 + 1] or sorted({low, high})


def binned(norms: Tensor) -> np.ndarray:
    """Norms (T, H), averaged over neighbouring steps if there are more than `COLUMNS`."""
    values = norms.double().numpy()
    if len(values) <= COLUMNS:
        return values
    edges = np.linspace(0, len(values), COLUMNS + 1).astype(int)[:-1]
    return np.add.reduceat(values, edges) / np.diff([*edges, len(values)])[:, None]


def mark_selected(axes: Axes, selected: Sequence[bool]) -> None:
    """Image rows on the y axis, and a bar in the left margin for each selected row."""
    mark_rows(axes, np.flatnonzero(selected))
    axes.set_ylim(len(selected) - 0.5, -0.5)
    axes.yaxis.set_major_locator(FixedLocator(list(range(0, len(selected), 7))))


def mark_rows(axes: Axes, rows: np.ndarray) -> None:
    """A bar in the left margin at each of some heights."""
    left = [-0.012] * len(rows)
    across = axes.get_yaxis_transform()
    axes.vlines(left, rows - 0.53, rows + 0.53, colors=SELECTED, lw=4, transform=across, clip_on=False)


def draw_theta(axes: Axes, theta: Tensor, selected: Sequence[bool], limit: float) -> AxesImage:
    """Draws θ (C, H, W), averaged over channels, on a scale from -limit to limit."""
    limit = limit or 1.0
    image = axes.imshow(theta.float().mean(0).numpy(), cmap="PuOr", vmin=-limit, vmax=limit)
    axes.set_xticks([])
    mark_selected(axes, selected)
    return image


def legend_of(selected: Sequence[bool], *, zeros: bool = True, rows: str = "") -> list[Artist]:
    """Legend entries of exact zeros and of selected rows.

    Args:
        selected: the selected rows.
        zeros: whether exact zeros are shown.
        rows: what the selected rows are called; their names if empty.
    """
    handles: list[Artist] = [Patch(color=ZERO, label="exactly 0")] if zeros else []
    if any(selected):
        handles.append(Line2D([], [], color=SELECTED, lw=4, label=rows or f"selected: {name_rows(selected)}"))
    return handles


# ---- a run's pictures


def heatmaps(
    steps: Tensor,
    norms: Mapping[str, Tensor],
    selected: Sequence[bool],
    words: str = "",
    width: float = WIDTH,
    told: Mapping[str, Description] | None = None,
) -> Figure:
    """Rows × steps of one run.

    Args:
        steps: optimizer steps, (T,).
        norms: norms (T, H) by their names, a panel each; quantities of one unit share a colour scale.
        selected: the scenario's rows, marked in the margin.
        words: a verdict, written above; parts are separated by semicolons.
        width: inches.
        told: what is said of the quantities, if it does not follow from their names.
    """
    descriptions = {name: describe_quantity(name) for name in norms} | (dict(told) if told else {})
    figure = Figure((width, 1.65 * len(norms) + (0.95 if words else 0.5)), layout="constrained")
    panels = figure.subplots(len(norms), 2, squeeze=False, sharex="col", width_ratios=[1, 0.05])
    for (panel, bar), (quantity, values) in zip(panels, norms.items(), strict=True):
        title, unit, kind, _ = descriptions[quantity]
        scale = log_scale([norms[other] for other in norms if descriptions[other].unit == unit])
        marked = selected if len(selected) == values.shape[1] else [False] * values.shape[1]
        draw_scale(bar, draw_heatmap(panel, steps, values, marked, scale), unit, 8)
        panel.set_title(title.partition(", ‖")[0], fontsize=11)
        panel.set_ylabel("image row" if quantity in KNOWN and told is None else kind)
    panels[-1, 0].set_xlabel("optimizer step")
    figure.legend(handles=legend_of(selected), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    if words:
        figure.suptitle(words.replace("; ", "\n"), fontsize=9, color=SELECTED)
    return figure


def learnt_rows(theta: Tensor, selected: Sequence[bool]) -> Figure:
    """θ (C, H, W) as a picture."""
    figure = Figure((WIDTH, 3.3), layout="constrained")
    axes, bar = figure.subplots(1, 2, width_ratios=[1, 0.05])
    image = draw_theta(axes, theta, selected, float(theta.abs().max()))
    axes.set_aspect("auto")  # as high as its colour scale
    axes.set_title("What the rows have learnt to add", fontsize=11)
    axes.set_ylabel("image row (0 = top)")
    draw_scale(bar, image, "normalised pixels", 8)
    if any(selected):
        figure.legend(handles=legend_of(selected, zeros=False), loc="outside lower center", fontsize=9, frameon=False)
    return figure


def digits(views: Mapping[str, Tensor], bars: Mapping[str, tuple[str, Tensor]], selected: Sequence[bool]) -> Figure:
    """The same digits in several views: the original, what the network saw, what the observers saw.

    Args:
        views: images (N, C, H, W) by what they are, one strip each, averaged over channels, on one grey scale.
        bars: for some of the views, a title and a number for each row, (H,), drawn beside the strip.
        selected: the scenario's rows, marked in the margin.
    """
    figure = Figure((4.6, 1.05 * len(views) + 0.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
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
            _write(right, i * pitch + len(selected) / 2, "observers send\nno gradient back", size=8)
    if any(selected):
        figure.legend(handles=legend_of(selected, zeros=False), loc="outside lower left", fontsize=9, frameon=False)
    return figure


def _draw_strips(axes: Axes, views: Mapping[str, Tensor], height: int) -> None:
    """One strip of digits for each view, from top to bottom."""
    strips = [np.concatenate(list(images.float().mean(1).numpy()), axis=1) for images in views.values()]
    gap = np.full((GAP, strips[0].shape[1]), np.nan)
    axes.imshow(np.concatenate([part for strip in strips for part in (strip, gap)][:-1]), cmap="gray", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([i * (height + GAP) + height / 2 for i in range(len(views))], list(views))
    axes.tick_params(length=0, pad=8)
    axes.spines[:].set_visible(False)


def _draw_bars(axes: Axes, top: int, title: str, values: Tensor, selected: Sequence[bool]) -> None:
    """A bar for each row, beside the strip that begins at `top`."""
    edges, rows = top - 0.5 + np.arange(len(selected) + 1), np.asarray(selected)
    for color, shown in ((SELECTED, rows), (OTHER, ~rows)):
        axes.stairs(np.where(shown, values, np.nan), edges, orientation="horizontal", fill=True, color=color, lw=0)
    _write(axes, top - GAP / 2 - 0.5, title)
    if any(selected) and not values[list(selected)].any():
        _write(axes, top + np.flatnonzero(selected).mean(), "exactly 0", color=SELECTED)


def _write(axes: Axes, height: float, words: str, size: int = 9, color: str | None = None) -> None:
    """Words at the height of a row."""
    across = axes.get_yaxis_transform()
    axes.text(0.03, height, words, va="center", fontsize=size, color=color, transform=across)
