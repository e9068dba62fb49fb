"""Tables: on the console, in Markdown and in the report's page; and runs side by side as a table."""

from __future__ import annotations

import math
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rowgrad.results.paired import METRICS, decimals, spread
from rowgrad.watch.quantities import COSINE
from rowgrad.watch.wording import short_rows

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


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: in a few words.
        header: the columns' names.
        body: a cell for each column, line by line.
        caption: how to read it.
    """

    title: str
    header: list[str]
    body: list[list[str]]
    caption: str = ""

    def markdown(self) -> str:
        """Header and body in Markdown."""
        cells = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in (self.header, *self.body)]
        head, *body = [f"| {line} |" for line in cells]
        return "\n".join([head, "| " + " | ".join("---" for _ in self.header) + " |", *body]) + "\n"

    def section(self) -> str:
        """A section in Markdown, with title and caption."""
        return f"## {self.title}\n\n{self.markdown()}\n{self.caption}\n"

    def condensed(self) -> tuple[Table, str]:
        """The table without columns that are equal in every line, and the values of these columns in words."""
        cells = dict(zip(self.header, zip(*self.body, strict=True), strict=True))
        alike = {name: column[0] for name, column in list(cells.items())[1:] if len(set(column)) == 1}
        if len(self.body) == 1:  # a single line keeps its columns, but for empty ones
            alike = {name: value for name, value in alike.items() if value in {"", "–"}}
        kept = [place for place, name in enumerate(self.header) if name not in alike]
        body = [[line[place] for place in kept] for line in self.body]
        words = ", ".join(f"{name} {value}" for name, value in alike.items() if value not in {"", "–"})
        return Table(self.title, [self.header[place] for place in kept], body, self.caption), words

    def print(self) -> None:
        """Prints it on the console."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(*self.header, title=self.title, caption=self.caption, box=box.SIMPLE, caption_justify="left")
        for line in self.body:
            table.add_row(*line)
        Console(markup=False, width=None if sys.stdout.isatty() else 160).print(table)


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
