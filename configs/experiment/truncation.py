"""What does a network learn if its state is cut every few rows? A table and a figure beside the same without a cut."""

from __future__ import annotations

import statistics
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rowgrad.results.paired import decimals, finite, spread
from rowgrad.results.plots import Plot, side_by_side
from rowgrad.results.runs import RunSet
from rowgrad.results.table import Table
from rowgrad.scenario.settings import STATE
from rowgrad.watch.quantities import COSINE, RATIO
from rowgrad.watch.wording import percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from rowgrad.results.plots import Size
    from rowgrad.results.run import Run

    Point = Mapping[bool, Sequence[Run]]  # runs of one window, one a seed, by detach
    Lines = Mapping[str, Mapping[int, Point]]  # points by window, longest first, by the setting's name

TITLES = {"test/acc": "test accuracy, %", COSINE: "cosine with the gradient without detach", RATIO: "ratio of norms"}


def tables(runs: RunSet) -> list[Table]:
    """A line for each network and window; no table for fewer than two windows."""
    body = []
    for name, points in _lines(runs).items():
        for window, point in points.items():
            accuracies = (spread(finite(point[detach], "test/acc"), percent) for detach in (True, False))
            cells = (spread(finite(point[True], metric), decimals) for metric in (COSINE, RATIO))
            body.append([name, str(window), str(max(map(len, point.values()))), *accuracies, *cells])
    caption = (
        "The state is cut every few rows. Mean ± sample standard deviation over seeds. Cosine and ratio of norms are"
        " those of the weights' gradient and the one without detach, averaged over the steps that were looked at."
    )
    header = ["setting", "rows between cuts", "n", "test/acc, detach=true", "test/acc, detach=false"]
    return [Table("Truncation", [*header, "cosine", "ratio of norms"], body, caption)] if body else []


def figures(runs: RunSet) -> dict[str, Plot]:
    """Accuracy, cosine and ratio of norms against the length of the window."""
    lines = _lines(runs)
    words = (
        "The state is cut every few rows: what the network has learnt, and how far its weights' gradient is from the"
        " one without detach. Pale and dotted: the same with detach=false. Bars are one standard deviation over seeds."
    )
    return {"truncation": Plot(verdict(lines), words, lambda size: _draw(lines, size))} if lines else {}


def verdict(lines: Lines) -> str:
    """The accuracy with the longest window and with the shortest, of up to three networks."""
    parts = []
    for name, points in list(lines.items())[:3]:
        known = {window: values for window, point in points.items() if (values := finite(point[True], "test/acc"))}
        if len(known) > 1:
            ends = [f"{spread(known[window], percent)} with {window}" for window in (max(known), min(known))]
            parts.append(f"{name} reaches {' rows between two cuts, '.join(ends)}")
    return f"{'; '.join(parts)}." if parts else ""


def window_of(selected: Sequence[bool]) -> int | None:
    """The number of rows between two cuts, H without a cut; None if it varies, except that the last may be smaller."""
    edges = [0, *(row for row, is_selected in enumerate(selected) if is_selected), len(selected)]
    *gaps, last = (b - a for a, b in pairwise(edges))
    window = gaps[0] if gaps else last
    return window if set(gaps) <= {window} and last <= window else None


def _draw(lines: Lines, size: Size) -> Figure:
    figure, panels, looks = side_by_side(list(TITLES.values()), list(lines), size)
    windows = sorted({window for points in lines.values() for window in points})
    for panel, metric in zip(panels, TITLES, strict=True):
        factor = 100 if metric == "test/acc" else 1
        for points, look in zip(lines.values(), looks, strict=True):
            for detach in (True, False):
                found = {window: finite(point[detach], metric) for window, point in points.items()}
                found = {window: [factor * v for v in numbers] for window, numbers in found.items() if numbers}
                means = [statistics.mean(numbers) for numbers in found.values()]
                bars = [statistics.stdev(numbers) if len(numbers) > 1 else 0 for numbers in found.values()]
                how: dict[str, Any] = {"ls": "-"} if detach else {"alpha": 0.4, "ls": ":"}
                if found:
                    panel.errorbar(list(found), means, bars, marker="o", capsize=3, **{**look, **how})
        panel.set_xscale("log", base=2)
        panel.set_xticks(windows, [str(window) for window in windows])
        panel.minorticks_off()
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        panel.set_xlabel("rows between two cuts")
    return figure


def _lines(runs: RunSet) -> Lines:
    """Networks with at least two windows, by what tells them apart beside window and detach."""
    done = RunSet([run for run in runs.runs if run.is_done and run.scenario.route == STATE])
    found: dict[str, dict[int, dict[bool, list[Run]]]] = {}
    for group in done.groups("scenario.rows", "scenario.detach"):
        for run in group.runs:
            if (window := window_of(run.selected)) is not None:
                point = found.setdefault(group.name, {}).setdefault(window, {True: [], False: []})
                same = point[run.scenario.detach]
                if run.seed not in {other.seed for other in same}:
                    same.append(run)
    return {name: dict(sorted(points.items(), reverse=True)) for name, points in found.items() if len(points) > 1}
