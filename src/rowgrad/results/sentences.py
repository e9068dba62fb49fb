"""Sentences: the lines that close a run, and those that a sweep and the report begin with."""

from __future__ import annotations

import shutil
import statistics
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.panel import Panel

from rowgrad.files import command_typed, shown
from rowgrad.folders import DRY
from rowgrad.results.analysis import call_analyses
from rowgrad.results.paired import compare_pairs, finite, spread
from rowgrad.results.runs import RunGroup, find_baseline, find_control, identical
from rowgrad.scenario.rows import name_rows
from rowgrad.scenario.settings import state_words
from rowgrad.scenario.zeros import AT_SOME, ZeroCause
from rowgrad.watch.quantities import COSINE, FACTS, RATIO, arriving
from rowgrad.watch.wording import (
    below_one,
    describe_bias,
    describe_cut,
    describe_no_zeros,
    describe_vanishing,
    describe_zeros,
    listed_rows,
    percent,
    sentence,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rowgrad.data.datamodule import ImageData
    from rowgrad.results.run import Run
    from rowgrad.results.runs import Pairs, RunSet
    from rowgrad.scenario.scenario import Scenario
    from rowgrad.scenario.zeros import Zeros

ACCURACY = "the test accuracy"


def describe_run(run: Run, scenario: Scenario) -> str:
    """The lines that close a run: accuracy, cut rows, control, folder, and how to watch it."""
    lines, summary, folder = [], run.summary, run.folder.path
    if summary["status"] == DRY:
        count = f"{summary['batches']} batch{'es' * (summary['batches'] > 1)}"
        lines.append(
            ("status", f"[bold]dry run[/]: {count} each of training, validation and test; no logs, no checkpoint")
        )
    elif "test/acc" in summary:
        operated = (
            f"; {summary['test/acc_operated']:.2%} with the rows {escape(scenario.operation.phrase)} in every image"
        )
        changed = scenario.route == "replace" and not scenario.is_noop
        lines.append(("test accuracy", f"[bold]{summary['test/acc']:.2%}[/]" + (operated if changed else "")))
    else:
        lines.append(("status", f"[bold]{summary['status']}[/] after step {summary['train/steps']}; not tested"))
    lines += _lines_on_gradients(run, scenario)
    place = escape(str(shown(folder)))
    lines.append(("run's folder", place))
    if summary["status"] == "interrupted":
        lines.append(("go on", f"{command_typed()} resume={place}"))
    if run.folder.events.is_dir():
        lines.append(("watch it", watch_line(folder)))
    return "\n".join(f"{name:15}{words}" for name, words in lines)


def _lines_on_gradients(run: Run, scenario: Scenario) -> list[tuple[str, str]]:
    """Which rows or edges are cut and by what, the control, the weights' gradient, and whether gradient vanishes."""
    summary, lines, counts = run.summary, [], run.cut_counts
    if run.detaches_state:
        lines.append(("cut", scenario.cut_edges()))
        lines.append(("", describe_cut(counts, len(run.steps), "gradient exactly 0.0, in both norms,")))
    else:
        lines.append(("cut", describe_cut(counts, len(run.steps))))
    if stopped := summary.get("cut_fraction"):
        share = f"{stopped:.1%} of the squared gradient at the network's input"
        where = "at the black in their place" if scenario.route == "exclude" else "there"
        lines.append(("", f"{share} arrives {where} and goes no further"))
    if not scenario.is_noop:
        causes = [escape(words) for words in describe_zeros(run.zeros or [], scenario)]
        lines += [("" if place else "made by", words) for place, words in enumerate(causes)]
        if run.zeros == [] and (words := describe_no_zeros(scenario)):
            lines.append(("", words))
        lines += describe_comparison(run)
    if COSINE in summary:
        lines.append(("weights", describe_bias(summary[COSINE], summary[RATIO])))
    if words := describe_vanishing(arriving(run.norms)):
        lines.append(("vanishing", words))
    return lines


def describe_comparison(run: Run) -> list[tuple[str, str]]:
    """A finished run beside its control, or beside the baseline if it only observes, as closing lines."""
    if not run.is_done or "test/acc" not in run.summary:
        return []
    if run.scenario.route == "observe":
        return [("baseline", _describe_baseline(run, find_baseline(run)))]
    return [("control", _describe_control(run, find_control(run)))]


def _describe_baseline(run: Run, baseline: Run | None) -> str:
    if baseline is None:
        return "none with this seed and these settings to check against; scenario=baseline makes one"
    place = escape(str(shown(baseline.folder.path)))
    if identical(run, baseline):
        return f"{place}: checked, every recorded norm and every weight is bit-identical"
    return f"{place}: [bold]not bit-identical[/], which on a GPU needs trainer.deterministic=true"


def _describe_control(run: Run, other: Run | None) -> str:
    detach = run.scenario.detach
    if other is None:
        return f"none beside it; the same command with scenario.detach={str(not detach).lower()} makes one"
    place = f"{escape(str(shown(other.folder.path)))}, {'without' if detach else 'with'} detach:"
    if identical(run, other):
        return f"{place} bit-identical, every recorded norm and every weight. Detach changes nothing"
    treated, control = (run, other) if detach else (other, run)
    stopped = (treated.cut_fraction or 0) - (control.cut_fraction or 0)
    words = f"; detach stops {stopped:.1%} of the squared gradient" if stopped else ""
    return f"{place} {describe_effect([(treated, control)])}{words}"


def watch_line(folder: Path) -> str:
    """The command that shows a folder in TensorBoard, as one would type it here, and the address of the tab."""
    beside = Path(sys.executable).with_name("tensorboard")
    found = "tensorboard" if shutil.which("tensorboard") or not beside.exists() else str(shown(beside))
    return f"{found} --logdir {escape(str(shown(folder)))}, then http://localhost:6006/#{FACTS}"


def fallback_notice(data: ImageData) -> list[Panel]:
    """A red box if other data are used than asked for."""
    if not data.missing:
        return []
    words = f"{escape(data.missing)}\nTraining on [bold]{data.name}[/] instead. data.fallback=null makes this an error."
    return [Panel(words, title="[bold]NOT THE DATA SET YOU ASKED FOR[/]", border_style="bold red")]


def answer_runs(runs: RunSet) -> list[str]:
    """What detach did in each setting, whether observers changed anything, and what the experiments' analyses say."""
    found = [on_detach(name, pairs) for name, pairs in runs.pairs().items() if pairs]
    found += [on_observers(runs.runs), *chain.from_iterable(call_analyses("sentences", runs))]
    return [words for words in found if words]


def answer_jobs(runs: RunSet) -> list[str]:
    """The same for the jobs of a sweep; if there is no answer of these, the range of the test accuracy."""
    return answer_runs(runs) or [words for words in [on_range(runs)] if words]


def on_detach(setting: str, pairs: Pairs) -> str:
    """What detach did in one setting, and what makes the zeros; empty if no row is selected, or if that is unknown.

    Args:
        setting: its name.
        pairs: runs with detach and without, one of each for each seed.
    """
    treated = RunGroup(setting, tuple(run for run, _ in pairs))
    run, zeros, accuracy = treated.first, treated.zeros, describe_effect(pairs)
    if not any(run.selected):
        return ""
    if run.detaches_state:
        cosines = finite(treated.runs, COSINE)
        turned = f"; its gradient has cosine {below_one(statistics.mean(cosines), 2)} with the one without" * bool(
            cosines
        )
        state = f"the {state_words(run.scenario.state)} that is carried into {name_rows(run.selected)}"
        return f"{setting}: detach cuts {state}; {accuracy}{turned}."
    if zeros is None:
        return ""
    if not zeros:
        return f"{setting}: nothing is cut, with detach or without; {accuracy}."
    return f"{setting}: {'; '.join(_on_zeros(part, pairs) for part in zeros)}; {accuracy}."


def _on_zeros(zeros: Zeros, pairs: Pairs) -> str:
    """Which rows' zeros a cause makes, and what share of the gradient it stops if it is detach."""
    words = f"{zeros.cause.value} makes the zeros of {listed_rows(zeros.rows)}"
    if zeros.cause is not ZeroCause.DETACH:
        return f"{words}, not detach, with it and without"
    stopped = compare_pairs(pairs, "cut_fraction")
    words += f" ({AT_SOME} does)" * zeros.partly
    return words + (f" and stops {percent(stopped.mean)} of the squared gradient" if stopped else "")


def describe_effect(pairs: Pairs) -> str:
    """What the pairs show of detach's effect on the test accuracy."""
    paired = compare_pairs(pairs, "test/acc")
    return paired.sentence(ACCURACY) if paired else "no test accuracy is known"


def on_observers(runs: Sequence[Run]) -> str:
    """How many of the runs that only observe are bit-identical to the baseline of their seed."""
    observing = [run for run in runs if run.folder.holds_a_run and run.scenario.route == "observe"]
    pairs = [(run, other) for run in observing if any(run.selected) and (other := find_baseline(run, runs))]
    if not pairs:
        return ""
    same = sum(identical(*pair) for pair in pairs)
    words = f"{pairs[0][0].scenario.name}: bit-identical to baseline with the same seed in {same} of {len(pairs)} runs"
    if same == len(pairs):
        return f"{words}, every norm and every weight."
    return f"{words} only, which on a GPU needs trainer.deterministic=true."


def on_range(runs: RunSet) -> str:
    """Between which settings the test accuracy lies; empty for a single setting."""
    found = {group.name: values for group in runs.done.groups() if (values := finite(group.runs, "test/acc"))}
    if len(found) < 2:  # noqa: PLR2004
        return ""
    worst, *_, best = sorted(found, key=lambda name: statistics.mean(found[name]))
    low, high = (f"{spread(found[name], percent)} ({name}, n = {len(found[name])})" for name in (worst, best))
    return sentence(f"{ACCURACY} of {len(found)} settings lies between {low} and {high}")
