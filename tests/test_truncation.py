"""Truncation in one's own code: the four lines of docs/reading.md, what people get wrong, and what compares."""

import re
import statistics
from itertools import product

import numpy as np
import pytest
import torch
from conftest import PROJECT, configure
from omegaconf import OmegaConf
from oracle import gradients_in_sequence
from torch import nn
from torch.nn.functional import cross_entropy

from rowgrad.config import flat
from rowgrad.folders import RunFolder
from rowgrad.model.sequences import RecurrentNet
from rowgrad.results.analysis import load_analyses
from rowgrad.results.run import Run
from rowgrad.results.runs import RunSet
from rowgrad.watch.norms import contrast
from rowgrad.watch.wording import describe_vanishing

PAGE = (PROJECT / "docs" / "reading.md").read_text()
RIGHT, OWN_SEGMENT, NO_CELL, FREED = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)

_, _, truncation, vanishing = load_analyses()  # repair, row_atlas


@pytest.fixture
def parts():
    """What the page's lines are about, and the project's own network with the same weights."""
    torch.manual_seed(0)
    network = RecurrentNet("lstm", 8, readout="every", height=28, width=28, in_channels=1, classes=10)
    images, labels = torch.randn(5, 1, 28, 28), torch.arange(5)
    rows = images[:, 0].transpose(0, 1).clone().requires_grad_()
    names = {"rows": rows, "labels": labels, "window": 7, "state": None, "loss": 0.0, "cross_entropy": cross_entropy}
    return (
        network,
        images,
        labels,
        names | {"lstm": network.layers[0], "readout": nn.Linear.forward.__get__(network.readout)},
    )


def test_the_four_lines_give_the_gradient_of_cells_written_out(parts):
    network, images, labels, names = parts
    exec(RIGHT, names)
    names["loss"].backward()
    of_rows, of_weights, loss, _ = gradients_in_sequence(
        network, "lstm", images, labels, [{7, 14, 21}] * 5, readout="every"
    )
    assert names["loss"].item() == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(names["rows"].grad.transpose(0, 1).double(), of_rows, rtol=1e-4, atol=1e-9)
    for name, weights in network.named_parameters():
        torch.testing.assert_close(weights.grad.double(), of_weights[name], rtol=1e-4, atol=1e-8)
    assert len(RIGHT.strip().splitlines()) == 4


def test_detaching_the_losss_own_segment_leaves_the_recurrence_without_a_gradient(parts):
    network, *_, names = parts
    exec(OWN_SEGMENT, names)
    names["loss"].backward()
    assert all(weights.grad is None for weights in network.layers.parameters())
    assert network.readout.weight.grad.abs().sum() > 0  # so that the loss falls, and nobody notices


def test_a_cell_that_is_forgotten_lets_gradient_through(parts):
    network, images, labels, names = parts
    exec(NO_CELL, names)
    # Of the last segment's loss, which the cuts should keep from all rows above it.
    outputs, _ = network.layers[0](names["segment"], names["state"])
    outputs.sum().backward()
    assert (names["rows"].grad[:21].abs().sum((1, 2)) > 0).all()
    half, *_ = gradients_in_sequence(
        network, "lstm", images, labels, [{7, 14, 21}] * 5, readout="every", parts=("hidden",)
    )
    names["rows"].grad = None
    names |= {"state": None, "loss": 0.0}
    exec(NO_CELL, names)
    names["loss"].backward()
    torch.testing.assert_close(names["rows"].grad.transpose(0, 1).double(), half, rtol=1e-4, atol=1e-9)


def test_without_detach_the_second_segment_goes_back_through_a_freed_graph(parts):
    *_, names = parts
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        exec(FREED, names)
    assert names["rows"].grad[:7].abs().sum() > 0  # the first one has been sent back


@pytest.mark.parametrize(
    ("edges", "window"),
    [([], 28), ([14], 14), ([7, 14, 21], 7), (range(1, 28), 1), ([9, 18, 27], 9), ([10, 14], None), ([4], None)],
)
def test_a_window_is_what_lies_between_two_cuts(edges, window):
    assert truncation.window_of([row in edges for row in range(28)]) == window


def test_row_0_waits_for_its_tenth_until_a_window_of_twenty_steps_has_it():
    rng = np.random.default_rng(0)
    norms = torch.from_numpy(rng.uniform(0.5, 1.5, (200, 5)))
    norms[:, 0] *= torch.linspace(0, 0.3, 200)
    steps = torch.arange(0, 400, 2)
    means = [(norms[t : t + 20, 0].mean(), norms[t : t + 20, 4].mean()) for t in range(181)]
    wanted = next(t for t, (top, bottom) in enumerate(means) if top >= bottom / 10)
    assert vanishing.reached_a_tenth(steps, norms) == 2 * wanted
    assert vanishing.reached_a_tenth(steps, norms * torch.tensor([0.0, 1, 1, 1, 1])) is None
    assert vanishing.reached_a_tenth(steps[:19], norms[:19]) is None


def test_the_weakest_row_is_set_beside_the_strongest_and_rows_that_get_nothing_are_left_out():
    norms = torch.tensor([[0.0, 1e-6, 0.5], [0.0, 3e-6, 1.5]])
    found = contrast(norms)
    assert (found.weakest, found.strongest) == (1, 2)
    assert found.ratio == pytest.approx(2e-6)
    assert contrast(torch.zeros(3, 4)) is None
    torch.testing.assert_close(
        vanishing.share_of_rows(norms), torch.tensor([0.0, 2e-6, 1.0]).double(), rtol=1e-5, atol=0
    )
    assert describe_vanishing(norms) == (
        "first 2 steps: row 1 gets 1/500,000 of row 2; last 2: row 1 gets 1/500,000 of row 2"
    )
    later = torch.cat([norms[:1].expand(20, 3), torch.ones(200, 3)])
    assert describe_vanishing(later).endswith("last 100: row 0 gets 1.00 of row 0")
    assert not describe_vanishing(torch.ones(5, 3))
    for number in (torch.inf, torch.nan):  # of a run that blew up
        assert not describe_vanishing(torch.tensor([[1.0, number]]))
    assert not describe_vanishing(torch.cat([norms, torch.full((1, 3), torch.inf)]))
    assert not describe_vanishing(None)


@pytest.fixture
def runs():
    """Networks cut at row 14 or at all rows, with detach and without, two seeds of each; no file is read."""
    found = {}
    vanishing_norms = torch.logspace(-6, 0, 28).expand(3, 28)
    for number, (rows, detach, seed) in enumerate(product(("14", "all"), (True, False), (0, 1))):
        run = Run(RunFolder(PROJECT / str(number)))
        run.config = configure(
            "scenario=truncate", f"scenario.rows={rows}", f"scenario.detach={detach}", f"seed={seed}", "data=digits"
        )
        run.values = flat(OmegaConf.to_container(run.config))
        accuracies = {"test/acc": 0.5 + number / 100, "grad_bias/cosine": 0.9 - number / 70, "grad_bias/ratio": 0.9}
        run.summary = {"status": "done"} | accuracies
        arrives = vanishing_norms ** (1 + seed / 10)
        reaches = arrives * (torch.arange(28) >= 14) if detach else arrives
        run.steps, run.norms = torch.arange(3), {"row_grad_norm": reaches, "input_grad_norm": arrives}
        found[rows, detach, seed] = run
    return found


def test_a_table_has_a_line_for_each_window_and_the_control_in_it(runs):
    (table,) = truncation.tables(RunSet(list(runs.values())))
    assert [line[:3] for line in table.body] == [["truncate", "14", "2"], ["truncate", "1", "2"]]
    for line, rows in zip(table.body, ("14", "all"), strict=True):
        for cell, detach in zip(line[3:5], (True, False), strict=True):
            found = [100 * runs[rows, detach, seed].summary["test/acc"] for seed in (0, 1)]
            assert cell == f"{statistics.mean(found):.2f} ± {statistics.stdev(found):.2f} %"
        cosines = [runs[rows, True, seed].summary["grad_bias/cosine"] for seed in (0, 1)]
        assert line[5].startswith(f"{statistics.mean(cosines):.4f} ± ")
    plot = truncation.figures(RunSet(list(runs.values())))["truncation"]
    assert "detach=false" in plot.words
    assert re.findall(r"([\d.]+) ±", plot.verdict) == ["50.50", "54.50"]
    assert len(plot.on().axes) == 3
    assert not truncation.tables(RunSet([run for (rows, *_), run in runs.items() if rows == "14"]))


def test_gradient_that_vanishes_is_looked_for_in_runs_without_a_cut(runs):
    assert not vanishing.tables(RunSet([runs["14", True, 0]]))
    (table,) = vanishing.tables(RunSet([runs["14", False, seed] for seed in (0, 1)]))
    (line,) = table.body
    norms = [runs["14", False, seed].norms["input_grad_norm"].mean(0) for seed in (0, 1)]
    first = float(torch.stack([n[0] / n[27] for n in norms]).log().mean().exp())
    assert line[2].split()[0] == line[3].split()[0] == f"{first:.2g}"
    assert line[4] == "never"
    shorter = runs["14", False, 1]  # of other images
    shorter.norms = {name: values[:, :20] for name, values in shorter.norms.items()}
    shorter.group_key = shorter.group_key | {"data.name": "others"}
    plots = vanishing.figures(RunSet([runs["14", False, 0], shorter]))
    assert len(plots["vanishing"].on().axes) == 2
