"""Runs side by side -> a table with a line for each, and one with a line for each setting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rowgrad.results.names import run_names, word_of
from rowgrad.results.paired import decimals, percent, spread
from rowgrad.results.tables import Table
from rowgrad.scenario.rows import name_rows
from rowgrad.watch.quantities import COSINE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rowgrad.results.groups import Setting
    from rowgrad.results.run import Run


def _shown(value: float | None, form: str) -> str:
    """A number as it is printed; nothing for what was not measured."""
    if value is None:
        return ""
    return format(value, form) if math.isfinite(value) else "not a number"


def _short(rows: Sequence[bool]) -> str:
    return name_rows(rows).removeprefix("rows ").removeprefix("row ")


def _cut(run: Run) -> str:
    counts = run.cut_counts
    if counts is None:
        return "not recorded"
    always = _short((counts == len(run.steps)).tolist())
    sometimes = int(((counts > 0) & (counts < len(run.steps))).sum())
    always = "none" if always == "no row" else always
    return always + (f" ({sometimes} more at some)" if sometimes else "")


COLUMNS: dict[str, Callable[[Run], str]] = {
    "scenario": lambda run: str(run.scenario.name),
    "selected": lambda run: _short(run.selected),
    "model": lambda run: str(run.config.model.get("name", "")),
    "detach": lambda run: word_of(run.scenario.detach) if any(run.selected) else "–",
    "seed": lambda run: str(run.seed),
    "data": lambda run: str(run.summary.get("data", run.config.data.name)),
    "status": lambda run: run.status,
    "test accuracy": lambda run: _shown(run.summary.get("test/acc"), ".2%"),
    "rows changed in every image": lambda run: _shown(run.summary.get("test/acc_operated"), ".2%"),
    "test loss": lambda run: _shown(run.summary.get("test/loss"), ".4f"),
    "rows cut at every step": _cut,
    "cut fraction": lambda run: _shown(run.cut_fraction, ".1%"),
    "gradient's cosine": lambda run: _shown(run.summary.get(COSINE), ".4f"),
    "steps": lambda run: str(run.summary.get("train/steps", "")),
    "seconds": lambda run: _shown(run.summary.get("train/seconds"), ".1f"),
}
# What is averaged over seeds, and how it is printed.
AVERAGED: dict[str, tuple[Callable[[Run], Any], Callable[..., str]]] = {
    "test accuracy": (lambda run: run.summary.get("test/acc"), percent),
    "rows changed in every image": (lambda run: run.summary.get("test/acc_operated"), percent),
    "test loss": (lambda run: run.summary.get("test/loss"), decimals),
    "cut fraction": (lambda run: run.cut_fraction, percent),
    "gradient's cosine": (lambda run: run.summary.get(COSINE), decimals),
    "seconds": (lambda run: run.summary.get("train/seconds"), lambda value, sign="": f"{value:{sign}.1f}"),
}


def compare_runs(runs: Sequence[Run]) -> Table:
    """The runs, a line each."""
    body = [
        [name, *(column(run) for column in COLUMNS.values())] for name, run in zip(run_names(runs), runs, strict=True)
    ]
    return Table("Runs", ["run", *COLUMNS], body)


def compare_settings(settings: Sequence[Setting]) -> Table:
    """The settings, a line each: n, and means ± sample standard deviations over seeds."""
    columns = [name for name in COLUMNS if name not in {"scenario", "seed"}]
    body = [[one.name, str(len(one.runs)), *(_cell(name, one.runs) for name in columns)] for one in settings]
    several = any(len(one.runs) > 1 for one in settings)
    caption = "Mean ± sample standard deviation over the n runs of a setting, one a seed." if several else ""
    return Table("Settings", ["setting", "n", *columns], body, caption)


def _cell(name: str, runs: Sequence[Run]) -> str:
    """What the runs of a setting say in a column."""
    if name not in AVERAGED or len(runs) == 1:
        return ", ".join(dict.fromkeys(COLUMNS[name](run) for run in runs))
    value, show = AVERAGED[name]
    found = [number for run in runs if (number := value(run)) is not None]
    finite = [number for number in found if math.isfinite(number)]
    if not finite:
        return "not a number" if found else ""
    return spread(finite, show) + (f" (n = {len(finite)})" if len(finite) < len(runs) else "")
