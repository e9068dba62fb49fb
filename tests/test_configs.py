"""Every YAML file of `configs/` composes, and what it describes can be built."""

from dataclasses import replace

import lightning.pytorch as pl
import pytest
from conftest import CONFIGS, configure

from rowgrad.run import build, lightning_settings, make
from rowgrad.data.sources import SOURCES

CHOICES = sorted(path.relative_to(CONFIGS).with_suffix("") for path in CONFIGS.glob("*/*.yaml"))


@pytest.fixture(autouse=True)
def digits_for_every_name(monkeypatch):
    """No downloads here: under every data set's name stand the digits."""
    for name, source in SOURCES.items():
        monkeypatch.setitem(SOURCES, name, replace(source, load=SOURCES["digits"].load))


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_choice_of_every_group_can_be_built(choice):
    config = configure(f"{choice.parent}={choice.name}", "model.checkpoint=null")
    data, module = build(config)
    if choice.parent.name in ("data", "scenario", "corruption"):
        named = {"data": data, "scenario": module.scenario, "corruption": module.corruption}
        assert named[choice.parent.name].name == choice.name
    assert isinstance(make(lightning_settings(config), accelerator="cpu", logger=False), pl.Trainer)
    for callback in config.callbacks.values():
        assert callback is None or isinstance(make(callback), pl.Callback)


@pytest.mark.parametrize(
    "choice", [c for c in CHOICES if c.parent.name in ("scenario", "corruption", "experiment")], ids=str
)
def test_every_question_stands_above_its_command_and_what_to_see(choice):
    lines = (CONFIGS / choice).with_suffix(".yaml").read_text().splitlines()
    experiment = choice.parent.name == "experiment"
    assert not experiment or lines.pop(0) == "# @package _global_"
    assert lines[0].startswith("# ")
    assert "?" in lines[0]
    assert f"#   python scripts/train.py {'-m ' if experiment else ''}{choice.parent}={choice.name}" in lines
    assert any(line.startswith("# See: ") for line in lines)
    assert not experiment or any(line.startswith("# Time: about ") for line in lines)


@pytest.mark.parametrize(
    ("scenario", "rows", "operation", "probability", "detach", "route", "when"),
    [
        ("baseline", "no row", "left as they are", 1, True, "replace", "train"),
        ("modify", "rows 14–27", "scaled by 2", 1, True, "exclude", "train and eval"),
        ("visualize", "rows 0–13", "scaled by 0.5", 1, True, "observe", "train"),
        ("augment", "rows 0–13", "shifted by +1", 0.5, True, "replace", "train"),
    ],
)
def test_the_scenarios_are_those_of_the_table(scenario, rows, operation, probability, detach, route, when):
    module = build(configure("data=digits", f"scenario={scenario}"))[1].scenario
    assert (module.rows, module.operation.phrase, module.probability) == (rows, operation, probability)
    assert (module.detach, module.route, module.when) == (detach, route, when)


def test_a_scenario_takes_rows_detach_operation_and_probability_from_the_command_line():
    changes = ["rows=[0:3,-1]", "detach=false", "operation=RandomRotation 30", "probability=0.25"]
    scenario = build(configure("data=digits", *(f"scenario.{change}" for change in changes)))[1].scenario
    assert scenario.sentence().startswith("Rows 0–2, 27 are put through RandomRotation")
    assert (scenario.detach, scenario.probability) == (False, 0.25)


def test_an_operation_may_be_any_target():
    rotation = "{_target_:torchvision.transforms.v2.RandomRotation,degrees:30}"
    scenario = build(configure("data=digits", f"scenario.operation={rotation}"))[1].scenario
    assert "RandomRotation(degrees=[-30.0, 30.0]" in scenario.operation.phrase
