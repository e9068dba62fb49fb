"""Settings side by side as pictures of rows: norms over steps, and θ. Plain matplotlib: nothing is measured here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize

from rowgrad.results.sheets import LINE, Canvas, Key, Sheet, count_steps, logarithms, wrapped
from rowgrad.watch.drawing import SELECTED, ZERO, draw_heatmap, draw_theta, title_of
from rowgrad.watch.quantities import ARRIVES, REACHES, Quantity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    One = tuple[Tensor, Mapping[str, Tensor], Sequence[bool]]
    Wall = Mapping[str, One]

BAR = 4.8  # ems that a colour scale needs
GAP = 2  # ems between two panels of a pair
SMALL, SUBTITLE = 0.88, 0.92  # of what stands below a name, and above columns


def compared_heatmaps(wall: Wall, scale: LogNorm, words: Mapping[str, str], verdict: str, sheet: Sheet) -> Figure:
    """Row and input gradient norms of several settings, all on one colour scale, below their names.

    Args:
        wall: steps (T,), norms (T, H) by their names, and the selected rows, by the setting's name.
        scale: of the colours.
        words: what stands below each name.
        verdict: what stands above the figure.
        sheet: to draw for.
    """
    em, across = sheet.em, 1 if sheet.narrow or len(wall) <= 2 else 2  # noqa: PLR2004
    step, down = (sheet.width - em) / across, -(-len(wall) // across)
    width = (step - (5 + GAP) * em) / 2
    titles = [wrapped(title_of(quantity), width, sheet.text * SUBTITLE, 4) for quantity in (REACHES, ARRIVES)]
    title = max(map(len, titles)) * LINE * SUBTITLE * em + 0.5 * em
    heads = [_head(name, words[name], step - 5 * em, sheet) for name in wall]
    top = max(len(name) + SMALL * len(below) for name, below in heads) * LINE * em + 0.5 * em
    tall = (1.0 if sheet.narrow else 1.45) + top + 2.1 * em
    canvas = Canvas(sheet, verdict, title + down * tall + 1.2 * em, _key(sheet, wall), BAR * em)
    tall = (canvas.body - title - 1.2 * em) / down
    for place, lines in enumerate(titles * across):
        x = _left(canvas, step, place // 2) + place % 2 * (width + GAP * em)
        canvas.words(x, canvas.top, lines, sheet.text * SUBTITLE)
    for number, ((name, below), one) in enumerate(zip(heads, wall.values(), strict=True)):
        x, y = _left(canvas, step, number % across), canvas.top + title + number // across * tall
        canvas.words(x, y, name, weight="bold")
        canvas.words(x, y + len(name) * LINE * em, below, sheet.text * SMALL)
        boxes = [(x + place * (width + GAP * em), y + top, width, tall - top - 2.1 * em) for place in range(2)]
        _pair(canvas, boxes, one, scale, "optimizer step" if number + across >= len(wall) else "")
    _bar(canvas, ScalarMappable(scale, "viridis"), Quantity.unit)
    return canvas.figure


def _head(name: str, words: str, room: float, sheet: Sheet) -> tuple[list[str], list[str]]:
    """What stands above a pair of panels, in lines: a name, and words."""
    below = wrapped(words, room, sheet.text * SMALL, 2 if sheet.fixed else 3)
    return wrapped(name, room, sheet.text, 2, "bold"), below


def _pair(canvas: Canvas, boxes: Sequence[tuple[float, float, float, float]], one: One, scale: LogNorm, x: str) -> None:
    """What reaches the rows, and beside it what arrives at the input."""
    steps, norms, selected = one
    for place, (box, quantity) in enumerate(zip(boxes, (REACHES, ARRIVES), strict=True)):
        panel = canvas.axes(*box)
        if quantity in norms:
            draw_heatmap(panel, steps, norms[quantity], selected, scale)
        else:
            panel.text(0.5, 0.5, "not recorded", ha="center", transform=panel.transAxes, fontsize=canvas.sheet.text)
            panel.set(xticks=[], yticks=[])
        _label(panel, canvas, x, left=not place)


def _left(canvas: Canvas, step: float, column: int) -> float:
    return 4.4 * canvas.em + column * step


def _label(panel: Axes, canvas: Canvas, label: str, *, left: bool) -> None:
    """What stands beside a panel, where there is room for it."""
    low = panel.get_position().height * canvas.height < 5 * canvas.em
    if panel.images:
        count_steps(panel, canvas, label)
        panel.set_yticks(panel.get_yticks()[:: 2 if low else 1])
    if not left:
        panel.set_yticklabels([])
    elif not low:
        panel.set_ylabel("image row", fontsize=canvas.sheet.text * SMALL)


def _key(sheet: Sheet, wall: Wall) -> Key:
    entries = [("exactly 0", {"color": ZERO, "lw": sheet.text, "solid_capstyle": "butt"})]
    if any(any(selected) for _, _, selected in wall.values()):
        entries.append(("selected rows", {"color": SELECTED, "lw": 4}))
    return Key(sheet, entries)


def _bar(canvas: Canvas, colors: ScalarMappable, label: str) -> None:
    """A colour scale below the panels."""
    em, low, high = canvas.em, *colors.get_clim()
    left = 4.4 * em
    bar = canvas.axes(left, canvas.bottom + 0.5 * em, canvas.sheet.width - left - 3 * em, 0.8 * em)
    logarithmic = isinstance(colors.norm, LogNorm)
    ticks = np.array(logarithms(low, high)) if logarithmic else np.linspace(low, high, 5)
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=colors.cmap, aspect="auto", extent=(0, 1, 0, 1))
    bar.set_yticks([])
    bar.set_xticks(np.asarray(colors.norm(ticks)), [f"{tick:.2g}" for tick in ticks])
    bar.set_xlabel(label, fontsize=canvas.sheet.text * SMALL, labelpad=0.3 * canvas.sheet.text)


def compared_theta(thetas: Mapping[str, tuple[Tensor, Sequence[bool]]], verdict: str, sheet: Sheet) -> Figure:
    """θ (C, H, W) of several settings on one colour scale, with the selected rows, by the setting's name."""
    limit = max(float(theta.abs().max()) for theta, _ in thetas.values()) or 1.0
    canvas, panels = named_grid(
        [[name] for name in thetas], 1.3 if sheet.narrow else 1.75, verdict, sheet, _theta_key(sheet, thetas), BAR
    )
    for panel, (theta, selected) in zip(panels, thetas.values(), strict=True):
        draw_theta(panel, theta, selected, limit)
        panel.set_anchor("NW")
    _bar(canvas, ScalarMappable(Normalize(-limit, limit), "PuOr"), "θ, normalised pixels")
    return canvas.figure


def _theta_key(sheet: Sheet, thetas: Mapping[str, tuple[Tensor, Sequence[bool]]]) -> Key | None:
    selected = any(any(rows) for _, rows in thetas.values())
    return Key(sheet, [("selected rows", {"color": SELECTED, "lw": 4})]) if selected else None


def named_grid(
    names: Sequence[Sequence[str]], tall: float, verdict: str, sheet: Sheet, key: Key | None, foot: float = 0.0
) -> tuple[Canvas, list[Axes]]:
    """Panels below names, four side by side, or two on a narrow sheet.

    Args:
        names: paragraphs above each panel.
        tall: height of a panel where there is room, inches.
        verdict: what stands above all.
        sheet: to draw for.
        key: below all.
        foot: further ems below the panels.
    """
    em, across = sheet.em, min(len(names), 2 if sheet.narrow else 4)
    down = -(-len(names) // across)
    step, size = (sheet.width - em) / across, sheet.text * SMALL
    lines = [[line for part in parts for line in wrapped(part, step - 3 * em, size, 3)] for parts in names]
    top = (max(map(len, lines)) * LINE * SMALL + 0.4) * em
    below = 2.4 * em
    canvas = Canvas(sheet, verdict, down * (top + tall + below), key, foot * em)
    tall = canvas.body / down - top - below
    panels = []
    for number, head in enumerate(lines):
        x, y = 2.6 * em + number % across * step, canvas.top + number // across * (canvas.body / down)
        canvas.words(x, y, head, size)
        panels.append(canvas.axes(x, y + top, step - 3 * em, tall))
    return canvas, panels
