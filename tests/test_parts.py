"""Networks, optimizer recipe and norms, by hand-computed numbers."""

import functools
import math
import os

import pytest
import torch
from torch import nn

from rowgrad.errors import UserError
from rowgrad.model.networks import MLP, StridedConvNet
from rowgrad.model.optimizers import make_optimizer, one_cycle
from rowgrad.model.settings import OptimizerSettings
from rowgrad.watch.norms import cut_fraction, cut_rows, row_norms


def test_a_row_norm_is_the_euclidean_length():
    gradients = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[-1.0, 0.0], [5.0, 12.0]]])[:, None]
    assert row_norms(gradients).tolist() == [[5, 0], [1, 13]]


def test_a_row_norm_is_over_channels_and_columns():
    gradients = torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[-2.0, 1.0], [0.0, 3.0]]])
    assert row_norms(gradients[None]).tolist() == [
        [3, 3]
    ]  # sqrt(4 + 4 + 1); the sum of the channels would give 1 and 3


def test_a_tiny_gradient_does_not_pass_for_a_cut():
    tiny = torch.full((1, 1, 4), 1e-30)  # its square is below the smallest float32
    assert row_norms(tiny).item() == pytest.approx(2e-30)
    assert row_norms(torch.zeros(1, 1, 4)).item() == 0.0


def test_the_cut_fraction_is_the_share_of_squared_input_gradient_in_cut_rows():
    row = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    into = torch.tensor([[3.0, 4.0, 0.0], [1.0, 1.0, 1.0], [1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    assert cut_fraction(row, into).tolist() == [9 / 25, 0, 1, 0]
    assert cut_rows(row, into)[0].tolist() == [True, False, False]


@pytest.mark.parametrize("size", [(28, 28), (8, 8), (27, 15)])
@pytest.mark.parametrize("kind", [StridedConvNet, MLP])
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_give_one_logit_a_class_for_any_size_of_image(kind, size, channels):
    network = kind([16, 8], height=size[0], width=size[1], in_channels=channels, classes=7)
    assert network(torch.zeros(3, channels, *size)).shape == (3, 7)


def test_an_mlp_may_have_no_hidden_layer():
    assert [p.shape for p in MLP([], height=2, width=3, in_channels=1, classes=4).parameters()] == [(4, 6), (4,)]


def optimizer_of(network, theta, steps, **settings):
    return make_optimizer(OptimizerSettings(**settings), functools.partial(torch.optim.AdamW), network, theta, steps)


def test_matrices_decay_and_vectors_and_rows_do_not():
    network, rows = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Parameter(torch.zeros(2, 3))
    optimizer, _ = optimizer_of(network, rows, lambda: 10, weight_decay=0.1, rows_lr=0.5)
    weights, vectors, learnt = optimizer.param_groups
    assert [p.shape for p in weights["params"]] == [(4, 3)]
    assert [p.shape for p in vectors["params"]] == [(4,), (4,), (4,)]
    assert learnt["params"] == [rows]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0, 0]
    assert learnt["lr"] * 25 == learnt["initial_lr"] == 0.5


def test_one_cycle_rises_to_the_peak_and_falls_to_nothing():
    theta = nn.Parameter(torch.zeros(1, 1))
    optimizer, schedule = optimizer_of(nn.Linear(1, 1), theta, lambda: 101, lr=1.0, warmup=0.25)
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if len(rates) < 101 else None
    top = 0.25 * 101 - 1
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == max(rates[24:26]) == pytest.approx(1, abs=1e-3)
    assert rates[10] == pytest.approx(1 + (1 / 25 - 1) * (1 + math.cos(math.pi * 10 / top)) / 2)
    assert rates[-1] < 1e-5


def torchs_one_cycle(steps, warmup):
    """The factors of `torch.optim.lr_scheduler.OneCycleLR`."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, steps, pct_start=warmup, cycle_momentum=False)
    factors = []
    for step in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if step < steps - 1 else None
    return factors


@pytest.mark.parametrize("warmup", [0.05, 0.1, 0.3, 0.5, 0.9])
def test_one_cycle_is_torchs_one_cycle_for_few_steps_too(warmup):
    for steps in [*range(1, 41), 200]:
        if warmup * steps != 1:
            factors = [one_cycle(step, steps, warmup) for step in range(steps)]
            assert factors == pytest.approx(torchs_one_cycle(steps, warmup), rel=1e-12)


def test_one_cycle_begins_at_the_peak_where_torch_divides_by_zero():
    with pytest.raises(ZeroDivisionError):
        torchs_one_cycle(20, 0.05)
    rates = [one_cycle(step, 20, 0.05) for step in range(20)]
    assert rates[0] == 1
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(4e-6)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.3), (430, 0.3), (10, math.nextafter(1, 0))])
def test_after_its_last_step_one_cycle_stays_at_its_end(steps, warmup):
    assert one_cycle(steps, steps, warmup) == one_cycle(2 * steps, steps, warmup) == 1 / 25e4


def test_a_constant_schedule_stays():
    theta = nn.Parameter(torch.zeros(1, 1))
    optimizer, schedule = optimizer_of(nn.Linear(1, 1), theta, lambda: 5, schedule="constant")
    for _ in range(20):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": -1}, "optimizer.lr=-1 is not a number of at least 0"),
        ({"rows_lr": "fast"}, "optimizer.rows_lr=fast is not a number"),
        ({"weight_decay": float("nan")}, "optimizer.weight_decay=nan"),
        ({"schedule": "cosine"}, "optimizer.schedule=cosine is not one of one_cycle, constant"),
        ({"warmup": 1}, "optimizer.warmup=1 is not a number between 0 and 1"),
    ],
)
def test_a_value_that_is_not_accepted_is_named(settings, words):
    with pytest.raises(UserError, match=words):
        OptimizerSettings(**settings)


def test_without_a_gpu_no_optimizer_looks_for_one_at_every_step():
    from rowgrad.training import train as run

    assert run
    assert torch.cuda.is_available() or "PYTORCH_NVML_BASED_CUDA_CHECK" not in os.environ
