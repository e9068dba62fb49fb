"""The lines at the end of a run: accuracy, which rows were cut, where it is, how to watch it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.panel import Panel

from rowgrad.files import command_typed, shown
from rowgrad.folders import DRY
from rowgrad.results.beside import describe_beside
from rowgrad.scenario.rows import name_rows
from rowgrad.scenario.settings import STATE
from rowgrad.scenario.zeros import ZeroCause, describe_zeros
from rowgrad.watch.quantities import COSINE, FACTS, RATIO
from rowgrad.watch.vanishing import arrived, describe_vanishing

if TYPE_CHECKING:
    from rowgrad.data.datamodule import ImageData
    from rowgrad.results.run import Run
    from rowgrad.scenario.scenario import Scenario


def _describe_cut(run: Run, exactly: str = "row gradient exactly 0.0") -> str:
    counts, steps = run.cut_counts, len(run.steps)
    if counts is None:
        return "not recorded"
    always, sometimes = counts == steps, (counts > 0) & (counts < steps)
    if not counts.any():
        return "no row: gradient reached every row"
    if not always.any():
        return f"{name_rows(sometimes.tolist())}: {exactly} at some of {steps} steps"
    words = f"{name_rows(always.tolist())}: {exactly} at each of {steps} steps"
    return words + (f"; {name_rows(sometimes.tolist())} at some of them" if sometimes.any() else "")


def describe_run(run: Run, scenario: Scenario) -> str:
    """What people want to know at the end of a run: accuracy, cut rows, folder, and how to watch it."""
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
    """Which edges or rows were cut and by whom, what that did to the weights' gradient, whether gradient vanishes."""
    summary, lines = run.summary, []
    if scenario.route == STATE and scenario.detach and not scenario.is_noop:
        lines.append(("cut", scenario.cut_edges()))
        lines.append(("", _describe_cut(run, "gradient exactly 0.0, in both norms,")))
    else:
        lines.append(("cut", _describe_cut(run)))
    if summary["cut_fraction"]:
        share = f"{summary['cut_fraction']:.1%} of the squared gradient at the network's input"
        there = "at the black in their place" if scenario.route == "exclude" else "there"
        lines.append(("", f"{share} arrives {there} and goes no further"))
    if not scenario.is_noop:
        found, counts = ZeroCause(summary["zeros_by"]), run.cut_counts
        if found is ZeroCause.NONE or counts is None or counts.any():  # nobody made a zero that is not there
            words = describe_zeros(found, detach=scenario.detach, route=scenario.route)
            lines.append(("" if found is ZeroCause.NONE else "made by", words))
        lines += describe_beside(run)
    if COSINE in summary:
        lines.append(("weights", _describe_bias(summary[COSINE], summary[RATIO])))
    if words := describe_vanishing(arrived(run.norms)):
        lines.append(("vanishing", words))
    return lines


def _describe_bias(cosine: float, ratio: float) -> str:
    if cosine == ratio == 1:
        return "on the same batch, their gradient is exactly what it would be without detach"
    return f"their gradient beside the one without detach: cosine {cosine:.4f}, {ratio:.4f} of its norm (means)"


def watch_line(folder: Path) -> str:
    """How TensorBoard shows what is below a folder, as one would type it here, and where its tab is then."""
    beside = Path(sys.executable).with_name("tensorboard")
    found = "tensorboard" if shutil.which("tensorboard") or not beside.exists() else str(shown(beside))
    return f"{found} --logdir {escape(str(shown(folder)))}, then http://localhost:6006/#{FACTS}"


def fallback_notice(data: ImageData) -> list[Panel]:
    """Says where nobody can miss it that other data are used; empty where they are not."""
    if not data.missing:
        return []
    words = f"{escape(data.missing)}\nTraining on [bold]{data.name}[/] instead. data.fallback=null makes this an error."
    return [Panel(words, title="[bold]NOT THE DATA SET YOU ASKED FOR[/]", border_style="bold red")]
