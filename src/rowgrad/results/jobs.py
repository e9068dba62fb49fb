"""The jobs of a sweep, read from its folder: what each was, by setting, and in pairs with and without detach."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rowgrad.errors import UserError
from rowgrad.files import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rowgrad.folders import SweepFolder

SEED, DETACH = "seed", "scenario.detach"


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
            setting = " ".join(called(key, job.overrides[key]) for key in differing if key in job.overrides)
            groups.setdefault(setting or "all jobs", []).append(job)
    return groups


def called(key: str, value: str) -> str:
    """A setting for people: a scenario by its name, its keys without that word, others as they are typed."""
    if key == "scenario":
        return value
    return f"{key.removeprefix('scenario.')}={value.lower() if value in {'True', 'False'} else value}"


def values(jobs: Sequence[Job], metric: str) -> list[float]:
    """A metric of those jobs that have it, as a finite number."""
    found = (job.summary.get(metric) for job in jobs)
    return [value for value in found if isinstance(value, int | float) and math.isfinite(value)]


def pairs(jobs: Sequence[Job]) -> dict[str, list[tuple[Job, Job]]]:
    """Jobs with and without detach that agree in everything else, the seed included; by what they agree in.

    No pair of a setting where two jobs agree in detach as well: nobody could say which of them belongs to a pair.
    """
    return paired(grouped(jobs, SEED, DETACH))


def paired(groups: Mapping[str, Sequence[Job]]) -> dict[str, list[tuple[Job, Job]]]:
    """The same of jobs that agree in everything but their seed and detach, by what they agree in."""
    found = {}
    for setting, group in groups.items():
        sides: dict[str, dict[Any, list[Job]]] = {"true": {}, "false": {}}
        for job in group:
            side = sides.get(job.overrides.get(DETACH, "").lower(), {})
            side.setdefault(job.overrides.get(SEED), []).append(job)
        both = [(some, sides["false"][seed]) for seed, some in sides["true"].items() if seed in sides["false"]]
        if both:
            alone = all(len(treated) == len(control) == 1 for treated, control in both)
            found[setting] = [(treated[0], control[0]) for treated, control in both] if alone else []
    return found
