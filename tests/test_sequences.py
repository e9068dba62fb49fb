"""Networks that read rows, and cuts between rows, against cells written out by their equations."""

import copy
import re
import shutil

import pytest
import torch
from conftest import TRAIN, assert_identical, build, configure, done, events, norms, summary, train, weights
from oracle import gradients_in_sequence
from test_invariants import Tape, fit

from rowgrad.errors import UserError
from rowgrad.model.sequences import CELLS, RecurrentNet, RowTransformer
from rowgrad.randomness import Draw
from rowgrad.scenario.scenario import Scenario
from rowgrad.training.settings import read_settings

pytestmark = pytest.mark.gpu

SIZES = {"height": 28, "width": 28, "in_channels": 1, "classes": 10}
SMALL = ["data=digits", "data.batch_size=8", "model.network.hidden=12"]


def own_cuts(scenario, count, draw):
    """For each image, the rows into which the state is cut, found by sending a gradient through each edge."""
    cuts = [set() for _ in range(count)]
    for row, edge in scenario.edges(count, draw).items():
        device = scenario.selected.device
        state = {name: torch.ones(1, count, 1, device=device, requires_grad=True) for name in ("hidden", "cell")}
        carried = edge(state)["hidden"]
        passed = torch.zeros(1, count, 1)
        if carried.requires_grad:
            (passed,) = torch.autograd.grad(carried.sum(), state["hidden"])
        for image in range(count):
            if passed[0, image, 0] == 0:
                cuts[image].add(row)
    return cuts


class Edges(Tape):
    """Also records the rows into which each image's state is cut."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        super().on_train_batch_start(trainer, module, batch, batch_idx)
        draw = Draw(module.seed, trainer.global_step, batch.first)
        self.steps[-1].setdefault("cuts", []).extend(own_cuts(module.scenario, len(batch.images), draw))


# overrides, and the number of upper rows that get no gradient if the loss is at the last row
CASES = {
    "whole": (["scenario=baseline"], 0),
    "control": (["scenario=truncate", "scenario.detach=false"], 0),
    "one": (["scenario=truncate"], 14),
    "three": (["scenario=truncate", "scenario.rows=::7"], 21),
    "every": (["scenario=truncate", "scenario.rows=all"], 27),
    "by-chance": (["scenario=truncate", "scenario.rows=[7,14,21]", "scenario.probability=0.4"], 0),
    "drawn": (["scenario=truncate", "scenario.rows=20:", "scenario.random_rows=2"], 20),
}


@pytest.mark.parametrize("readout", ["last", "every"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cell", CELLS)
def test_8_to_10_recorded_norms_and_losses_equal_the_oracle(tmp_path, device, cell, case, readout):
    overrides, above = CASES[case]
    typed = [*SMALL, f"model={cell}", f"model.network.readout={readout}", *overrides]
    layers = 2 if case in {"three", "by-chance"} else 1
    module, steps = fit(tmp_path, device, *typed, f"model.network.layers={layers}", tape=Edges(), max_steps=2)
    row, into = norms(tmp_path, "row_grad_norm"), norms(tmp_path, "input_grad_norm")
    assert row.equal(into)  # the image goes through untouched
    for step, recorded in zip(steps, row, strict=True):
        images, labels = (torch.cat(step["images"]) + step["theta"]).cpu(), torch.cat(step["labels"]).cpu()
        known = {"readout": readout, "smoothing": module.label_smoothing}
        pixels, _, loss, _ = gradients_in_sequence(step["network"].cpu(), cell, images, labels, step["cuts"], **known)
        wanted = pixels.sum(0).norm(dim=1)
        torch.testing.assert_close(recorded, wanted, rtol=1e-4, atol=1e-9)
        assert (recorded == 0).equal(wanted == 0)
        assert events(tmp_path)["train/loss"][step["step"]][1] == pytest.approx(loss, rel=1e-5)
        if readout == "last":
            assert (recorded[:above] == 0).all()
        else:
            assert (recorded > 0).all()


def test_10_each_image_has_the_gradient_of_its_own_cuts():
    torch.manual_seed(0)
    images, labels = torch.randn(9, 1, 28, 28, requires_grad=True), torch.arange(9)
    scenario = Scenario(rows="::5", route="state", probability=0.5, height=28)
    draw = Draw(3, 5)
    cuts = own_cuts(scenario, 9, draw)
    assert len({tuple(sorted(own)) for own in cuts}) > 4
    assert {row for own in cuts for row in own} == {5, 10, 15, 20, 25}
    for cell in CELLS:
        network = RecurrentNet(cell, 10, **SIZES)
        logits = network(images, scenario.edges(9, draw))
        (got,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), images)
        wanted, *_ = gradients_in_sequence(network, cell, images, labels, cuts)
        torch.testing.assert_close(got[:, 0].double(), wanted, rtol=1e-4, atol=1e-9)
        for image, own in enumerate(cuts):
            assert (got[image, 0, : max(own, default=0)] == 0).all()


def test_with_probability_0_no_state_is_cut():
    scenario = Scenario(rows="all", route="state", probability=0.0, height=28)
    assert not scenario.edges(4, Draw(0, 0))


@pytest.mark.parametrize("part", ["hidden", "cell"])
def test_half_of_an_lstms_state_lets_gradient_through_the_other_half(part):
    torch.manual_seed(0)
    images, labels = torch.randn(5, 1, 28, 28, requires_grad=True), torch.arange(5)
    network = RecurrentNet("lstm", 10, readout="every", **SIZES)
    scenario = Scenario(rows="all", route="state", state=part, height=28)
    logits = network(images, scenario.edges(5, Draw(0, 0)))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(28))
    (got,) = torch.autograd.grad(loss, images)
    every = [set(range(1, 28))] * 5
    wanted, *_ = gradients_in_sequence(network, "lstm", images, labels, every, readout="every", parts=(part,))
    torch.testing.assert_close(got[:, 0].double(), wanted, rtol=1e-4, atol=1e-9)
    both, *_ = gradients_in_sequence(network, "lstm", images, labels, every, readout="every")
    assert not torch.allclose(wanted, both, rtol=1e-2)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_8_values_are_the_same_to_the_last_bit_wherever_the_state_is_cut(cell, threads, precision):
    dtype = {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        network = RecurrentNet(cell, 20, layers=2, dropout=0.5, readout="every", **SIZES).to(dtype)
        for count in (1, 3, 5, 11, 17):
            images = torch.randn(count, 1, 28, 28, dtype=dtype)
            for rows in (14, "::7", "all", [1, 27]):
                scenario = Scenario(rows=rows, route="state", probability=0.5, height=28)
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                    torch.manual_seed(1)  # for dropout
                    whole = network(images)
                    torch.manual_seed(1)
                    assert network(images, scenario.edges(count, Draw(0, 0))).equal(whole), (count, rows)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("cell", CELLS)
def test_rows_one_by_one_have_the_outputs_and_gradients_of_torchs_layer(cell):
    torch.manual_seed(0)
    network = RecurrentNet(cell, 20, readout="every", **SIZES).double()
    images = torch.randn(5, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    outputs, _ = network.layers[0](images[:, 0].transpose(0, 1))
    expected = network.readout(outputs)
    logits = network(images)
    torch.testing.assert_close(logits, expected)
    inputs = [images, *network.parameters()]
    ours, torchs = (torch.autograd.grad(values.square().sum(), inputs) for values in (logits, expected))
    torch.testing.assert_close(ours, torchs)


@pytest.mark.parametrize("cell", CELLS)
def test_8_the_first_loss_is_the_same_and_without_detach_the_run_is_the_baseline(run, device, cell):
    quick = [f"model={cell}", "model.network.hidden=16", "model.network.dropout=0.2", "trainer.max_steps=4"]
    baseline, control, cut = (
        run(*quick, *typed, name=typed[-1])
        for typed in (["scenario=baseline"], ["scenario=truncate", "scenario.detach=false"], ["scenario=truncate"])
    )
    assert_identical(baseline, control)
    assert not all(value.equal(weights(cut)[name]) for name, value in weights(baseline).items())
    losses = [events(folder)["train/loss"] for folder in (baseline, cut)]
    # cuDNN chooses how to multiply by the length of a piece: its last bit is not always the same.
    assert losses[0][0][1] == (losses[1][0][1] if device == "cpu" else pytest.approx(losses[1][0][1], rel=1e-6))
    assert losses[0][1:] != losses[1][1:]
    assert (norms(cut, "row_grad_norm")[:, :14] == 0).all()
    assert (norms(cut, "row_grad_norm")[:, 14:] > 0).all()


def test_a_schedule_and_random_rows_cut_in_their_steps(run):
    quick = ["model=gru", "model.network.hidden=16", "trainer.max_steps=5", "scenario=truncate"]
    row = norms(run(*quick, "scenario.from_step=1", "scenario.to_step=3", name="schedule"), "row_grad_norm")
    assert (row[:, :14] == 0).all(1).tolist() == [False, True, True, False, False]
    drawn = norms(run(*quick, "scenario.rows=all", "scenario.random_rows=1", name="drawn"), "row_grad_norm")
    lowest = (drawn == 0).sum(1)
    assert len(set(lowest.tolist())) > 2
    assert all((drawn[step, :edge] == 0).all() for step, edge in enumerate(lowest))


def test_6_micro_batches_give_the_norms_of_the_whole_batch(tmp_path):
    typed = ["model=lstm", "model.network.hidden=16", "scenario=truncate", "scenario.rows=[9,20]"]
    typed += ["scenario.probability=0.5", "model.network.readout=every"]
    fit(tmp_path / "4x32", "cpu", "data.batch_size=32", *typed, accumulate_grad_batches=4)
    fit(tmp_path / "128", "cpu", *typed)
    torch.testing.assert_close(*(norms(tmp_path / n, "row_grad_norm") for n in ("4x32", "128")), rtol=2e-3, atol=1e-7)


@pytest.mark.slow
def test_6_two_ranks_give_the_norms_of_one(tmp_path):
    typed = ["model=gru", "model.network.hidden=16", "scenario=truncate", "scenario.rows=all", "trainer.max_steps=4"]
    typed += ["scenario.probability=0.3", "data=digits", "callbacks.progress=null", "callbacks.bias.every_n_steps=2"]
    train(configure(*typed, "trainer.accelerator=cpu", f"hydra.run.dir={tmp_path}"), tmp_path / "one")
    done(
        TRAIN, *typed, "data.batch_size=64", "trainer=ddp", "trainer.accelerator=cpu",
        "trainer.devices=2", f"hydra.run.dir={tmp_path / 'two'}", cwd=tmp_path,
    )  # fmt: skip
    torch.testing.assert_close(*(norms(tmp_path / n, "row_grad_norm") for n in ("one", "two")), rtol=2e-3, atol=1e-6)
    for tag in ("grad_bias/cosine", "grad_bias/norm_ratio"):
        one, two = (dict(events(tmp_path / n)[tag]) for n in ("one", "two"))
        assert one.keys() == two.keys() == {0, 2}
        assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-3)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("cell", CELLS)
def test_6_sixteen_bits_give_the_norms_to_their_tolerance(run, cell):
    quick = [f"model={cell}", "model.network.hidden=16", "trainer.max_steps=3", "scenario=truncate"]
    half, whole = (
        norms(run(*quick, f"trainer.precision={precision}", name=precision), "row_grad_norm")
        for precision in ("bf16-mixed", "32-true")
    )
    assert (half == 0).equal(whole == 0)
    assert ((half - whole).norm(dim=1) / whole.norm(dim=1)).max() < 0.05


def test_7_a_resumed_run_ends_bit_identical_with_dropout(tmp_path):
    typed = ["data=digits", "trainer.accelerator=cpu", "callbacks.progress=null", "scenario=truncate", "model=lstm"]
    typed.append("callbacks.pictures=null")
    typed += ["model.network.hidden=16", "model.network.dropout=0.3", "model.network.layers=2", "scenario.rows=all"]
    typed += ["scenario.probability=0.5", "scenario.state=hidden", "callbacks.checkpoints.every_n_steps=3"]
    config = configure(*typed, "trainer.max_steps=8", "callbacks.bias.every_n_steps=2")
    train(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    for file in ("summary.json", "checkpoints/last.ckpt"):
        (tmp_path / "again" / file).unlink()
    train(config, tmp_path / "again", resume=True)
    assert_identical(tmp_path / "whole", tmp_path / "again")
    cosines = [summary(tmp_path / n)["grad_bias/cosine"] for n in ("whole", "again")]
    assert cosines[0] == cosines[1] < 1
    assert events(tmp_path / "whole") == events(tmp_path / "again")


MISTAKES = {
    "no-state": (
        ["model=cnn"],
        "scenario.route=state: this network carries no state. Accepted: model=rnn, gru or lstm.",
    ),
    "tokens": (["model=transformer"], "this network carries no state"),
    "row-0": (["model=gru", "scenario.rows=0"], "scenario.rows=0: row 0 is read first"),
    "row-0-in-a-list": (["model=gru", "scenario.rows=[-28,7]"], "row 0 is read first"),
    "row-0-alone-in-a-slice": (["model=gru", "scenario.rows=::28"], "Accepted with scenario.route=state: rows 1 to 27"),
    "operation": (["model=gru", "scenario.operation=shift 1"], "scenario.operation=none"),
    "cell": (["model=gru", "scenario.state=cell"], "model.network carries hidden. Accepted: all."),
    "state": (["model=gru", "scenario.state=both"], "is not one of all, hidden, cell"),
    "readout": (["model=gru", "model.network.readout=first"], "readout=first is not one of last, every"),
    "hidden": (["model=lstm", "model.network.hidden=0"], "hidden=0 is not a whole number of at least 1"),
    "heads": (["model=transformer", "model.network.heads=5", "scenario=baseline"], "is not a multiple of heads=5"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_state_that_cannot_be_cut_is_an_error_that_names_the_key(mistake):
    typed, words = MISTAKES[mistake]
    with pytest.raises(UserError, match=re.escape(words)):
        build(configure("data=digits", "scenario=truncate", *typed))


@pytest.mark.parametrize(("rows", "edges"), [("::7", [7, 14, 21]), ("all", list(range(1, 28))), ("0:3", [1, 2])])
def test_a_slice_that_contains_row_0_selects_the_edges_below_it(rows, edges):
    settings = read_settings(configure("scenario=truncate", "model=gru", f"scenario.rows={rows}"))
    assert [row for row, chosen in enumerate(settings.scenario.select(28)) if chosen] == edges


def test_a_transformer_looks_at_no_row_below():
    torch.manual_seed(0)
    network = RowTransformer(16, 2, 4, readout="every", **SIZES)
    images = torch.randn(3, 1, 28, 28, requires_grad=True)
    logits = network(images)
    assert logits.shape == (3, 28, 10)
    (gradient,) = torch.autograd.grad(logits[:, 9].square().sum(), images)
    assert (gradient[:, :, 10:] == 0).all()
    assert (gradient[:, :, :10] != 0).any(dim=3).all()
    last = copy.deepcopy(network)
    last.readout.when = "last"
    torch.testing.assert_close(last(images), logits[:, -1])


def test_channels_are_read_with_their_row():
    network = RecurrentNet("gru", 8, **SIZES | {"in_channels": 3, "height": 5, "width": 4})
    images = torch.randn(6, 3, 5, 4)
    outputs, _ = network.layers[0](torch.stack([images[:, :, row].reshape(6, 12) for row in range(5)]))
    torch.testing.assert_close(network(images), network.readout(outputs))


def test_orthogonal_gates_are_orthogonal_and_forget_gates_start_open():
    layer = RecurrentNet("lstm", 6, start="orthogonal", **SIZES).layers[0]
    for gate in layer.weight_hh_l0.split(6):
        torch.testing.assert_close(gate @ gate.T, torch.eye(6), atol=1e-5, rtol=0)
    assert (layer.bias_ih_l0 + layer.bias_hh_l0).tolist() == [0.0] * 6 + [1.0] * 6 + [0.0] * 12
