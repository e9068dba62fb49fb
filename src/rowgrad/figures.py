"""Norms, images and learnt rows -> figures. Plain matplotlib: nothing is measured here, no file is read or written.

Colours are from Okabe and Ito's palette, viridis and PuOr, which colour-blind people tell apart. Lines, text and axes
that have no colour of their own are drawn in `INK`, so that a page can give them the colour of its text.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
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

    from rowgrad.runs import Curve

INK = "#1f2328"
SELECTED, OTHER = "#D55E00", "#0072B2"
ZERO = "#c9ccd1"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
TITLES = {
    "row_grad_norm": "What reaches the rows, ‖∂L/∂θᵣ‖",
    "input_grad_norm": "What arrives at the network's input, ‖∂L/∂τᵣ‖",
    "row_update_norm": "How far the rows move, ‖θᵣ(t+1) − θᵣ(t)‖",
}
UNIT = "loss per normalised pixel"
GAP = 5  # pixels between two strips of digits
DASHES = ("-", "--", ":", "-.")
POINTS = 60  # of a smoothed curve
LONG = 40  # letters of a name
COLUMNS = 600  # a heatmap averages steps into at most so many columns


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


def heatmaps(steps: Tensor, norms: Mapping[str, Tensor], selected: Sequence[bool]) -> Figure:
    """Rows × steps of one run.

    Args:
        steps: optimizer steps, (T,).
        norms: norms (T, H) by their names, a panel each; gradients are on one scale.
        selected: the scenario's rows, marked in the margin.
    """
    figure = new_figure(4.6, 1.9 * len(norms) + 0.5)
    inches = figure.get_figheight()
    panels = figure.subplots(len(norms), 1, squeeze=False, sharex=True)[:, 0]
    figure.subplots_adjust(left=0.13, right=0.94, bottom=0.75 / inches, top=1 - 0.25 / inches, hspace=0.24)
    gradients = [quantity for quantity in norms if quantity != "row_update_norm"]
    for panel, (quantity, values) in zip(panels, norms.items(), strict=True):
        moves = quantity == "row_update_norm"
        scale = log_scale([values] if moves else [norms[q] for q in gradients])
        image = draw_heatmap(panel, steps, values, selected, scale)
        panel.set_title(TITLES[quantity], fontsize=10)
        label = "normalised pixels" if moves else UNIT
        bar = figure.colorbar(image, ax=panel, label=label, pad=0.02, aspect=20, format="{x:g}")
        bar.ax.minorticks_off()
        bar.ax.tick_params(labelsize=8)
        bar.ax.yaxis.label.set_fontsize(8)
        panel.set_ylabel("image row")
    panels[-1].set_xlabel("optimizer step")
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
    axes.vlines(left, rows - 0.53, rows + 0.53, colors=SELECTED, lw=4, transform=across, clip_on=False)


def _key(selected: Sequence[bool]) -> list[Patch | Line2D]:
    handles: list[Patch | Line2D] = [Patch(color=ZERO, label="exactly 0")]
    if any(selected):
        handles.append(Line2D([], [], color=SELECTED, lw=4, label=f"selected: {name_rows(selected)}"))
    return handles


def learnt_rows(rows: Tensor, selected: Sequence[bool]) -> Figure:
    """θ (H, W) as a picture."""
    figure = new_figure(4.6, 4.0)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.13, right=0.88, bottom=0.12, top=0.92)
    image = draw_rows(axes, rows, selected, float(rows.abs().max()))
    axes.set_title("θ, what the rows have learnt to add", fontsize=10)
    axes.set_ylabel("image row (0 = top)")
    bar = figure.colorbar(image, ax=axes, label="normalised pixels")
    bar.ax.tick_params(labelsize=8)
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
    figure = new_figure(5.4, 1.05 * len(views) + 0.75)
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    figure.subplots_adjust(left=0.2, right=0.96, bottom=0.62 / figure.get_figheight(), top=0.985, wspace=0.03)
    strips = [np.concatenate(list(images[:, 0].numpy()), axis=1) for images in views.values()]
    gap = np.full((GAP, strips[0].shape[1]), np.nan)
    left.imshow(np.concatenate([part for strip in strips for part in (strip, gap)][:-1]), cmap="gray", aspect="auto")
    left.set_xticks([])
    left.set_yticks([i * pitch + height / 2 for i in range(len(views))], list(views))
    left.tick_params(length=0, pad=8)
    left.spines[:].set_visible(False)
    for axes in (left, right):  # the same rows at the same heights, with room for a title above the first
        axes.set_ylim(len(views) * pitch - GAP - 0.5, -GAP - 0.5)
    right.set_yticks([])
    right.set_xlabel("mean norm over all steps", fontsize=8)
    right.tick_params(labelsize=8)
    right.spines[["top", "right"]].set_visible(False)
    chosen, across = np.flatnonzero(selected), right.get_yaxis_transform()
    for i, name in enumerate(views):
        top = i * pitch
        mark_rows(left, top + chosen)
        if name not in bars:
            if name.startswith("observer"):
                words = "observers send\nno gradient back"
                right.text(0.03, top + height / 2, words, va="center", fontsize=8, transform=across)
            continue
        title, values = bars[name]
        colors = [SELECTED if is_selected else OTHER for is_selected in selected]
        lengths, edges = values.numpy(), top + np.arange(height)[:, None] + [-0.4, -0.4, 0.4, 0.4]
        # One artist, where barh would make one for each row.
        corners = np.stack([lengths[:, None] * [0, 1, 1, 0], edges], 2)
        right.add_collection(PolyCollection(list(corners), facecolors=colors))
        right.text(0.03, top - GAP / 2 - 0.5, title, va="center", fontsize=9, transform=across)
        if len(chosen) and not values[selected].any():
            words = "exactly 0"
            right.text(0.03, top + chosen.mean(), words, color=SELECTED, va="center", fontsize=9, transform=across)
    if len(chosen):
        figure.legend(handles=_key(selected)[1:], loc="lower left", fontsize=9, frameon=False)
    return figure


def compared_heatmaps(runs: Mapping[str, tuple[Tensor, Mapping[str, Tensor], Sequence[bool]]]) -> Figure:
    """Row and input gradient norms of several runs, all on one colour scale.

    Args:
        runs: steps (T,), norms (T, H) by their names, and the selected rows, by the run's name.
    """
    figure = Figure(figsize=(9.2, 1.7 * len(runs) + 0.9), layout="constrained")
    quantities = ("row_grad_norm", "input_grad_norm")
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
        panel.set_title(TITLES[quantity], fontsize=10)
    for panel in panels[-1]:
        panel.set_xlabel("optimizer step")
    figure.colorbar(image, ax=panels, label=UNIT, aspect=30, pad=0.01)
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
        for group, style in zip(curves, _styles(len(curves)), strict=True):
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
    _name_groups(figure, curves)
    return figure


def row_profiles(profiles: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Mean norm of each row, with a band of one standard deviation over seeds.

    Args:
        profiles: for each group of runs that differ in their seed alone, by its name: norms by their names, averaged
            over steps, (N, H) for N seeds.
    """
    figure = Figure(figsize=(9.2, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, quantity in zip(panels, ("row_grad_norm", "input_grad_norm"), strict=True):
        for (group, norms), style in zip(profiles.items(), _styles(len(profiles)), strict=True):
            if quantity not in norms:
                continue
            mean = norms[quantity].mean(0).numpy()
            rows = np.arange(len(mean))
            panel.plot(rows, mean, marker="o", ms=3, lw=1.2, label=group, **style)
            if len(norms[quantity]) > 1:
                spread = norms[quantity].std(0).numpy()
                panel.fill_between(rows, mean - spread, mean + spread, color=style["color"], alpha=0.2, lw=0)
        panel.set(xlabel="image row (0 = top)", title=TITLES[quantity])
        panel.title.set_fontsize(10)
        panel.set_xticks(range(0, 28, 7))
        panel.grid(alpha=0.25)
    panels[0].set_ylabel(f"mean over steps,\n{UNIT}")
    _name_groups(figure, profiles)
    return figure


def compared_rows(rows: Mapping[str, tuple[Tensor, Sequence[bool]]]) -> Figure:
    """θ (H, W) of several runs on one colour scale, with the selected rows, by the run's name."""
    across = min(len(rows), 4)
    down = -(-len(rows) // across)
    figure = Figure(figsize=(2.3 * across + 1, 2.3 * down + 0.6), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    limit = max(float(theta.abs().max()) for theta, _ in rows.values())
    images = []
    for panel, (name, (theta, selected)) in zip(panels.flat, rows.items(), strict=False):
        images.append(draw_rows(panel, theta, selected, limit))
        panel.set_title(name, fontsize=8)
    for panel in panels.flat[len(rows) :]:
        panel.set_visible(False)
    figure.colorbar(images[0], ax=panels, label="θ, normalised pixels", aspect=30)
    return figure


def _styles(count: int) -> list[dict[str, Any]]:
    """Colours and dashes that can be told apart, for so many groups."""
    return [{"color": PALETTE[i % len(PALETTE)], "ls": DASHES[i // len(PALETTE) % len(DASHES)]} for i in range(count)]


def _name_groups(figure: Figure, groups: Mapping[str, Any]) -> None:
    handles = [Line2D([], [], lw=2, label=g, **style) for g, style in zip(groups, _styles(len(groups)), strict=True)]
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
    across = min(len(cameras), 4)
    down = -(-len(cameras) // across)
    figure = Figure(figsize=(2.5 * across, 3.2 * down + 0.6), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for panel, (name, (damage, learnt, selected, accuracy)) in zip(panels.flat, cameras.items(), strict=False):
        rows = np.arange(len(damage))
        panel.barh(rows, damage.numpy(), height=1, color=ZERO)
        panel.plot(learnt.numpy(), rows, color=OTHER, lw=1.5)
        panel.plot((damage + learnt).numpy(), rows, color=SELECTED, lw=1.5, ls="--")
        panel.axvline(0, color=INK, lw=0.6)
        mark_selected(panel, selected)
        panel.set_title(name.replace(", ", "\n") + f"\n{accuracy:.2%}", fontsize=8)
    for panel in panels.flat[len(cameras) :]:
        panel.set_visible(False)
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
