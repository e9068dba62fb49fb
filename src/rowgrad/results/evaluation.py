"""A run that was tested again: its metrics beside those that it reported, and what the network saw of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rowgrad.files import shown
from rowgrad.folders import RunFolder
from rowgrad.results.tables import hanging
from rowgrad.scenario.operations import Named
from rowgrad.scenario.scenario import Scenario
from rowgrad.scenario.settings import NOTHING, STATE, ScenarioSettings

if TYPE_CHECKING:
    from pathlib import Path

    from rowgrad.model.classifier import RowClassifier

UNTOUCHED = "the images as they are"
NAMES = {
    "test/acc": "test accuracy",
    "test/acc_operated": "  rows changed in every image",
    "test/loss": "test loss",
}


@dataclass(frozen=True)
class Evaluation:
    """A run's weights, tested with its own scenario or with another one.

    Attributes:
        own: the scenario that the run was trained with.
        used: the scenario of this test.
        step: the last optimizer step that was trained, for a scenario's schedule.
        metrics: measured now, by the names of `summary.json`.
        reported: `summary.json`; empty if the run did not end.
        place: which run, and which of its weights.
        camera: what damages every image, in a sentence; empty if nothing does.
    """

    own: Scenario
    used: Scenario
    step: int
    metrics: dict[str, float]
    reported: dict[str, Any]
    place: str
    camera: str = ""

    @classmethod
    def of(
        cls, path: Path, module: RowClassifier, data: str, metrics: dict[str, float], *, swapped: bool
    ) -> Evaluation:
        """The evaluation of a run that was tested.

        Args:
            path: the run's folder, or the checkpoint in it that was loaded.
            module: what was tested.
            data: the data set's name.
            metrics: what was measured.
            swapped: whether the scenario is not the run's own.

        Raises:
            UserError: a file of the run cannot be read.
        """
        folder, checkpoint = RunFolder.of_checkpoint(path)
        reported = folder.read_summary()
        last = reported.get("train/steps", module.trained)
        others = "" if last == module.trained else f" (it reported those after {last})"
        return cls(
            own=_own_scenario(folder, len(module.scenario.chosen)) if swapped else module.scenario,
            used=module.scenario,
            step=module.last_step,
            metrics=metrics,
            reported=reported,
            place=f"{shown(folder.path)}: {checkpoint.name}, after {module.trained} steps{others}; data set {data}",
            camera=module.corruption.sentence(),
        )

    def text(self) -> str:
        """All of it, in 80 columns."""
        own, used = (f"{scenario.name}: {scenario.sentence()}" for scenario in (self.own, self.used))
        same = own == used and self.own.when == self.used.when
        lines = [
            hanging("run", self.place),
            hanging("trained with", own),
            hanging("evaluated with", "the same scenario" if same else used),
            *([hanging("camera", self.camera)] if self.camera else []),
            "",
            *self._table(),
            "",
            hanging("the network saw", self._views(self.used)),
        ]
        return "\n".join(lines if same else [*lines, hanging("before, it saw", self._views(self.own))])

    def _table(self) -> list[str]:
        """Every metric, now and as reported, and the difference."""
        lines = [f"{'':30}{'now':>10}{'reported':>12}"]
        for key in sorted(self.metrics, key=lambda key: [*NAMES, key].index(key)):
            value, before = self.metrics[key], self.reported.get(key)
            share = key in NAMES and "acc" in key
            reported = "nothing" if before is None else _number(before, share=share)
            change = "" if before is None else _change(value - before, share=share)
            lines.append(f"{NAMES.get(key, key):30}{_number(value, share=share):>10}{reported:>12}   {change}".rstrip())
        return lines

    def _views(self, scenario: Scenario) -> str:
        """What the network sees of test images by a scenario, and in the test with changed rows."""
        now, changed = UNTOUCHED, seen(scenario, 1.0)
        if scenario.in_evaluation and scenario.is_active(self.step):
            now = seen(scenario, scenario.probability)
        why = ""
        if now == UNTOUCHED and changed != UNTOUCHED:
            when = f"is not active at step {self.step}" if scenario.in_evaluation else "is active in training only"
            why = f" ({scenario.name} {when})"
        every = "the same" if changed == UNTOUCHED else f"{changed}, in every image"
        return f"{now}{why}; with the rows changed, {every}."


def _own_scenario(folder: RunFolder, height: int) -> Scenario:
    """The scenario that a run was trained with, for its words: a class that its operation names is not imported."""
    settings = ScenarioSettings.read(folder.read_config().scenario)
    if isinstance(settings.operation, Mapping):
        settings = replace(settings, operation=Named(settings.operation["_target_"]))
    return Scenario.from_settings(settings, height=height)


def seen(scenario: Scenario, probability: float) -> str:
    """What the network sees of images while a scenario is active.

    Args:
        scenario: that they go through.
        probability: chance, for each image, that the operation is used.
    """
    if scenario.is_noop or scenario.route in {"observe", STATE}:
        return UNTOUCHED
    rows = scenario.rows
    if scenario.random_rows is not None:
        rows = f"{scenario.random_rows} of {rows} (drawn for each image)"
    if scenario.route == "exclude":
        return f"black in {rows}"
    if probability == 0 or scenario.operation == NOTHING:
        return UNTOUCHED
    return f"{rows} {scenario.operation.phrase}" + ("" if probability == 1 else f" with probability {probability:g}")


def _number(value: float, *, share: bool) -> str:
    return f"{value:.2%}" if share else f"{value:.4f}"


def _change(difference: float, *, share: bool) -> str:
    """A difference, with one significant digit if it is too small for the table's."""
    if difference == 0:
        return "same"
    value, unit = (100 * difference, " points") if share else (difference, "")
    words = f"{value:+.2f}" if share else f"{value:+.4f}"
    return (words if float(words) else f"{value:+.0e}") + unit
