"""A sweep's folder -> a line for each job, tables over seeds, what detach did: printed, `sweep.csv`, `sweep.md`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding

from rowgrad.files import command_typed, shown, write_whole
from rowgrad.folders import DRY
from rowgrad.results.jobs import SEED, as_csv, grouped, pairs, read_jobs, values
from rowgrad.results.paired import METRICS, Paired, compare, corrected, decimals, spread
from rowgrad.results.tables import Table
from rowgrad.watch.quantities import COSINE, RATIO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rowgrad.folders import SweepFolder
    from rowgrad.results.jobs import Job
    from rowgrad.results.run import Run

# What goes without saying: detaching images leaves the weights' gradient as it is.
PLAIN: dict[str, set[float]] = {COSINE: {1.0}, RATIO: {1.0}}
COMPARED = ("test/acc", "test/loss", "cut_fraction")
COMPLETE = {"done", DRY}  # of a job, where there is nothing left to do


def seeds_table(jobs: Sequence[Job]) -> Table:
    """Every setting, over its seeds."""
    metrics = [
        metric for metric in [*METRICS, *_further_metrics(jobs)] if set(values(jobs, metric)) - PLAIN.get(metric, set())
    ]
    body = []
    for setting, group in grouped(jobs, SEED).items():
        found = {metric: values(group, metric) for metric in metrics}
        count = max(map(len, found.values()), default=0)
        cells = (
            spread(numbers, METRICS.get(metric, decimals)) + f" (n = {len(numbers)})" * (0 < len(numbers) < count)
            for metric, numbers in found.items()
        )
        body.append([setting, str(count), *cells])
    caption = (
        "Mean ± sample standard deviation over the n finished jobs of a setting, one a seed, that have a number; where"
        " a metric has fewer than the others, its cell says so."
    )
    return Table("Over seeds", ["setting", "n", *metrics], body, caption)


def _further_metrics(jobs: Sequence[Job]) -> list[str]:
    """What else was measured on validation and test images."""
    names = dict.fromkeys(name for job in jobs for name in job.summary if name.startswith(("val/", "test/")))
    return [name for name in names if name not in METRICS and name != "val/loss"]


def detach_table(jobs: Sequence[Job]) -> Table | None:
    """The effect of detach in every setting that was trained with it and without; None where there is none."""
    body, tests = [], []
    for setting, both in pairs(jobs).items():
        if not both:
            body.append([setting, "–", "0", "not paired: two jobs have one seed and are alike", "–", "–"])
            tests.append(None)
        for metric in COMPARED:
            have = [(a, b) for a, b in both if values([a, b], metric)[1:]]
            treated, control = (values([pair[side] for pair in have], metric) for side in (0, 1))
            if not have or (metric == "cut_fraction" and not any(treated + control)):
                continue  # nothing is cut here either way
            paired = compare(treated, control)
            body.append([setting, metric, *_effect(paired, METRICS[metric])])
            tests.append(paired.p)
    header = ["setting", "metric", "pairs", "difference", "95 % interval", "p"]
    many = ""
    if (count := sum(p is not None for p in tests)) > 1:
        header.append(f"p of {count} tests")
        for line, p in zip(body, corrected(tests), strict=True):
            line.append("–" if p is None else f"{p:.2g}")
        many = f" The last column is corrected for the {count} tests (Benjamini and Hochberg 1995)."
    caption = (
        "detach=true − detach=false, paired over seeds. Interval and p: paired t-test (scipy.stats.ttest_rel,"
        f" two-sided); – where there are fewer than two pairs or the differences do not vary.{many} Differences of"
        " shares are in percentage points."
    )
    return Table("What detach does", header, body, caption) if body else None


def _effect(paired: Paired, show: Callable[..., str]) -> list[str]:
    mean = show(paired.mean, "+").replace("%", "pp") if paired.mean else "0 in every pair" if paired.p is None else "0"
    if paired.low is None or paired.high is None or paired.p is None:
        return [str(paired.count), mean, "–", "–"]
    interval = f"{show(paired.low, '+').removesuffix(' %')} … {show(paired.high, '+').replace('%', 'pp')}"
    return [str(paired.count), mean, interval, f"{paired.p:.2g}"]


def describe_sweep(folder: SweepFolder, jobs: Sequence[Job]) -> str:
    """What became of the jobs, one line for each that is not done, and how to go on."""
    counts = {status: sum(job.status == status for job in jobs) for status in dict.fromkeys(job.status for job in jobs)}
    lines = [("sweep", f"{shown(folder.path)}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))]
    rest = [job for job in jobs if job.status not in COMPLETE]
    lines += [(job.status, f"{job.name}: {_cause(job)}") for job in rest]
    if missing := max(folder.planned - len(jobs), 0):
        lines.append(("never started", f"{missing} of {folder.planned} jobs"))
    if rest or missing:
        lines.append(("go on", f"{command_typed()} {folder.RESUME}{shown(folder.path)}"))
    lines.append(("tables", f"{shown(folder.answers_file)}, {shown(folder.table_file)}"))
    return "\n".join(f"{name:15}{words}" for name, words in lines)


def _cause(job: Job) -> str:
    without = {"killed": "before it could say anything", "running": "in another process"}.get(job.status)
    return job.summary.get("error") or without or f"after step {job.summary.get('train/steps')}"


def answer_sweep(folder: SweepFolder) -> bool:
    """Writes `sweep.csv`, `sweep.md` and the report, prints the tables and what became of the jobs.

    Returns:
        Whether all jobs that were started are done.
    """
    jobs = read_jobs(folder)
    # The page shows what was trained: a job that failed before its first step has nothing to show.
    by_name = {job.path.name: job for job in folder.jobs()}
    trained = [by_name[job.name] for job in jobs if by_name[job.name].holds_a_run]
    runs: list[Run] = []
    sentences: list[str] = []
    if trained:  # late: a sweep of typing mistakes need not wait for it
        from rowgrad.results.answers import answer
        from rowgrad.results.run import Run

        runs = [Run(run) for run in trained]
        sentences = answer(jobs, runs)
    tables = [table for table in (seeds_table(jobs), detach_table(jobs), *_answers(runs)) if table and table.body]
    lines = describe_sweep(folder, jobs)
    write_whole(folder.table_file, as_csv(jobs))
    write_whole(folder.answers_file, _page(folder, lines, sentences, tables))
    _print(sentences, tables)
    print(lines)
    if runs:
        from rowgrad.results.ending import watch_line
        from rowgrad.results.report import write_report

        page = write_report(runs, folder.report, answers=tables, sentences=sentences)
        print(f"{'report':15}{shown(page)}")
        print(f"{'watch it':15}{watch_line(folder.path)}")
    return all(job.status in COMPLETE for job in jobs)


def _page(folder: SweepFolder, lines: str, sentences: Sequence[str], tables: Sequence[Table]) -> str:
    """`sweep.md`: the answers before the numbers."""
    command = f"{command_typed()} {shlex.join(folder.read()['command'])}"
    answers = "".join(f"- {sentence}\n" for sentence in sentences)
    head = f"# {folder.path.name}\n\n    {command}\n\n{answers}\n```text\n{lines}\n```\n"
    return "\n".join([head, *(table.section() for table in tables)])


def _print(sentences: Sequence[str], tables: Sequence[Table]) -> None:
    console = Console(markup=False, highlight=False, emoji=False)
    for sentence in sentences:
        console.print(Padding(sentence, (0, 0, 1, 0)))
    for table in tables:
        table.print()


def _answers(runs: Sequence[Run]) -> list[Table | None]:
    """Tables of single experiments."""
    if not runs:
        return []
    from rowgrad.results.truncation import truncation_table
    from rowgrad.results.vanishing import vanishing_table

    return [vanishing_table(runs), truncation_table(runs)]
