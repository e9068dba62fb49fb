"""The tap in modules and loops as people write them: each against `torch.autograd.grad` on the same weights and batch.

The situations come from public reports; each test stands for a kind, with its siblings as parameters.
"""

import copy
import json
import re
import warnings

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import BaseFinetuning, LearningRateFinder
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from rowgrad import Recorder, RowGradientRecorder, RowTap
from rowgrad.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")


def lengths(gradient):
    """‖g_r‖ of each row of a sum over the batch (..., H, W)."""
    return torch.stack([row.double().norm() for row in gradient.unbind(-2)])


class Told(pl.LightningModule):
    """A line of a network with a tap; `wanted` keeps what the oracle says of each step."""

    def __init__(self, network=None):
        super().__init__()
        torch.manual_seed(0)
        self.tap = RowTap()
        self.network = network or nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
        self.wanted = []

    def loss(self, x):
        return self.network(x).square().mean()

    def tell(self, x, loss=None):
        leaf = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad((loss or self.loss)(leaf), leaf)
        self.wanted.append(lengths(gradient.sum(0)))

    def training_step(self, x, batch_idx):
        self.tell(x)
        return self.loss(self.tap(x))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches(count=3, shape=(4, 3)):
    torch.manual_seed(1)
    return DataLoader(torch.randn(4 * count, *shape), batch_size=4)


def trainer(folder, *callbacks, logger=False, **settings):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    usual = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0}
    return pl.Trainer(callbacks=[*callbacks], logger=logger, default_root_dir=folder, **usual | quiet | settings)


def watch(module, folder, data=None, recorder=None, **settings):
    """Trains, and returns the norms by the names of their quantities."""
    recorder = recorder or RowGradientRecorder()
    trainer(folder, recorder, **settings).fit(module, data or batches())
    return recorder.recorded()[1]


def same(got, wanted, rtol=1e-5):
    torch.testing.assert_close(got, torch.stack(wanted), rtol=rtol, atol=1e-9)


# Whose file it is.


def test_two_runs_in_one_folder_have_two_files_and_a_resume_goes_on_with_its_own(tmp_path):
    for seed in (1, 2):
        recorder = RowGradientRecorder()
        fit = trainer(tmp_path, recorder, max_steps=3 * seed, max_epochs=9)
        fit.fit(Told(), batches())
        fit.save_checkpoint(tmp_path / f"{seed}.ckpt")
    first, second = (tmp_path / name for name in ("row_gradients.csv", "row_gradients-1.csv"))
    before = first.read_bytes(), second.read_bytes()
    again = RowGradientRecorder()
    trainer(tmp_path, again, max_steps=9, max_epochs=9).fit(Told(), batches(), ckpt_path=tmp_path / "2.ckpt")
    assert first.read_bytes() == before[0]
    assert second.read_bytes().startswith(before[1])
    assert again.recorded()[0].tolist() == list(range(9))


def test_a_resume_begins_a_new_file_if_its_own_holds_other_norms(tmp_path):
    first = trainer(tmp_path, RowGradientRecorder(), max_steps=3)
    first.fit(Told(), batches())
    first.save_checkpoint(tmp_path / "some.ckpt")
    own = tmp_path / "row_gradients.csv"
    own.write_text("\n".join([*own.read_text().splitlines()[:-1], "2,1,1,1,1", ""]))  # another run's
    altered = own.read_bytes()
    trainer(tmp_path, RowGradientRecorder(), max_epochs=2).fit(Told(), batches(), ckpt_path=tmp_path / "some.ckpt")
    assert own.read_bytes() == altered
    assert (tmp_path / "row_gradients-1.csv").read_text().splitlines()[1].startswith("3,")


def test_what_is_said_of_rows_is_of_the_run_that_writes_the_file(tmp_path):
    def record(tap, **settings):
        (tmp_path / "row_gradients.csv").unlink(missing_ok=True)
        module = nn.Sequential(tap, nn.Linear(3, 1))
        with Recorder(module, tmp_path, **settings) as recorder:
            module(torch.ones(2, 4, 3)).sum().backward()
            recorder.step()
        beside = tmp_path / "row_gradients.json"
        return json.loads(beside.read_text())["quantities"]["0_grad_norm"] if beside.exists() else None

    labels = ["a", "b"]
    assert record(RowTap(kind="token", labels=labels)) == {"kind": "token", "labels": labels}
    assert record(RowTap(kind="token", labels=labels), bins=2) == {"kind": "token"}  # labels are of single rows
    assert record(RowTap(labels=labels), bins=2) is None
    assert record(RowTap(labels=labels)) == {"labels": labels}
    assert record(RowTap()) is None


# Watching changes nothing, or is refused.


class InPlace(nn.Module):
    def forward(self, x):
        return x.relu_()


class OnAView(nn.Module):
    def forward(self, x):
        x.view(-1).relu_()
        return x


class OnAPart(nn.Module):
    def forward(self, x):
        x[:, :2].mul_(2)
        return x


class Returns(nn.Module):
    def forward(self, x):
        return x


class Keeps(nn.Module):
    def forward(self, x):
        self.kept = x
        return x + 1


class Block(pl.LightningModule):
    """A layer, and a branch that begins with something and may have a skip connection."""

    def __init__(self, first, how):
        super().__init__()
        torch.manual_seed(0)
        self.before, self.branch, self.how = nn.Linear(3, 3), nn.Sequential(first, nn.Linear(3, 3)), how

    def training_step(self, x, batch_idx):
        x = self.before(x)
        y = self.branch[0](x)
        if self.how == "changed later":
            y = getattr(self.branch[0], "kept", y).mul_(3)
        y = self.branch[1](y)
        return (y if self.how == "alone" else y + x).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("how", ["alone", "skip", "changed later"])
@pytest.mark.parametrize("first", [InPlace, OnAView, OnAPart, Returns, Keeps])
def test_watching_is_bit_identical_or_refused_before_the_first_step(tmp_path, first, how):
    weights = []
    for callbacks in ([], [RowGradientRecorder(modules="branch.0")]):
        module = Block(first(), how)
        before = {name: weight.clone() for name, weight in module.state_dict().items()}
        try:
            trainer(tmp_path, *callbacks).fit(module, batches())
        except UserError as error:
            assert "changed in place behind the tap" in str(error)  # noqa: PT017
            assert all(weight.equal(before[name]) for name, weight in module.state_dict().items())
            assert how != "alone"
            return
        except RuntimeError:  # autograd refuses it without a tap
            assert not callbacks
            return
        weights.append(module.state_dict())
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_a_graph_can_be_logged(tmp_path):
    class Logged(Told):
        def forward(self, x):
            return self.network(self.tap(x))

    module = Logged()
    module.example_input_array = torch.randn(4, 4, 3)
    watch(module, tmp_path, logger=TensorBoardLogger(tmp_path, log_graph=True))


# Only this step's gradient.


@pytest.mark.parametrize("how", ["lr_find", "scale_batch_size", "callback", "by hand"])
def test_what_came_back_before_training_is_in_no_step(tmp_path, how):
    module, recorder = Told(), RowGradientRecorder()
    module.lr, module.batch_size = 0.1, 4
    callbacks = [LearningRateFinder(num_training_steps=5, early_stop_threshold=None)] if how == "callback" else []
    fit = trainer(tmp_path, *callbacks, recorder, enable_checkpointing=True)
    module.train_dataloader = batches
    if how == "lr_find":
        Tuner(fit).lr_find(module, num_training=5, update_attr=False)
    elif how == "scale_batch_size":
        Tuner(fit).scale_batch_size(module, steps_per_trial=2, max_trials=1)
    elif how == "by hand":
        module.training_step(next(iter(batches())), 0).backward()
    module.wanted.clear()
    fit.fit(module)
    norms = recorder.recorded()[1]["tap_grad_norm"]
    same(norms, module.wanted[-len(norms) :])


class Attacked(Told):
    """Adversarial training: three steps on the input by `backward()`, whose gradients are then thrown away."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.automatic_optimization = how == "automatic"

    def attack(self, x):
        delta = torch.zeros_like(x, requires_grad=True)
        for _ in range(3):
            self.loss(self.tap(x + delta)).backward()
            delta = (delta + 0.1 * delta.grad.sign()).detach().requires_grad_()
        return (x + delta).detach()

    def training_step(self, x, batch_idx):
        x = self.attack(x)
        self.tell(x)
        loss = self.loss(self.tap(x))
        if self.how == "automatic":
            return loss
        optimizer = self.optimizers()
        if self.how == "zero_grad":
            optimizer.zero_grad()
        elif self.how == "zeros":
            optimizer.zero_grad(set_to_none=False)
        elif self.how == "module":
            self.network.zero_grad()
        else:
            for parameter in self.parameters():
                parameter.grad = None
        self.manual_backward(loss)
        optimizer.step()
        return None


@pytest.mark.parametrize("how", ["automatic", "zero_grad", "zeros", "module", "by hand"])
def test_an_attack_on_the_input_is_in_no_step_however_gradients_are_emptied(tmp_path, how):
    module = Attacked(how)
    same(watch(module, tmp_path)["tap_grad_norm"], module.wanted)


def test_gradients_that_nobody_empties_add_up_as_those_of_the_weights_do(tmp_path):
    class Forgetful(Told):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, x, batch_idx):
            self.tell(x)
            self.manual_backward(self.loss(self.tap(x)))
            weights = self.network[1].weight.grad
            self.sums = [*getattr(self, "sums", []), weights.clone()]
            self.optimizers().step()

    module = Forgetful()
    norms = watch(module, tmp_path)["tap_grad_norm"]
    leaf_sum, wanted = 0, []
    twin = Told()
    for x in batches():
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(twin.loss(leaf), leaf)
        leaf_sum = leaf_sum + gradient.sum(0)
        wanted.append(lengths(leaf_sum))
        (g,) = torch.autograd.grad(twin.loss(x), twin.network[1].weight)
        twin.total = getattr(twin, "total", 0) + g
        bias_g = torch.autograd.grad(twin.loss(x), twin.network[1].bias)[0]
        twin.bias_total = getattr(twin, "bias_total", 0) + bias_g
        with torch.no_grad():
            twin.network[1].weight -= 0.1 * twin.total
            twin.network[1].bias -= 0.1 * twin.bias_total
    same(norms, wanted)


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimization: a first step up, and the base optimizer's step from there."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})
        self.base = torch.optim.SGD(self.param_groups, lr=lr)

    @torch.no_grad()
    def move(self, sign):
        for group in self.param_groups:
            for parameter in group["params"]:
                if sign > 0:
                    self.state[parameter]["up"] = 0.05 * parameter.grad / (parameter.grad.norm() + 1e-12)
                parameter.add_(self.state[parameter]["up"], alpha=sign)

    def second_step(self):
        self.move(-1)
        self.base.step()

    def step(self, closure=None):
        self.base.step(closure)


class Unseen(Told):
    """Steps of optimizers that Lightning does not see."""

    def __init__(self, how):
        super().__init__()
        self.how, self.automatic_optimization = how, False

    def training_step(self, x, batch_idx):
        optimizer = self.optimizers(use_pl_optimizer=False)
        self.manual_backward(self.loss(self.tap(x)))
        if self.how == "sam":
            optimizer.move(1)
            optimizer.zero_grad()
            self.tell(x)
            self.manual_backward(self.loss(self.tap(x)))
            optimizer.second_step()
        else:
            self.tell(x)
            optimizer.step()
        optimizer.zero_grad()

    def configure_optimizers(self):
        kind = Sam if self.how == "sam" else torch.optim.SGD
        return kind(self.parameters(), lr=0.1)


@pytest.mark.parametrize("how", ["sam", "raw"])
def test_steps_that_lightning_does_not_see_are_recorded_and_said(tmp_path, how):
    module, recorder = Unseen(how), RowGradientRecorder()
    with pytest.warns(UserWarning, match=r"without Lightning's wrapper.*recorded, and numbered from 0"):
        norms = watch(module, tmp_path, recorder=recorder)
    same(norms["tap_grad_norm"], module.wanted)
    assert recorder.recorded()[0].tolist() == [0, 1, 2]


# Zeros that are none.


def test_one_loss_with_two_optimizers_gives_each_the_norms_of_the_step(tmp_path):
    class Two(Told):
        def __init__(self):
            super().__init__(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)))
            self.automatic_optimization = False

        def training_step(self, x, batch_idx):
            self.tell(x)
            loss = self.loss(self.tap(x))
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in self.network]

    module, recorder = Two(), RowGradientRecorder()
    watch(module, tmp_path, recorder=recorder)
    for number in (0, 1):
        same(recorder.recorded(number)[1]["tap_grad_norm"], module.wanted)


@pytest.mark.parametrize("how", ["off", "not called", "no step", "reset by its user"])
def test_what_is_not_known_is_empty_and_never_zero(tmp_path, how):
    class Odd(Told):
        def training_step(self, x, batch_idx):
            self.tap.enabled = not (how == "off" and batch_idx == 1)
            self.tell(x)
            loss = self.loss(x if how == "not called" and batch_idx == 1 else self.tap(x))
            return None if how == "no step" and batch_idx == 1 else loss

        def on_before_optimizer_step(self, optimizer):
            if how == "reset by its user":
                self.tap.reset()

    module, recorder = Odd(), RowGradientRecorder(dirpath=tmp_path)
    got = watch(module, tmp_path, recorder=recorder)["tap_grad_norm"]
    if how == "reset by its user":  # taken before: nothing is lost
        same(got, module.wanted)
        return
    same(got[[0, 2]], [module.wanted[0], module.wanted[2]])
    assert got[1].isnan().all()
    assert (tmp_path / "row_gradients.csv").read_text().splitlines()[2] == "1,,,,"


def test_a_tensor_that_was_there_and_got_nothing_is_exactly_zero(tmp_path):
    class Cut(Told):
        def training_step(self, x, batch_idx):
            seen = self.tap(x)
            return self.loss(torch.cat([seen[:, :2].detach(), seen[:, 2:]], 1) if batch_idx else seen.detach())

    got = watch(Cut(), tmp_path)["tap_grad_norm"]
    assert got[0].tolist() == [0.0] * 4
    assert got[1, :2].tolist() == [0.0] * 2
    assert (got[1, 2:] > 0).all()


def test_every_second_of_several_steps_in_a_batch_is_right(tmp_path):
    class Windows(Told):
        def __init__(self):
            super().__init__(nn.Linear(3, 1))
            self.automatic_optimization = False

        def training_step(self, x, batch_idx):
            for part in x.split(2, 1):
                self.tell(part)
                self.optimizers().zero_grad()
                self.manual_backward(self.loss(self.tap(part)))
                self.optimizers().step()

    module, recorder = Windows(), RowGradientRecorder(every_n_steps=2)
    got = watch(module, tmp_path, batches(4, (6, 3)), recorder)
    assert recorder.recorded()[0].tolist() == [0, 2, 4, 6, 8, 10]
    same(got["tap_grad_norm"], module.wanted[::2])


# Nothing recorded, nothing said.


def test_a_tap_that_is_never_called_is_named_with_the_cause_after_the_first_step(tmp_path):
    class Attention(Told):
        def __init__(self):
            super().__init__(nn.MultiheadAttention(4, 2, batch_first=True))
            self.unused = RowTap()

        def loss(self, x):
            return self.network(x, x, x)[0].square().mean()

    recorder = RowGradientRecorder(modules="network.out_proj")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        watch(Attention(), tmp_path, batches(shape=(5, 4)), recorder)
    words = [str(one.message) for one in said]
    assert any("unused_grad_norm is not recorded yet: nothing has gone through the tap" in one for one in words)
    assert any("has not called network.out_proj.forward. Its parent may use its weights" in one for one in words)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["torch.compile", "module.compile"])
def test_what_was_compiled_and_run_before_is_named(tmp_path, how):
    torch.compiler.reset()
    network = nn.Sequential(nn.Sequential(nn.Flatten()), nn.Linear(12, 1))
    module = Told(torch.compile(network, backend="aot_eager") if how == "torch.compile" else network)
    if how == "module.compile":
        network.compile(backend="aot_eager")
    module.training_step(next(iter(batches())), 0).backward()
    with pytest.warns(UserWarning, match=r"network\.0\.forward, or it was compiled before training began"):
        watch(module, tmp_path, recorder=RowGradientRecorder(modules="network.0"))


# Which tensor, which dimension.


class Tapped(pl.LightningModule):
    """Calls a submodule `part` by `call(module, x)`; the oracle calls `plain(module, leaf)`."""

    def __init__(self, part, call, plain=None):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.part = nn.Linear(3, 4), part
        self.call, self.plain, self.gradients = call, plain or call, []

    def training_step(self, x, batch_idx):
        x = self.embed(x)
        leaf = x.detach().clone().requires_grad_()
        hooks, self.part._forward_pre_hooks = self.part._forward_pre_hooks, type(self.part._forward_pre_hooks)()
        outs, self.part._forward_hooks = self.part._forward_hooks, type(self.part._forward_hooks)()
        self.gradients.append(torch.autograd.grad(self.plain(self, leaf).square().mean(), leaf)[0])
        self.part._forward_pre_hooks, self.part._forward_hooks = hooks, outs
        return self.call(self, x).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, hidden_states, attention_mask):
        return self.linear(hidden_states) + 0 * attention_mask.sum()


class FromDict(Masked):
    def forward(self, batch):
        return self.linear(batch["x"])


def mask(x):
    return torch.zeros(len(x), 1, x.shape[1], x.shape[1])


@pytest.mark.parametrize(
    ("part", "call"),
    [
        (lambda: nn.MultiheadAttention(4, 2, batch_first=True), lambda m, x: m.part(x, x, x)[0]),
        (lambda: nn.MultiheadAttention(4, 2, batch_first=True), lambda m, x: m.part(query=x, key=x, value=x)[0]),
        (Masked, lambda m, x: m.part(attention_mask=mask(x), hidden_states=x)),
        (FromDict, lambda m, x: m.part({"mask": torch.ones(2, dtype=torch.bool), "x": x})),
        (lambda: nn.GRU(4, 5, batch_first=True), lambda m, x: m.part(x, torch.zeros(1, len(x), 5))[0]),
    ],
    ids=["attention", "by keyword", "mask first", "dictionary", "with h0"],
)
def test_the_tensor_that_carries_the_rows_is_tapped_wherever_it_comes_in(tmp_path, part, call):
    module = Tapped(part(), call)
    got = watch(module, tmp_path, batches(shape=(5, 3)), RowGradientRecorder(modules="part"))["part_grad_norm"]
    same(got, [lengths(gradient.sum(0)) for gradient in module.gradients], rtol=1e-4)


def test_an_argument_an_output_and_dimensions_can_be_named(tmp_path):
    def decode(m, memory):
        return m.part(memory.detach() * 0 + 1, memory)

    torch.manual_seed(0)
    module = Tapped(nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0, batch_first=True), decode)
    place = {"part": {"argument": "memory"}}
    got = watch(module, tmp_path, batches(shape=(5, 3)), RowGradientRecorder(modules=place))["part_grad_norm"]
    same(got, [lengths(gradient.sum(0)) for gradient in module.gradients], rtol=1e-4)

    module = Tapped(nn.Linear(4, 4), lambda m, x: m.part(x.transpose(1, 2).reshape(4, 4, 5).transpose(1, 2)))
    place = {"part": {"dim": 2, "batch_dim": 1}}
    got = watch(module, tmp_path, batches(shape=(5, 3)), RowGradientRecorder(modules=place))["part_grad_norm"]
    same(got, [lengths(gradient.sum(1).transpose(0, 1)) for gradient in module.gradients], rtol=1e-4)

    class Outer(Tapped):
        def training_step(self, x, batch_idx):
            out = self.part(self.embed(x))
            leaf = out.detach().requires_grad_()
            self.gradients.append(torch.autograd.grad((leaf**3).mean(), leaf)[0])
            return (out**3).mean()

    module = Outer(nn.Linear(4, 4), None)
    got = watch(module, tmp_path, batches(shape=(5, 3)), RowGradientRecorder(modules={"part": {"output": True}}))
    same(got["part_grad_norm"], [lengths(gradient.sum(0)) for gradient in module.gradients])


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("with_state", [False, True])
def test_packed_sequences_are_tapped_with_their_lengths(tmp_path, kind, with_state):
    def call(m, x):
        packed = pack_padded_sequence(x, torch.tensor([3, 6, 5, 2]), batch_first=True, enforce_sorted=False)
        state = torch.ones(1, 4, 5)
        state = (state, state) if kind is nn.LSTM else state
        out, _ = m.part(packed, state) if with_state else m.part(packed)
        return pad_packed_sequence(out, batch_first=True)[0]

    module = Tapped(kind(4, 5, batch_first=True), call)
    got = watch(module, tmp_path, batches(shape=(6, 3)), RowGradientRecorder(modules="part"))["part_grad_norm"]
    same(got, [lengths(gradient.sum(0)) for gradient in module.gradients], rtol=1e-4)


def test_batch_first_is_read_and_the_log_says_which_tensor_and_dimension_were_taken(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("rowgrad.watch.recorder.rank_zero_info", said.append)
    module = Tapped(nn.LSTM(4, 5), lambda m, x: m.part(x.transpose(0, 1))[0])
    got = watch(module, tmp_path, batches(shape=(7, 3)), RowGradientRecorder(modules="part"))["part_grad_norm"]
    same(got, [lengths(gradient.sum(0)) for gradient in module.gradients], rtol=1e-4)
    words = "tapped input of shape (7, 4, 4); rows are dimension 0 (7 rows), the batch is dimension 1."
    assert said == [f"modules=part: {words} Others: dim, batch_dim, argument, output."]


@pytest.mark.parametrize(("shape", "dim"), [((6, 4, 3), 1), ((3, 10), -1), ((2, 5, 4, 3), 2)])
def test_rows_may_be_any_dimension(shape, dim):
    torch.manual_seed(0)
    tap, x = RowTap(dim=dim), torch.randn(4, *shape, dtype=torch.float64)
    weight = torch.randn_like(x)
    (tap(x).sin() * weight).sum().backward()
    gradient = (x.cos() * weight).sum(0).movedim(dim if dim < 0 else dim - 1, -2)
    torch.testing.assert_close(tap.grad, gradient)


# Columns that come late.


def test_a_tap_that_is_used_late_gets_its_columns_then_and_its_earlier_cells_are_empty(tmp_path):
    class Late(Told):
        def __init__(self):
            super().__init__()
            self.other = RowTap()

        def training_step(self, x, batch_idx):
            x = self.other(x) if batch_idx >= 12 else x
            self.tell(x)
            return self.loss(self.tap(x))

    module = Late()
    got = watch(module, tmp_path, batches(25))
    same(got["tap_grad_norm"], module.wanted)
    assert got["other_grad_norm"][:12].isnan().all()
    same(got["other_grad_norm"][12:], module.wanted[12:])


def test_an_encoder_that_is_unfrozen_late_is_recorded_from_then_on(tmp_path):
    class Unfreeze(BaseFinetuning):
        def freeze_before_training(self, pl_module):
            self.freeze(pl_module.network[0])

        def finetune_function(self, pl_module, epoch, optimizer):
            if epoch == 1:
                self.unfreeze_and_add_param_group(pl_module.network[0], optimizer)

    class Finetuned(Told):
        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    module, recorder = Finetuned(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))), RowGradientRecorder()
    trainer(tmp_path, Unfreeze(), recorder, max_epochs=3).fit(module, batches())
    same(recorder.recorded()[1]["tap_grad_norm"], module.wanted)


def test_pairs_of_different_heights_are_refused_at_the_first_step(tmp_path):
    class Halved(Told):
        def __init__(self):
            super().__init__(nn.Linear(3, 1))
            self.after = RowTap()

        def training_step(self, x, batch_idx):
            return self.loss(self.after(self.tap(x)[:, ::2]))

    fit = trainer(tmp_path, RowGradientRecorder(pairs=[("tap", "after")]))
    with pytest.raises(UserError, match="pairs: tap has 4 rows and after has 2 rows"):
        fit.fit(Halved(), batches())
    assert fit.global_step == 0


# Loops over time steps, transforms, several shapes.


@pytest.mark.parametrize("output", [False, True])
def test_a_loop_over_a_cell_makes_rows_of_its_calls(tmp_path, output):
    class Loop(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.cell, self.gradients = nn.GRUCell(3, 4), []

        def states(self, x, cell):
            state, states = torch.zeros(len(x), 4), []
            for step in range(x.shape[1]):
                state = cell(x[:, step], state)
                states.append(state)
            return states

        def training_step(self, x, batch_idx):
            leaf = x.clone().requires_grad_()
            states = self.states(leaf, self.cell.forward)
            loss = states[-1].square().mean()
            gradients = torch.autograd.grad(loss, states if output else leaf)
            self.gradients.append(torch.stack(gradients, 1).sum(0) if output else gradients[0].sum(0))
            return self.states(x, self.cell)[-1].square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Loop()
    place = {"cell": {"collect": True, "output": output}}
    got = watch(module, tmp_path, batches(shape=(6, 3)), RowGradientRecorder(modules=place), accumulate_grad_batches=3)
    torch.testing.assert_close(got["cell_grad_norm"][0], lengths(sum(module.gradients) / 3), rtol=1e-5, atol=1e-9)


def test_single_steps_of_a_decoder_are_rows_too_and_a_cell_without_collect_says_so(tmp_path):
    tap, x = RowTap(collect=True), torch.randn(4, 6, 3)
    for _ in range(2):  # a second pass begins at row 0 again
        torch.cat([tap(x[:, step : step + 1]) * (step + 1) for step in range(6)], 1).sum().backward()
    assert tap.grad[:, 0].tolist() == [8.0 * (step + 1) for step in range(6)]
    with pytest.raises(UserError, match=r"one time step a call, \(B, D\), as in a loop over a cell: collect=True"):
        watch(
            Tapped(nn.GRUCell(4, 4), lambda m, x: m.part(x[:, 0])), tmp_path, None, RowGradientRecorder(modules="part")
        )


def test_torch_func_goes_through_a_tap_as_without():
    module = nn.Sequential(RowTap(), nn.Linear(3, 1))
    plain, x = nn.Sequential(nn.Identity(), module[1]), torch.randn(2, 4, 3)
    weights = dict(module.named_parameters())

    def per_sample(network):
        def loss(weights, one):
            return torch.func.functional_call(network, weights, (one[None],)).square().mean()

        return torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, x)

    got, wanted = per_sample(module), per_sample(plain)
    assert all(got[name].equal(wanted[name]) for name in wanted)


def test_tensors_of_different_dimensions_need_a_tap_each():
    tap = RowTap()
    for shape in ((2, 3, 4, 5), (2, 4, 5)):
        tap(torch.ones(shape)).sum().backward()
    with pytest.raises(UserError, match=r"got tensors of shapes \(3, 4, 5\) and \(4, 5\): use a tap for each"):
        _ = tap.grad


def test_several_lengths_in_one_pass_are_all_in_it(tmp_path):
    class Ragged(Told):
        def __init__(self):
            super().__init__(nn.Linear(3, 1))

        def training_step(self, x, batch_idx):
            parts = [x[:, : 2 + number] for number in range(3)]
            leaves = [part.clone().requires_grad_() for part in parts]
            gradients = torch.autograd.grad(sum(self.loss(leaf) for leaf in leaves), leaves)
            total = torch.zeros(4, 3)
            for gradient in gradients:
                total[: gradient.shape[1]] += gradient.sum(0)
            self.wanted.append(lengths(total))
            return sum(self.loss(self.tap(part)) for part in parts)

    module = Ragged()
    same(watch(module, tmp_path)["tap_grad_norm"], module.wanted)


# Axes and size.


def test_bins_are_roots_of_sums_of_squares_and_much_is_said_at_the_first_step(tmp_path):
    class Long(Told):
        def __init__(self):
            torch.manual_seed(0)
            super().__init__(nn.Linear(3, 1))

    data = batches(shape=(2000, 3))
    with pytest.warns(UserWarning, match=r"each step writes 97 KB\. bins=32 joins neighbouring rows"):
        whole = watch(Long(), tmp_path / "whole", data)["tap_grad_norm"]
    got = watch(Long(), tmp_path / "bins", data, RowGradientRecorder(bins=3))["tap_grad_norm"]
    parts = [(0, 667), (667, 1334), (1334, 2000)]
    wanted = torch.stack([whole[:, one:other].square().sum(1).sqrt() for one, other in parts], 1)
    torch.testing.assert_close(got, wanted, rtol=1e-7, atol=0)


# Without Lightning.


def test_a_loop_of_ones_own_has_the_files_of_lightning(tmp_path):
    module = Told()
    watch(module, tmp_path / "lightning")
    twin = Told()
    optimizer = twin.configure_optimizers()
    with Recorder(twin, tmp_path / "own") as recorder:
        for x in batches():
            optimizer.zero_grad()
            twin.loss(twin.tap(x)).backward()
            optimizer.step()
            recorder.step()
        assert recorder.recorded()[0].tolist() == [0, 1, 2]
    own, other = (tmp_path / name / "row_gradients.csv" for name in ("own", "lightning"))
    assert own.read_bytes() == other.read_bytes()
    assert list((tmp_path / "own").glob("events.out.tfevents.*"))
    assert not any(part._backward_hooks for part in twin.parameters())


def test_a_loop_of_ones_own_is_resumed_with_its_file(tmp_path):
    twin = Told()
    optimizer = twin.configure_optimizers()

    def train(recorder, data):
        for x in data:
            twin.loss(twin.tap(x)).backward()
            optimizer.step()
            recorder.step()
            optimizer.zero_grad()

    data = list(batches(6))
    with Recorder(twin, tmp_path) as recorder:
        train(recorder, data[:3])
        state = recorder.state_dict()
        train(recorder, data[3:5])
    with Recorder(twin, tmp_path) as recorder:
        recorder.load_state_dict(state)
        train(recorder, data[3:])
        assert recorder.recorded()[0].tolist() == list(range(6))
    assert [file.name for file in tmp_path.glob("*.csv")] == ["row_gradients.csv"]


# Layers, and alarms.


def test_layers_have_the_norms_of_their_parameters_gradients_and_their_moves(tmp_path):
    module = Told(nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))))
    wanted, moves = {}, {}

    class Look(pl.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            grads = {name: p.grad.clone() for name, p in module.network.named_parameters()}
            for layer in ("0", "1.0", "1.1"):
                parts = [g.double().flatten() for name, g in grads.items() if name.rpartition(".")[0] == layer]
                wanted.setdefault(layer, []).append(torch.cat(parts).norm())
            wanted.setdefault("total", []).append(torch.cat([g.double().flatten() for g in grads.values()]).norm())
            old = torch.cat([p.detach().double().flatten() for p in module.network[0].parameters()])
            new = old - 0.1 * torch.cat([p.grad.double().flatten() for p in module.network[0].parameters()])
            moves.setdefault("0", []).append((new - old).norm() / old.norm())

    recorder = RowGradientRecorder(layers=True, update_ratios=True, dirpath=tmp_path)
    trainer(tmp_path, recorder, Look(), logger=TensorBoardLogger(tmp_path, name="", version="")).fit(module, batches())
    norms = recorder.recorded()[1]
    names = ["network.0", "network.1.0", "network.1.1", "total"]
    header = (tmp_path / "row_gradients.csv").read_text().splitlines()[0].split(",")
    assert [column for column in header if "layer_grad_norm" in column] == [f"layer_grad_norm/{n}" for n in names]
    table = torch.stack([torch.stack(column) for column in wanted.values()], 1)
    torch.testing.assert_close(norms["layer_grad_norm"], table, rtol=1e-6, atol=0)
    torch.testing.assert_close(norms["layer_update_ratio"][:, 0], torch.stack(moves["0"]), rtol=1e-4, atol=0)
    same(norms["tap_grad_norm"], module.wanted)


def test_layers_can_be_joined_by_the_first_parts_of_their_names_and_need_no_tap(tmp_path):
    module = Told(nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))))
    module.tap = nn.Identity()
    recorder = RowGradientRecorder(layers=2, dirpath=tmp_path)
    watch(module, tmp_path, recorder=recorder)
    header = (tmp_path / "row_gradients.csv").read_text().splitlines()[0]
    assert header == "step,layer_grad_norm/network.0,layer_grad_norm/network.1,layer_grad_norm/total"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("infinite", r"step 30: gradient is not finite for the first time, at tap_grad_norm, row 0"),
        ("explodes", r"step 30: gradient explodes at layer network\.0: norm .* times the usual"),
        ("vanishes", r"gradient vanishes at layer network\.0: norm .* less than 1e-06 of the strongest layer's"),
        ("unused", r"layer unused: its gradient is none in the first 10 recorded steps"),
        ("cut", r"layer unused: its gradient is exactly 0 in the first 10 recorded steps"),
    ],
)
def test_gradient_that_is_not_finite_explodes_vanishes_or_never_comes_is_said_once(tmp_path, how, words):
    class Ill(Told):
        def __init__(self):
            super().__init__(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)))
            self.unused = nn.Linear(1, 1) if how in ("unused", "cut") else None

        def training_step(self, x, batch_idx):
            factor = {"infinite": float("inf"), "explodes": 1e6}.get(how, 1.0) if batch_idx == 30 else 1.0
            hidden = self.network[0](self.tap(x))
            if how == "vanishes":
                hidden = hidden * 1e-9 + (hidden * (1 - 1e-9)).detach()
            loss = self.network[1](hidden).square().mean() * factor
            return loss + 0 * self.unused.weight.sum() + 0 * self.unused.bias.sum() if how == "cut" else loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-9)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        watch(Ill(), tmp_path, batches(40), RowGradientRecorder(layers=True))
    found = [str(one.message) for one in said if "gradient" in str(one.message)]
    assert len([one for one in found if re.search(words, one)]) == 1


def test_copies_and_files_of_a_watched_module_are_not_watched(tmp_path):
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    with Recorder(module, tmp_path, modules={"0": {"output": True}, "1": {}}, layers=True) as recorder:
        torch.save(module, tmp_path / "whole.pt")
        for copied in (copy.deepcopy(module), torch.load(tmp_path / "whole.pt", weights_only=False)):
            copied(torch.ones(2, 5, 3)).sum().backward()
            assert not any(tap.grad is not None for tap in recorder.recording.taps.values())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_activations_are_recorded_once(tmp_path, reentrant):
    module, x = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))), torch.randn(4, 5, 3)
    leaf = module[0](x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(module[1](leaf).square().mean(), leaf)
    with Recorder(module, tmp_path, modules="1.0") as recorder:
        checkpoint(module[1], module[0](x), use_reentrant=reentrant).square().mean().backward()
        recorder.step()
        same(recorder.recorded()[1]["1.0_grad_norm"], [lengths(gradient.sum(0))])


def test_optimizers_that_take_turns_have_the_passes_that_reached_their_weights(tmp_path):
    class Toggled(Told):
        def __init__(self):
            super().__init__(nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 1)]))
            self.automatic_optimization = False
            self.others = []

        def training_step(self, x, batch_idx):
            maker, judge = self.optimizers()
            for optimizer, wanted, sign in ((maker, self.others, -1), (judge, self.wanted, 1)):
                made = self.network[0](x) if optimizer is maker else self.network[0](x).detach()
                leaf = made.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(sign * self.network[1](leaf).square().mean(), leaf)
                wanted.append(lengths(gradient.sum(0)))
                self.toggle_optimizer(optimizer)
                self.manual_backward(sign * self.network[1](self.tap(made)).square().mean())
                optimizer.step()
                optimizer.zero_grad()
                self.untoggle_optimizer(optimizer)

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in self.network]

    module, recorder = Toggled(), RowGradientRecorder()
    watch(module, tmp_path, recorder=recorder)
    same(recorder.recorded(0)[1]["tap_grad_norm"], module.others)
    same(recorder.recorded(1)[1]["tap_grad_norm"], module.wanted)


class Attends(nn.Module):
    """Uses its input three times."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))


class Residual(nn.Module):
    """Attention and what goes past it, or attention alone."""

    def __init__(self, *, skip=True):
        super().__init__()
        torch.manual_seed(0)
        self.skip, self.before, self.attention = skip, nn.Linear(8, 16), Attends()
        self.after = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 1))

    def forward(self, x):
        x = self.before(x)
        return self.after(self.attention(x) + (x if self.skip else 0)).square().mean()


@pytest.mark.parametrize(
    ("modules", "skip", "says"),
    [("attention", True, True), ("attention.q", True, False), ("attention", False, False),
     ({"attention": {"output": True}}, True, False)],
)  # fmt: skip
def test_another_order_of_additions_is_said_and_there_is_none_otherwise(tmp_path, modules, skip, says):
    weights = []
    for watched in (False, True):
        module = Residual(skip=skip)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        torch.manual_seed(1)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            recorder = Recorder(module, tmp_path, modules=modules) if watched else None
            for _ in range(3):
                module(torch.randn(4, 12, 8)).backward()
                optimizer.step()
                if recorder is not None:
                    recorder.step()
                optimizer.zero_grad()
            if recorder is not None:
                recorder.close()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in module.parameters()]))
        assert any("added in another order" in str(one.message) for one in said) == (says and watched)
    assert weights[0].equal(weights[1]) or says


def test_a_view_that_is_used_once_may_be_changed_in_place(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 1, 3))
    with Recorder(module, tmp_path, modules="2") as recorder:
        module(torch.randn(2, 3, 8, 8)).square().mean().backward()
        recorder.step()
        assert recorder.recorded()[1]["2_grad_norm"].shape == (1, 6)


def test_a_loop_of_ones_own_has_the_moves_of_each_layer(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    optimizer, moves = torch.optim.Adam(module.parameters(), lr=0.01), []
    with Recorder(module, tmp_path, layers=True, update_ratios=True) as recorder:
        for x in batches():
            old = torch.cat([parameter.detach().double().flatten() for parameter in module[0].parameters()])
            module(x).square().mean().backward()
            optimizer.step()
            recorder.step()
            optimizer.zero_grad()
            new = torch.cat([parameter.detach().double().flatten() for parameter in module[0].parameters()])
            moves.append((new - old).norm() / old.norm())
        ratios = recorder.recorded()[1]["layer_update_ratio"][:, 0]
    torch.testing.assert_close(ratios, torch.stack(moves), rtol=1e-3, atol=0)
