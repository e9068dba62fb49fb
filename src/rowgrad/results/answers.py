"""A sweep's answers in sentences, one for each question: what detach did, who made the zeros, what was best."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from rowgrad.results.beside import find_baseline, identical
from rowgrad.results.experiments import atlas_sentence
from rowgrad.results.jobs import SEED, grouped, pairs, values
from rowgrad.results.paired import compare, percent, spread
from rowgrad.results.vanishing import vanishing_sentence
from rowgrad.scenario.maker import Maker
from rowgrad.scenario.rows import name_rows
from rowgrad.scenario.settings import STATE
from rowgrad.watch.quantities import COSINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rowgrad.results.jobs import Job
    from rowgrad.results.run import Run

Pairs = "Sequence[tuple[Job, Job]]"


def answer(jobs: Sequence[Job], runs: Sequence[Run]) -> list[str]:
    """The sentences.

    Args:
        jobs: of the sweep.
        runs: those of them that have trained, opened.
    """
    by_name = {run.folder.path.name: run for run in runs}
    found = [on_detach(setting, both, by_name[both[0][0].name]) for setting, both in pairs(jobs).items() if both]
    found += [on_observers(runs)]
    found += [vanishing_sentence(runs), atlas_sentence(runs)]
    if not any(found):
        found = [on_settings(jobs)]
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
    if maker is Maker.NOBODY:
        return f"{setting}: nothing is cut, with detach or without, and {accuracy}."
    if maker is not Maker.DETACH:
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
    paired = compare(*(values([pair[side] for pair in have], metric) for side in (0, 1)))
    if paired.p is None and not paired.mean:
        return f"the test accuracy is the same in {count}"
    change = f"it changes the test accuracy by {100 * paired.mean:+.2f} points"
    if paired.low is None or paired.high is None:
        return f"{change} ({count})"
    return f"{change} (95 % interval {100 * paired.low:+.2f} to {100 * paired.high:+.2f}, {count})"


def on_observers(runs: Sequence[Run]) -> str:
    """Whether runs that only observe are bit-identical to the baseline of their seed, where that is beside them."""
    observing = [run for run in runs if run.scenario.route == "observe" and any(run.selected)]
    seen = [(run, other) for run in observing if (other := find_baseline(run))]
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
