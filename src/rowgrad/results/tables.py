"""Runs and settings side by side, as tables."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, NamedTuple

from rowgrad.results.paired import decimals, spread
from rowgrad.results.table import Table
from rowgrad.scenario.rows import short_rows
from rowgrad.watch.quantities import COSINE, RATIO
from rowgrad.watch.wording import percent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rowgrad.results.run import Run
    from rowgrad.results.runs import RunGroup, RunSet

WIDTH = 80


def hanging(name: str, words: str) -> str:
    """A name and its text in 80 columns, the text indented on each line."""
    indent = " " * 16
    return textwrap.fill(
        f"{name:16}{words}", WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


class Metric(NamedTuple):
    """What a metric of `summary.json` is called in words, and how it is printed."""

    words: str
    show: Callable[..., str]


METRICS = {
    "val/acc": Metric("validation accuracy", percent),
    "test/acc": Metric("test accuracy", percent),
    "test/acc_operated": Metric("rows changed in every image", percent),
    "test/loss": Metric("test loss", decimals),
    "cut_fraction": Metric("cut fraction", percent),
    COSINE: Metric("gradient's cosine", decimals),
    RATIO: Metric("ratio of norms", decimals),
    "train/seconds": Metric("seconds", "{:.1f}".format),
}


def _cut(run: Run) -> str:
    counts = run.cut_counts
    if counts is None:
        return "not recorded"
    always = short_rows((counts == len(run.steps)).tolist())
    sometimes = int(((counts > 0) & (counts < len(run.steps))).sum())
    return always + (f" ({sometimes} more at some)" if sometimes else "")


TEXTS: dict[str, Callable[[Run], str]] = {
    "scenario": lambda run: str(run.scenario.name),
    "selected": lambda run: short_rows(run.selected),
    "model": lambda run: str(run.config.model.get("name", "")),
    "detach": lambda run: str(run.scenario.detach).lower() if any(run.selected) else "–",
    "seed": lambda run: str(run.seed),
    "data": lambda run: str(run.summary.get("data", run.config.data.name)),
    "status": lambda run: run.status,
    "steps": lambda run: str(run.summary.get("train/steps", "")),
    "rows cut at every step": _cut,
}
# The metrics that are averaged over seeds, by their columns.
AVERAGED = ("test/acc", "test/acc_operated", "test/loss", "cut_fraction", COSINE, "train/seconds")
NUMBERS = {METRICS[metric].words: metric for metric in AVERAGED}


def compare_runs(runs: RunSet) -> Table:
    """The runs, a line each."""
    columns = [*TEXTS, *NUMBERS]
    names = zip(runs.run_names(), runs.runs, strict=True)
    return Table("Runs", ["run", *columns], [[name, *(_cell(one, [run]) for one in columns)] for name, run in names])


def compare_groups(groups: Sequence[RunGroup]) -> Table:
    """The settings, a line each: n, and means ± sample standard deviations over seeds."""
    columns = [name for name in (*TEXTS, *NUMBERS) if name not in {"scenario", "seed"}]
    return over_seeds("Settings", groups, columns, _cell)


def over_seeds(
    title: str, groups: Sequence[RunGroup], columns: Sequence[str], cell: Callable[[str, Sequence[Run]], str]
) -> Table:
    """A line for each setting: n, and for each column what `cell` makes of it and the setting's runs."""
    body = [[one.name, str(len(one.runs)), *(cell(name, one.runs) for name in columns)] for one in groups]
    words = "Mean ± sample standard deviation over the n runs of a setting, one a seed; a cell with fewer says so."
    several = any(len(one.runs) > 1 for one in groups)
    return Table(title, ["setting", "n", *columns], body, words if several else "")


def _cell(name: str, runs: Sequence[Run]) -> str:
    """A column of a setting's line."""
    if name in TEXTS:
        return ", ".join(dict.fromkeys(TEXTS[name](run) for run in runs))
    return mean_cell(NUMBERS[name], runs)


def mean_cell(metric: str, runs: Sequence[Run]) -> str:
    """Mean ± sample standard deviation of a metric; empty if no run has it."""
    of_norms = metric == "cut_fraction"  # which a run has that did not end
    values = [run.cut_fraction if of_norms and not run.is_done else run.summary.get(metric) for run in runs]
    found = [value for value in values if value is not None]
    finite = [value for value in found if math.isfinite(value)]
    if not finite:
        return "not a number" if found else ""
    show = METRICS[metric].show if metric in METRICS else decimals
    return spread(finite, show) + (f" (n = {len(finite)})" if len(finite) < len(values) else "")
