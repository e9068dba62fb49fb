"""A trained network taken over and frozen: only the rows learn, through it."""

import shutil

import pytest
import torch
from conftest import QUICK, TRAIN, assert_identical, build, configure, done, norms, refused, summary, train, weights

from rowgrad.errors import UserError
from rowgrad.training.train import evaluate, load_run

FROZEN = ["scenario=baseline", "corruption=row_shift", "model.freeze=true", "optimizer.rows_lr=0.05"]
FROZEN += ["optimizer.schedule=constant"]


@pytest.fixture(scope="module", params=["cnn", "mlp"])
def source(request, tmp_path_factory):
    """A trained run, one whose network has batch normalisation and one with dropout."""
    folder = tmp_path_factory.mktemp("source") / request.param
    dropout = ["model.network.dropout=0.2"] if request.param == "mlp" else []
    model = [f"model={request.param}", *dropout]
    train(configure(*QUICK, "scenario=baseline", *model, "trainer.max_epochs=4"), folder)
    return folder, model


def networks(state):
    return {name: value for name, value in state.items() if name.startswith("network.")}


def test_a_network_is_taken_over_and_the_rows_are_not(source):
    folder, model = source
    for path in (folder, folder / "checkpoints" / "last.ckpt"):
        _, module = build(configure(*QUICK, *model, f"model.checkpoint={path}"))
        trained = weights(folder)
        assert all(module.state_dict()[name].equal(value) for name, value in networks(trained).items())
        assert trained["theta"].any()
        assert not module.theta.any()


def test_a_network_that_is_taken_over_learns_unless_it_is_frozen(source, tmp_path):
    folder, model = source
    train(configure(*QUICK, *model, f"model.checkpoint={folder}", "trainer.max_steps=2"), tmp_path / "run")
    before, after = networks(weights(folder)), networks(weights(tmp_path / "run"))
    assert not any(value.equal(after[name]) for name, value in before.items() if name.endswith("weight"))


def test_a_frozen_network_stays_to_the_last_bit_while_the_rows_repair_the_camera(source, tmp_path):
    folder, model = source
    frozen = [
        *QUICK,
        *FROZEN,
        *model,
        f"model.checkpoint={folder}",
        "trainer.max_epochs=4",
        "callbacks.histograms=null",
    ]
    accuracy = {}
    for rows in ("none", "all"):
        train(configure(*frozen, f"scenario.rows={rows}"), tmp_path / rows)
        assert all(weights(tmp_path / rows)[name].equal(v) for name, v in networks(weights(folder)).items())
        accuracy[rows] = summary(tmp_path / rows)["test/acc"]
    assert weights(tmp_path / "none")["theta"].any()
    assert not weights(tmp_path / "all")["theta"].any()
    assert (norms(tmp_path / "all", "row_grad_norm") == 0).all()
    assert (norms(tmp_path / "none", "row_grad_norm") > 0).all()
    assert accuracy["none"] > accuracy["all"] + 0.05


def test_no_weight_of_a_frozen_network_has_a_gradient_or_a_place_in_the_optimizer(source):
    folder, model = source
    _, module = build(configure(*QUICK, *FROZEN, *model, f"model.checkpoint={folder}"))
    optimizer, _ = module.make_optimizer(module.network, module.theta, lambda: 10)
    assert [p is module.theta for group in optimizer.param_groups for p in group["params"]] == [True]
    assert not any(p.requires_grad for p in module.network.parameters())
    for mode in (False, True):
        module.train(mode)
        assert not any(part.training for part in module.network.modules())
        assert module.scenario.training == mode


def test_a_frozen_run_needs_its_source_no_more_once_it_has_a_checkpoint(source, tmp_path):
    folder, model = source
    gone = tmp_path / "gone"
    shutil.copytree(folder, gone)
    frozen = [*QUICK, *FROZEN, *model, f"model.checkpoint={gone}", "callbacks.checkpoints.every_n_steps=5"]
    alone, stopped = tmp_path / "alone", tmp_path / "stopped"
    train(configure(*frozen), alone)
    train(configure(*frozen, "trainer.max_steps=7"), stopped)
    shutil.rmtree(gone)
    done(TRAIN, f"resume={stopped}", "trainer.max_steps=-1", cwd=tmp_path)
    assert_identical(alone, stopped)
    metrics = evaluate(*load_run(alone))
    assert metrics == {key: summary(alone)[key] for key in metrics}


def test_a_frozen_network_gives_the_rows_the_gradient_of_plain_autograd(source, tmp_path):
    folder, model = source
    one = ["trainer.max_steps=1", "data.batch_size=1297", "data.shift=0", "model.label_smoothing=0"]
    train(configure(*QUICK, *FROZEN, *model, *one, f"model.checkpoint={folder}"), tmp_path / "run")
    data, module = build(configure(*QUICK, *model, f"model.checkpoint={folder}"))
    dataset = data.dataset
    images = ((dataset.train.pixels.float() / 255 - dataset.mean) / dataset.std)[:, None]
    images[:, :, :14] += 1
    theta = torch.zeros(28, 28, requires_grad=True)
    log_p = module.network.eval()(images + theta).log_softmax(1)
    loss = -log_p[torch.arange(len(images)), dataset.train.labels].mean()
    (gradient,) = torch.autograd.grad(loss, theta)
    expected = gradient.double().square().sum(1).sqrt()[None]
    torch.testing.assert_close(norms(tmp_path / "run", "row_grad_norm"), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_a_frozen_network_trains_its_rows_on_two_ranks(source, tmp_path):
    folder, model = source
    frozen = [*FROZEN, *model, f"model.checkpoint={folder}", "scenario.rows=all", "scenario.random_rows=9"]
    frozen += ["trainer.max_steps=6", "callbacks.progress=null", "data=digits", "trainer.accelerator=cpu"]
    train(configure(*frozen), tmp_path / "one")
    ranks = ["trainer=ddp", "trainer.devices=2", "data.batch_size=64", f"hydra.run.dir={tmp_path / 'two'}"]
    result = done(TRAIN, *ranks, *frozen, cwd=tmp_path)
    assert "Traceback" not in result.stderr
    assert "eval mode" not in result.stderr
    one, two = (norms(tmp_path / name, "row_grad_norm") for name in ("one", "two"))
    assert ((one == 0).sum(1) == 9).all()
    assert (one == 0).equal(two == 0)
    torch.testing.assert_close(one, two, rtol=2e-3, atol=1e-6)
    assert all(weights(tmp_path / "two")[name].equal(value) for name, value in networks(weights(folder)).items())


def test_a_source_that_is_not_there_is_said_with_the_command_that_makes_one(tmp_path):
    assert refused(TRAIN, *QUICK, "model.checkpoint=logs/network", cwd=tmp_path) == (
        "Cannot train: model.checkpoint=logs/network is not a run's folder or checkpoint: there is no"
        " logs/network/checkpoints/last.ckpt. This trains one:"
        " python scripts/train.py scenario=baseline seed=0 hydra.run.dir=logs/network"
    )
    assert not list(tmp_path.rglob("*.yaml"))


@pytest.mark.parametrize("content", [None, b"garbage"])
def test_a_source_that_does_not_fit_is_said_plainly(source, tmp_path, content):
    folder, model = source
    file = tmp_path / "a.ckpt"
    file.write_bytes(content or (folder / "checkpoints" / "last.ckpt").read_bytes())
    other = "model=cnn" if "model=mlp" in model else "model=mlp"
    with pytest.raises(UserError, match=r"model\.checkpoint=.*a\.ckpt does not fit the model: ") as info:
        build(configure(*QUICK, other if content is None else model[0], f"model.checkpoint={file}"))
    assert len(str(info.value).splitlines()) == 1
