"""Every YAML file of `configs/` composes, and what it describes can be built."""

import lightning.pytorch as pl
import pytest
from conftest import CONFIGS, build, configure

from rowgrad.data.sources import SOURCES
from rowgrad.folders import RunFolder
from rowgrad.training.settings import read_settings
from rowgrad.training.trainer import make_trainer

CHOICES = sorted(path.relative_to(CONFIGS).with_suffix("") for path in CONFIGS.glob("*/*.yaml"))


@pytest.fixture(autouse=True)
def digits_for_every_name(monkeypatch):
    """No downloads here: under every data set's name stand the digits."""
    for name in SOURCES:
        monkeypatch.setitem(SOURCES, name, SOURCES["digits"])


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_choice_of_every_group_can_be_built(choice, tmp_path):
    reader = ["model=gru"] * (choice.name == "truncate" and choice.parent.name == "scenario")  # it cuts a state
    config = configure(f"{choice.parent}={choice.name}", "model.checkpoint=null", *reader)
    data, module = build(config)
    if choice.parent.name in ("data", "scenario", "corruption"):
        named = {"data": data, "scenario": module.scenario, "corruption": module.corruption}
        assert named[choice.parent.name].name == choice.name
    config.trainer.accelerator = "cpu"
    trainer = make_trainer(read_settings(config), RunFolder(tmp_path), [], None)
    assert isinstance(trainer, pl.Trainer)
    kinds = {type(callback).__name__ for callback in trainer.callbacks}
    named = {node["_target_"].rpartition(".")[2] for node in config.callbacks.values() if node}
    assert named <= kinds


@pytest.mark.parametrize(
    "choice", [c for c in CHOICES if c.parent.name in ("scenario", "corruption", "experiment")], ids=str
)
def test_every_question_stands_above_its_command_and_what_to_see(choice):
    lines = (CONFIGS / choice).with_suffix(".yaml").read_text().splitlines()
    experiment = choice.parent.name == "experiment"
    assert not experiment or lines.pop(0) == "# @package _global_"
    assert lines[0].startswith("# ")
    assert "?" in lines[0]
    reader = "model=gru " if choice.name == "truncate" else ""
    assert f"#   python scripts/train.py {'-m ' if experiment else reader}{choice.parent}={choice.name}" in lines
    assert any(line.startswith("# See: ") for line in lines)
    assert not experiment or any(line.startswith("# Time: about ") for line in lines)


@pytest.mark.parametrize(
    ("scenario", "rows", "operation", "probability", "detach", "route", "when"),
    [
        ("baseline", "no row", "left as they are", 1, True, "replace", "train"),
        ("modify", "rows 14–27", "scaled by 2", 1, True, "exclude", "train and eval"),
        ("visualize", "rows 0–13", "scaled by 0.5", 1, True, "observe", "train"),
        ("augment", "rows 0–13", "shifted by +1", 0.5, True, "replace", "train"),
        ("truncate", "row 14", "left as they are", 1, True, "state", "train"),
    ],
)
def test_the_scenarios_are_those_of_the_table(scenario, rows, operation, probability, detach, route, when):
    module = build(configure("data=digits", "model=gru", f"scenario={scenario}"))[1].scenario
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
