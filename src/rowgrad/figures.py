"""Norms, images and learnt rows -> figures. Plain matplotlib: nothing is measured here, no file is read or written.

Colours are from Okabe and Ito's palette, viridis and PuOr, which colour-blind people tell apart. Lines, text and axes
that have no colour of their own are drawn in `INK`, so that a page can give them the colour of its text.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rowgrad.rows import name_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from torch import Tensor

INK = "#1f2328"
SELECTED, OTHER = "#D55E00", "#0072B2"
ZERO = "#c9ccd1"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
TITLES = {
    "row_grad_norm": "What reaches the rows, ‖∂L/∂θ$_r$‖",
    "input_grad_norm": "What arrives at the network's input, ‖∂L/∂τ$_r$‖",
    "row_update_norm": "How far the rows move, ‖θ$_r$(t+1) − θ$_r$(t)‖",
}
UNIT = "loss per normalised pixel"
GAP = 4  # pixels between two strips of digits
COLUMNS = 600  # a heatmap averages steps into at most so many columns


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, free of matplotlib's global state.

    Margins are set by hand where a run draws: matplotlib's automatic layouts draw everything twice.
    """
    return Figure(figsize=(width, height))


def png(figure: Figure, dpi: int = 100) -> bytes:
    """The figure on white, as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, facecolor="white")
    return file.getvalue()


def heatmaps(steps: Tensor, norms: Mapping[str, Tensor], selected: Sequence[bool]) -> Figure:
    """Rows × steps of one run.

    Args:
        steps: optimizer steps, (T,).
        norms: norms (T, H) by their names, a panel each; gradients are on one scale.
        selected: the scenario's rows, marked in the margin.
    """
    figure = new_figure(4.6 * len(norms), 3.6)
    panels = figure.subplots(1, len(norms), squeeze=False, sharey=True)[0]
    figure.subplots_adjust(left=0.2 / len(norms), right=1 - 0.1 / len(norms), bottom=0.24, top=0.91, wspace=0.1)
    gradients = [quantity for quantity in norms if quantity != "row_update_norm"]
    for panel, (quantity, values) in zip(panels, norms.items(), strict=True):
        moves = quantity == "row_update_norm"
        scale = log_scale([values] if moves else [norms[q] for q in gradients])
        image = draw_heatmap(panel, steps, values, selected, scale)
        panel.set_title(TITLES[quantity], fontsize=10)
        panel.set_xlabel("optimizer step")
        if moves or quantity == gradients[-1]:
            label = "normalised pixels" if moves else UNIT
            beside = panel if moves else list(panels[: len(gradients)])
            figure.colorbar(image, ax=beside, label=label, pad=0.01, aspect=30).ax.minorticks_off()
    panels[0].set_ylabel("image row (0 = top)")
    figure.legend(handles=_key(selected), loc="lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def draw_heatmap(axes: Axes, steps: Tensor, norms: Tensor, selected: Sequence[bool], scale: LogNorm) -> ScalarMappable:
    """Draws norms (T, H) of steps (T,) as rows × steps; exact zeros are grey, what was not recorded is left out."""
    values = binned(norms)
    colors = ScalarMappable(scale, "viridis")
    pixels = colors.to_rgba(np.ma.masked_less_equal(values, 0).T, bytes=True)
    pixels[values.T == 0] = [*bytes.fromhex(ZERO[1:]), 255]
    last = float(steps[-1]) + (float(steps[-1] - steps[0]) / max(len(steps) - 1, 1) or 1)
    frame = (float(steps[0]), last, len(selected) - 0.5, -0.5)
    axes.imshow(pixels, aspect="auto", interpolation="nearest", extent=frame)
    mark_selected(axes, selected)
    return colors


def log_scale(norms: Sequence[Tensor]) -> LogNorm:
    """One logarithmic colour scale for everything above 0 in some norms (T, H)."""
    values = np.concatenate([binned(n).ravel() for n in norms])
    values = values[values > 0]
    return LogNorm(values.min(), values.max()) if values.size else LogNorm(1e-6, 1)


def binned(norms: Tensor) -> np.ndarray:
    """Norms (T, H), averaged over neighbouring steps where there are more than `COLUMNS` of them."""
    values = norms.double().numpy()
    if len(values) <= COLUMNS:
        return values
    edges = np.linspace(0, len(values), COLUMNS + 1).astype(int)[:-1]
    return np.add.reduceat(values, edges) / np.diff([*edges, len(values)])[:, None]


def mark_selected(axes: Axes, selected: Sequence[bool]) -> None:
    """Image rows on the y axis, and a bar beside the selected ones."""
    mark_rows(axes, np.flatnonzero(selected))
    axes.set_ylim(len(selected) - 0.5, -0.5)
    axes.set_yticks(range(0, len(selected), 7))


def mark_rows(axes: Axes, rows: np.ndarray) -> None:
    """A bar in the left margin beside rows at such heights."""
    left = [-0.012] * len(rows)
    across = axes.get_yaxis_transform()
    axes.vlines(left, rows - 0.5, rows + 0.5, colors=SELECTED, lw=4, transform=across, clip_on=False)


def _key(selected: Sequence[bool]) -> list[Patch | Line2D]:
    handles: list[Patch | Line2D] = [Patch(color=ZERO, label="exactly 0")]
    if any(selected):
        handles.append(Line2D([], [], color=SELECTED, lw=4, label=f"selected: {name_rows(selected)}"))
    return handles


def learnt_rows(rows: Tensor, selected: Sequence[bool]) -> Figure:
    """θ (H, W) as a picture."""
    figure = new_figure(4.4, 4.0)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.13, right=0.94, bottom=0.12, top=0.92)
    image = draw_rows(axes, rows, selected, float(rows.abs().max()))
    axes.set_title("θ, what the rows have learnt to add", fontsize=10)
    axes.set_ylabel("image row (0 = top)")
    figure.colorbar(image, ax=axes, label="normalised pixels")
    if any(selected):
        figure.legend(handles=_key(selected)[1:], loc="lower center", fontsize=9, frameon=False)
    return figure


def draw_rows(axes: Axes, rows: Tensor, selected: Sequence[bool], limit: float) -> AxesImage:
    """Draws θ (H, W), symmetric around 0 up to `limit`."""
    limit = limit or 1.0
    image = axes.imshow(rows.numpy(), cmap="PuOr", vmin=-limit, vmax=limit)
    axes.set_xticks([])
    mark_selected(axes, selected)
    return image


def digits(views: Mapping[str, Tensor], bars: Mapping[str, tuple[str, Tensor]], selected: Sequence[bool]) -> Figure:
    """The same digits as they are, as the network saw them and as the observers saw them.

    Args:
        views: images (N, 1, H, W) by what they are, one strip each, on one grey scale.
        bars: for some of the views, what is shown beside them: its name and a number for each row, (H,).
        selected: the scenario's rows, marked in the margin.
    """
    height, pitch = len(selected), len(selected) + GAP
    figure = new_figure(9.2, 1.05 * len(views) + 0.75)
    left, right = figure.subplots(1, 2, width_ratios=[3, 1])
    figure.subplots_adjust(left=0.12, right=0.985, bottom=0.62 / figure.get_figheight(), top=0.985, wspace=0.03)
    strips = [np.concatenate(list(images[:, 0].numpy()), axis=1) for images in views.values()]
    gap = np.full((GAP, strips[0].shape[1]), np.nan)
    left.imshow(np.concatenate([part for strip in strips for part in (strip, gap)][:-1]), cmap="gray", aspect="auto")
    left.set_xticks([])
    left.set_yticks([i * pitch + height / 2 for i in range(len(views))], list(views))
    left.tick_params(length=0, pad=8)
    left.spines[:].set_visible(False)
    right.set(ylim=left.get_ylim(), yticks=[], xlabel="mean norm over all steps")
    right.spines[["top", "right"]].set_visible(False)
    chosen, across = np.flatnonzero(selected), right.get_yaxis_transform()
    for i, name in enumerate(views):
        top = i * pitch
        mark_rows(left, top + chosen)
        if name not in bars:
            right.text(0.03, top + height / 2, "observers send\nno gradient back", va="center", transform=across)
            continue
        title, values = bars[name]
        colors = [SELECTED if is_selected else OTHER for is_selected in selected]
        right.barh(top + np.arange(height), values.numpy(), color=colors, height=0.8)
        right.text(0.99, top + 2, title, ha="right", va="center", fontsize=9, transform=across)
        if len(chosen) and not values[selected].any():
            words = "exactly 0"
            right.text(0.03, top + chosen.mean(), words, color=SELECTED, va="center", fontsize=9, transform=across)
    if len(chosen):
        figure.legend(handles=_key(selected)[1:], loc="lower left", fontsize=9, frameon=False)
    return figure
