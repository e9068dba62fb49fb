"""Each recipe of docs/extending.md, as it is printed, from a folder outside the project."""

import json
import re
import shlex

import pytest
from conftest import EVALUATE, PROJECT, REPORT, command, done, events, norms, refused, summary, weights
from omegaconf import OmegaConf
from sklearn.metrics import f1_score

from rowgrad.training.train import load_run

PAGE = (PROJECT / "docs" / "extending.md").read_text()
RECIPES = dict(section.split("\n", 1) for section in PAGE.split("\n## ")[1:])
LAUNCHER = PROJECT / "src" / "rowgrad" / "__main__.py"


def follow(recipe, folder, *more):
    """Writes down a recipe's files, types its command, and returns the run's folder and its summary."""
    blocks = re.findall(r"```(\w+)\n(.*?)```", RECIPES[recipe], re.DOTALL)
    for kind, text in blocks:
        if kind != "bash":
            file = folder / re.match(r"# (\S+)\n", text)[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    (line,) = (text for kind, text in blocks if kind == "bash")
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "rowgrad"]
    quick = [] if "data=stripes" in words else ["data=digits"]
    quick += ["trainer.max_steps=6", "trainer.accelerator=cpu", "callbacks.progress=null", "callbacks.pictures=null"]
    quick.append(f"hydra.run.dir={folder}/run")
    result = done(LAUNCHER, *words[3:], *quick, *more, cwd=folder)
    return folder / "run", summary(folder / "run"), result.stdout


def test_every_recipe_is_followed_here():
    tested = re.findall(r'follow\("([^"]*)"', (PROJECT / "tests" / "test_extending.py").read_text())
    assert set(RECIPES) == set(tested)


def test_a_scenario(tmp_path):
    *_, printed = follow("A scenario", tmp_path)
    assert "Rows 20–23, 27 are detached, given noise of standard deviation 0.5 and fed to the network." in printed


def test_an_operation(tmp_path):
    *_, printed = follow("An operation", tmp_path)
    assert "Rows 0–13 are detached, raised to the power 3 with probability 0.5 and fed to the network." in printed
    assert "with the rows raised to the power 3 in every image" in printed


def test_a_network_with_a_state_is_cut_between_rows(tmp_path):
    run, _, printed = follow("A network with a state", tmp_path)
    assert "The state that is carried into row 14 is detached." in printed
    row = norms(run, "row_grad_norm")
    assert (row[:, :14] == 0).all()
    assert (row[:, 14:] > 0).all()


def test_a_network_is_trained_resumed_and_evaluated_by_whoever_trusts_it(tmp_path):
    run, facts, _ = follow("A network", tmp_path)
    assert weights(run)["network.rows.0.weight"].shape == (16, 28)
    evaluate = [EVALUATE, run]
    line = refused(*evaluate, cwd=tmp_path)
    assert line.startswith("Cannot evaluate: model.network: ")
    assert "my_network.RowMixer" in line
    assert line.endswith("If it is yours: trust=[my_network].")
    trusted = command(*evaluate, "--trust", "my_network", "--format", "json", cwd=tmp_path)
    assert json.loads(trusted.stdout)["test/acc"] == facts["test/acc"]
    resume = [f"resume={run}", "trainer.max_steps=8"]
    assert "If it is yours: trust=[my_network]." in command(LAUNCHER, *resume, cwd=tmp_path).stderr
    done(LAUNCHER, *resume, "trust=[my_network]", cwd=tmp_path)
    assert summary(run)["train/steps"] == 8


@pytest.mark.slow
def test_a_data_set_of_another_size_with_three_channels(tmp_path):
    run, facts, printed = follow("A data set", tmp_path)
    assert facts["data"] == "stripes"
    assert "rows 0–4: row gradient exactly 0.0 at each of 6 steps" in printed
    head, *lines = (run / "row_gradients.csv").read_text().splitlines()
    assert len(head.split(",")) == 1 + 2 * 20
    assert len(lines) == 6
    assert weights(run)["theta"].shape == (3, 20, 16)
    done(REPORT, run, "--out", tmp_path / "report", cwd=tmp_path)
    evaluate = [EVALUATE, run, "--trust", "stripes", "--format", "json"]
    trusted = command(*evaluate, cwd=tmp_path)
    assert json.loads(trusted.stdout)["test/acc"] == facts["test/acc"]


def test_rows_that_a_data_set_of_ones_own_does_not_have_are_said_plainly(tmp_path):
    follow("A data set", tmp_path)
    words = ["--config-dir", "configs", "data=stripes", "data.batch_size=20", "scenario.rows=20"]
    limits = "an image has 20 rows, 0 to 19 (or -20 to -1 from the bottom)"
    line = refused(LAUNCHER, *words, cwd=tmp_path)
    assert line == f"Cannot train: scenario.rows=20 is out of range: {limits}."


def test_a_metric(tmp_path):
    run, facts, _ = follow("A metric", tmp_path)
    tags = events(run)
    for name in ("val/f1", "test/f1", "test/f1_operated"):
        assert tags[name][-1][1] == pytest.approx(facts[name])
    _, data, module = load_run(run)
    images = (data.dataset.test.pixels[:, None] / 255 - data.dataset.mean) / data.dataset.std + module.theta
    predicted = module.network.eval()(images).argmax(1)
    assert facts["test/f1"] == pytest.approx(f1_score(data.dataset.test.labels, predicted, average="macro"))


def test_a_recorded_quantity(tmp_path):
    run, _, _ = follow("A recorded quantity", tmp_path)
    tags = events(run)
    learnt = [value for _, value in tags["theta_norm/row_20"]]
    assert learnt[0] == 0 < learnt[5]
    assert all(value == 0 for _, value in tags["theta_norm/row_00"])  # cut, so it has learnt nothing
    assert "theta_norm/row_19" in (run / "row_gradients.csv").read_text().partition("\n")[0]


def test_a_callback(tmp_path):
    run, facts, _ = follow("A callback", tmp_path, "trainer.max_steps=-1", "trainer.max_epochs=50")
    assert facts["train/steps"] < 50
    assert OmegaConf.load(run / "config.yaml").callbacks.good_enough.loss == 2.2
