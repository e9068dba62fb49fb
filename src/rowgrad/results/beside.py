"""The run that another one is to be compared with, found among those beside it: its control, or the baseline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.markup import escape

from rowgrad.errors import UserError
from rowgrad.files import shown
from rowgrad.folders import MOST_BYTES, RunFolder
from rowgrad.results.names import word_of
from rowgrad.results.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

APART = ("resume", "trust")  # keys that change nothing of what is trained
ON, OFF, NO_ROWS = "\n  detach: true\n", "\n  detach: false\n", "\n  rows: none\n"  # as a config is written


def find_control(run: Run) -> Run | None:
    """The newest finished run beside this one that differs in `scenario.detach` alone; None where there is none."""
    own = _blocks(run.folder)
    scenario = own.get("scenario", "")
    wanted = scenario.replace(ON, OFF, 1) if ON in scenario else scenario.replace(OFF, ON, 1)
    return next((Run(other) for other, found in _beside(run.folder, own) if found == wanted), None)


def find_baseline(run: Run, among: Sequence[Run] = ()) -> Run | None:
    """A finished run that differs in its scenario alone, and selects no row; None where there is none.

    Args:
        run: that it is to be compared with.
        among: runs that are looked at first; then those beside it, the newest first.
    """
    own = _blocks(run.folder)
    for other in among:
        blocks = _blocks(other.folder)
        if other.status == "done" and NO_ROWS in blocks.get("scenario", "") and _alike(own, blocks):
            return other
    return next((Run(other) for other, found in _beside(run.folder, own) if NO_ROWS in found), None)


def describe_beside(run: Run) -> list[tuple[str, str]]:
    """What its control or the baseline tells of a finished run, as closing lines: a name, and words."""
    if run.status != "done" or "test/acc" not in run.summary:
        return []
    if run.scenario.route == "observe":
        return [("baseline", _describe_baseline(run, find_baseline(run)))]
    return [("control", _describe_control(run, find_control(run)))]


def _describe_baseline(run: Run, other: Run | None) -> str:
    if other is None:
        return "none with this seed and these settings to check against; scenario=baseline makes one"
    place = escape(str(shown(other.folder.path)))
    if identical(run, other):
        return f"{place}: checked, every recorded norm and every weight is bit-identical"
    return f"{place}: [bold]not bit-identical[/], which on a GPU needs trainer.deterministic=true"


def _describe_control(run: Run, other: Run | None) -> str:
    on = run.scenario.detach
    if other is None:
        return f"none beside it; the same command with scenario.detach={word_of(not on)} makes one"
    place = f"{escape(str(shown(other.folder.path)))}, {'without' if on else 'with'} detach:"
    if identical(run, other):
        return f"{place} bit-identical, every recorded norm and every weight. Detach changes nothing"
    treated, control = (run, other) if on else (other, run)
    change = treated.summary["test/acc"] - control.summary["test/acc"]
    words = f"{place} detach changes the test accuracy by {100 * change:+.2f} points (one seed"
    stopped = (treated.cut_fraction or 0) - (control.cut_fraction or 0)
    return words + (f"), and stops {stopped:.1%} of the squared gradient" if stopped else ")")


def identical(one: Run, other: Run) -> bool:
    """Whether two runs have recorded the same lines, and learnt the same weights, to the last bit."""
    lines = [run.folder.norms_file.read_bytes() if run.folder.norms_file.exists() else b"" for run in (one, other)]
    try:
        ours, theirs = one.weights(), other.weights()
    except UserError:
        return False
    same = ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    return same and lines[0] == lines[1]


def _beside(folder: RunFolder, own: dict[str, str]) -> Iterator[tuple[RunFolder, str]]:
    """Finished runs beside one that are alike in everything but the scenario, and that; the newest first."""
    found = {file: file.stat().st_mtime for file in _configs_beside(folder) if file.stat().st_size <= MOST_BYTES}
    for file in sorted(found, key=found.__getitem__, reverse=True):
        other = RunFolder(file.parent)
        blocks = _blocks(other)
        if _alike(own, blocks):
            try:
                summary = other.read_summary()
            except UserError:
                continue
            if summary.get("status") == "done" and "test/acc" in summary:
                yield other, blocks.get("scenario", "")


def _alike(one: dict[str, str], other: dict[str, str]) -> bool:
    """Whether two configs are equal in everything but the scenario."""
    return one.keys() == other.keys() and all(one[key] == other[key] for key in one if key != "scenario")


def _configs_beside(folder: RunFolder) -> list[Path]:
    """Configs of the runs in the same folder and, below the working directory, in the folders beside that."""
    path, name = folder.path.absolute(), folder.config_file.name
    found = set(path.parent.glob(f"*/{name}"))
    if not folder.job_file.exists() and Path.cwd() in path.parent.parent.parents:
        found |= set(path.parent.parent.glob(f"*/*/{name}"))
    return [file for file in found if file != path / name and file.is_file()]


def _blocks(folder: RunFolder) -> dict[str, str]:
    """A config's text by its outermost keys, as runs write it: two texts that are equal are so in every value."""
    text = folder.config_file.read_text(encoding="utf-8", errors="replace")
    blocks = re.split(r"^(?=[^\s#-])", text, flags=re.MULTILINE)
    return {key: block for block in blocks if (key := block.partition(":")[0]) and key not in APART}
