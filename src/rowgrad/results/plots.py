"""Settings side by side: curves, row profiles, heatmaps, θ; for a page and for a column of a paper. Plain matplotlib.

matplotlib's constrained layout places everything. What is measured comes in, no file is read or written.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from rowgrad.watch.figures import INK, draw_heatmap, draw_scale, draw_theta, legend_of, round_logarithms
from rowgrad.watch.quantities import ARRIVES, KNOWN, REACHES, LayerGradNorm, Quantity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from torch import Tensor

    from rowgrad.results.runs import Curves

Item = TypeVar("Item")
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", "--", ":", "-.")
POINTS = 60  # of a smoothed curve
LETTER = 0.64  # width of a digit, as a share of the text's size; letters are narrower on average
LINE = 1.35  # height of a line, as a multiple of the text's size
INCH = 72  # points
TALL, STACKED = 3.4, 2.0  # inches, of panels side by side, and of each of several below each other
TITLE_LINES, LEGEND_LINES = 4, 3  # at most


@dataclass(frozen=True)
class Size:
    """What a figure is drawn for.

    Attributes:
        suffix: of the files' names.
        width: inches.
        text: size of the text, points.
        dpi: of the PNG.
    """

    suffix: str
    width: float
    text: float
    dpi: int

    @property
    def narrow(self) -> bool:
        """Whether panels are below each other, not side by side."""
        return self.width < 5  # noqa: PLR2004

    def lines(self, text: str, width: float, most: int = 12) -> str:
        """A text in up to `most` lines that fit into `width` inches."""
        letters = max(int(width * INCH / (LETTER * self.text)), 8)
        return "\n".join(textwrap.wrap(text, letters, max_lines=most, placeholder="…", break_on_hyphens=False))

    def height(self, text: str) -> float:
        """The height of a text, inches."""
        return LINE * self.text / INCH * (text.count("\n") + 1) if text else 0.0

    @property
    def style(self) -> Any:  # to a type checker, matplotlib's keys are no plain text
        """Matplotlib's settings."""
        colors = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
        small = 0.9 * self.text
        return {
            "svg.fonttype": "none",
            "text.parse_math": False,  # a name may contain a dollar sign
            "axes.facecolor": "none",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "font.size": self.text,
            "lines.linewidth": 0.13 * self.text,
            "lines.markersize": 0.3 * self.text,
            **dict.fromkeys(("axes.titlesize", "figure.titlesize", "legend.fontsize"), self.text),
            **dict.fromkeys(("axes.labelsize", "xtick.labelsize", "ytick.labelsize"), small),
            **dict.fromkeys(colors, INK),
        }


PAGE = Size("", 10, 9, 150)  # as wide as the report's page at 96 pixels an inch
COLUMN = Size("_column", 8.5 / 2.54, 8, 300)
SIZES = (PAGE, COLUMN)


@dataclass(frozen=True)
class Plot:
    """A figure of the report, for any size.

    Attributes:
        verdict: what it shows.
        words: how to read it.
        draw: draws it without its verdict.
    """

    verdict: str
    words: str
    draw: Callable[[Size], Figure]

    def on(self, size: Size = PAGE) -> Figure:
        """The figure, without its verdict."""
        with mpl.rc_context(size.style):
            return self.draw(size)

    def titled(self, figure: Figure, size: Size) -> Figure:
        """Writes the verdict above a figure, and makes the figure higher by its lines."""
        words = size.lines(self.verdict, size.width)
        with mpl.rc_context(size.style):
            figure.suptitle(words, x=0.01, ha="left", weight="bold")
        figure.set_figheight(figure.get_figheight() + size.height(words))
        return figure

    @property
    def caption(self) -> str:
        """The text below it in the page."""
        return f"{self.verdict} {self.words}".strip()


# ---- panels with lines


def side_by_side(
    titles: Sequence[str], names: Sequence[str], size: Size, **others: Any
) -> tuple[Figure, list[Axes], list[dict[str, Any]]]:
    """A figure with a panel for each title and a legend of lines.

    Args:
        titles: of the panels.
        names: of the lines.
        size: to draw for.
        others: arguments of `Figure.subplots`.

    Returns:
        The figure, its panels, and colour and dashes of each line.
    """
    looks = styles(len(names))
    down, across = (len(titles), 1) if size.narrow else (1, len(titles))
    figure = Figure((size.width, STACKED * down if size.narrow else TALL), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False, **others).flat)
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(size.lines(title, 0.9 * size.width / across), loc="left")
        panel.grid(alpha=0.25)
    add_legend(figure, [Line2D([], [], label=name, **look) for name, look in zip(names, looks, strict=True)], size)
    return figure, panels, looks


def add_legend(figure: Figure, entries: Sequence[Artist], size: Size) -> None:
    """A legend below the panels, in as many columns as leave most names whole; the figure grows by its height."""
    if not entries:
        return
    longest = max(len(str(entry.get_label())) for entry in entries) + 6  # the line, and space
    fitting = int(size.width * INCH / (LETTER * size.text * longest))
    columns = max(min(fitting, len(entries), 5), 1 if size.narrow else min(2, len(entries)))
    room = size.width / columns - 5 * size.text / INCH
    names = [size.lines(str(entry.get_label()), room, LEGEND_LINES) for entry in entries]
    for entry, name in zip(entries, names, strict=True):
        entry.set_label(name)
    figure.legend(handles=list(entries), loc="outside lower center", ncols=columns)
    per_column = -(-len(names) // columns)
    tall = max(sum(map(size.height, names[at : at + per_column])) for at in range(0, len(names), per_column))
    figure.set_figheight(figure.get_figheight() + 1.2 * tall)


def styles(count: int) -> list[dict[str, Any]]:
    """Colours and dashes that can be told apart, one for each of `count` lines."""
    return [{"color": PALETTE[i % len(PALETTE)], "ls": DASHES[i // len(PALETTE) % len(DASHES)]} for i in range(count)]


def draw_band(panel: Axes, x: np.ndarray, values: np.ndarray, look: Mapping[str, Any], **others: Any) -> None:
    """The mean of N seeds (N, T) as a line, with a band of one sample standard deviation."""
    mean, spread = values.mean(0), _spread(values)
    panel.plot(x, mean, **others, **look)
    if spread is not None:
        low = np.maximum(mean - spread, 0.02 * mean)  # an axis may be logarithmic
        panel.fill_between(x, low, mean + spread, color=look["color"], alpha=0.2, lw=0)


def _spread(values: np.ndarray) -> Any:
    return values.std(0, ddof=1) if len(values) > 1 else None


def label_logarithms(panel: Axes) -> None:
    """A logarithmic y axis with plain numbers, three to seven of them."""
    panel.set_yscale("log")
    panel.set_yticks(round_logarithms(*panel.get_ylim()))
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_minor_formatter(NullFormatter())


def label_steps(panel: Axes, bins: int = 5, label: str = "optimizer step") -> None:
    """An x axis of optimizer steps, with about `bins` of them."""
    panel.xaxis.set_major_locator(MaxNLocator(bins, integer=True))
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if abs(value) < 1e5 else f"{value / 1000:g}k")  # noqa: PLR2004
    panel.set_xlabel(label)


def label_rows(panel: Axes, height: int, label: str = "image row (0 = top)") -> None:
    """An x axis of image rows."""
    panel.set_xticks(range(0, height, 7))
    panel.set_xlabel(label)


def learning_curves(curves: Mapping[str, Mapping[str, Curves]], size: Size) -> Figure:
    """Loss and accuracy over optimizer steps: training batches as lines, validation as dots.

    Args:
        curves: for each setting by its name: steps (T,) and values (N, T) of N seeds by their tags.
        size: to draw for.
    """
    titles = ["Loss, training (lines) and validation (dots)", "Accuracy in %, training and validation"]
    figure, panels, looks = side_by_side(titles, list(curves), size)
    for panel, metric, factor in zip(panels, ("loss", "acc"), (1, 100), strict=True):
        for setting, look in zip(curves.values(), looks, strict=True):
            if f"train/{metric}" in setting:
                steps, values = smoothed(*setting[f"train/{metric}"])
                draw_band(panel, steps, factor * values, look)
            if f"val/{metric}" in setting:
                steps, values = setting[f"val/{metric}"]
                mean, spread = factor * values.mean(0), _spread(factor * values)
                panel.errorbar(steps, mean, spread, fmt="o", color=look["color"], ms=0.45 * size.text)
        label_steps(panel)
    label_logarithms(panels[0])
    return figure


def smoothed(steps: np.ndarray, values: np.ndarray) -> Curves:
    """Means over `POINTS` pieces of some curves (N, T), and the middles of the pieces."""
    pieces = np.array_split(np.arange(len(steps)), min(POINTS, len(steps)))
    return np.array([steps[p].mean() for p in pieces]), np.stack([values[:, p].mean(1) for p in pieces], 1)


def row_profiles(profiles: Mapping[str, Mapping[str, Tensor]], size: Size) -> Figure:
    """Mean norm of each row, with a band of one standard deviation over seeds.

    Args:
        profiles: for each setting by its name: norms by their names, averaged over steps, (N, H) for N seeds.
        size: to draw for.
    """
    titles = [KNOWN[quantity].title for quantity in (REACHES, ARRIVES)]
    figure, panels, looks = side_by_side(titles, list(profiles), size, sharey=True)
    height = max(norms.shape[-1] for setting in profiles.values() for norms in setting.values())
    for panel, quantity in zip(panels, (REACHES, ARRIVES), strict=True):
        for norms, look in zip(profiles.values(), looks, strict=True):
            if quantity in norms:
                values = norms[quantity].numpy()
                draw_band(panel, np.arange(values.shape[1]), values, look, marker="o")
        label_rows(panel, height)
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    panels[0].set_ylabel(Quantity.unit)
    return figure


# ---- panels with pictures


def compared_heatmaps(
    wall: Mapping[str, tuple[Tensor, Mapping[str, Tensor], Sequence[bool]]],
    scale: LogNorm,
    size: Size,
) -> Figure:
    """Row and input gradient norms of several settings, all on one colour scale.

    Args:
        wall: steps (T,), norms (T, H) by their names, and the selected rows, by the setting's name.
        scale: of the colours.
        size: to draw for.
    """
    across = 1 if size.narrow or len(wall) <= 2 else 2  # noqa: PLR2004
    down, wide = -(-len(wall) // across), size.width / across
    names = [size.lines(name, 0.9 * wide, 2) for name in wall]
    titles = [size.lines(KNOWN[quantity].title, 0.42 * wide, TITLE_LINES) for quantity in (REACHES, ARRIVES)]
    heads = max(map(size.height, names)) + max(map(size.height, titles))
    tall, bar = (1.15 if size.narrow else 1.6) + heads, 0.6
    figure = Figure((size.width, down * tall + bar), layout=ConstrainedLayoutEngine(h_pad=0.02))
    (above,), (below,) = figure.subfigures(2, 1, height_ratios=[down * tall, bar], squeeze=False)
    parts = above.subfigures(down, across, squeeze=False).flat
    for number, (part, name, drawn) in enumerate(zip(parts, names, wall.values(), strict=False)):
        steps, norms, rows = drawn
        part.suptitle(name, weight="bold", x=0.02, ha="left")
        panels = part.subplots(1, 2, sharey=True)
        panels[0].set_ylabel("image row")
        for panel, quantity, title in zip(panels, (REACHES, ARRIVES), titles, strict=True):
            panel.set_title(title, loc="left")
            if quantity in norms:
                draw_heatmap(panel, steps, norms[quantity], rows, scale)
            else:
                panel.text(0.5, 0.5, "not recorded", ha="center", transform=panel.transAxes)
            label_steps(panel, 3 if size.narrow else 5, "optimizer step" if number + across >= len(wall) else "")
    draw_scale(below.subplots(), ScalarMappable(scale, "viridis"), Quantity.unit, 0.9 * size.text, below=True)
    selected = [any(rows) for *_, rows in wall.values()]
    add_legend(figure, legend_of(selected, rows="selected rows"), size)
    return figure


def compared_layers(wall: Mapping[str, tuple[Tensor, Tensor, Sequence[str]]], scale: LogNorm, size: Size) -> Figure:
    """Norms of each layer's gradient of several settings, all on one colour scale.

    Args:
        wall: steps (T,), norms (T, layers) and the layers' names, by the setting's name.
        scale: of the colours.
        size: to draw for.
    """
    most = max(len(layers) for *_, layers in wall.values())
    across = 1 if size.narrow or len(wall) == 1 else 2
    tall = max(1.3 * most * size.text / INCH, 1.2)
    figure, panels = named_grid(list(wall), tall, size, across)
    for panel, (steps, norms, layers) in zip(panels, wall.values(), strict=True):
        draw_heatmap(panel, steps, norms, [False] * len(layers), scale)
        room = int(0.5 * size.width / across * INCH / size.text)  # letters; the end of a name tells most
        panel.set_yticks(range(len(layers)), [layer[-room:] for layer in layers])
        label_steps(panel, 3)
    colors = ScalarMappable(scale, "viridis")
    figure.colorbar(colors, ax=panels, location="bottom", label=LayerGradNorm.unit, aspect=50, fraction=0.05)
    figure.set_figheight(figure.get_figheight() + 0.7)
    return figure


def compared_theta(thetas: Mapping[str, tuple[Tensor, Sequence[bool]]], size: Size) -> Figure:
    """θ (C, H, W) of several settings on one colour scale, with the selected rows, by the setting's name."""
    limit = max(float(theta.abs().max()) for theta, _ in thetas.values()) or 1.0
    figure, panels = named_grid(list(thetas), 1.3 if size.narrow else 1.9, size)
    for panel, (theta, selected) in zip(panels, thetas.values(), strict=True):
        draw_theta(panel, theta, selected, limit)
        panel.set_aspect("auto")
    colors = ScalarMappable(Normalize(-limit, limit), "PuOr")
    figure.colorbar(colors, ax=panels, location="bottom", label="θ, normalised pixels", aspect=50, fraction=0.05)
    figure.set_figheight(figure.get_figheight() + 0.6)
    rows = [any(selected) for _, selected in thetas.values()]
    add_legend(figure, legend_of(rows, zeros=False, rows="selected rows"), size)
    return figure


def named_grid(names: Sequence[str], tall: float, size: Size, most: int | None = None) -> tuple[Figure, list[Axes]]:
    """Panels of `tall` inches below their names, `most` side by side: by default four, or two on a narrow size."""
    across = min(len(names), most or (2 if size.narrow else 4))
    down = -(-len(names) // across)
    titles = [size.lines(name, 0.85 * size.width / across, TITLE_LINES) for name in names]
    height = down * (tall + max(map(size.height, titles)) + 0.4)
    figure = Figure((size.width, height), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    for panel, title in zip(panels, titles, strict=False):
        panel.set_title(title, loc="left")
    return figure, panels[: len(names)]


def in_parts(items: Sequence[Item], most: int) -> list[Sequence[Item]]:
    """The items in parts of `most`; the last may be smaller."""
    return [items[at : at + most] for at in range(0, len(items), most)]
