"""Runs side by side -> a table with a line for each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rowgrad.results.names import run_names, word_of
from rowgrad.results.tables import Table
from rowgrad.scenario.rows import name_rows
from rowgrad.watch.quantities import COSINE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rowgrad.results.run import Run


def _shown(value: float | None, form: str) -> str:
    """A number as it is printed; nothing for what was not measured."""
    if value is None:
        return ""
    return format(value, form) if math.isfinite(value) else "not a number"


def _cut(run: Run) -> str:
    counts = run.cut_counts
    if counts is None:
        return "not recorded"
    always = name_rows((counts == len(run.steps)).tolist()).removeprefix("rows ").removeprefix("row ")
    sometimes = int(((counts > 0) & (counts < len(run.steps))).sum())
    always = "none" if always == "no row" else always
    return always + (f" ({sometimes} more at some)" if sometimes else "")


COLUMNS: dict[str, Callable[[Run], str]] = {
    "scenario": lambda run: str(run.scenario.name),
    "selected": lambda run: name_rows(run.selected).removeprefix("rows ").removeprefix("row "),
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


def compare_runs(runs: Sequence[Run]) -> Table:
    """The runs, a line each."""
    body = [
        [name, *(column(run) for column in COLUMNS.values())] for name, run in zip(run_names(runs), runs, strict=True)
    ]
    return Table("Runs", ["run", *COLUMNS], body)
