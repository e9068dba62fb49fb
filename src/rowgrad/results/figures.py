"""Settings side by side as curves and bars. Plain matplotlib: nothing is measured here, no file is read or written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import NullFormatter, NullLocator

from rowgrad.results.heatmaps import SMALL, named_grid
from rowgrad.results.sheets import Canvas, Key, Sheet, count_steps, logarithms
from rowgrad.watch.drawing import INK, OTHER, SELECTED, ZERO, mark_selected, title_of
from rowgrad.watch.quantities import ARRIVES, REACHES, Quantity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from rowgrad.results.groups import Curves

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", "--", ":", "-.")
POINTS = 60  # of a smoothed curve
TALL, STACKED = 3.2, 1.9  # of panels side by side, and of each of those below each other, inches


def learning_curves(curves: Mapping[str, Mapping[str, Curves]], verdict: str, sheet: Sheet) -> Figure:
    """Loss and accuracy over optimizer steps: training batches as lines, validation as dots.

    Args:
        curves: for each setting by its name: steps (T,) and values (N, T) of N seeds by their tags.
        verdict: what stands above the figure.
        sheet: to draw for.
    """
    canvas = side_by_side(2, curves, verdict, sheet)
    panels = canvas.panels(["Loss, training (lines) and validation (dots)", "Accuracy in %, training and validation"])
    for panel, metric in zip(panels, ("loss", "acc"), strict=True):
        factor = 100 if metric == "acc" else 1
        for setting, style in zip(curves.values(), styles(len(curves)), strict=True):
            if f"train/{metric}" in setting:
                steps, values = smoothed(*setting[f"train/{metric}"])
                with_band(panel, steps, factor * values, style, sheet)
            if f"val/{metric}" in setting:
                steps, values = setting[f"val/{metric}"]
                mean, spread = factor * values.mean(0), _spread(factor * values)
                color, size = style["color"], 0.45 * sheet.text
                panel.errorbar(steps, mean, spread, fmt="o", color=color, ms=size, lw=0.1 * sheet.text)
        count_steps(panel, canvas)
        panel.grid(alpha=0.25)
    label_logarithms(panels[0])
    return canvas.figure


def row_profiles(profiles: Mapping[str, Mapping[str, Tensor]], verdict: str, sheet: Sheet) -> Figure:
    """Mean norm of each row, with a band of one standard deviation over seeds.

    Args:
        profiles: for each setting by its name: norms by their names, averaged over steps, (N, H) for N seeds.
        verdict: what stands above the figure.
        sheet: to draw for.
    """
    canvas = side_by_side(2, profiles, verdict, sheet)
    panels = canvas.panels([title_of(quantity) for quantity in (REACHES, ARRIVES)], sharey=True)
    for panel, quantity in zip(panels, (REACHES, ARRIVES), strict=True):
        for norms, style in zip(profiles.values(), styles(len(profiles)), strict=True):
            if quantity in norms:
                values = norms[quantity].numpy()
                with_band(panel, np.arange(values.shape[1]), values, style, sheet, marker="o", ms=0.3 * sheet.text)
        count_rows(panel, canvas, profiles)
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    panels[0].set_ylabel(Quantity.unit, fontsize=sheet.text * SMALL)
    return canvas.figure


def count_rows(panel: Axes, canvas: Canvas, profiles: Mapping[str, Mapping[str, Tensor]]) -> None:
    """An x axis of image rows."""
    height = max(norms.shape[-1] for setting in profiles.values() for norms in setting.values())
    panel.set_xticks(range(0, height, 7))
    panel.set_xlabel("image row (0 = top)", fontsize=canvas.sheet.text * 0.92, labelpad=0.2 * canvas.sheet.text)
    panel.grid(alpha=0.25)


def with_band(
    panel: Axes, places: np.ndarray, values: np.ndarray, style: Mapping[str, Any], sheet: Sheet, **look: Any
) -> None:
    """The mean of N seeds (N, T) as a line, with a band of one sample standard deviation."""
    mean, spread = values.mean(0), _spread(values)
    panel.plot(places, mean, lw=0.13 * sheet.text, **look, **style)
    if spread is not None:
        low = np.maximum(mean - spread, 0.02 * mean)  # an axis may be logarithmic
        panel.fill_between(places, low, mean + spread, color=style["color"], alpha=0.2, lw=0)


def _spread(values: np.ndarray) -> Any:
    return values.std(0, ddof=1) if len(values) > 1 else None


def side_by_side(count: int, names: Iterable[str], verdict: str, sheet: Sheet) -> Canvas:
    """A canvas for so many panels with lines, and a key of the lines' names."""
    entries = list(zip(map(in_short, names), styles(len(list(names))), strict=True))
    return Canvas(sheet, verdict, count * STACKED if sheet.narrow else TALL, Key(sheet, entries))


def in_short(title: str) -> str:
    """A title without most of many settings that are equal."""
    names, n, count = title.partition(", n =")
    first, *others = names.split(" = ")
    return f"{first} = {len(others)} others{n}{count}" if len(others) > 2 else title  # noqa: PLR2004


def styles(count: int) -> list[dict[str, Any]]:
    """Colours and dashes that can be told apart, for so many settings."""
    return [{"color": PALETTE[i % len(PALETTE)], "ls": DASHES[i // len(PALETTE) % len(DASHES)]} for i in range(count)]


def label_logarithms(panel: Axes) -> None:
    """A logarithmic y axis whose labels are plain numbers, three to seven of them."""
    panel.set_yscale("log")
    panel.set_yticks(logarithms(*panel.get_ylim()))
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_minor_formatter(NullFormatter())


def smoothed(steps: np.ndarray, values: np.ndarray) -> Curves:
    """Means over `POINTS` pieces of some curves (N, T), and the middles of the pieces."""
    pieces = np.array_split(np.arange(len(steps)), min(POINTS, len(steps)))
    return np.array([steps[p].mean() for p in pieces]), np.stack([values[:, p].mean(1) for p in pieces], 1)


def repairs(cameras: Mapping[str, tuple[Tensor, Tensor, Sequence[bool], float]], verdict: str, sheet: Sheet) -> Figure:
    """What a camera adds to each row, what the rows have learnt to add, and what is left.

    Args:
        cameras: damage (H,), θ averaged over each row (H,), the selected rows and the test accuracy, by the setting's
            name.
        verdict: what stands above the figure.
        sheet: to draw for.
    """
    entries: list[tuple[str, dict[str, Any]]] = [
        ("damage, normalised pixels", {"color": ZERO, "lw": sheet.text, "solid_capstyle": "butt"}),
        ("θ, what the row learnt", {"color": OTHER}),
        ("what is left", {"color": SELECTED, "ls": "--"}),
        ("selected rows", {"color": SELECTED, "lw": 4}),
    ]
    accuracies = [accuracy for *_, accuracy in cameras.values()]
    words = [f"{value:.2%}" if math.isfinite(value) else "no test accuracy" for value in accuracies]
    names = list(map(list, zip(cameras, words, strict=True)))
    canvas, panels = named_grid(names, 2.4, verdict, sheet, Key(sheet, entries))
    for panel, (damage, learnt, selected, _) in zip(panels, cameras.values(), strict=True):
        rows, width = np.arange(len(damage)), 0.16 * sheet.text
        panel.barh(rows, damage.numpy(), height=1, color=ZERO)
        panel.plot(learnt.numpy(), rows, color=OTHER, lw=width)
        panel.plot((damage + learnt).numpy(), rows, color=SELECTED, lw=width, ls="--")
        panel.axvline(0, color=INK, lw=0.6)
        mark_selected(panel, selected)
        panel.locator_params(axis="x", nbins=4)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    return canvas.figure


def row_atlas(losses: Tensor, shares: Tensor, digit: Tensor | None, verdict: str, sheet: Sheet) -> Figure:
    """What each row carries, as bars beside a mean digit.

    Args:
        losses: test accuracy that is lost where row r is cut, (N, H) for N seeds, as a share.
        shares: cut fraction where row r is cut, (N, H).
        digit: the data set's mean image, (H, W).
        verdict: what stands above the figure.
        sheet: to draw for.
    """
    canvas = Canvas(sheet, verdict, 4.0 if not sheet.narrow else 2.8)
    titles = {"accuracy lost, percentage points": losses, "share of the squared input gradient, %": shares}
    panels = canvas.panels(["mean digit", *titles], [0.7, 1.3, 1.3], sharey=True)
    rows = np.arange(losses.shape[1])
    if digit is not None:
        panels[0].imshow(digit.numpy(), cmap="gray", aspect="auto")
    panels[0].set_xticks([])
    panels[0].set_ylabel("image row (0 = top)", fontsize=sheet.text * SMALL)
    for panel, values in zip(panels[1:], titles.values(), strict=True):
        spread = 100 * values.std(0).numpy() if len(values) > 1 else None
        bars: dict[str, Any] = {"height": 0.8, "color": OTHER, "ecolor": INK, "error_kw": {"lw": 0.8}}
        panel.barh(rows, 100 * values.mean(0).numpy(), xerr=spread, **bars)
        panel.tick_params(labelleft=False)
        panel.grid(axis="x", alpha=0.25)
        panel.locator_params(axis="x", nbins=3 if sheet.narrow else 5)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    panels[0].set_yticks(range(0, len(rows), 7))
    return canvas.figure
