"""What a run leaves to be read: how much was cut, and the lines at its end."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.panel import Panel

from rowgrad.gradients import cut_fraction, cut_rows
from rowgrad.rows import name_rows

if TYPE_CHECKING:
    from rowgrad.data import ImageData
    from rowgrad.scenario import Scenario

Summary = dict[str, Any]


def recorded_norms(folder: Path) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Row and input gradient norms (steps, H) of `row_gradients.csv`, or None where not both were recorded."""
    file = folder / "row_gradients.csv"
    if not file.is_file():
        return None
    with file.open(encoding="utf-8") as lines:
        names = next(lines).strip().split(",")
        content = lines.readlines()
    if not content:
        return None
    table = torch.from_numpy(np.loadtxt(content, delimiter=",", ndmin=2))
    parts = [
        table[:, [i for i, name in enumerate(names) if name.startswith(prefix)]]
        for prefix in ("row_grad_norm/", "input_grad_norm/")
    ]
    return (parts[0], parts[1]) if all(part.numel() for part in parts) else None


def mean_cut_fraction(folder: Path) -> float | None:
    """The cut fraction, averaged over the recorded steps of a run; None where not both norms were recorded."""
    recorded = recorded_norms(folder)
    return None if recorded is None else float(cut_fraction(*recorded).mean())


def _cut_words(recorded: tuple[torch.Tensor, torch.Tensor] | None) -> str:
    if recorded is None:
        return "not recorded"
    steps = len(recorded[0])
    counts = cut_rows(*recorded).sum(0)
    always, sometimes = counts == steps, (counts > 0) & (counts < steps)
    if not counts.any():
        return "no row: gradient reached every row"
    if not always.any():
        return f"{name_rows(sometimes.tolist())}: row gradient exactly 0.0 at some of {steps} steps"
    words = f"{name_rows(always.tolist())}: row gradient exactly 0.0 at each of {steps} steps"
    return words + (f"; {name_rows(sometimes.tolist())} at some of them" if sometimes.any() else "")


def closing_lines(summary: Summary, folder: Path, scenario: Scenario) -> str:
    """What people want to know at the end of a run: accuracy, cut rows, folder, and how to watch it."""
    lines = {}
    if "test/acc" in summary:
        operated = f"; {summary['test/acc_operated']:.2%} with the rows {scenario.operation.phrase} in every image"
        changed = scenario.route == "replace" and not scenario.idle
        lines["test accuracy"] = f"[bold]{summary['test/acc']:.2%}[/]" + (operated if changed else "")
    else:
        lines["status"] = f"[bold]{summary['status']}[/] after step {summary['train/steps']}; not tested"
    lines["cut"] = _cut_words(recorded_norms(folder))
    if summary["cut_fraction"]:
        lines[""] = f"they carried {summary['cut_fraction']:.1%} of the squared gradient at the network's input"
    lines["run's folder"] = str(_shown(folder))
    if summary["status"] == "interrupted":
        lines["go on"] = f"python scripts/train.py resume={_shown(folder)}"
    beside = Path(sys.executable).with_name("tensorboard")
    command = "tensorboard" if shutil.which("tensorboard") or not beside.exists() else str(_shown(beside))
    lines["watch it"] = f"{command} --logdir {_shown(folder)}"
    return "\n".join(f"{name:15}{words}" for name, words in lines.items())


def _shown(path: Path) -> Path:
    """The path as one would type it here."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def fallback_notice(data: ImageData) -> Panel:
    """Says where nobody can miss it that other data are used."""
    words = f"{data.missing}\nTraining on [bold]{data.name}[/] instead. data.fallback=null makes this an error."
    return Panel(words, title="[bold]NOT THE DATA SET YOU ASKED FOR[/]", border_style="bold red")


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it is whole or as it was before."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
