"""A sweep's folder -> a line for each job, tables over seeds, what detach did: printed, `sweep.csv`, `sweep.md`."""

from __future__ import annotations

import csv
import io
import math
import re
import shlex
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rowgrad.errors import UserError
from rowgrad.files import command_typed, read_json, shown, write_whole
from rowgrad.folders import DRY
from rowgrad.results.tables import Table
from rowgrad.watch.quantities import COSINE, RATIO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rowgrad.folders import SweepFolder
    from rowgrad.results.run import Run

SEED, DETACH = "seed", "scenario.detach"
CONFIDENCE = 0.95
FLOAT32 = 2.0**-23  # metrics are measured in 32 bits: the last digit of a number, relative to the number
COMPLETE = {"done", DRY}  # of a job, where there is nothing left to do


@dataclass(frozen=True)
class Job:
    """A job's folder.

    Attributes:
        name: of the folder.
        overrides: key -> value as typed, both without blanks.
        summary: what `summary.json` holds.
        runs: whether a process trains it.
    """

    name: str
    overrides: dict[str, str]
    summary: dict[str, Any]
    runs: bool = False

    @property
    def status(self) -> str:
        """`done`, `failed`, `interrupted`, `running`, or `killed`."""
        return str(self.summary.get("status") or ("running" if self.runs else "killed"))


@dataclass(frozen=True)
class Paired:
    """The mean difference of n pairs; interval and p are None where no test can be made.

    Attributes:
        mean: mean of the differences.
        count: n.
        low: lower end of the 95 % interval of the mean.
        high: upper end.
        p: two-sided p-value.
    """

    mean: float
    count: int
    low: float | None = None
    high: float | None = None
    p: float | None = None


def percent(value: float, sign: str = "") -> str:
    """A share in percent."""
    return f"{value:{sign}.2%}".replace("%", " %")


def decimals(value: float, sign: str = "") -> str:
    """A number with four decimals."""
    return f"{value:{sign}.4f}"


METRICS: dict[str, Callable[..., str]] = {
    "val/acc": percent,
    "test/acc": percent,
    "test/acc_operated": percent,
    "test/loss": decimals,
    "cut_fraction": percent,
    COSINE: decimals,
    RATIO: decimals,
}
# What goes without saying: detaching images leaves the weights' gradient as it is.
PLAIN: dict[str, set[float]] = {COSINE: {1.0}, RATIO: {1.0}}
COMPARED = ("test/acc", "test/loss", "cut_fraction")


def read_jobs(folder: SweepFolder) -> list[Job]:
    """The jobs of a sweep that were started, in the order of their names, numbers by their size."""
    found = []
    for job in folder.jobs():
        words = read_json(job.job_file).get("overrides")
        if not isinstance(words, list) or not all(isinstance(word, str) and "=" in word for word in words):
            raise UserError(f"{job.job_file} cannot be read: it holds no job's overrides.")
        overrides = dict(word.split("=", 1) for word in words)
        found.append(Job(job.path.name, overrides, job.read_summary(), job.is_trained_now))
    parts = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
    return sorted(
        found, key=lambda job: [(0, float(p), "") if parts.fullmatch(p) else (1, 0, p) for p in parts.split(job.name)]
    )


def as_csv(jobs: Sequence[Job]) -> str:
    """One line a job: its folder, status and error, its overrides, and all fields of its summary."""
    lines = [
        {"job": job.name, "status": job.status, "error": job.summary.get("error", ""), **job.overrides, **job.summary}
        for job in jobs
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def grouped(jobs: Sequence[Job], *without: str) -> dict[str, list[Job]]:
    """Finished jobs by the overrides in which the sweep's jobs differ, leaving out some keys."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.overrides if key not in without))
    differing = [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        if job.status == "done":
            setting = " ".join(f"{key}={job.overrides[key]}" for key in differing if key in job.overrides)
            groups.setdefault(setting or "all jobs", []).append(job)
    return groups


def values(jobs: Sequence[Job], metric: str) -> list[float]:
    """A metric of those jobs that have it, as a finite number."""
    found = (job.summary.get(metric) for job in jobs)
    return [value for value in found if isinstance(value, int | float) and math.isfinite(value)]


def spread(numbers: Sequence[float], show: Callable[..., str]) -> str:
    """Mean ± sample standard deviation; the mean alone for one number."""
    if not numbers:
        return "–"
    mean = show(statistics.mean(numbers))
    return mean if len(numbers) == 1 else f"{mean.removesuffix(' %')} ± {show(statistics.stdev(numbers))}"


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


def compare(treated: Sequence[float], control: Sequence[float]) -> Paired:
    """Paired t-test (Student 1908; `scipy.stats.ttest_rel`) of treated − control.

    There is no test of fewer than two pairs, nor of differences without any spread: the interval and p are None.
    """
    from scipy import stats

    differences = [a - b for a, b in zip(treated, control, strict=True)]
    mean = statistics.mean(differences)
    largest = max(abs(value) for value in (*treated, *control))
    # Rounding moves a float32 by half of its last digit, a difference of two by one, and two differences apart by two.
    if len(differences) < 2 or max(differences) - min(differences) <= 2 * FLOAT32 * largest:  # noqa: PLR2004
        return Paired(mean, len(differences))
    result = stats.ttest_rel(treated, control)
    interval = result.confidence_interval(CONFIDENCE)
    return Paired(mean, len(differences), float(interval.low), float(interval.high), float(result.pvalue))


def pairs(jobs: Sequence[Job]) -> dict[str, list[tuple[Job, Job]]]:
    """Jobs with and without detach that agree in everything else, the seed included; by what they agree in.

    No pair of a setting where two jobs agree in detach as well: nobody could say which of them belongs to a pair.
    """
    found = {}
    for setting, group in grouped(jobs, SEED, DETACH).items():
        sides: dict[str, dict[Any, list[Job]]] = {"true": {}, "false": {}}
        for job in group:
            side = sides.get(job.overrides.get(DETACH, "").lower(), {})
            side.setdefault(job.overrides.get(SEED), []).append(job)
        both = [(some, sides["false"][seed]) for seed, some in sides["true"].items() if seed in sides["false"]]
        if both:
            alone = all(len(treated) == len(control) == 1 for treated, control in both)
            found[setting] = [(treated[0], control[0]) for treated, control in both] if alone else []
    return found


def detach_table(jobs: Sequence[Job]) -> Table | None:
    """The effect of detach in every setting that was trained with it and without; None where there is none."""
    body = []
    for setting, both in pairs(jobs).items():
        if not both:
            body.append([setting, "–", "0", "not paired: two jobs have one seed and are alike", "–", "–"])
        for metric in COMPARED:
            have = [(a, b) for a, b in both if values([a, b], metric)[1:]]
            treated, control = (values([pair[side] for pair in have], metric) for side in (0, 1))
            if not have or (metric == "cut_fraction" and not any(treated + control)):
                continue  # nothing is cut here either way
            body.append([setting, metric, *_effect(compare(treated, control), METRICS[metric])])
    caption = (
        "detach=true − detach=false, paired over seeds. Interval and p: paired t-test (scipy.stats.ttest_rel,"
        " two-sided), not corrected for the number of tests; – where there are fewer than two pairs or the differences"
        " do not vary. Differences of shares are in percentage points."
    )
    header = ["setting", "metric", "pairs", "difference", "95 % interval", "p"]
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
    if rest:
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
    if trained:  # late: a sweep of typing mistakes need not wait for it
        from rowgrad.results.run import Run

        runs = [Run(run) for run in trained]
    tables = [table for table in (seeds_table(jobs), detach_table(jobs), *_answers(runs)) if table and table.body]
    command = shlex.join(folder.read()["command"])
    lines = describe_sweep(folder, jobs)
    head = f"# {folder.path.name}\n\n    {command_typed()} {command}\n\n```text\n{lines}\n```\n"
    write_whole(folder.table_file, as_csv(jobs))
    write_whole(folder.answers_file, "\n".join([head, *(table.section() for table in tables)]))
    for table in tables:
        table.print()
    print(lines)
    if runs:
        from rowgrad.results.report import write_report

        print(f"{'report':15}{shown(write_report(runs, folder.report, answers=tables))}")
    return all(job.status in COMPLETE for job in jobs)


def _answers(runs: Sequence[Run]) -> list[Table | None]:
    """Tables of single experiments."""
    if not runs:
        return []
    from rowgrad.results.truncation import truncation_table
    from rowgrad.results.vanishing import vanishing_table

    return [vanishing_table(runs), truncation_table(runs)]
