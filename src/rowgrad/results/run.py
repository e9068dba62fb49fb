"""One run's folder, read: config, summary, norms, curves, θ. Each file is read when it is asked for.

run = rowgrad.open_run("logs/augment/…")
run.norms["row_grad_norm"]  # (T, H)
run.figures()["row_gradients"]
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rowgrad.config import flat, group_key
from rowgrad.data.settings import DataSettings
from rowgrad.errors import UserError, in_one_line
from rowgrad.files import read_json
from rowgrad.folders import RunFolder, read_yaml
from rowgrad.results.logged import LoggedRun
from rowgrad.scenario.settings import STATE, ScenarioSettings

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure
    from omegaconf import DictConfig
    from torch import Tensor

    from rowgrad.board.events import Events
    from rowgrad.scenario.zeros import ZeroCause, Zeros


class Run(LoggedRun):
    """A run's folder, which may also be a sweep's job that never began training.

    Example:
        >>> run = train("data=digits", "seed=3", "trainer.max_steps=2")
        >>> run.summary["seed"], run.steps.tolist()
        (3, [0, 1])

    Args:
        folder: the run's.

    Raises:
        UserError: by each attribute, if its file is missing or cannot be read; the message names the file.
    """

    needed = ("config", "values", "summary", "numbers")

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder.path)
        self.folder = folder

    @cached_property
    def config(self) -> DictConfig:
        """The config that the run was made with."""
        return self.folder.read_config()

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What it reported; empty if it was killed before its end."""
        return self.folder.read_summary()

    @cached_property
    def overrides(self) -> dict[str, str]:
        """A job's overrides, key -> value, as the sweeper typed them; empty for a run that is no job."""
        if not self.folder.job_file.is_file():
            return {}
        words = read_json(self.folder.job_file).get("overrides")
        if not isinstance(words, list) or not all(isinstance(word, str) and "=" in word for word in words):
            raise UserError(f"{self.folder.job_file} cannot be read: it holds no job's overrides.")
        return dict(word.split("=", 1) for word in words)

    @cached_property
    def values(self) -> dict[str, Any]:
        """The config's values by their full keys. Fast, so that hundreds of runs can be compared."""
        return flat(read_yaml(self.folder.config_file))

    @cached_property
    def group_key(self) -> dict[str, Any]:
        """The values that all runs of this run's group share: all but the seed and what does not change training."""
        return group_key(self.values)

    @property
    def status(self) -> str:
        """`done`, `failed`, `interrupted`, `dry run`, `running`, or `killed`."""
        return str(self.summary.get("status") or ("running" if self.folder.is_trained_now else "killed"))

    @property
    def is_done(self) -> bool:
        return self.status == "done"

    @property
    def seed(self) -> int:
        return self.config.seed

    @cached_property
    def scenario(self) -> ScenarioSettings:
        """What happens to the rows."""
        return ScenarioSettings.read(self.config.scenario)

    @cached_property
    def zeros(self) -> list[Zeros] | None:
        """The rows with zeros by cause, the most frequent cause first; empty without zeros.

        None if there are zeros, and neither the summary nor the route tells their cause.
        """
        from rowgrad.scenario.zeros import ZeroCause, Zeros, read_zeros

        reported = {cause.value: cause for cause in ZeroCause}.get(str(self.summary.get("zeros_by")))
        of_state = ZeroCause.DETACH if self.scenario.detach else ZeroCause.NONE
        by_route = {"exclude": ZeroCause.LOSS, "observe": ZeroCause.NONE, STATE: of_state}
        cause = reported or by_route.get(self.scenario.route)
        is_zero = self.selected if self.cut_counts is None else (self.cut_counts > 0).tolist()
        recorded = tuple(row for row, zero in enumerate(is_zero) if zero)
        if not recorded or (cause is ZeroCause.NONE and self.cut_counts is None):
            return []
        if cause in {None, ZeroCause.NONE}:
            return None
        by_row = read_zeros(str(self.summary.get("zeros_by_row", "")), len(is_zero)) if reported else []
        by_row = [replace(part, rows=tuple(row for row in part.rows if row in recorded)) for part in by_row]
        return [part for part in by_row if part.rows] or [Zeros(cause, recorded)]

    @property
    def zeros_by(self) -> ZeroCause | None:
        """The most frequent cause of zeros: NONE without zeros, None if the cause is unknown."""
        from rowgrad.scenario.zeros import ZeroCause

        return None if self.zeros is None else self.zeros[0].cause if self.zeros else ZeroCause.NONE

    @property
    def detaches_state(self) -> bool:
        """Whether the state of a network was detached at any step."""
        scenario, steps = self.scenario, self.summary.get("train/steps")
        last = steps - 1 if isinstance(steps, int) else int(self.steps[-1]) if len(self.steps) else -1
        cuts = scenario.route == STATE and scenario.detach and scenario.probability > 0 and scenario.random_rows != 0
        return cuts and scenario.from_step <= last and any(self.selected)

    @cached_property
    def events(self) -> Events:
        """What the event files hold."""
        from rowgrad.board.events import read_events

        return read_events(self.folder.events)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What distinguishes runs, by full keys."""
        return self.group_key | {"seed": self.seed}

    @property
    def metrics(self) -> dict[str, float]:
        """The reported metrics."""
        return {name: value for name, value in self.summary.items() if "/" in name or name == "cut_fraction"}

    @property
    def height(self) -> int:
        """H, the rows of an image."""
        known = DataSettings.read(self.config.data).shape
        recorded = [norms.shape[1] for norms in self.norms.values()]
        if known is None and not recorded:
            raise UserError(f"{self.folder}: the number of image rows is unknown, because nothing was recorded.")
        return recorded[0] if known is None else known.height

    @property
    def selected(self) -> list[bool]:
        """Which of the H rows the scenario selects."""
        return list(self.scenario.select(self.height))

    @cached_property
    def cut(self) -> Tensor | None:
        """Which rows were cut at which recorded steps, (T, H); None if not both gradient norms were recorded.

        If the state of a network is cut between rows, nothing arrives at the rows above either.
        """
        from rowgrad.watch.norms import cut_rows
        from rowgrad.watch.quantities import ARRIVES, REACHES

        if not {REACHES, ARRIVES} <= self.norms.keys():
            return None
        reaches, arrives = self.norms[REACHES], self.norms[ARRIVES]
        return reaches == 0 if self.scenario.route == STATE else cut_rows(reaches, arrives)

    @property
    def cut_counts(self) -> Tensor | None:
        """At how many recorded steps each row was cut, (H,); None if not both gradient norms were recorded."""
        return None if self.cut is None else self.cut.sum(0)

    @cached_property
    def cut_fraction(self) -> float | None:
        """The cut fraction, averaged over the recorded steps; None if not both gradient norms were recorded."""
        from rowgrad.watch.norms import cut_fraction
        from rowgrad.watch.quantities import ARRIVES, REACHES

        if not {REACHES, ARRIVES} <= self.norms.keys():
            return None
        return float(cut_fraction(self.norms[REACHES], self.norms[ARRIVES]).nanmean())

    def weights(self, checkpoint: Path | None = None) -> dict[str, Tensor]:
        """Names and values of all weights.

        Args:
            checkpoint: a file; the last one if None.

        Raises:
            UserError: it is missing, or cannot be read.
        """
        return read_checkpoint(checkpoint or self.folder.last)["state_dict"]

    @cached_property
    def theta(self) -> Tensor | None:
        """θ after the newest checkpoint that can be read, (C, H, W); None without such a checkpoint."""
        for file in self.folder.checkpoints:
            try:
                return self.weights(file)["theta"]
            except (UserError, KeyError):
                continue
        return None

    @property
    def troubles(self) -> list[str]:
        """Sentences about files that cannot be shown."""
        is_lost = self.theta is None and bool(self.folder.checkpoints)
        return [f"{self.folder}: no checkpoint can be read, so its θ is not shown."] if is_lost else []

    def figures(self) -> dict[str, Figure]:
        """The run's own pictures by their names: norms of all rows at all steps, and θ."""
        from rowgrad.watch import figures
        from rowgrad.watch.quantities import arriving
        from rowgrad.watch.wording import describe_vanishing

        drawn = {}
        if len(self.steps):
            of_image = {name: norms for name, norms in self.norms.items() if norms.shape[1] == self.height}
            words = describe_vanishing(arriving(of_image))
            drawn["row_gradients"] = figures.heatmaps(self.steps, of_image, self.selected, words)
        if self.theta is not None:
            drawn["learnt_rows"] = figures.learnt_rows(self.theta, self.selected)
        return drawn


def read_checkpoint(file: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Raises:
        UserError: it is missing, or cannot be read.
    """
    import torch

    if not file.is_file():
        raise UserError(f"there is no checkpoint {file}.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever garbage does to torch.load
        raise UserError(f"{file} is not a checkpoint: {in_one_line(error)[:200]}") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"{file} is not a run's checkpoint.")
    return content
