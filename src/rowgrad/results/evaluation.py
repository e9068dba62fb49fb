"""A run that was tested again: its metrics beside those that it reported, and what the network saw of the images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rowgrad.files import shown
from rowgrad.folders import RunFolder
from rowgrad.results.tables import METRICS, hanging
from rowgrad.scenario.settings import NOTHING, STATE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rowgrad.model.classifier import RowClassifier
    from rowgrad.scenario.scenario import Scenario

UNTOUCHED = "the images as they are"


def describe_evaluation(path: Path, module: RowClassifier, data: str, metrics: Mapping[str, float]) -> str:
    """What was tested, a table of the metrics now and as reported, and what the network saw, in 80 columns.

    Args:
        path: the run's folder, or the checkpoint in it that was loaded.
        module: what was tested.
        data: the data set's name.
        metrics: measured now, by the names of `summary.json`.

    Raises:
        UserError: a file of the run cannot be read.
    """
    folder, checkpoint = RunFolder.of_checkpoint(path)
    reported, scenario, camera = folder.read_summary(), module.scenario, module.corruption.sentence()
    last = reported.get("train/steps", module.trained)
    others = "" if last == module.trained else f" (it reported those after {last})"
    place = f"{shown(folder.path)}: {checkpoint.name}, after {module.trained} steps{others}; data set {data}"
    lines = [
        hanging("run", place),
        hanging("trained with", str(folder.read_config().scenario.name)),
        hanging("evaluated with", f"{scenario.name}: {scenario.sentence()}"),
        *([hanging("camera", camera)] if camera else []),
        "",
        metrics_table(metrics, reported),
        "",
        hanging("the network saw", describe_views(scenario, module.last_step)),
    ]
    return "\n".join(lines)


def metrics_table(metrics: Mapping[str, float], reported: Mapping[str, Any]) -> str:
    """Each metric now and as reported, and the change; changes of accuracies are in percentage points."""
    lines = [f"{'':30}{'now':>10}{'reported':>12}"]
    for key in sorted(metrics, key=lambda key: [*METRICS, key].index(key)):
        now, before = metrics[key], reported.get(key)
        form, factor, unit = (".2%", 100, " points") if key.startswith("test/acc") else (".4f", 1, "")
        words = f"{METRICS[key].words if key in METRICS else key:30}{now:>10{form}}"
        if before is None:
            lines.append(f"{words}{'nothing':>12}")
        else:
            change = "same" if now == before else f"{factor * (now - before):+.3g}{unit}"
            lines.append(f"{words}{before:>12{form}}   {change}")
    return "\n".join(lines)


def describe_views(scenario: Scenario, step: int) -> str:
    """What the network sees of test images after some step, and in the test with changed rows."""
    now, changed, why = UNTOUCHED, seen(scenario, 1.0), ""
    if scenario.in_evaluation and scenario.is_active(step):
        now = seen(scenario, scenario.probability)
    elif changed != UNTOUCHED:
        when = f"is not active at step {step}" if scenario.in_evaluation else "is active in training only"
        why = f" ({scenario.name} {when})"
    every = "the same" if changed == UNTOUCHED else f"{changed}, in every image"
    return f"{now}{why}; with the rows changed, {every}."


def seen(scenario: Scenario, probability: float) -> str:
    """What the network sees while a scenario is active and its operation is used with a probability for each image."""
    if scenario.is_noop or scenario.route in {"observe", STATE}:
        return UNTOUCHED
    drawn = scenario.random_rows is not None
    rows = f"{scenario.random_rows} of {scenario.rows} (drawn for each image)" if drawn else scenario.rows
    if scenario.route == "exclude":
        return f"black in {rows}"
    if probability == 0 or scenario.operation == NOTHING:
        return UNTOUCHED
    return f"{rows} {scenario.operation.phrase}" + ("" if probability == 1 else f" with probability {probability:g}")
