"""Every accepted precision: trained, resumed bit for bit, evaluated to the same digits, and exact."""

import pytest
import torch
from conftest import assert_identical, configure, events, norms, summary, train, weights
from omegaconf import OmegaConf
from test_invariants import CASES, expected, fit
from test_switches import SNAPSHOTS
from torch.utils._pytree import keystr, tree_flatten_with_path

from rowgrad import UserError, open_run
from rowgrad.results.report import write_report
from rowgrad.results.runs import RunSet
from rowgrad.training.settings import PRECISIONS
from rowgrad.training.train import evaluate, load_run
from rowgrad.watch.csv_file import NormsFile, read_norms
from rowgrad.watch.norms import cut_fraction, row_norms
from rowgrad.watch.recording import Recording

QUICK = ["data=digits", "trainer.accelerator=cpu", "callbacks.progress=null", "corruption=row_noise"]
NUMBERS = {"64-true": torch.float64, "16-true": torch.float16, "bf16-true": torch.bfloat16}
EPS = "+optimizer.algorithm.eps=1e-4"  # AdamW's own is 0 in 16 bits


def state_of(folder):
    """Names and values of everything in the last checkpoint but its clocks."""
    leaves, _ = tree_flatten_with_path(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True))
    values = {keystr(path): value.tolist() if isinstance(value, torch.Tensor) else value for path, value in leaves}
    return {name: value for name, value in values.items() if "Timer" not in name}


@pytest.mark.filterwarnings("ignore:You passed")  # Lightning: 16-mixed on a CPU is bf16-mixed
@pytest.mark.parametrize("model", [pytest.param("mlp", marks=pytest.mark.slow), "cnn"])
@pytest.mark.parametrize(
    "precision", [pytest.param(one, marks=[pytest.mark.slow] * (one in NUMBERS)) for one in PRECISIONS]
)
def test_a_run_is_resumed_bit_for_bit_and_evaluated_to_the_same_digits(tmp_path, precision, model):
    alone, killed = tmp_path / "alone", tmp_path / "killed-8"
    typed = [f"trainer.precision={precision}", f"model={model}", EPS, "trainer.max_steps=12", "trainer.max_epochs=2"]
    typed += [] if precision in NUMBERS else ["callbacks.pictures=null"]  # θ is of 32 bits, as everywhere
    train(configure(*QUICK, *typed, SNAPSHOTS, "callbacks.checkpoints.every_n_steps=4"), alone)
    config = OmegaConf.load(killed / "config.yaml")
    train(config, killed, resume=True)
    assert state_of(killed) == state_of(alone)
    assert_identical(killed, alone)
    assert events(killed) == events(alone)
    assert weights(alone)["theta"].dtype == NUMBERS.get(precision, torch.float32)
    assert (norms(alone, "row_grad_norm")[:, :14] == 0).all()
    assert (norms(alone, "row_grad_norm")[:, 14:] > 0).any(1).all()
    reported = summary(alone)
    assert evaluate(*load_run(alone)).items() <= reported.items()
    if model == "cnn" and precision in NUMBERS:
        assert write_report(RunSet([open_run(alone)]), tmp_path / "report").is_file()


def test_an_optimizer_that_would_divide_by_zero_is_refused(tmp_path):
    words = r"trainer\.precision=16-true: optimizer\.algorithm\.eps=1e-08 is 0 in so few bits"
    with pytest.raises(UserError, match=words):
        train(configure(*QUICK, "trainer.precision=16-true"), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_weights_of_64_bits_are_loaded_without_rounding(tmp_path):
    wide = ["trainer.precision=64-true", "model=mlp", "trainer.max_steps=3", "callbacks.pictures=null"]
    train(configure(*QUICK, *wide), tmp_path / "first")
    frozen = ["model.freeze=true", f"model.checkpoint={tmp_path / 'first'}"]
    train(configure(*QUICK, *wide, *frozen), tmp_path / "second")
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(second[name].equal(first[name]) for name in first if name.startswith("network."))


def test_norms_of_64_bits_are_zero_only_for_zeros():
    for power in (-310, -200, -50, 0, 200, 300):
        gradients = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]], dtype=torch.float64) * 10.0**power
        assert row_norms(gradients)[0].tolist() == pytest.approx([5 * 10.0**power, 0], rel=1e-9)
        reaches, arrives = torch.tensor([0.0, 3, 2]).double(), torch.tensor([2.0, 3, 2]).double() * 10.0**power
        assert float(cut_fraction(reaches, arrives)) == pytest.approx(4 / 17, rel=1e-9)
    assert float(cut_fraction(torch.zeros(3), torch.zeros(3))) == 0


def test_the_csv_has_all_digits_of_64_bits(tmp_path):
    values = torch.tensor([[1e-50, 1 / 3, 5e-324, 0.0]], dtype=torch.float64)
    file = NormsFile(tmp_path / "norms.csv")
    file.append([0], {"tap_grad_norm": values}, digits=17)
    file.append([1], {"tap_grad_norm": torch.cat([values, values], 1)}, digits=17)  # more rows: it is written anew
    file.close()
    assert read_norms(file.path)[1]["tap_grad_norm"][0, :4].equal(values[0])


def test_a_tiny_gradient_of_64_bits_is_not_zero_in_any_file(tmp_path, monkeypatch):
    unscaled = Recording._unscaled
    monkeypatch.setattr(Recording, "_unscaled", lambda *arguments: unscaled(*arguments) * 1e-60)
    fit(tmp_path, "cpu", "model=mlp", "scenario=augment", precision="64-true")
    shown = events(tmp_path)
    for name in ("row_grad_norm", "input_grad_norm"):
        written = norms(tmp_path, name)
        assert 0 < written.max() < 1e-50
        values = torch.tensor([[value for _, value in shown[f"{name}/row_{row:02d}"]] for row in range(28)]).T
        assert (values == 0).equal(written == 0)
    assert all(0 < value < 1 for _, value in shown["grad_flow/cut_fraction"])


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("case", ["baseline", "augment-half", "modify", "visualize"])
def test_in_64_bits_norms_equal_plain_autograd(tmp_path, case, model):
    overrides, known = CASES[case]
    module, steps = fit(tmp_path, "cpu", *overrides, f"model={model}", precision="64-true")
    rows, inputs, _ = expected(module, steps, known)
    reaches, arrives = norms(tmp_path, "row_grad_norm"), norms(tmp_path, "input_grad_norm")
    torch.testing.assert_close(reaches, rows, rtol=1e-10, atol=0)
    torch.testing.assert_close(arrives, inputs, rtol=1e-10, atol=0)
    assert reaches.equal(arrives) == (case in {"baseline", "visualize"})
