"""A run's folder, read back: its config, what it reported, its norms and curves, and the rows it learnt."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from rowgrad.corruption import Corruption
from rowgrad.errors import UserError
from rowgrad.gradients import cut_fraction, cut_rows
from rowgrad.rows import select_rows
from rowgrad.settings import QUANTITIES, SIZE
from rowgrad.sources import SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it tells of every file that it has read

Curve = tuple[list[int], list[float]]  # optimizer steps and values
BOTH = ("row_grad_norm", "input_grad_norm")  # what a cut is told from


def recorded_norms(folder: Path) -> tuple[Tensor, dict[str, Tensor]]:
    """Optimizer steps (T,) and norms (T, H) by their names, of `row_gradients.csv`; T is 0 where nothing is there."""
    file = folder / "row_gradients.csv"
    names, content = [""], []
    if file.is_file():
        with file.open(encoding="utf-8") as lines:
            names = next(lines, "").strip().split(",")
            content = lines.readlines()
    if not content:
        return torch.zeros(0, dtype=torch.long), {}
    table = torch.from_numpy(np.loadtxt(content, delimiter=",", ndmin=2))
    columns = {
        quantity: [i for i, name in enumerate(names) if name.startswith(f"{quantity}/")] for quantity in QUANTITIES
    }
    return table[:, 0].long(), {quantity: table[:, chosen] for quantity, chosen in columns.items() if chosen}


@dataclass(frozen=True)
class Run:
    """What a run left in its folder.

    Attributes:
        folder: where.
        config: its resolved config.
        summary: what it reported; empty where it was killed before it could report.
        steps: the recorded optimizer steps, (T,).
        norms: norms (T, H) by their names.
    """

    folder: Path
    config: DictConfig
    summary: dict[str, Any]
    steps: Tensor
    norms: dict[str, Tensor]

    @property
    def status(self) -> str:
        return self.summary.get("status", "killed")

    @property
    def selected(self) -> list[bool]:
        """Which of the H rows the scenario selects."""
        rows = self.config.scenario.rows
        return list(select_rows(list(rows) if OmegaConf.is_list(rows) else rows, SIZE))

    @property
    def cut_counts(self) -> Tensor | None:
        """At how many recorded steps each row was cut, (H,); None where not both norms were recorded."""
        if not set(BOTH) <= self.norms.keys():
            return None
        return cut_rows(*(self.norms[quantity] for quantity in BOTH)).sum(0)

    @property
    def cut_fraction(self) -> float | None:
        """The cut fraction, averaged over the recorded steps; None where not both norms were recorded."""
        if not set(BOTH) <= self.norms.keys():
            return None
        return float(cut_fraction(*(self.norms[quantity] for quantity in BOTH)).mean())

    @cached_property
    def rows(self) -> Tensor | None:
        """θ after the last checkpoint, (H, W); None where there is none."""
        file = self.folder / "checkpoints" / "last.ckpt"
        return torch.load(file, map_location="cpu", weights_only=True)["state_dict"]["rows"] if file.is_file() else None

    @property
    def damage(self) -> Tensor | None:
        """What the run's camera adds to each row, (H,); None where it is whole."""
        camera = Corruption(**_plain(self.config.get("corruption") or {}), height=SIZE)
        return None if camera.idle else camera.offsets

    def mean_digit(self) -> Tensor | None:
        """The mean image (H, W) of the run's data set, from 0 to 1; None where its files are no longer there."""
        name, root = self.config.data.name, Path(self.config.data.root)
        if name != "digits" and not root.is_dir():
            return None
        try:
            return SOURCES[name].load(root).test.pixels.double().mean(0) / 255
        except UserError:
            return None

    def curves(self, tags: Sequence[str]) -> dict[str, Curve]:
        """Steps and values of some scalars of the event files, by their tags; those that are there."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        if not (self.folder / "tensorboard").is_dir():
            return {}
        events = EventAccumulator(str(self.folder / "tensorboard"), {"scalars": 0, "images": 1, "histograms": 1})
        events.Reload()
        there = {tag: events.Scalars(tag) for tag in tags if tag in events.Tags()["scalars"]}
        return {tag: ([e.step for e in scalars], [e.value for e in scalars]) for tag, scalars in there.items()}


def _plain(config: Any) -> dict[str, Any]:
    values = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def read_run(folder: Path) -> Run:
    """Reads a run's folder.

    Raises:
        UserError: it is not one, or a file in it cannot be read.
    """
    config_file, summary_file = folder / "config.yaml", folder / "summary.json"
    if not config_file.is_file():
        raise UserError(f"{folder} is not a run's folder: there is no {config_file}.")
    try:
        config = OmegaConf.load(config_file)
        summary = json.loads(summary_file.read_text(encoding="utf-8")) if summary_file.is_file() else {}
        steps, norms = recorded_norms(folder)
    except Exception as error:
        raise UserError(f"{folder} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(config, DictConfig) or "scenario" not in config:
        raise UserError(f"{config_file} is not a run's config.")
    return Run(folder, config, summary, steps, norms)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The runs' folders among some folders and everything below them, in the order of their names.

    Raises:
        UserError: a path below which there is no run.
    """
    found: list[Path] = []
    for path in paths:
        below = [path] if (path / "config.yaml").is_file() else sorted(f.parent for f in path.rglob("config.yaml"))
        if not below:
            raise UserError(f"{path} is neither a run's folder nor a folder of runs: there is no config.yaml in it.")
        found += [folder for folder in below if folder not in found]
    return found
