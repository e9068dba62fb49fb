"""The experiments of `configs/experiment/`: every job of every sweep is accepted; those that can be quick are run."""

import json
from functools import cache

import pytest
import torch
from conftest import CONFIGS, TRAIN, configure, done, events, norms, train
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from rowgrad.training.settings import read_settings

NAMES = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
GROUPS = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
PARSER = OverridesParser.create()
composed = cache(configure)  # composing takes a tenth of a second, and most jobs differ in a value only
# How many jobs each sweep has, and the keys that its cases differ in besides the seed.
SWEEPS = {
    "article": (40, {"scenario", "scenario.detach"}),
    "detach_is_not_freeze": (20, {"optimizer.algorithm.betas", "optimizer.rows_weight_decay"}),
    "h_detach": (60, {"scenario.probability", "scenario.state", "scenario.detach"}),
    "random_rows": (40, {"scenario.random_rows"}),
    "repair": (40, {"corruption", "scenario.rows"}),
    "row_atlas": (145, {"scenario.rows"}),
    "smoke": (24, {"scenario", "scenario.detach", "corruption"}),
    "straight_through": (20, {"scenario.operation", "scenario.straight_through"}),
    "truncation": (120, {"model", "scenario.rows", "scenario.detach"}),
    "vanishing": (30, {"model"}),
}


def jobs(name):
    """The overrides of each job of an experiment, as Hydra's own sweeper makes them."""
    with initialize_config_dir(str(CONFIGS)):
        params = compose("train", [f"experiment={name}"], return_hydra_config=True).hydra.sweeper.params
    overrides = PARSER.parse_overrides([f"{key}={value}" for key, value in params.items()])
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    return batch


def summaries(folder):
    """`summary.json` of each job of a sweep, in the order in which they were started."""
    files = sorted(folder.glob("*/summary.json"), key=lambda file: file.with_name("job.json").stat().st_mtime_ns)
    return [json.loads(file.read_text()) | {"folder": file.parent} for file in files]


def sweep(tmp_path, *arguments):
    """Runs a sweep on digits as a user would."""
    done(
        TRAIN, "-m", *arguments, "data=digits", "callbacks.progress=null", f"hydra.sweep.dir={tmp_path / 'sweep'}",
        cwd=tmp_path, timeout=500,
    )  # fmt: skip
    return summaries(tmp_path / "sweep")


@pytest.mark.parametrize("name", NAMES)
def test_every_job_of_an_experiment_is_accepted_and_no_two_are_the_same(name, tmp_path, monkeypatch):
    batch = jobs(name)
    count, keys = SWEEPS[name]
    assert len(batch) == len(set(map(tuple, batch))) == count
    cases = {tuple(part for part in job if not part.startswith("seed=")) for job in batch}
    varied = {part.partition("=")[0] for case in cases for part in case if not all(part in other for other in cases)}
    assert varied == keys
    monkeypatch.chdir(tmp_path)
    for case in cases:
        config = composed(f"experiment={name}", *(part for part in case if part.partition("=")[0] in GROUPS)).copy()
        for part in PARSER.parse_overrides([part for part in case if part.partition("=")[0] not in GROUPS]):
            OmegaConf.update(config, part.key_or_group, part.value())
        if config.model.checkpoint:
            (tmp_path / config.model.checkpoint / "checkpoints").mkdir(parents=True, exist_ok=True)
            (tmp_path / config.model.checkpoint / "checkpoints" / "last.ckpt").touch()
        read_settings(config)


@pytest.mark.slow
def test_the_smoke_experiment_runs(tmp_path):
    found = sweep(tmp_path, "experiment=smoke", "callbacks.pictures=null")
    assert len(found) == 24
    assert {facts["status"] for facts in found} == {"done"}
    assert {(facts["scenario"], facts["corruption"]) for facts in found} == {
        (scenario, corruption)
        for scenario in ("baseline", "modify", "visualize", "augment")
        for corruption in ("none", "row_shift", "row_noise")
    }
    for camera in ("none", "row_shift", "row_noise"):
        rows = {
            (facts["folder"] / "row_gradients.csv").read_bytes()
            for facts in found
            if facts["scenario"] in ("baseline", "visualize") and facts["corruption"] == camera
        }
        assert len(rows) == 1


@pytest.mark.slow
def test_a_cut_row_moves_on_by_momentum_and_weight_decay_and_by_nothing_else(tmp_path):
    few = ["seed=0", "scenario.from_step=11", "trainer.max_epochs=2", "callbacks.pictures=null"]
    found = sweep(tmp_path, "experiment=detach_is_not_freeze", *few)
    for facts, moves in zip(found, (True, True, False, True), strict=True):
        scalars = events(facts["folder"])
        updates = torch.tensor([[v for _, v in scalars[f"row_update_norm/row_{r:02d}"]] for r in range(14)])
        assert (updates[:, :11] > 0).all()
        assert (updates[:, 11:] > 0).all() if moves else (updates[:, 11:] == 0).all()
        assert (norms(facts["folder"], "row_grad_norm")[11:, :14] == 0).all()


@pytest.mark.slow
def test_straight_through_is_what_teaches_rows_before_a_quantisation(tmp_path):
    source = tmp_path / "network"
    train(configure("scenario=baseline", "data=digits", "trainer.max_epochs=8", "callbacks.pictures=null"), source)
    few = ["seed=0", f"model.checkpoint={source}", "trainer.max_epochs=12", "callbacks.pictures=null"]
    found = sweep(tmp_path, "experiment=straight_through", *few)
    none, none_through, alone, through = found
    assert none["test/acc"] == none_through["test/acc"]
    assert (norms(alone["folder"], "row_grad_norm") == 0).all()
    assert (norms(through["folder"], "row_grad_norm") > 0).all()
    assert through["test/acc"] > alone["test/acc"] + 0.1
