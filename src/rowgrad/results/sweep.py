"""A sweep's folder -> a line for each job, tables over seeds, the effect of detach: `sweep.csv`, `sweep.md`, report."""

from __future__ import annotations

import csv
import io
import shlex
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from rich.console import Console

from rowgrad.files import command_typed, shown, write_whole
from rowgrad.folders import DRY
from rowgrad.results.differences import differences_table
from rowgrad.results.paired import finite
from rowgrad.results.runs import RunSet
from rowgrad.results.tables import METRICS, mean_cell, over_seeds
from rowgrad.watch.quantities import COSINE, RATIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rowgrad.folders import SweepFolder
    from rowgrad.results.run import Run
    from rowgrad.results.table import Table

# Values that are not worth a column: detaching images leaves the weights' gradient as it is.
PLAIN: dict[str, set[float]] = {COSINE: {1.0}, RATIO: {1.0}}
LEFT_OUT = ("val/loss", "train/seconds")
COMPARED = ("test/acc", "test/loss", "cut_fraction")
BY_DEFINITION = "cut_fraction"  # what detach changes by definition is not tested
COMPLETE = {"done", DRY}  # of a job that has nothing left to do


def as_csv(jobs: RunSet) -> str:
    """One line a job: its folder, status and error, its overrides, and all fields of its summary."""
    lines = [
        {"job": job.name, "status": job.status, "error": job.summary.get("error", ""), **job.overrides, **job.summary}
        for job in jobs.runs
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def seeds_table(jobs: RunSet) -> Table:
    """Every setting: means over its seeds, also of further metrics of validation and test images."""
    done = jobs.done
    measured = [name for run in done.runs for name in run.summary if name.startswith(("val/", "test/"))]
    metrics = [
        metric
        for metric in dict.fromkeys([*METRICS, *measured])
        if metric not in LEFT_OUT and set(finite(done.runs, metric)) - PLAIN.get(metric, set())
    ]
    return over_seeds("Over seeds", done.groups(), metrics, mean_cell)


def detach_table(jobs: RunSet) -> Table | None:
    """The effect of detach in every setting that was trained with it and without; None if no setting was."""
    table = differences_table(
        "What detach does",
        "detach=true − detach=false",
        {(setting, name): pairs for setting, pairs in jobs.pairs().items() for name in COMPARED},
        lambda metric: METRICS[metric].show,
        untested=BY_DEFINITION,
    )
    words = " The cut fraction is not tested, because detach changes it by definition."
    return replace(table, caption=f"{table.caption}{words}") if table.body else None


def describe_sweep(folder: SweepFolder, jobs: RunSet) -> str:
    """How the jobs ended, one line for each that is not done, and how to go on."""
    statuses = [job.status for job in jobs.runs]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    lines = [("sweep", f"{shown(folder.path)}: {counts}")]
    rest = [job for job, status in zip(jobs.runs, statuses, strict=True) if status not in COMPLETE]
    lines += [(job.status, f"{job.name}: {_reason(job)}") for job in rest]
    if missing := max(folder.planned - len(jobs.runs), 0):
        lines.append(("never started", f"{missing} of {folder.planned} jobs"))
    if rest or missing:
        lines.append(("go on", f"{command_typed()} {folder.RESUME}{shown(folder.path)}"))
    lines.append(("tables", f"{shown(folder.answers_file)}, {shown(folder.table_file)}"))
    return "\n".join(f"{name:15}{words}" for name, words in lines)


def _reason(job: Run) -> str:
    without = {"killed": "before it could say anything", "running": "in another process"}.get(job.status)
    return job.summary.get("error") or without or f"after step {job.summary.get('train/steps')}"


def answer_sweep(folder: SweepFolder) -> bool:
    """Writes `sweep.csv`, `sweep.md` and the report, prints the tables and how the jobs ended.

    Returns:
        Whether all jobs that were started are done.
    """
    jobs = RunSet.of_sweep(folder)
    trained, sentences, found = jobs.trained, [], []
    if trained.runs:  # late: a sweep of typing mistakes need not import torch
        from rowgrad.results.analysis import call_analyses
        from rowgrad.results.sentences import answer_jobs

        sentences, found = answer_jobs(trained), chain.from_iterable(call_analyses("tables", trained))
    tables = [table for table in (seeds_table(jobs), detach_table(jobs), *found) if table and table.body]
    lines = describe_sweep(folder, jobs)
    write_whole(folder.table_file, as_csv(jobs))
    write_whole(folder.answers_file, _page(folder, lines, sentences, tables))
    console = Console(markup=False, highlight=False, emoji=False)
    for sentence in sentences:
        console.print(sentence, end="\n\n")
    for table in tables:
        table.print()
    print(lines)
    if trained.runs:
        from rowgrad.results.report import write_report
        from rowgrad.results.sentences import watch_line

        page = write_report(trained, folder.report, answers=tables, sentences=sentences)
        print(f"{'report':15}{shown(page)}")
        print(f"{'watch it':15}{watch_line(folder.path)}")
    return all(job.status in COMPLETE for job in jobs.runs)


def _page(folder: SweepFolder, lines: str, sentences: Sequence[str], tables: Sequence[Table]) -> str:
    """`sweep.md`: the answers before the numbers."""
    command = f"{command_typed()} {shlex.join(folder.read()['command'])}"
    answers = "".join(f"- {sentence}\n" for sentence in sentences)
    head = f"# {folder.path.name}\n\n    {command}\n\n{answers}\n```text\n{lines}\n```\n"
    return "\n".join([head, *(table.section() for table in tables)])
