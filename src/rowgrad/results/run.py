"""What a run has left in its folder, as one works with it: norms, curves, summary, θ.

run = rowgrad.open_run("logs/augment/…")
run.norms["row_grad_norm"]  # (T, H)
run.figures()["row_gradients"]
"""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rowgrad.data.settings import DATA_SETS, DataSettings
from rowgrad.data.sources import SOURCES
from rowgrad.errors import UserError
from rowgrad.folders import RunFolder
from rowgrad.scenario.corruption import Corruption
from rowgrad.scenario.settings import STATE, CorruptionSettings, ScenarioSettings
from rowgrad.scenario.zeros import ZeroCause
from rowgrad.watch.csv_file import read_norms
from rowgrad.watch.norms import cut_fraction, cut_rows
from rowgrad.watch.quantities import ARRIVES, REACHES
from rowgrad.watch.vanishing import arrived, describe_vanishing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from matplotlib.figure import Figure
    from omegaconf import DictConfig

Curve = tuple[list[int], list[float]]  # optimizer steps and values


class Run:
    """A run's folder, read. The checkpoint and the event files are looked at when they are asked for.

    Example:
        >>> run = train("data=digits", "seed=3", "trainer.max_steps=2")
        >>> run.summary["seed"], run.steps.tolist()
        (3, [0, 1])

    Args:
        folder: the run's.

    Attributes:
        folder: the same.
        config: the config that it was made with.
        summary: what it reported; empty where it was killed before it could report.
        steps: the recorded optimizer steps, (T,).
        norms: norms (T, H) by the names of their quantities.

    Raises:
        UserError: it is not a run's folder, or a file in it cannot be read.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.config: DictConfig = folder.read_config()
        self.summary: dict[str, Any] = folder.read_summary()
        try:
            self.steps, self.norms = read_norms(folder.norms_file)
        except Exception as error:
            raise UserError(f"{folder.norms_file} cannot be read: {' '.join(str(error).split())[:200]}") from error

    @property
    def status(self) -> str:
        """How it ended, or that it is `running`, or was `killed`."""
        return self.summary.get("status") or ("running" if self.folder.is_trained_now else "killed")

    @property
    def seed(self) -> int:
        return self.config.seed

    @cached_property
    def scenario(self) -> ScenarioSettings:
        """What happened to the rows."""
        return ScenarioSettings.read(self.config.scenario)

    @property
    def zeros_by(self) -> ZeroCause | None:
        """Who makes the zeros in the selected rows; None where the run did not say, and its route does not tell."""
        told = {maker.value: maker for maker in ZeroCause}.get(str(self.summary.get("zeros_by")))
        of_state = ZeroCause.DETACH if self.scenario.detach else ZeroCause.NONE
        return told or {"exclude": ZeroCause.LOSS, "observe": ZeroCause.NONE, STATE: of_state}.get(self.scenario.route)

    @property
    def height(self) -> int:
        """H, the rows of an image."""
        known = DataSettings.read(self.config.data).shape
        recorded = [norms.shape[1] for norms in self.norms.values()]
        if known is None and not recorded:
            raise UserError(f"{self.folder}: nobody knows how many rows its images have: nothing was recorded.")
        return recorded[0] if known is None else known.height

    @property
    def selected(self) -> list[bool]:
        """Which of the H rows the scenario selects."""
        return list(self.scenario.select(self.height))

    @property
    def knows_cuts(self) -> bool:
        """Whether both norms that tell a cut were recorded."""
        return {REACHES, ARRIVES} <= self.norms.keys()

    @property
    def cut_counts(self) -> Tensor | None:
        """At how many recorded steps each row was cut, (H,); None where not both norms were recorded.

        Where a network's state is cut between rows, nothing arrives at the rows above, nor reaches them.
        """
        if not self.knows_cuts:
            return None
        reaches, arrives = self.norms[REACHES], self.norms[ARRIVES]
        return (reaches == 0 if self.scenario.route == STATE else cut_rows(reaches, arrives)).sum(0)

    @property
    def cut_fraction(self) -> float | None:
        """The cut fraction, averaged over the recorded steps; None where not both norms were recorded."""
        return float(cut_fraction(self.norms[REACHES], self.norms[ARRIVES]).mean()) if self.knows_cuts else None

    def weights(self, checkpoint: Path | None = None) -> dict[str, Tensor]:
        """Names and values of what was learnt.

        Args:
            checkpoint: which one; without it, the last.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        return read_checkpoint(checkpoint or self.folder.last)["state_dict"]

    @cached_property
    def theta(self) -> Tensor | None:
        """θ after the newest checkpoint that can be read, (C, H, W); None where there is none."""
        for file in self.folder.checkpoints:
            try:
                return self.weights(file)["theta"]
            except (UserError, KeyError):
                continue
        return None

    @property
    def damage(self) -> Tensor | None:
        """What the run's camera adds to each row, (H,); None where it is whole."""
        camera = Corruption(CorruptionSettings.read(self.config.get("corruption") or {}), height=self.height)
        return None if camera.is_noop else camera.offsets

    def mean_image(self) -> Tensor | None:
        """The mean image (H, W) of the run's data set, from 0 to 1; None where its files are no longer there."""
        name, root = self.config.data.name, Path(self.config.data.root)
        if name not in DATA_SETS or (name != "digits" and not root.is_dir()):
            return None
        try:
            return SOURCES[name](root, download=False).test.pixels.double().mean(0) / 255
        except UserError:
            return None

    def curves(self, tags: Sequence[str]) -> dict[str, Curve]:
        """Steps and values of some scalars of the event files, by their tags; those that are there."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it tells of every file that it has read
        if not self.folder.events.is_dir():
            return {}
        events = EventAccumulator(str(self.folder.events), {"scalars": 0, "images": 1, "histograms": 1})
        events.Reload()
        there = {tag: events.Scalars(tag) for tag in tags if tag in events.Tags()["scalars"]}
        return {tag: ([e.step for e in scalars], [e.value for e in scalars]) for tag, scalars in there.items()}

    def figures(self) -> dict[str, Figure]:
        """The run's own pictures by their names: norms of all rows at all steps, and θ."""
        from rowgrad.watch import figures

        drawn = {}
        if len(self.steps):
            of_image = {name: norms for name, norms in self.norms.items() if norms.shape[1] == self.height}
            words = describe_vanishing(arrived(of_image))
            drawn["row_gradients"] = figures.heatmaps(self.steps, of_image, self.selected, words)
        if self.theta is not None:
            drawn["learnt_rows"] = figures.learnt_rows(self.theta, self.selected)
        return drawn


def open_run(folder: str | PathLike[str]) -> Run:
    """A run's folder, opened.

    Example:
        >>> folder = train("data=digits", "trainer.max_steps=2").folder
        >>> sorted(open_run(folder).norms)
        ['input_grad_norm', 'row_grad_norm']

    Raises:
        UserError: it is not a run's folder, or a file in it cannot be read.
    """
    return Run(RunFolder(Path(folder)))


def read_checkpoint(file: Path) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    if not file.is_file():
        raise UserError(f"there is no checkpoint {file}.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever garbage does to torch.load
        raise UserError(f"{file} is not a checkpoint: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"{file} is not a run's checkpoint.")
    return content
