"""Logged runs side by side: which are of one setting, what settings differ in, and pairs that differ in one key."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rowgrad.config import as_typed, is_below
from rowgrad.results.differences import differences_table
from rowgrad.results.logged import check_keys, is_seed
from rowgrad.results.page import Shown, Text, count, score_of
from rowgrad.results.paired import spread
from rowgrad.results.table import Table
from rowgrad.scenario.rows import short_rows
from rowgrad.watch.quantities import is_of_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rowgrad.results.logged import LoggedRun
    from rowgrad.results.paired import Pairs
    from rowgrad.results.plots import Plot

MOST = 12  # metrics in a table
LEAD = "A heatmap shows the norm of each row's gradient at each step. Grey is exactly zero: no gradient came back."


class LoggedRuns:
    """Runs of anybody's modules, at least one, that are shown together.

    Args:
        runs: the runs.
        over: further settings in which runs of one setting may differ, beside the seed.

    Raises:
        UserError: no run has one of these settings.
    """

    def __init__(self, runs: Sequence[LoggedRun], over: Sequence[str] = ()) -> None:
        self.runs, self.over = tuple(runs), tuple(over)
        check_keys(over, (run.settings for run in runs))

    @cached_property
    def names(self) -> list[str]:
        """A name for each run: its folder, below the one that all have in common."""
        parents = [run.path.absolute().parent for run in self.runs]
        common = Path(os.path.commonpath(parents))
        return [str((parent / run.name).relative_to(common)) for parent, run in zip(parents, self.runs, strict=True)]

    @cached_property
    def _keys(self) -> list[dict[str, str]]:
        """The settings of each run that its group has in common, as text."""
        return [
            {
                key: as_typed(value)
                for key, value in run.settings.items()
                if not (is_seed(key) or is_below(key, self.over))
            }
            for run in self.runs
        ]

    @cached_property
    def _differing(self) -> list[str]:
        """The settings in which runs differ."""
        every = dict.fromkeys(key for settings in self._keys for key in settings)
        return [key for key in every if len({settings.get(key) for settings in self._keys}) > 1]

    @cached_property
    def group_names(self) -> list[str]:
        """The setting of each run, in words; a run without any setting is a group of its own."""
        told = [_in_words({key: one[key] for key in self._differing if key in one}) for one in self._keys]
        every = list(zip(told, self.names, self.runs, strict=True))
        unnamed = [name for words, name, run in every if run.settings and not words]
        same = unnamed[0] if len(unnamed) == 1 else "all runs"
        return [words or (same if run.settings else name) for words, name, run in every]

    def groups(self) -> dict[str, list[LoggedRun]]:
        """The runs by setting."""
        found: dict[str, list[LoggedRun]] = {}
        for name, run in zip(self.group_names, self.runs, strict=True):
            found.setdefault(name, []).append(run)
        return found

    def pairs(self) -> dict[tuple[str, str], Pairs]:
        """Pairs that agree in the seed and in all settings but one with two values, by the difference and the setting.

        A list is empty if it is ambiguous which runs are a pair. Runs without a seed are in no pair.
        """
        found: dict[tuple[str, str], Pairs] = {}
        for key in self._differing:
            values = sorted({settings.get(key, "") for settings in self._keys})
            if len(values) != len(("with", "without")):
                continue
            control, treated = values
            sides: dict[str, dict[tuple[str, str], list[LoggedRun]]] = {}
            for run, settings in zip(self.runs, self._keys, strict=True):
                rest = _in_words({one: settings[one] for one in self._differing if one in settings and one != key})
                twin = _in_words({one: as_typed(v) for one, v in run.settings.items() if one not in settings})
                if run.seed is not None:
                    sides.setdefault(rest, {}).setdefault((twin, settings.get(key, "")), []).append(run)
            for rest, by_twin in sides.items():
                twins = dict.fromkeys(twin for twin, _ in by_twin)
                both = [(by_twin.get((twin, treated), []), by_twin.get((twin, control), [])) for twin in twins]
                both = [(one, other) for one, other in both if one and other]
                if both:
                    is_clear = all(len(one) == len(other) == 1 for one, other in both)
                    found[f"{key}={treated} − {key}={control}", rest] = (
                        [(one[0], other[0]) for one, other in both] if is_clear else []
                    )
        return found

    @cached_property
    def metrics(self) -> list[str]:
        """The metrics that runs have, the one that is shown with a run first."""
        every = {name: value for run in self.runs for name, value in run.metrics.items()}
        first = score_of(every)
        return [*dict.fromkeys([*([first[0]] if first else []), *every])][:MOST]

    def settings_table(self) -> Table:
        """The settings, a line each: n, steps, rows that are always zero, and means ± sample standard deviations."""
        return self._table("setting", self.groups())

    def runs_table(self) -> Table:
        """The runs, a line each."""
        return self._table("run", {name: [run] for name, run in zip(self.names, self.runs, strict=True)})

    def _table(self, title: str, lines: dict[str, list[LoggedRun]]) -> Table:
        quantities = dict.fromkeys(name for run in self.runs for name in run.numbers if not is_of_layers(name))
        header = [title, "n", "steps", *(f"{name}: always 0" for name in quantities), *self.metrics]
        body = [
            [
                name,
                str(len(runs)),
                ", ".join(dict.fromkeys(str(len(run.steps)) for run in runs)),
                *(", ".join(dict.fromkeys(always_zero(run, quantity) for run in runs)) for quantity in quantities),
                *(_cell(runs, metric) for metric in self.metrics),
            ]
            for name, runs in lines.items()
        ]
        words = "Mean ± sample standard deviation over the n runs of a setting; metrics are the last that were logged."
        several = any(len(runs) > 1 for runs in lines.values())
        return Table(title, header, body, words if several else "")

    def differences(self) -> list[Table]:
        """What each setting with two values changes in the metrics, paired over seeds."""
        by_key: dict[str, dict[tuple[str, str], Pairs]] = {}
        for (key, rest), pairs in self.pairs().items():
            by_key.setdefault(key, {}).update({(rest or "all", metric): pairs for metric in self.metrics})
        tables = [
            differences_table(f"What {key.partition('=')[0]} does", key, some, lambda _: rounded)
            for key, some in by_key.items()
        ]
        return [table for table in tables if table.body]

    def sentences(self) -> list[str]:
        """What each setting with two values changes in the metric that is shown with a run."""
        found = []
        for table in self.differences():
            for setting, metric, pairs, difference, interval, *_ in table.body:
                if metric == self.metrics[0]:
                    said = f" (95 % interval {interval.replace(' … ', ' to ')})" if interval != "–" else ""
                    where = "" if setting == "all" else f"{setting}: "
                    what = table.caption.partition(", paired")[0]
                    found.append(f"{where}{metric}, {what}: {difference}{said}, {pairs} pair{'s' * (pairs != '1')}.")
        return found

    def shown(self) -> list[Shown]:
        """The runs as they are named on a page."""
        return [Shown(*one) for one in zip(self.runs, self.names, self.group_names, strict=True)]

    def text(self) -> Text:
        """What a page says of them around their heatmaps."""
        several = len(self.groups()) < len(self.runs)
        return Text(
            title="The gradient of every row",
            lead=f"{count(len(self.runs))}. {LEAD}",
            sentences=self.sentences(),
            settings=[self.settings_table().condensed()],
            runs=[self.runs_table().condensed()] if several else [],
            answers=self.differences(),
        )


def draw_logged(runs: Sequence[Shown]) -> dict[str, Plot]:
    """The heatmaps of each run, by a name that is good for a file."""
    from rowgrad.results.plots import Plot
    from rowgrad.watch.figures import heatmaps

    def plot(run: LoggedRun) -> Plot:
        return Plot("", "", lambda size: heatmaps(run.steps, run.norms, [], width=size.width, told=run.described))

    return {re.sub(r"[^\w.-]+", "_", one.name): plot(one.run) for one in runs if one.run.norms}


def always_zero(run: LoggedRun, quantity: str) -> str:
    """Which rows of a quantity are exactly 0 at every step that has them."""
    values = run.numbers[quantity].values if quantity in run.numbers else np.zeros((0, 0))
    known = ~np.isnan(values)
    zeros = (((values == 0) | ~known).all(0) & known.any(0)).tolist() if len(values) else []
    if not len(values):
        return "not recorded"
    described = run.described[quantity]
    return short_rows(zeros, described.kind, described.labels)


def rounded(value: float, sign: str = "") -> str:
    """A number with four significant digits."""
    return f"{value:{sign}.4g}"


def _cell(runs: Sequence[LoggedRun], metric: str) -> str:
    values = [run.metrics[metric] for run in runs if metric in run.metrics]
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return "not a number" if values else ""
    return spread(finite, rounded) + (f" (n = {len(finite)})" if len(finite) < len(runs) else "")


def _in_words(settings: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())
