"""How wrong a cut gradient is: cosine, ratio of norms and stopped share against an oracle; training is unchanged."""

import pytest
import torch
from conftest import assert_identical, events, norms, summary
from oracle import gradients_in_sequence
from test_invariants import fit
from test_sequences import SMALL, Edges

from rowgrad.watch.bias import GradientBias, compare, share_stopped

pytestmark = pytest.mark.gpu


def joined(gradients):
    return torch.cat([g.flatten() for g in gradients.values()])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("readout", ["last", "every"])
def test_cosine_ratio_and_stopped_shares_equal_the_oracle(tmp_path, cell, readout):
    typed = [*SMALL, f"model={cell}", f"model.network.readout={readout}", "scenario=truncate", "scenario.rows=[9,21]"]
    _, steps = fit(
        tmp_path,
        "cpu",
        *typed,
        "scenario.probability=0.7",
        tape=Edges(),
        max_steps=3,
        watching=[GradientBias(every_n_steps=2)],
    )
    logged = events(tmp_path)
    assert [step for step, _ in logged["grad_bias/cosine"]] == [0, 2]
    for place, step in enumerate(steps[::2]):
        images, labels = torch.cat(step["images"]) + step["theta"], torch.cat(step["labels"])
        cut, full = (
            gradients_in_sequence(step["network"], cell, images, labels, cuts, readout=readout, smoothing=0.05)
            for cuts in (step["cuts"], [set()] * len(labels))
        )
        a, b = joined(cut[1]), joined(full[1])
        assert logged["grad_bias/cosine"][place][1] == pytest.approx(float(a @ b / a.norm() / b.norm()), rel=1e-5)
        assert logged["grad_bias/norm_ratio"][place][1] == pytest.approx(float(a.norm() / b.norm()), rel=1e-4)
        of_rows, of_all = cut[0].sum(0), full[0].sum(0)
        stopped = (of_all - of_rows).norm(dim=1) / of_all.norm(dim=1)
        got = torch.tensor([logged[f"row_grad_stopped/row_{row:02d}"][place][1] for row in range(28)])
        torch.testing.assert_close(got.double(), stopped, rtol=1e-3, atol=1e-4)


SCENARIOS = {
    "augment": ["scenario=augment", "scenario.operation=noise 1"],
    "modify": ["scenario=modify"],
    "visualize": ["scenario=visualize"],
    "drawn": ["scenario=augment", "scenario.random_rows=4"],
}


@pytest.mark.parametrize(
    ("scenario", "network"), [*((name, "cnn") for name in SCENARIOS), ("augment", "mlp"), ("augment", "gru")]
)
def test_detaching_an_image_changes_no_weights_gradient(run, scenario, network):
    dropout = ["model.network.dropout=0.3"] * (network != "cnn")
    folder = run(
        *SCENARIOS[scenario], f"model={network}", *dropout, "callbacks.bias.every_n_steps=2", "trainer.max_steps=3"
    )
    logged = events(folder)
    assert logged["grad_bias/cosine"] == logged["grad_bias/norm_ratio"] == [(0, 1.0), (2, 1.0)]
    facts = summary(folder)
    assert facts["grad_bias/cosine"] == facts["grad_bias/norm_ratio"] == 1.0
    if scenario == "augment":
        stopped = [logged[f"row_grad_stopped/row_{row:02d}"][0][1] for row in range(28)]
        assert stopped == [1.0] * 14 + [0.0] * 14


@pytest.mark.parametrize(
    "typed",
    [
        ["model=cnn", "scenario=augment", "trainer.accumulate_grad_batches=2"],  # batch normalisation counts images
        ["model=lstm", "model.network.dropout=0.4", "scenario=truncate", "model.network.hidden=16"],
        [
            "model=transformer",
            "model.network.dropout=0.4",
            "scenario=augment",
            "trainer.precision=bf16-mixed",
            "data.batch_size=8",  # slow without instructions for bf16
            "+trainer.limit_val_batches=0",
            "+trainer.limit_test_batches=0",
        ],
    ],
    ids=["cnn", "lstm", "transformer"],
)
def test_training_is_bit_identical_with_it(run, typed):
    often = ["callbacks.bias.every_n_steps=1", "callbacks.histograms.every_n_steps=1", "trainer.max_steps=4"]
    with_it, without = (
        run(*typed, *often, *more, name=n) for n, more in {"a": [], "b": ["callbacks.bias=null"]}.items()
    )
    assert_identical(with_it, without)
    assert len(events(with_it)["grad_bias/cosine"]) == 4


def test_without_detach_nothing_is_measured(run):
    for name, typed in {"idle": ["scenario=baseline"], "control": ["scenario.detach=false"]}.items():
        folder = run(*typed, "model=mlp", "trainer.max_steps=2", "callbacks.bias.every_n_steps=1", name=name)
        assert not [tag for tag in events(folder) if tag.startswith("grad_bias/")]
        assert "grad_bias/cosine" not in summary(folder)


def test_only_steps_of_the_schedule_are_compared(run):
    typed = ["scenario.from_step=2", "model=mlp", "trainer.max_steps=4", "callbacks.bias.every_n_steps=1"]
    assert [step for step, _ in events(run(*typed))["grad_bias/cosine"]] == [2, 3]


def test_a_frozen_network_has_no_gradient_of_weights_but_its_rows_have(run):
    trained = run("model=gru", "scenario=baseline", "trainer.max_steps=2", name="trained")
    typed = [
        f"model.checkpoint={trained}",
        "model.freeze=true",
        "trainer.max_steps=2",
        "callbacks.bias.every_n_steps=1",
    ]
    folder = run("model=gru", "scenario=truncate", *typed, name="frozen")
    logged = events(folder)
    assert "grad_bias/cosine" not in logged
    assert [logged[f"row_grad_stopped/row_{row:02d}"][0][1] for row in range(14)] == [1.0] * 14
    assert (norms(folder, "row_grad_norm")[:, :14] == 0).all()


def test_equal_gradients_have_a_cosine_of_exactly_1_whatever_their_size():
    for size in (1e-18, 1e-3, 3.7, 1e15):
        gradient = torch.randn(999) * size
        assert [float(value) for value in compare(gradient, gradient.clone()).values()] == [1.0, 1.0]
    assert share_stopped(torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4)).tolist() == [[0.0] * 3]
