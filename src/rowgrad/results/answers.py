"""Answers in sentences, of a sweep or of any runs: what detach did, who made the zeros, what was best."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from rowgrad.results.beside import find_baseline, identical
from rowgrad.results.experiments import atlas_sentence
from rowgrad.results.jobs import DETACH, SEED, Job, grouped, paired, pairs, values
from rowgrad.results.names import group_names
from rowgrad.results.paired import compare, percent, spread
from rowgrad.results.vanishing import vanishing_sentence
from rowgrad.scenario.rows import name_rows
from rowgrad.scenario.settings import STATE
from rowgrad.scenario.zeros import ZeroCause
from rowgrad.watch.quantities import COSINE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rowgrad.results.run import Run

    Pairs = Sequence[tuple[Job, Job]]


def answer(jobs: Sequence[Job], runs: Sequence[Run]) -> list[str]:
    """The sentences.

    Args:
        jobs: of the sweep.
        runs: those of them that have trained, opened.
    """
    found = _answers(pairs(jobs), {run.folder.path.name: run for run in runs}, runs)
    return found or [sentence for sentence in [on_settings(jobs)] if sentence]


def answer_runs(runs: Sequence[Run]) -> list[str]:
    """The sentences on runs that need not be of one sweep: of pairs, of observers, of experiments."""
    by_name = {str(run.folder.path.absolute()): run for run in runs}
    done = {name: run for name, run in by_name.items() if run.status == "done"}
    groups: dict[str, list[Job]] = {}
    for setting, (name, run) in zip(group_names(list(done.values()), DETACH), done.items(), strict=True):
        overrides = {SEED: str(run.seed), DETACH: str(run.scenario.detach)}
        groups.setdefault(setting, []).append(Job(name, overrides, run.summary))
    return _answers(paired(groups), by_name, runs)


def _answers(both_of: Mapping[str, Pairs], by_name: Mapping[str, Run], runs: Sequence[Run]) -> list[str]:
    found = [on_detach(setting, both, by_name[both[0][0].name]) for setting, both in both_of.items() if both]
    found += [on_observers(runs), vanishing_sentence(runs), atlas_sentence(runs)]
    return [sentence for sentence in found if sentence]


def on_detach(setting: str, both: Sequence[tuple[Job, Job]], run: Run) -> str:
    """What detach did in one setting, and who made the zeros; nothing where no row is selected.

    Args:
        setting: its name.
        both: jobs with detach, and without, of each seed.
        run: one of those with it.
    """
    if not any(run.selected) or run.zeros_by is None:
        return ""
    maker, rows, accuracy = run.zeros_by, name_rows(run.selected), effect(both, "test/acc")
    if maker is ZeroCause.NONE:
        return f"{setting}: nothing is cut, with detach or without, and {accuracy}."
    if maker is not ZeroCause.DETACH:
        there = "they are there without it too"
        return f"{setting}: {maker.value} makes the zeros of {rows}, not detach: {there}, and {accuracy}."
    if run.scenario.route == STATE:
        cosines = values([treated for treated, _ in both], COSINE)
        turned = f"; its gradient has cosine {statistics.mean(cosines):.2f} with the one without" if cosines else ""
        return f"{setting}: detach cuts the state that is carried into {rows}; {accuracy}{turned}."
    have = [pair for pair in both if len(values(pair, "cut_fraction")) == len(pair)]
    stopped = [a - b for a, b in (values(pair, "cut_fraction") for pair in have)]
    share = f" and stops {percent(statistics.mean(stopped))} of the squared gradient" if stopped else ""
    return f"{setting}: detach makes the zeros of {rows}{share}; {accuracy}."


def effect(both: Sequence[tuple[Job, Job]], metric: str) -> str:
    """What detach does to a share, in words."""
    have = [(a, b) for a, b in both if len(values([a, b], metric)) == 2]  # noqa: PLR2004
    count = f"{len(have)} pair{'s' * (len(have) != 1)}"
    if not have:
        return "no test accuracy is known"
    change = compare(*(values([pair[side] for pair in have], metric) for side in (0, 1)))
    if change.p is None and not change.mean:
        return f"the test accuracy is the same in {count}"
    words = f"it changes the test accuracy by {100 * change.mean:+.2f} points"
    if change.low is None or change.high is None:
        return f"{words} ({count})"
    return f"{words} (95 % interval {100 * change.low:+.2f} to {100 * change.high:+.2f}, {count})"


def on_observers(runs: Sequence[Run]) -> str:
    """Whether runs that only observe are bit-identical to the baseline of their seed, where that is beside them."""
    observing = [run for run in runs if run.scenario.route == "observe" and any(run.selected)]
    seen = [(run, other) for run in observing if (other := find_baseline(run, runs))]
    if not seen:
        return ""
    same = sum(identical(*pair) for pair in seen)
    words = f"{seen[0][0].scenario.name}: bit-identical to baseline with the same seed in {same} of {len(seen)} runs"
    if same == len(seen):
        return f"{words}, every norm and every weight."
    return f"{words} only, which on a GPU needs trainer.deterministic=true."


def on_settings(jobs: Sequence[Job]) -> str:
    """Between which settings the test accuracy lies, where nothing else was asked."""
    settings = {name: found for name, group in grouped(jobs, SEED).items() if (found := values(group, "test/acc"))}
    if len(settings) < 2:  # noqa: PLR2004
        return ""
    worst, *_, best = sorted(settings, key=lambda name: statistics.mean(settings[name]))
    low, high = (f"{spread(settings[name], percent)} ({name}, n = {len(settings[name])})" for name in (worst, best))
    return f"The test accuracy of {len(settings)} settings lies between {low} and {high}."
