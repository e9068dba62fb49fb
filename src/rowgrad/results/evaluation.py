"""A trained run that was tested again, beside what it reported itself: the text that `scripts/evaluate.py` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rowgrad.files import shown
from rowgrad.folders import RunFolder
from rowgrad.results.tables import hanging
from rowgrad.scenario.operations import Named
from rowgrad.scenario.rows import name_rows
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
    """A run's weights, tested with its own scenario or another one.

    Attributes:
        own: the scenario that the run was trained with.
        used: the one that its test images were put through now.
        step: the last optimizer step that was trained, by which a scenario's schedule goes.
        metrics: what was measured now, under the names of `summary.json`.
        reported: `summary.json`; empty where the run did not come to that.
        place: which run, and which of its weights.
        camera: what damages every image, in a sentence; empty where nothing does.
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
        """Of a run that was tested.

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

    @property
    def swapped(self) -> bool:
        """Whether another scenario was put in the place of the run's own."""
        one, other = ((scenario.name, scenario.sentence(), scenario.when) for scenario in (self.own, self.used))
        return one != other

    def text(self) -> str:
        """All of it, in 80 columns."""
        now = f"{self.used.name}: {self.used.sentence()}" if self.swapped else "the same scenario"
        lines = [
            hanging("run", self.place),
            hanging("trained with", f"{self.own.name}: {self.own.sentence()}"),
            hanging("evaluated with", now),
            *([hanging("camera", self.camera)] if self.camera else []),
            "",
            *self._table(),
            "",
            *(hanging(name, words) for name, words in self._views()),
        ]
        return "\n".join(lines)

    def _table(self) -> list[str]:
        """Every metric, now and as reported, and the difference."""
        lines = [f"{'':30}{'now':>10}{'reported':>12}"]
        for key in sorted(self.metrics, key=lambda key: [*NAMES, key].index(key)):
            value, before = self.metrics[key], self.reported.get(key)
            share = key in NAMES and "acc" in key
            told = "nothing" if before is None else _number(before, share=share)
            change = "" if before is None else _change(value - before, share=share)
            lines.append(f"{NAMES.get(key, key):30}{_number(value, share=share):>10}{told:>12}   {change}".rstrip())
        return lines

    def _views(self) -> list[tuple[str, str]]:
        """What the network saw in the test, and what another scenario changed in that."""
        before, now = self._seen(self.own), self._seen(self.used)
        all_before, all_now = (seen(scenario, 1.0) for scenario in (self.own, self.used))
        every = "" if all_now == UNTOUCHED else ", in every image"
        if not self.swapped:
            changed = "none: the same images" if all_now == UNTOUCHED else f"the network saw {all_now}{every}"
            saw = f"The network saw {now}{self._why()}."
            return [
                ("test accuracy", saw),
                *self._never_seen(),
                ("rows changed", f"{changed[0].upper()}{changed[1:]}."),
            ]
        swap = f"In the run's own test, the network saw {before}; now it sees {now}{self._why()}."
        changed = f"In the run's own test, the network saw {all_before}; now it sees {all_now}{every}."
        return [
            ("the swap", "Weights are the run's; only what the network is shown in the test is changed."),
            ("test accuracy", swap if now != before else f"No change: the network sees {now}{self._why()}."),
            *self._never_seen(),
            ("rows changed", changed if all_now != all_before else f"No change: the network sees {all_now}{every}."),
        ]

    def _seen(self, scenario: Scenario) -> str:
        """What the network sees of test images."""
        return seen(scenario, scenario.probability) if self._is_at_work(scenario) else UNTOUCHED

    def _is_at_work(self, scenario: Scenario) -> bool:
        return scenario.in_evaluation and scenario.is_active(self.step)

    def _why(self) -> str:
        """Why test images are as they are, though the scenario shows the network others in training."""
        used = self.used
        if self._is_at_work(used) or seen(used, used.probability) == UNTOUCHED:
            return ""
        when = f"is not at work at step {self.step}" if used.in_evaluation else "works in training only"
        return f" ({used.name} {when})"

    def _never_seen(self) -> list[tuple[str, str]]:
        """Which rows were black at every step of training, and are not in the test."""
        own, used = self.own, self.used
        whole = own.from_step == 0 and own.is_active(self.step) and own.random_rows is None
        if own.route != "exclude" or not whole:
            return []
        hides = used.route == "exclude" and used.random_rows is None and self._is_at_work(used)
        pairs = zip(own.chosen, used.chosen, strict=True)
        there = [never and not (hides and hidden) for never, hidden in pairs]
        return [("", f"In training it never saw {name_rows(there)}; here it does.")] if any(there) else []


def _own_scenario(folder: RunFolder, height: int) -> Scenario:
    """What a run was trained with, for words about it: a package that its operation is of need not be trusted."""
    settings = ScenarioSettings.read(folder.read_config().scenario)
    if isinstance(settings.operation, Mapping):
        settings = replace(settings, operation=Named(settings.operation["_target_"]))
    return Scenario.from_settings(settings, height=height)


def seen(scenario: Scenario, probability: float) -> str:
    """What the network sees of images, where a scenario is at work.

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
    """A difference in words, however small."""
    if difference == 0:
        return "same"
    shown_as, unit = (100 * difference, " points") if share else (difference, "")
    words = f"{shown_as:+.2f}" if share else f"{shown_as:+.4f}"
    return (words if float(words) else f"{shown_as:+.0e}") + unit
