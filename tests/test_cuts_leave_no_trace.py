"""Looking for cuts changes nothing, to the last bit; what cannot be said is not said."""

from __future__ import annotations

import copy
import json
import math
import random
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim.optimizer import _global_optimizer_pre_hooks
from torchmetrics import MeanMetric

import rowgrad


class Meter:
    """An average, as everybody writes one."""

    def __init__(self):
        self.sum, self.values = 0.0, []

    def update(self, value):
        self.sum += value
        self.values.append(value)


pytestmark = [
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support"),
]


@dataclass(slots=True)
class Slotted:
    """The same without a dictionary."""

    sum: float = 0.0
    values: list = field(default_factory=list)


class Untidy(nn.Module):
    """A network with state of every kind."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
        self.slow = copy.deepcopy(self.body)
        self.losses, self.nested = [1.0], {"deep": [[torch.zeros(2)], {"count": 0}]}
        self.by_name, self.seen, self.recent = {"loss": torch.zeros(())}, {1}, deque([1, 2], maxlen=2)
        self.count, self.meter, self.slotted, self.metric = 0, Meter(), Slotted(), MeanMetric()
        self.last, self.total, self.array = torch.zeros(2), torch.zeros(2), np.zeros(2)
        self.register_buffer("average", torch.zeros(2))
        self.edges, self.rows = torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr()
        self.ragged, self.fixed = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), np.zeros(2)
        self.fixed.setflags(write=False)
        self.generator = torch.Generator().manual_seed(3)
        self.dice, self.lots, self.old = random.Random(1), np.random.default_rng(2), np.random.RandomState(3)
        self.optimizer = torch.optim.Adam(self.body.parameters(), lr=0.1)
        self.x, self.target = torch.randn(5, 3), torch.randn(5, 2)

    def step(self):
        return mse_loss(self.body(self.x), self.target) + self.body(self.x).detach().square().mean()


def step_optimizer(module):
    module.optimizer.zero_grad()
    module.step().backward()
    module.optimizer.step()


@torch.no_grad()
def move_average(module):
    for slow, fast in zip(module.slow.parameters(), module.body.parameters(), strict=True):
        slow.mul_(0.5).add_(fast, alpha=0.5)


@torch.no_grad()
def change_weight(module):
    module.body[0].weight.mul_(2)


# What a step may do beside its forward pass.
CHANGES = {
    "nothing": lambda _: None,
    "a list grows": lambda module: module.losses.append(2.0),
    "a list in a dictionary grows": lambda module: module.nested["deep"].append(1),
    "a tensor deep inside changes": lambda module: module.nested["deep"][0][0].add_(1),
    "a number deep inside changes": lambda module: module.nested["deep"][1].update(count=1),
    "a dictionary changes": lambda module: module.by_name.update(loss=torch.ones(())),
    "a set grows": lambda module: module.seen.add(2),
    "a deque moves": lambda module: module.recent.append(3),
    "a counter counts": lambda module: setattr(module, "count", module.count + 1),
    "a meter is updated": lambda module: module.meter.update(1.0),
    "a slotted object changes": lambda module: (setattr(module.slotted, "sum", 1.0), module.slotted.values.append(1)),
    "a metric is updated": lambda module: module.metric.update(torch.ones(2)),
    "a tensor is replaced": lambda module: setattr(module, "last", torch.ones(2)),
    "a tensor changes in place": lambda module: module.total.add_(1),
    "a tensor with gradient is stored": lambda module: setattr(module, "last", module.body[0].weight.sum()),
    "an array changes in place": lambda module: module.array.__iadd__(1),
    "sparse tensors change in place": lambda module: [
        one.mul_(2) for one in (module.edges, module.rows, module.ragged)
    ],
    "a sparse tensor gets an element": lambda module: module.edges.add_(torch.ones(3, 3).triu().to_sparse()),
    "a buffer is replaced": lambda module: setattr(module, "average", torch.ones(2)),
    "a buffer changes in place": lambda module: module.average.add_(1),
    "a generator draws": lambda module: torch.rand(1, generator=module.generator),
    "generators of Python and numpy draw": lambda module: (
        module.dice.random(),
        module.lots.random(),
        module.old.rand(),
    ),
    "an attribute is new": lambda module: setattr(module, "new", 1),
    "an attribute is deleted": lambda module: delattr(module, "count"),
    "the mode changes": lambda module: module.eval(),
    "a part is frozen": lambda module: module.body[0].requires_grad_(False),
    "a weight changes in place": change_weight,
    "a weight's memory changes": lambda module: setattr(module.body[0].weight, "data", torch.ones(4, 3)),
    "a weight is replaced": lambda module: setattr(module.body[0], "weight", nn.Parameter(torch.ones(4, 3))),
    "a layer is replaced": lambda module: module.body.__setitem__(0, nn.Linear(3, 4)),
    "a module's hook is registered": lambda module: module.body.register_forward_hook(lambda *_: None),
    "a weight's hook is registered": lambda module: module.body[0].weight.register_hook(lambda gradient: gradient * 2),
    "an optimizer steps": step_optimizer,
    "an optimizer gets weights": lambda module: module.optimizer.add_param_group({"params": [torch.zeros(2)]}),
    "another learning rate": lambda module: module.optimizer.param_groups[0].update(lr=1.0),
    "an average moves": move_average,
    "gradients are set": lambda module: setattr(module.body[0].bias, "grad", torch.ones(4)),
    "gradients change in place": lambda module: [p.grad.zero_() for p in module.parameters() if p.grad is not None],
    "torch draws": lambda _: torch.rand(3),
    "Python and numpy draw": lambda _: (random.random(), np.random.rand()),  # noqa: NPY002
}
changes = pytest.mark.parametrize("change", CHANGES)


def content(value):
    """What a tensor, an array or a generator holds; None of other objects."""
    if isinstance(value, torch.Tensor) and (value.is_nested or value.layout != torch.strided):
        return [part.tolist() for part in value.unbind()] if value.is_nested else value.to_dense().tolist()
    if isinstance(value, torch.Tensor):
        hooks = tuple(getattr(value, "_backward_hooks", None) or ())
        return value.detach().numpy().tobytes(), value.dtype, value.shape, value.requires_grad, value.is_leaf, hooks
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator | np.random.RandomState):
        return str(value.__getstate__() if isinstance(value, np.random.RandomState) else value.bit_generator.state)
    return value.get_state().numpy().tobytes() if isinstance(value, torch.Generator) else None


def inside(value):
    """What an object is made of, by name."""
    if isinstance(value, torch.Tensor):
        return {"grad": value.grad if value.is_leaf else None}
    if isinstance(value, torch.optim.Optimizer):
        return value.state_dict()
    if isinstance(value, nn.Module | Meter):
        return vars(value)
    if isinstance(value, Slotted):
        return {"sum": value.sum, "values": value.values}
    return dict(enumerate(value)) if isinstance(value, list | tuple | set | deque) else value


def parts(value, path="module", seen=None):
    """Yields everything that a value is made of, by its path: with its identity, and tensors as their bytes."""
    seen = set() if seen is None else seen
    if isinstance(value, str | int | float | bool | type(None)):
        yield path, value
        return
    # What an optimizer keeps for itself may be another object of equal content.
    yield path, (type(value).__name__, id(value) if ".optimizer." not in path else "", content(value))
    named = inside(value)
    if id(value) not in seen and isinstance(named, dict):
        seen.add(id(value))
        for name, one in named.items():
            yield from parts(one, f"{path}.{name}", seen)


class Snapshot(dict):
    """Of a module and of what draws random numbers."""

    def __init__(self, module):
        # The module is alive in between, and what it replaces too: an identity is not given to another object.
        self.kept = dict(vars(module)), [dict(vars(part)) for part in module.modules()]
        super().__init__(parts(module))
        python, (name, state, *position) = random.getstate(), np.random.get_state()  # noqa: NPY002
        self |= {"torch": torch.get_rng_state().numpy().tobytes(), "random": python}
        self |= {"numpy": (name, state.tobytes(), *position)}

    def differs_from(self, other):
        return {path for path in self.keys() | other.keys() if self.get(path, "absent") != other.get(path, "absent")}


def prepared(*, with_gradients):
    """A network that has trained for a step."""
    module = Untidy()
    step_optimizer(module)
    if not with_gradients:
        module.zero_grad()
    module.metric.update(torch.ones(1))
    return module


@pytest.mark.parametrize("change", [change for change in CHANGES if change != "nothing"])
def test_each_change_would_be_seen(change):
    module = prepared(with_gradients=True)
    before = Snapshot(module)
    CHANGES[change](module)
    assert Snapshot(module).differs_from(before)


@changes
@pytest.mark.parametrize("with_gradients", [True, False], ids=["with gradients", "without"])
def test_everything_is_as_before(change, with_gradients):
    module = prepared(with_gradients=with_gradients)

    def step():
        loss = module.step()
        CHANGES[change](module)
        return loss

    before = Snapshot(module)
    rowgrad.find_cuts(module, step)
    changed = Snapshot(module).differs_from(before)
    assert not changed


@changes
def test_everything_is_as_before_when_the_step_raises(change):
    module = prepared(with_gradients=True)
    error = ValueError("in the middle of the step")

    def step():
        module.step()
        CHANGES[change](module)
        raise error

    before = Snapshot(module)
    with pytest.raises(ValueError, match="in the middle") as raised:
        rowgrad.find_cuts(module, step)
    assert raised.value is error
    changed = Snapshot(module).differs_from(before)
    assert not changed


@changes
def test_training_goes_on_as_if_nobody_had_looked(change):
    ends = []
    for looks in (True, False):
        module = prepared(with_gradients=True)

        def step(module=module):
            loss = module.step()
            CHANGES[change](module)
            return loss

        torch.manual_seed(5)
        if looks:
            rowgrad.find_cuts(module, step)
        for _ in range(2):
            step_optimizer(module)
        ends.append((module.state_dict(), module.optimizer.state_dict(), torch.rand(3)))
    (weights, moments, drawn), (weights_, moments_, drawn_) = ends
    assert not [name for name in weights if not weights[name].equal(weights_[name])]
    assert all(
        moments["state"][number][name].equal(value)
        for number, values in moments_["state"].items()
        for name, value in values.items()
    )
    assert drawn.equal(drawn_)


def test_manual_optimization_is_looked_at_and_undone():
    module = prepared(with_gradients=False)

    def step():
        module.optimizer.zero_grad()
        loss = module.step()
        loss.backward()
        module.optimizer.step()
        move_average(module)

    before = Snapshot(module)
    found = rowgrad.find_cuts(module, step)
    changed = Snapshot(module).differs_from(before)
    assert not changed
    assert {one.status for name, one in found.parameters.items() if name.startswith("body.")} == {"reached"}
    assert [cut.kind for cut in found.cuts if cut.reaches_loss] == ["detach"]


def test_an_optimizer_that_has_never_stepped_has_no_state_afterwards():
    module = Untidy()
    rowgrad.find_cuts(module, lambda: step_optimizer(module) or module.step())
    assert not module.optimizer.state


def test_torch_is_as_before():
    module, enter, hooks = Untidy(), torch.inference_mode.__enter__, dict(_global_optimizer_pre_hooks)
    rowgrad.find_cuts(module, module.step)
    with pytest.raises(ZeroDivisionError):
        rowgrad.find_cuts(module, lambda: 1 / 0)
    assert torch.inference_mode.__enter__ is enter
    assert hooks == _global_optimizer_pre_hooks
    assert not torch.overrides._get_current_function_mode_stack()
    assert torch.is_grad_enabled()


def test_gradients_that_were_off_stay_off():
    module = Untidy()
    with torch.no_grad():
        found = rowgrad.find_cuts(module, module.step)
        assert not torch.is_grad_enabled()
    assert found.parameters["body.0.weight"].status == "reached"


def test_a_step_that_switches_gradients_off_and_raises_leaves_them_on():
    module = Untidy()

    def step():
        torch.set_grad_enabled(False)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rowgrad.find_cuts(module, step)
    assert torch.is_grad_enabled()


def test_inputs_keep_their_gradient():
    module = Untidy()
    module.x.requires_grad_()
    module.x.grad = torch.ones(5, 3)
    outside, kept = torch.randn(5, 2, requires_grad=True), module.x.grad
    rowgrad.find_cuts(module, lambda: module.step() + (module.body(module.x) * outside).sum())
    assert module.x.grad is kept
    assert kept.equal(torch.ones(5, 3))
    assert outside.grad is None


def test_hooks_on_gradients_are_not_called_with_what_is_tried():
    """A person's hook may count or log: it is called for the first look at most, never with a healed gradient."""
    module, calls = Untidy(), []
    module.body[0].weight.register_hook(lambda gradient: calls.append(gradient.clone()))
    torch.manual_seed(1)
    rowgrad.find_cuts(module, module.step, heal=0)
    looked = len(calls)
    assert looked <= 1


# What cannot be said.

calls_so_far = SimpleNamespace(count=0)


def cut_of(found):
    (cut,) = [cut for cut in found.cuts if cut.reaches_loss]
    return cut


def test_no_numbers_if_the_loss_of_a_second_run_is_another():
    module = Untidy()

    def step():
        calls_so_far.count += 1
        return module.step() * calls_so_far.count

    cut = cut_of(rowgrad.find_cuts(module, step))
    assert (cut.kind, cut.stopped, cut.cosine, cut.parameters) == ("detach", None, None, ())
    assert "loss" in cut.withheld


def test_no_numbers_if_a_second_run_goes_another_way():
    module = Untidy()

    def step():
        calls_so_far.count += 1
        z = module.body(module.x)
        return mse_loss(z.detach() if calls_so_far.count == first else z, module.target) + z.sum()

    first = calls_so_far.count + 1
    cut = cut_of(rowgrad.find_cuts(module, step))
    assert (cut.kind, cut.stopped, cut.cosine) == ("detach", None, None)
    assert cut.withheld


def test_no_numbers_if_letting_through_raises():
    module = Untidy()

    def step():
        move_average(module)
        return mse_loss(module.slow(module.x), module.target)

    found = rowgrad.find_cuts(module, step)
    (cut,) = [cut for cut in found.cuts if cut.kind == "no_grad"]
    assert cut.reaches_loss
    assert cut.code == "@torch.no_grad()"
    assert cut.stopped is None
    assert cut.withheld


def test_no_more_places_are_tried_than_wanted():
    module = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))

    def step():
        x = torch.ones(2, 2)
        x = module[0](x).detach()
        x = module[1](x).detach()
        x = module[2](x).detach()
        return module[3](x).sum()

    for heal in (0, 1, 3):
        cuts = rowgrad.find_cuts(module, step, heal=heal).cuts
        assert len(cuts) == 3
        assert sum(cut.stopped is not None for cut in cuts) == heal
        assert all(cut.withheld for cut in cuts if cut.stopped is None)


def test_what_is_only_looked_at_is_not_tried():
    module, runs = Untidy(), []

    def step():
        runs.append(1)
        z = module.body(module.x)
        module.last = z.detach().mean()
        return mse_loss(z, module.target)

    (cut,) = rowgrad.find_cuts(module.body, step).cuts
    assert (cut.kind, cut.reaches_loss, cut.stopped) == ("detach", False, None)
    assert len(runs) == 1


# What a step may return.


class Output(dict):
    """As Hugging Face's: a dictionary with attributes."""

    __getattr__ = dict.__getitem__


def backward(loss):
    loss.backward()


def halves(loss):
    (loss / 2).backward(retain_graph=True)
    (loss / 2).backward()


RETURNS = {
    "a loss": lambda loss: loss,
    "a loss of one element": lambda loss: loss.reshape(1),
    "a dictionary": lambda loss: {"loss": loss, "logits": torch.zeros(3)},
    "an object": lambda loss: SimpleNamespace(loss=loss, logits=torch.zeros(3)),
    "a dictionary with attributes": lambda loss: Output(loss=loss, logits=torch.zeros(3)),
    "two losses": lambda loss: (loss / 2, loss / 2),
    "named losses": lambda loss: {"first": loss / 2, "second": loss / 2},
    "its own backward pass": backward,
    "a backward pass of several losses": lambda loss: torch.autograd.backward([loss / 2, loss / 2]),
    "two backward passes": halves,
    "its own backward pass, and the loss": lambda loss: backward(loss) or loss,
}


@pytest.mark.parametrize("returns", RETURNS)
def test_a_step_may_return(returns):
    module = Untidy().eval()
    found = rowgrad.find_cuts(module, lambda: RETURNS[returns](module.step()))
    cut = cut_of(found)
    assert found.loss == pytest.approx(module.step().item(), rel=1e-6)
    assert cut.kind == "detach"
    assert cut.code.startswith("return mse_loss(self.body(self.x)")
    full = rowgrad.find_cuts(module, module.step)
    assert cut.stopped == pytest.approx(cut_of(full).stopped, rel=1e-5)
    assert {one.status for name, one in found.parameters.items() if name.startswith("body")} == {"reached"}
    assert {one.status for name, one in found.parameters.items() if name.startswith("slow")} == {"unused"}


def test_a_closure_is_called_by_its_optimizer():
    module = Untidy().eval()
    optimizer = module.optimizer = torch.optim.LBFGS(module.body.parameters(), max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = module.step()
        loss.backward()
        return loss

    optimizer.step(closure)  # it has a history from now on
    before = Snapshot(module)
    found = rowgrad.find_cuts(module, lambda: optimizer.step(closure))
    assert {cut.kind for cut in found.cuts if cut.reaches_loss} == {"detach"}
    changed = Snapshot(module).differs_from(before)
    assert not changed


def test_a_loss_that_is_not_a_number_is_not_called_another_one():
    module = Untidy()
    cut = cut_of(rowgrad.find_cuts(module, lambda: module.step() * math.nan))
    assert "another" not in cut.withheld
    assert cut.stopped is None or math.isnan(cut.stopped)


@pytest.mark.parametrize("returned", [None, {}, torch.zeros(3), "loss", torch.tensor(1)], ids=str)
def test_a_step_without_a_loss_is_refused(returned):
    with pytest.raises(rowgrad.errors.UserError, match="step returned"):
        rowgrad.find_cuts(Untidy(), lambda: returned)


# What is said of parameters.


def test_frozen_and_unused_parameters_are_named():
    module = Untidy()
    module.body[0].requires_grad_(False)
    found = rowgrad.find_cuts(module, module.step).parameters
    assert {found[name].status for name in ("body.0.weight", "body.0.bias")} == {"frozen"}
    assert {found[name].status for name in ("body.3.weight", "body.1.bias")} == {"reached"}
    assert {one.status for name, one in found.items() if name.startswith("slow.")} == {"unused"}
    assert {one.optimizer for one in found.values()} == {None}
    assert list(found) == [name for name, _ in module.named_parameters()]


def test_parameters_that_no_optimizer_has_are_named():
    module = Untidy()
    found = rowgrad.find_cuts(module, module.step, optimizers=[module.optimizer]).parameters
    assert all(one.optimizer == name.startswith("body.") for name, one in found.items())


def test_a_secondary_cut_is_said_too():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    def step():
        first = module[0](torch.ones(1, 2)).detach()
        second = first.detach() * 2
        return module[1](second).sum()

    cuts = rowgrad.find_cuts(module, step).cuts
    assert [cut.code.split(" =")[0] for cut in cuts] == ["first", "second"]
    assert all(cut.reaches_loss for cut in cuts)
    assert all((cut.parameters, cut.stopped) == ((), 0.0) for cut in cuts)  # either of them alone changes nothing
    assert cuts[0] in rowgrad.find_cuts(module, step).parameters["0.weight"].cuts


def test_an_answer_can_be_written_as_json():
    module = Untidy()
    found = rowgrad.find_cuts(module, module.step)
    written = json.loads(json.dumps(found.to_dict()))
    assert written["loss"] == found.loss
    assert [cut["line"] for cut in written["cuts"]] == [cut.line for cut in found.cuts]


def test_an_answer_fits_into_eighty_columns():
    module = Untidy()
    found = rowgrad.find_cuts(module, module.step)
    assert max(map(len, str(found).splitlines())) <= 80
    assert "test_cuts_leave_no_trace.py:" in str(found)


def test_a_notebook_shows_code_as_text():
    module = nn.Linear(2, 2)
    found = rowgrad.find_cuts(module, lambda: (module(torch.ones(1, 2)) * len("<b>")).detach().sum())
    page = ET.fromstring(f"<div>{found._repr_html_()}</div>")
    assert {one.tag for one in page.iter()} == {"div", "pre", "table", "tr", "th", "td", "b", "br", "code"}
    text = "".join(page.itertext())
    assert all(
        words in text for words in (found.cuts[0].code, found.cuts[0].place, "2 of 2 parameters", "weight, bias: cut")
    )


# Wrapped and scaled.


@pytest.fixture
def one_rank():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
def test_a_wrapped_module_is_found_by_its_own_names_and_trains_on():
    module = Untidy().eval()
    wrapped = nn.parallel.DistributedDataParallel(module.body, find_unused_parameters=True)

    def step(cuts=True):
        hidden = wrapped(module.x)
        return mse_loss(hidden.detach() if cuts else hidden, module.target) + wrapped.module[3].bias.sum()

    found = rowgrad.find_cuts(wrapped, step)
    assert found.parameters["module.0.weight"].status == "cut"
    assert cut_of(found).parameters == tuple(name for name in found.parameters if name != "module.3.bias")
    step(cuts=False).backward()  # its reducer has learnt nothing of what was looked at
    assert all(parameter.grad is not None for parameter in wrapped.parameters())


def test_a_scaler_in_the_step_scales_as_before():
    module, scaler = prepared(with_gradients=False), torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)

    def step():
        module.optimizer.zero_grad()
        scaler.scale(module.step()).backward()
        scaler.step(module.optimizer)
        scaler.update()

    before = Snapshot(module)
    scaler.scale(torch.ones(()))  # makes its tensors
    found = rowgrad.find_cuts(module, step)
    assert not Snapshot(module).differs_from(before)
    assert scaler.get_scale() == 1024.0
    assert cut_of(found).kind == "detach"


@pytest.mark.parametrize("heal", [-1, "3", 1.5, True], ids=str)
def test_what_heal_does_not_accept_is_said(heal):
    module = Untidy()
    for make in (lambda: rowgrad.find_cuts(module, module.step, heal=heal), lambda: rowgrad.CutFinder(heal)):
        with pytest.raises(rowgrad.UserError, match=r"heal=.* whole number"):
            make()


def test_a_function_is_no_module():
    with pytest.raises(rowgrad.UserError, match="got a function"):
        rowgrad.find_cuts(lambda: None, lambda: torch.zeros(()))


def test_a_module_without_parameters_is_said_to_have_none():
    x = torch.ones(2, requires_grad=True)
    assert "No parameter wants gradient." in str(rowgrad.find_cuts(nn.ReLU(), lambda: x.relu().sum()))
