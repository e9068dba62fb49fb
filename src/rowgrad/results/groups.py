"""Runs that differ in their seed alone: a setting, with means over its seeds."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from rowgrad.results.names import by_group
from rowgrad.scenario.zeros import ZeroCause

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from rowgrad.results.run import Run

Known = TypeVar("Known")
Curves = tuple[np.ndarray, np.ndarray]  # steps (T,), and values of N seeds there, (N, T)


@dataclass(frozen=True)
class Setting:
    """Runs of one setting.

    Attributes:
        name: what tells them from others.
        runs: at least one, one a seed.
    """

    name: str
    runs: tuple[Run, ...]

    @property
    def title(self) -> str:
        """The name, and over how many seeds its means are, where there are several."""
        return titled([self.name], self.runs)

    @property
    def first(self) -> Run:
        """The run that stands for all in what they have in common."""
        return self.runs[0]

    @cached_property
    def recorded(self) -> tuple[Run, ...]:
        """The runs that have recorded steps in common, all that have any where there are such."""
        some = tuple(run for run in self.runs if len(run.steps))
        return some if some and len(_common([run.steps for run in some])) else some[:1]

    @cached_property
    def steps(self) -> Tensor:
        """The steps that all of them have recorded, (T,)."""
        return _common([run.steps for run in self.recorded]) if self.recorded else torch.zeros(0)

    @cached_property
    def norms(self) -> dict[str, Tensor]:
        """Norms (T, H) by their names, averaged over seeds: 0 where, and only where, they are 0 in every seed."""
        if not self.recorded:
            return {}
        names = [name for name in self.first.norms if all(name in run.norms for run in self.recorded)]
        places = [torch.isin(run.steps, self.steps) for run in self.recorded]
        both = list(zip(self.recorded, places, strict=True))
        return {name: torch.stack([run.norms[name].double()[at] for run, at in both]).mean(0) for name in names}

    @cached_property
    def thetas(self) -> list[Tensor]:
        """θ (C, H, W) of those that have one."""
        return [run.theta.float() for run in self.runs if run.theta is not None]

    @cached_property
    def cut(self) -> tuple[list[bool], list[bool]] | None:
        """Which rows were cut at every step of every seed, and which at some; None where that was not recorded."""
        counts = [(run.cut_counts, len(run.steps)) for run in self.recorded]
        known = [(count, steps) for count, steps in counts if count is not None]
        if not known or len(known) < len(counts):
            return None
        always = torch.stack([count == steps for count, steps in known]).all(0)
        some = torch.stack([count > 0 for count, _ in known]).any(0) & ~always
        return always.tolist(), some.tolist()

    @property
    def stopped(self) -> float | None:
        """The cut fraction, averaged over seeds; None where it is not known."""
        known = [share for run in self.runs if (share := run.cut_fraction) is not None]
        return statistics.mean(known) if known else None

    @property
    def zeros_by(self) -> ZeroCause | None:
        """Who makes the zeros; None where the runs did not say."""
        return self.first.zeros_by if any(self.first.selected) else ZeroCause.NONE

    def curves(self, tags: Sequence[str]) -> dict[str, Curves]:
        """Curves of the event files by their tags, at the steps that all seeds have."""
        each = [run.curves(tags) for run in self.runs]
        found = {}
        for tag in tags:
            have = [curves[tag] for curves in each if tag in curves]
            steps = sorted(set.intersection(*(set(steps) for steps, _ in have))) if have else []
            have = have if steps else have[:1]
            if have:
                steps = steps or sorted(set(have[0][0]))
                tables = [dict(zip(*curve, strict=True)) for curve in have]
                found[tag] = np.array(steps), np.array([[table[step] for step in steps] for table in tables])
        return found


def settings_of(runs: Sequence[Run]) -> list[Setting]:
    """Runs by what tells them apart beside their seed."""
    return [Setting(name, tuple(some)) for name, some in by_group(runs).items()]


def titled(names: Sequence[str], runs: Sequence[Run]) -> str:
    """Names of settings that are alike in every number, and over how many runs of each the means are."""
    words = " = ".join(sorted(names, key=lambda name: name == "baseline"))
    kind = "seeds" if len({run.seed for run in runs}) == len(runs) else "runs"
    return words if len(runs) == 1 else f"{words}, n = {len(runs)} {kind}"


def merged(found: Mapping[Setting, Known], same: Callable[[Known, Known], bool]) -> dict[str, Known]:
    """What is known of some settings, by title; those in which every number is the same stand together."""
    together: list[tuple[list[Setting], Known]] = []
    for setting, known in found.items():
        beside = next((some for some, other in together if same(known, other)), None)
        if beside is None:
            together.append(([setting], known))
        else:
            beside.append(setting)
    return {titled([one.name for one in some], some[0].runs): known for some, known in together}


def shared_out(things: Sequence[Known], most: int) -> list[Sequence[Known]]:
    """As few parts as there can be with so many in each at most, of like size."""
    parts = -(-len(things) // most)
    edges = [round(len(things) * part / parts) for part in range(parts + 1)] if parts else [0]
    return [things[a:b] for a, b in pairwise(edges)]


def _common(steps: Sequence[Tensor]) -> Tensor:
    """The steps that are in all lists, in order."""
    shared = steps[0]
    for others in steps[1:]:
        shared = shared[torch.isin(shared, others)]
    return shared
