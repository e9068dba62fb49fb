"""What makes rows' gradients zero: detach, the loss (which ignores the rows), or the operation."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rowgrad.cuts.finder import find_cuts
from rowgrad.randomness import Draw
from rowgrad.scenario.rows import name_rows
from rowgrad.scenario.settings import STATE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rowgrad.scenario.scenario import Scenario

PROBES = 16  # steps at which a row is probed, at most
AT_SOME = "at some steps the operation"
_PART = re.compile(rf"(?P<cause>[a-z ]+?)(?: \((?P<place>[^()]*)\))?(?P<partly>, {AT_SOME})?: (?P<rows>[^;]+)")


class ZeroCause(Enum):
    """A cause of zeros, as `zeros_by` in `summary.json`; in words: `watch/wording.py`."""

    DETACH = "detach"
    LOSS = "the loss"
    OPERATION = "the operation"
    NONE = "none"


@dataclass(frozen=True)
class Zeros:
    """The rows whose gradient one cause makes zero.

    Attributes:
        cause: what makes the zeros.
        rows: indices of the rows.
        partly: whether another cause, the operation, makes these rows' zeros at some steps.
        place: the file and line of the cause; empty if it is unknown.
    """

    cause: ZeroCause
    rows: tuple[int, ...]
    partly: bool = False
    place: str = ""


def find_zeros(scenario: Scenario, images: Tensor, seed: int, steps: Mapping[int, Sequence[int]]) -> list[Zeros]:
    """Finds what makes the zeros of each row, by running the scenario again with its detach and without.

    A row's zero at a step is made by detach if gradient would reach the row without detach. Otherwise it is made by the
    loss if the network does not see the row, or else by the operation: as rounding does, or a transform that does not
    use the row. A row's cause is detach if detach makes at least one of its zeros.

    Args:
        scenario: it is not changed.
        images: u, (B, C, H, W), on the CPU; B is the number of images of an optimizer step.
        seed: the run's seed.
        steps: optimizer steps at which a row's gradient was zero or may be zero, by row.

    Returns:
        The rows by cause, the most frequent cause first. Rows without a zero at these steps are left out, and zeros
        that the scenario does not make.
    """
    probe = copy.deepcopy(scenario).cpu().train()

    @cache
    def causes(step: int) -> list[ZeroCause]:
        return _causes(probe, images, Draw(seed, step))

    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        made = {row: {causes(step)[row]: step for step in _spread(some)} for row, some in steps.items()}
        example = {cause: step for found in made.values() for cause, step in found.items()}
        places = {cause: _place(probe, images, Draw(seed, step), cause) for cause, step in example.items()}
        return _by_cause({row: {*found} for row, found in made.items()}, places)


def merge_zeros(found: Iterable[Sequence[Zeros]]) -> list[Zeros]:
    """The zeros of several runs: a row's cause is detach if it is detach in one of them."""
    causes: dict[int, set[ZeroCause]] = {}
    places: dict[ZeroCause, str] = {}
    for part in (part for zeros in found for part in zeros):
        places.setdefault(part.cause, part.place)
        for row in part.rows:
            causes.setdefault(row, set()).update({part.cause, *([ZeroCause.OPERATION] if part.partly else [])})
    return _by_cause(causes, places)


def zeros_text(zeros: Sequence[Zeros], height: int) -> str:
    """Zeros of images with `height` rows as text, for `zeros_by_row` in `summary.json`.

    Example:
        >>> zeros_text([Zeros(ZeroCause.DETACH, (1, 2, 3)), Zeros(ZeroCause.OPERATION, (0,))], 28)
        'detach: rows 1-3; the operation: row 0'
    """
    parts = []
    for part in zeros:
        rows = name_rows([row in part.rows for row in range(height)]).replace("–", "-")
        place, partly = f" ({part.place})" if part.place else "", f", {AT_SOME}" * part.partly
        parts.append(f"{part.cause.value}{place}{partly}: {rows}")
    return "; ".join(parts)


def read_zeros(text: str, height: int) -> list[Zeros]:
    """Parses what `zeros_text` writes; parts that cannot be read are left out."""
    causes = {cause.value: cause for cause in ZeroCause}
    found = []
    for part in filter(None, map(_PART.fullmatch, text.split("; "))):
        spans = re.findall(r"(\d{1,4})(?:-(\d{1,4}))?", part["rows"])
        rows = {row for first, last in spans for row in range(int(first), int(last or first) + 1)}
        if part["rows"] == "all rows":
            rows = set(range(height))
        if part["cause"] in causes:
            inside = tuple(sorted(row for row in rows if row < height))
            found.append(Zeros(causes[part["cause"]], inside, bool(part["partly"]), part["place"] or ""))
    return found


def _causes(scenario: Scenario, images: Tensor, draw: Draw) -> list[ZeroCause]:
    """The cause of each row's zero at one step; NONE for a row that gets gradient."""
    if scenario.route == STATE:  # a cut ends the gradient of all rows above it
        lowest = max(scenario.edges(len(images), draw), default=0)
        return [ZeroCause.DETACH if row < lowest else ZeroCause.NONE for row in range(images.shape[-2])]
    other = ZeroCause.LOSS if scenario.route == "exclude" else ZeroCause.OPERATION
    reached = _reached(scenario, images, draw)
    if not scenario.detach or all(reached):
        return [ZeroCause.NONE if row else other for row in reached]
    without = _reached(_without_detach(scenario), images, draw)
    return [
        ZeroCause.NONE if row else ZeroCause.DETACH if row_without else other
        for row, row_without in zip(reached, without, strict=True)
    ]


def _reached(scenario: Scenario, images: Tensor, draw: Draw) -> list[bool]:
    """Which rows get gradient from a loss that uses every pixel of the network's input, each with its own weight."""
    theta = nn.Parameter(torch.zeros(images.shape[1:]))
    (gradient,) = torch.autograd.grad(_loss(scenario, images + theta, draw), theta)
    return (gradient != 0).any(-1).any(0).tolist()


def _loss(scenario: Scenario, images: Tensor, draw: Draw) -> Tensor:
    seen = scenario(images, draw)
    return (seen * torch.randn(seen.shape, generator=torch.Generator().manual_seed(0))).sum()


def _without_detach(scenario: Scenario) -> Scenario:
    control = copy.deepcopy(scenario)
    control.detach = False
    return control


def _place(scenario: Scenario, images: Tensor, draw: Draw, cause: ZeroCause) -> str:
    """The line at which detach or the operation ends gradient at a step; empty if there is none, as for a flip."""
    if cause not in {ZeroCause.DETACH, ZeroCause.OPERATION}:
        return ""
    probe = scenario if cause is ZeroCause.DETACH else _without_detach(scenario)
    module, theta = nn.Module(), nn.Parameter(torch.zeros(images.shape[1:]))
    module.register_parameter("theta", theta)

    def step() -> Tensor:
        if scenario.route != STATE:
            return _loss(probe, images + theta, draw)
        state = dict.fromkeys(("hidden", "cell"), images.flatten(1) + theta.flatten())
        for carried in probe.edges(len(images), draw).values():
            state = carried(state)
        return torch.stack([*state.values()]).sum()

    try:
        found = find_cuts(module, step, heal=0).cuts
    except Exception:  # noqa: BLE001  (a custom operation may do anything; no run ends because a line is unknown)
        return ""
    return next((f"{Path(cut.file).name}:{cut.line}" for cut in found if cut.reaches_loss is not False), "")


def _spread(steps: Sequence[int]) -> Sequence[int]:
    """At most `PROBES` of the steps, evenly spaced."""
    return steps[:: -(-len(steps) // PROBES) or 1]


def _by_cause(causes: Mapping[int, set[ZeroCause]], places: Mapping[ZeroCause, str] | None = None) -> list[Zeros]:
    """The rows by cause, the most frequent cause first, from all causes of each row's zeros."""
    rows: dict[tuple[ZeroCause, bool], list[int]] = {}
    for row in sorted(causes):
        if made := [cause for cause in ZeroCause if cause in causes[row] - {ZeroCause.NONE}]:
            rows.setdefault((made[0], len(made) > 1), []).append(row)
    found = [Zeros(cause, tuple(some), partly, (places or {}).get(cause, "")) for (cause, partly), some in rows.items()]
    return sorted(found, key=lambda zeros: -len(zeros.rows))
