"""Several runs: which are of one setting, what tells settings apart, and which runs differ in detach alone."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rowgrad.config import NAME, as_typed, flat, is_below
from rowgrad.errors import UserError
from rowgrad.files import configs_folder, read_json
from rowgrad.folders import RunFolder, read_yaml
from rowgrad.results.logged import check_keys
from rowgrad.results.run import Run
from rowgrad.scenario.settings import ScenarioSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from rowgrad.folders import SweepFolder
    from rowgrad.scenario.zeros import Zeros

Curves = tuple[np.ndarray, np.ndarray]  # steps (T,), and values of N seeds at them, (N, T)
Pairs = list[tuple[Run, Run]]  # with detach, and without

DETACH = "scenario.detach"
# What two runs that are compared with each other must have in common beside their setting.
TWIN_KEYS = ("seed", "model.checkpoint", "callbacks.recorder")
# A part of a config that has a name is compared with parts of that name only.
NAME_KEYS = {"corruption": "corruption.name", **dict.fromkeys(("model", "optimizer", "trainer"), "model.name")}


@dataclass(frozen=True)
class RunGroup:
    """Runs of one setting: they differ in their seed alone.

    Attributes:
        name: what tells the setting from the others.
        runs: at least one.
    """

    name: str
    runs: tuple[Run, ...]

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def title(self) -> str:
        """The name, and the number of seeds if there are several."""
        kind = "seeds" if len({run.seed for run in self.runs}) == len(self.runs) else "runs"
        return self.name if len(self.runs) == 1 else f"{self.name}, n = {len(self.runs)} {kind}"

    @property
    def first(self) -> Run:
        """Any of the runs, for what they have in common."""
        return self.runs[0]

    @cached_property
    def recorded(self) -> tuple[Run, ...]:
        """The runs with recorded steps; only the first of them if they have no steps in common."""
        some = tuple(run for run in self.runs if len(run.steps))
        return some if some and len(_common(some)) else some[:1]

    @cached_property
    def steps(self) -> Tensor | None:
        """The steps that all of them have recorded, (T,)."""
        return _common(self.recorded) if self.recorded else None

    @cached_property
    def norms(self) -> dict[str, Tensor]:
        """Norms (T, H) by their names, averaged over seeds: 0 exactly where every seed has 0."""
        import torch

        if self.steps is None:
            return {}
        names = [name for name in self.recorded[0].norms if all(name in run.norms for run in self.recorded)]
        rows = [torch.isin(run.steps, self.steps) for run in self.recorded]
        both = list(zip(self.recorded, rows, strict=True))
        return {name: torch.stack([run.norms[name].double()[at] for run, at in both]).mean(0) for name in names}

    @cached_property
    def thetas(self) -> list[Tensor]:
        """θ (C, H, W) of the runs that have a checkpoint."""
        return [run.theta.float() for run in self.runs if run.theta is not None]

    @cached_property
    def is_cut(self) -> bool | None:
        """Whether any row was cut at any step; None if that was not recorded."""
        counts = [run.cut_counts for run in self.recorded]
        known = [bool(count.any()) for count in counts if count is not None]
        return any(known) if known and len(known) == len(counts) else None

    @property
    def stopped(self) -> float:
        """The cut fraction, averaged over seeds; 0 if it is unknown."""
        known = [share for run in self.runs if (share := run.cut_fraction) is not None]
        return statistics.mean(known) if known else 0.0

    @cached_property
    def zeros(self) -> list[Zeros] | None:
        """The rows with zeros by cause, the most frequent cause first; None if a run does not know its causes."""
        from rowgrad.scenario.zeros import merge_zeros

        found = [run.zeros for run in self.runs]
        return None if None in found else merge_zeros(zeros for zeros in found if zeros)

    def curves(self, tags: Sequence[str]) -> dict[str, Curves]:
        """Curves of the event files by their tags, at the steps that all seeds have."""
        each = [run.curves(tags) for run in self.runs]
        found = {}
        for tag in tags:
            tables = [dict(zip(*curves[tag], strict=True)) for curves in each if tag in curves]
            steps = sorted(set.intersection(*map(set, tables))) if tables else []
            if tables and not steps:
                tables, steps = tables[:1], sorted(tables[0])
            if tables:
                found[tag] = np.array(steps), np.array([[table[step] for step in steps] for table in tables])
        return found


class RunSet:
    """Runs, at least one, that are shown together.

    Args:
        runs: the runs.
        over: further keys in which runs of one setting may differ, beside the seed.

    Raises:
        UserError: no run has one of these keys.
    """

    def __init__(self, runs: Sequence[Run], over: Sequence[str] = ()) -> None:
        self.runs, self.over = tuple(runs), tuple(over)
        if self.over and runs:
            check_keys(self.over, (run.group_key for run in runs))

    @classmethod
    def of_sweep(cls, folder: SweepFolder) -> RunSet:
        """The jobs of a sweep that were started, by their names; numbers in names are sorted by size."""
        parts = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)")

        def by_size(run: Run) -> list[tuple[int, float, str]]:
            return [(0, float(p), "") if parts.fullmatch(p) else (1, 0, p) for p in parts.split(run.name)]

        return cls(sorted((Run(job) for job in folder.jobs()), key=by_size))

    @property
    def done(self) -> RunSet:
        """The runs that ended."""
        return RunSet([run for run in self.runs if run.is_done], self.over)

    @property
    def trained(self) -> RunSet:
        """The runs that began training."""
        return RunSet([run for run in self.runs if run.folder.holds_a_run], self.over)

    def group_names(self, *without: str) -> list[str]:
        """A name for each run: its scenario and every key in which it differs from other runs of that scenario.

        Left out are the keys of the scenario's own YAML file if they have its values. A network, a camera and how they
        are trained are told by name alone, unless two of one name differ.

        Args:
            without: further keys that are left out.
        """
        keys = [_without(run.group_key, [*without, *self.over]) for run in self.runs]
        found: dict[tuple[Any, ...], list[str]] = {}  # a key's values in the runs that are compared in it
        counts: Counter[tuple[Any, ...]] = Counter()  # how many runs these are
        for key in keys:
            for name, value in key.items():
                found.setdefault((name, *_peers(name, key)), []).append(repr(value))
            counts.update({_peers(name, key) for name in key})
        differs = {place for place, values in found.items() if len(set(values)) > 1 or len(values) < counts[place[1:]]}
        names = []
        for key in keys:
            scenario = str(key.get("scenario.name"))
            own = _own_values(scenario)
            telling = [
                f"{name.removeprefix('scenario.').removesuffix('.name')}={as_typed(value)}"
                for name, value in key.items()
                if (name, *_peers(name, key)) in differs and not (name in own and own[name] == value)
            ]
            names.append(" ".join([scenario, *telling]))
        return names

    def groups(self, *without: str) -> list[RunGroup]:
        """The runs by setting; the settings may differ in the keys `without` too."""
        members: dict[str, list[Run]] = {}
        for name, run in zip(self.group_names(*without), self.runs, strict=True):
            members.setdefault(name, []).append(run)
        return [RunGroup(name, tuple(runs)) for name, runs in members.items()]

    def run_names(self) -> list[str]:
        """A name for each run: the setting's, with the seed if the setting has several; repetitions are numbered."""
        groups = self.group_names()
        names: list[str] = []
        for group, run in zip(groups, self.runs, strict=True):
            name = f"{group}, seed {run.seed}" if groups.count(group) > 1 else group
            again = sum(earlier == name or earlier.startswith(f"{name} (") for earlier in names)
            names.append(f"{name} ({again + 1})" if again else name)
        return names

    def pairs(self) -> dict[str, Pairs]:
        """Finished runs with and without detach that agree in everything else, by what they agree in.

        The list is empty for a setting in which two runs agree in detach as well: which to compare is ambiguous.
        """
        found = {}
        for group in self.done.groups(DETACH):
            sides: dict[bool, dict[Any, list[Run]]] = {True: {}, False: {}}
            for run in group.runs:
                sides[bool(run.values.get(DETACH))].setdefault(twin_key(run), []).append(run)
            both = [(some, sides[False][key]) for key, some in sides[True].items() if key in sides[False]]
            if both:
                unique = all(len(treated) == len(control) == 1 for treated, control in both)
                found[group.name] = [(treated[0], control[0]) for treated, control in both] if unique else []
        return found


def find_control(run: Run) -> Run | None:
    """The newest finished neighbour that differs in `scenario.detach` alone."""
    wanted = run.group_key | {DETACH: not run.group_key.get(DETACH)}
    return next((other for other in _twins_beside(run) if other.group_key == wanted), None)


def find_baseline(run: Run, among: Sequence[Run] = ()) -> Run | None:
    """A finished run that selects no row and differs in its scenario alone.

    Args:
        run: that it is to be compared with.
        among: runs that are looked at first, before the neighbours, newest first.
    """
    network = _without(run.group_key, ["scenario"])

    def fits(other: Run) -> bool:
        return other.group_key.get("scenario.rows") == "none" and _without(other.group_key, ["scenario"]) == network

    near = (other for other in among if other.is_done and twin_key(other) == twin_key(run))
    return next(filter(fits, near), None) or next(filter(fits, _twins_beside(run)), None)


def identical(one: Run, other: Run) -> bool:
    """Whether two runs have recorded the same lines and learnt the same weights, to the last bit."""
    import torch

    lines = [run.folder.norms_file.read_bytes() if run.folder.norms_file.exists() else b"" for run in (one, other)]
    try:
        first, second = one.weights(), other.weights()
    except UserError:
        return False
    same = first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    return same and lines[0] == lines[1]


def twin_key(run: Run) -> tuple[tuple[str, str], ...]:
    """What runs that are compared with each other have in common beside their setting, the seed above all."""
    return tuple(sorted((key, repr(value)) for key, value in run.values.items() if is_below(key, TWIN_KEYS)))


def _twins_beside(run: Run) -> Iterator[Run]:
    """Finished neighbours with the same `twin_key`, the newest first. Their summaries rule out most of them fast."""
    dates: dict[RunFolder, float] = {}
    for folder in _folders_beside(run.folder):
        facts = read_json(folder.summary_file)
        alike = all(facts.get(name) == run.summary.get(name) for name in ("seed", "data", "corruption"))
        if facts.get("status") == "done" and isinstance(facts.get("test/acc"), float) and alike:
            dates[folder] = folder.config_file.stat().st_mtime
    for folder in sorted(dates, key=dates.__getitem__, reverse=True):
        other = Run(folder)
        try:
            if twin_key(other) == twin_key(run) and other.summary:
                yield other
        except UserError:  # a neighbour whose files cannot be read
            continue


def _folders_beside(folder: RunFolder) -> list[RunFolder]:
    """Runs in the same folder and, below the working directory, in the folders beside that."""
    path, name = folder.path.absolute(), folder.config_file.name
    found = set(path.parent.glob(f"*/{name}"))
    if not folder.job_file.exists() and Path.cwd() in path.parent.parent.parents:
        found |= set(path.parent.parent.glob(f"*/*/{name}"))
    return [RunFolder(file.parent) for file in found if file != path / name and file.is_file()]


def _without(key: dict[str, Any], groups: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in key.items() if not is_below(name, groups)} if groups else key


def _peers(name: str, key: dict[str, Any]) -> tuple[Any, ...]:
    """What a run has in common with those that it is compared with in one value of its key."""
    named = NAME_KEYS.get(name.partition(".")[0])
    scenario = str(key.get("scenario.name"))
    return (scenario,) if named in {None, name} else (scenario, named, str(key.get(named)))


@lru_cache
def _own_values(name: str) -> dict[str, Any]:
    """The values of `configs/scenario/<name>.yaml` by full keys; empty if there is no such file."""
    file = configs_folder() / "scenario" / f"{name}.yaml"
    if not NAME.fullmatch(name) or not file.is_file():
        return {}
    return flat({"scenario": ScenarioSettings.defaults() | read_yaml(file)})


def _common(runs: Sequence[Run]) -> Tensor:
    """The steps that all runs have recorded, in order."""
    import torch

    return reduce(lambda shared, steps: shared[torch.isin(shared, steps)], (run.steps for run in runs))
