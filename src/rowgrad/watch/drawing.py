"""What all figures share: colours, scales, heatmaps, marks beside rows. Plain matplotlib: nothing is measured here.

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

from rowgrad.scenario.rows import name_rows
from rowgrad.watch.quantities import KNOWN, Quantity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from torch import Tensor

INK = "#1f2328"
SELECTED, OTHER = "#D55E00", "#0072B2"
ZERO = "#c9ccd1"
COLUMNS = 600  # a heatmap averages steps into at most so many columns


def title_of(quantity: str) -> str:
    """What stands above a quantity's heatmap."""
    return KNOWN[quantity].title if quantity in KNOWN else quantity


def unit_of(quantity: str) -> str:
    """What a quantity is measured in."""
    return KNOWN[quantity].unit if quantity in KNOWN else Quantity.unit


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, free of matplotlib's global state.

    Margins are set by hand where a run draws: matplotlib's automatic layouts draw everything twice.
    """
    return Figure(figsize=(width, height))


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure on white, as a PNG file, packed lightly: packing it well would take as long as drawing it."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, facecolor="white", pil_kwargs={"compress_level": 1})
    return file.getvalue()


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


def draw_scale(axes: Axes, colors: ScalarMappable, label: str) -> None:
    """A colour scale on the right of a panel. matplotlib's own makes hundreds of ticks, a third of a picture's time."""
    low, high = colors.get_clim()
    ticks = np.linspace(low, high, 5)
    if isinstance(colors.norm, LogNorm):
        powers = 10.0 ** np.arange(np.ceil(np.log10(low)), np.floor(np.log10(high)) + 1)
        ticks = powers[:: len(powers) // 6 + 1] if len(powers) > 1 else np.array([low, high])
    bar = axes.inset_axes((1.03, 0, 0.035, 1))
    bar.imshow(np.linspace(0, 1, 256)[:, None], cmap=colors.cmap, aspect="auto", origin="lower", extent=(0, 1, 0, 1))
    bar.set_xticks([])
    bar.set_yticks(colors.norm(ticks), [f"{tick:.2g}" for tick in ticks], fontsize=8)
    bar.yaxis.tick_right()
    bar.yaxis.set_label_position("right")
    bar.set_ylabel(label, fontsize=8)


def log_scale(norms: Sequence[Tensor]) -> LogNorm:
    """One logarithmic colour scale for everything above 0 in some norms (T, H)."""
    values = np.concatenate([binned(n).ravel() for n in norms])
    values = values[(values > 0) & np.isfinite(values)]
    # Twelve powers of ten are told apart; what is below them, and not zero, has the darkest colour.
    return (
        LogNorm(max(values.min(), values.max() * 1e-12), values.max(), clip=True) if values.size else LogNorm(1e-6, 1)
    )


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
    axes.vlines(left, rows - 0.53, rows + 0.53, colors=SELECTED, lw=4, transform=across, clip_on=False)


def draw_theta(axes: Axes, theta: Tensor, selected: Sequence[bool], limit: float) -> AxesImage:
    """Draws θ (C, H, W), averaged over channels, symmetric around 0 up to `limit`."""
    limit = limit or 1.0
    image = axes.imshow(theta.float().mean(0).numpy(), cmap="PuOr", vmin=-limit, vmax=limit)
    axes.set_xticks([])
    mark_selected(axes, selected)
    return image


def key_of(selected: Sequence[bool]) -> list[Patch | Line2D]:
    """The legend of exact zeros and selected rows."""
    handles: list[Patch | Line2D] = [Patch(color=ZERO, label="exactly 0")]
    if any(selected):
        handles.append(Line2D([], [], color=SELECTED, lw=4, label=f"selected: {name_rows(selected)}"))
    return handles
