"""A run tested again: the table, the numbers beside the reported ones, and the words for a scenario that is swapped."""

import json

import pytest
import torch
from conftest import EVALUATE, QUICK, command, configure, done, summary, train

from rowgrad.results.evaluation import describe_views, metrics_table
from rowgrad.scenario.scenario import Scenario
from rowgrad.training.train import load_run


@pytest.fixture(scope="module")
def modified(tmp_path_factory):
    """A run in which rows 14-27 are hidden from the network, in validation and test too."""
    folder = tmp_path_factory.mktemp("modified") / "run"
    train(configure(*QUICK, "scenario=modify", "trainer.max_epochs=3"), folder)
    return folder


def evaluated(run, *more):
    result = done(EVALUATE, run, *more, cwd=run.parent)
    assert max(map(len, result.stdout.splitlines())) <= 80
    return result.stdout


def numbers(printed):
    """Name -> the cells of its line in the table."""
    found = {}
    for line in printed.splitlines()[1:]:
        name, *values = line.strip().split("  ")
        found[name] = " ".join(values).split()
    return found


def by_hand(run, change):
    """Accuracy and loss of the run's network on its test images, changed by a function, without the scenario's code."""
    _, data, module = load_run(run)
    dataset = data.dataset
    images = (dataset.test.pixels[:, None] / 255 - dataset.mean) / dataset.std + module.theta
    with torch.no_grad():
        logits = module.network.eval()(change(images.clone(), -dataset.mean / dataset.std))
    loss = torch.nn.functional.cross_entropy(logits, dataset.test.labels)
    return (logits.argmax(1) == dataset.test.labels).float().mean().item(), loss.item()


def black_below(images, black):
    images[:, :, 14:] = black
    return images


def shifted_above(images, _):
    images[:, :, :14] += 1
    return images


def test_the_table_has_the_runs_own_numbers_beside_those_it_reported(modified):
    printed, facts = evaluated(modified), summary(modified)
    accuracy, loss = by_hand(modified, black_below)
    assert facts["test/acc"] == pytest.approx(accuracy)
    assert numbers(printed.split("\n\n")[1]) == {
        "test accuracy": [f"{accuracy:.2%}", f"{facts['test/acc']:.2%}", "same"],
        "rows changed in every image": [f"{accuracy:.2%}", f"{facts['test/acc_operated']:.2%}", "same"],
        "test loss": [f"{loss:.4f}", f"{facts['test/loss']:.4f}", "same"],
    }
    assert "run             run: last.ckpt, after 33 steps; data set digits\n" in printed
    words = " ".join(printed.split())
    assert (
        "trained with modify evaluated with modify: Rows 14–27 are detached, scaled by 2 for observers only;" in words
    )
    assert words.endswith(
        "the network saw black in rows 14–27; with the rows changed, black in rows 14–27, in every image."
    )


def test_a_swapped_scenario_shows_the_rows_that_were_hidden_and_says_so(modified):
    printed, facts = evaluated(modified, "--scenario", "augment"), summary(modified)
    (accuracy, loss), (shifted, _) = by_hand(modified, lambda images, _: images), by_hand(modified, shifted_above)
    before = facts["test/acc"]
    assert accuracy != before != shifted
    found = numbers(printed.split("\n\n")[1])
    assert [cells[:2] for cells in found.values()] == [
        [f"{accuracy:.2%}", f"{before:.2%}"],
        [f"{shifted:.2%}", f"{before:.2%}"],
        [f"{loss:.4f}", f"{facts['test/loss']:.4f}"],
    ]
    assert float(found["test accuracy"][2]) == pytest.approx(100 * (accuracy - before), rel=0.01)
    assert float(found["test loss"][2]) == pytest.approx(loss - facts["test/loss"], rel=0.01)
    words = " ".join(printed.split())
    assert "trained with modify evaluated with augment: Rows 0–13 are detached, shifted by +1 with probability" in words


def test_json_is_for_machines(modified):
    metrics = json.loads(evaluated(modified, "--format", "json"))
    assert metrics == {key: summary(modified)[key] for key in ("test/acc", "test/acc_operated", "test/loss")}
    swapped = json.loads(evaluated(modified, "--format", "json", "--scenario", "baseline"))
    assert swapped["test/acc"] == swapped["test/acc_operated"] == pytest.approx(by_hand(modified, lambda x, _: x)[0])


def test_an_older_checkpoint_is_set_beside_what_the_last_one_reported(modified):
    printed = evaluated(modified / "checkpoints" / "previous.ckpt")
    assert "previous.ckpt, after 22 steps (it reported those after 33)" in " ".join(printed.split())
    assert numbers(printed.split("\n\n")[1])["test loss"][1] == f"{summary(modified)['test/loss']:.4f}"
    assert "same" not in printed.split("\n\n")[1]


def test_a_scenario_that_does_not_exist_is_one_line(modified):
    mistaken = command(EVALUATE, modified, "--scenario", "basline", cwd=modified)
    assert mistaken.returncode == 1
    assert mistaken.stderr == (
        "Cannot evaluate: there is no scenario basline. Accepted: augment, baseline, modify, truncate, visualize.\n"
    )


# ---- the words, of scenarios that no run is trained for

UNTOUCHED = "the images as they are"
IN_TRAINING = "is active in training only); with the rows changed,"
ALWAYS = {"when": "train and eval"}
# name -> settings, and what is said
VIEWS = {
    "baseline": ({}, f"{UNTOUCHED}; with the rows changed, the same."),
    "visualize": ({"rows": "0:14", "route": "observe"}, f"{UNTOUCHED}; with the rows changed, the same."),
    "augment": (
        {"rows": "0:14", "operation": "shift 1", "probability": 0.5},
        f"{UNTOUCHED} (augment {IN_TRAINING} rows 0–13 shifted by +1, in every image.",
    ),
    "always": (
        {"rows": 3, "operation": "scale 2", "probability": 0.5, **ALWAYS},
        "row 3 scaled by 2 with probability 0.5; with the rows changed, row 3 scaled by 2, in every image.",
    ),
    "hidden": (
        {"rows": "14:28", "route": "exclude"},
        f"{UNTOUCHED} (hidden {IN_TRAINING} black in rows 14–27, in every image.",
    ),
    "late": (
        {"rows": 3, "route": "exclude", "from_step": 50, **ALWAYS},
        f"{UNTOUCHED} (late is not active at step 10); with the rows changed, black in row 3, in every image.",
    ),
    "drawn": (
        {"rows": "0:14", "random_rows": 5, "operation": "erase"},
        f"{UNTOUCHED} (drawn {IN_TRAINING} 5 of rows 0–13 (drawn for each image) erased to 0, in every image.",
    ),
    "blind": (
        {"rows": "14:28", "route": "exclude", **ALWAYS},
        "black in rows 14–27; with the rows changed, black in rows 14–27, in every image.",
    ),
}


@pytest.mark.parametrize("name", VIEWS)
def test_what_the_network_saw_is_said_by_route_phase_and_schedule(name):
    settings, words = VIEWS[name]
    assert describe_views(Scenario(name=name, height=28, **settings), 10) == words


def test_a_metric_that_was_not_reported_and_a_difference_however_small_are_shown():
    now = {"test/loss": 0.5, "test/acc": 0.75, "test/acc_operated": 0.5, "test/f1": 0.25}
    found = numbers(metrics_table(now, {"test/acc": 0.75 + 1e-8, "test/loss": 0.5 - 3e-7, "test/acc_operated": 0.5}))
    assert list(found.items()) == [
        ("test accuracy", ["75.00%", "75.00%", "-1e-06", "points"]),
        ("rows changed in every image", ["50.00%", "50.00%", "same"]),
        ("test loss", ["0.5000", "0.5000", "+3e-07"]),
        ("test/f1", ["0.2500", "nothing"]),
    ]
