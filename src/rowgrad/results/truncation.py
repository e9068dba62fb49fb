"""What a network learns whose state is cut every so many rows, beside itself without a cut: a table and a figure."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rowgrad.results.figures import side_by_side, styles
from rowgrad.results.names import group_names
from rowgrad.results.paired import decimals, percent, spread
from rowgrad.results.sheets import Picture
from rowgrad.results.tables import Table
from rowgrad.scenario.settings import STATE
from rowgrad.watch.quantities import COSINE, RATIO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from rowgrad.results.run import Run
    from rowgrad.results.sheets import Sheet

APART = ("scenario.rows", "scenario.detach")  # in which runs of one line differ
TITLES = {"test/acc": "test accuracy, %", COSINE: "cosine with the gradient without detach", RATIO: "ratio of norms"}


@dataclass(frozen=True)
class Point:
    """Runs of one window, by seed.

    Attributes:
        cut: with detach.
        control: without.
    """

    cut: dict[int, Run]
    control: dict[int, Run]

    def of(self, metric: str, *, control: bool = False) -> list[float]:
        """A metric of the runs that have it."""
        runs = self.control if control else self.cut
        found = [run.summary.get(metric) for run in runs.values()]
        return [value for value in found if isinstance(value, int | float) and math.isfinite(value)]


def window_of(selected: Sequence[bool]) -> int | None:
    """The rows between two cuts, where all are alike but for the last ones, which may be fewer; H without a cut."""
    edges = [0, *(row for row, chosen in enumerate(selected) if chosen), len(selected)]
    *gaps, last = (b - a for a, b in pairwise(edges))
    window = gaps[0] if gaps else last
    return window if set(gaps) <= {window} and last <= window else None


def truncation_table(runs: Sequence[Run]) -> Table | None:
    """A line for each network and window; None where there are not several windows."""
    lines = _lines(runs)
    if lines is None:
        return None
    body = []
    for name, points in lines.items():
        for window, point in points.items():
            cells = (spread(point.of(metric), show) for metric, show in {COSINE: decimals, RATIO: decimals}.items())
            accuracies = (spread(point.of("test/acc", control=control), percent) for control in (False, True))
            body.append([name, str(window), str(max(map(len, (point.cut, point.control)))), *accuracies, *cells])
    caption = (
        "The state is cut each so many rows. Mean ± sample standard deviation over seeds. Cosine and ratio of norms are"
        " those of the weights' gradient and the one without detach, averaged over the steps that were looked at."
    )
    header = ["setting", "rows between cuts", "n", "test/acc, detach=true", "test/acc, detach=false"]
    return Table("Truncation", [*header, "cosine", "ratio of norms"], body, caption)


def truncation_figure(runs: Sequence[Run]) -> Picture | None:
    """Accuracy, cosine and ratio of norms against the length of the window."""
    lines = _lines(runs)
    if lines is None:
        return None
    words = (
        "The state is cut each so many rows: what the network has learnt, and how far its weights' gradient is from the"
        " one without detach. Pale and dotted: the same with detach=false. Bars are one standard deviation over seeds."
    )
    return Picture(_verdict(lines), words, lambda verdict, sheet: _draw(lines, verdict, sheet))


def _verdict(lines: Mapping[str, Mapping[int, Point]]) -> str:
    """The accuracy with the longest window and with the shortest, of the first lines."""
    parts = []
    for name, points in list(lines.items())[:3]:
        known = {window: values for window, point in points.items() if (values := point.of("test/acc"))}
        if len(known) > 1:
            ends = [f"{spread(known[window], percent)} with {window}" for window in (max(known), min(known))]
            parts.append(f"{name} reaches {' rows between two cuts, '.join(ends)}")
    return f"{'; '.join(parts)}." if parts else ""


def _draw(lines: Mapping[str, Mapping[int, Point]], verdict: str, sheet: Sheet) -> Figure:
    canvas = side_by_side(len(TITLES), lines, verdict, sheet)
    for panel, metric in zip(canvas.panels(list(TITLES.values())), TITLES, strict=True):
        factor = 100 if metric == "test/acc" else 1
        for (_, points), style in zip(lines.items(), styles(len(lines)), strict=True):
            for control in (False, True):
                found = {window: point.of(metric, control=control) for window, point in points.items()}
                found = {window: [factor * v for v in numbers] for window, numbers in found.items() if numbers}
                means = [statistics.mean(numbers) for numbers in found.values()]
                bars = [statistics.stdev(numbers) if len(numbers) > 1 else 0 for numbers in found.values()]
                look: dict[str, Any] = {"alpha": 0.4, "ls": ":"} if control else {"ls": "-"}
                look |= {"marker": "o", "ms": 0.45 * sheet.text, "lw": 0.13 * sheet.text, "capsize": 3}
                if found:
                    panel.errorbar(list(found), means, bars, **{**style, **look})
        panel.set_xscale("log", base=2)
        windows = sorted({window for points in lines.values() for window in points})
        panel.set_xticks(windows, [str(window) for window in windows])
        panel.minorticks_off()
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        panel.set_xlabel("rows between two cuts", fontsize=0.92 * sheet.text)
        panel.grid(alpha=0.25)
    return canvas.figure


def _lines(runs: Sequence[Run]) -> dict[str, dict[int, Point]] | None:
    """Points by window, longest first, by what tells runs apart beside window and detach; None with fewer than two."""
    done = [run for run in runs if run.scenario.route == STATE and run.status == "done"]
    found: dict[str, dict[int, Point]] = {}
    for name, run in zip(group_names(done, *APART), done, strict=True):
        window = window_of(run.selected)
        if window is not None:
            point = found.setdefault(name, {}).setdefault(window, Point({}, {}))
            (point.cut if run.scenario.detach else point.control).setdefault(run.seed, run)
    lines = {name: dict(sorted(points.items(), reverse=True)) for name, points in found.items() if len(points) > 1}
    return lines or None
