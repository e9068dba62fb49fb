"""Runs, whatever has trained them, on one page: `rowgrad.show`, and what `scripts/report.py` writes."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

from rowgrad.errors import UserError, need_pipeline
from rowgrad.results.logged import LoggedRun
from rowgrad.results.logged_runs import LoggedRuns
from rowgrad.results.opening import open_run
from rowgrad.results.page import Page, Shown, Text, make_page

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rowgrad.results.runs import RunSet
    from rowgrad.results.table import Table


def show(
    runs: LoggedRun | str | PathLike[str] | Sequence[LoggedRun | str | PathLike[str]],
    *,
    group_by: Sequence[str] = (),
    steps: int | None = None,
) -> Page:
    """Shows runs in a notebook's cell, as the tab *Rows* does in TensorBoard, without a server.

    Example:
        >>> run = train("data=digits", "trainer.max_steps=2")
        >>> show(run)
        <page of 1 run, 0.1 MB: save(path) writes it>

    Args:
        runs: a run or several, or their folders.
        group_by: settings in which averaged runs may differ, beside the seed.
        steps: the most steps of a run; by default all, or as many as fit 5 MB.

    Returns:
        The page: a notebook shows it, `save(path)` writes it to a file.

    Raises:
        UserError: there is no run, or a file of it cannot be read.
    """
    several = [runs] if isinstance(runs, LoggedRun | str | PathLike) else list(runs)
    if not several:
        raise UserError("show(runs): there is no run in the list.")
    opened = [run if isinstance(run, LoggedRun) else open_run(run) for run in several]
    return make_page(Both(opened, group_by).shown(), steps=steps)


class Both:
    """Runs of this project's pipeline, and of anybody's modules, side by side.

    Args:
        runs: at least one.
        over: settings in which runs of one setting may differ, beside the seed.
    """

    def __init__(self, runs: Sequence[LoggedRun], over: Sequence[str] = ()) -> None:
        logged = [run for run in runs if type(run) is LoggedRun]
        own: list[Any] = [run for run in runs if type(run) is not LoggedRun]
        self.logged = LoggedRuns(logged, over) if logged else None
        self.own: RunSet | None = None
        if own:
            from rowgrad.results.runs import RunSet

            self.own = RunSet(own, over)

    def shown(self) -> list[Shown]:
        """All runs as they are named on a page; equal names are numbered."""
        found: list[Shown] = []
        if self.own is not None:
            from rowgrad.results.report import shown_runs

            found += shown_runs(self.own)
        found += self.logged.shown() if self.logged else []
        names = [one.name for one in found]
        again = [names[:place].count(name) for place, name in enumerate(names)]
        return [
            Shown(one.run, f"{one.name} ({n + 1})" if n else one.name, one.group)
            for one, n in zip(found, again, strict=True)
        ]

    def text(self, *, brief: bool = False) -> Text:
        """What a page says of them; in brief, without the figures that any runs have."""
        parts = [self.logged.text()] if self.logged else []
        if self.own is not None:
            from rowgrad.results.report import describe_runs

            parts.insert(0, describe_runs(self.own, brief=brief))
        return parts[0] if len(parts) == 1 else parts[0].followed_by(parts[1])

    def tables(self) -> list[Table]:
        """The runs, a line each."""
        found = [self.logged.runs_table()] if self.logged else []
        if self.own is not None:
            from rowgrad.results.tables import compare_runs

            found.insert(0, compare_runs(self.own))
        return found

    def write_figures(self, folder: Path) -> int:
        """Writes figures for a paper, each as PNG and SVG for a page and for a column, and returns how many files.

        Raises:
            NotInstalledError: the extra `pipeline` is not installed.
        """
        need_pipeline()
        from rowgrad.results.figure_files import write_figures
        from rowgrad.results.logged_runs import draw_logged

        files = write_figures(draw_logged(self.logged.shown()), folder) if self.logged else 0
        if self.own is not None:
            from rowgrad.results.report import draw

            files += write_figures(draw(self.own), folder)
        return files
