"""Every planted cut is found at its line, nothing else is, and what it costs is what `torch.autograd.grad` says."""

import contextlib
import inspect
import math
import random
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import cut_models
import pytest
import torch
from cut_models import NETWORKS
from torch import nn
from torch.utils.checkpoint import checkpoint

import rowgrad

pytestmark = [
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor"),
    pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar"),
]
FILE = inspect.getfile(cut_models)
LINES = inspect.getsource(cut_models).splitlines()
MARKER = re.compile(r"# (cut|wanted|looked at): ([\w .]+?)(?: \((\w+)\))? @ (\w+)(?:\.([\w-]+))?$")
HAVE_NO_DERIVATIVE = {"not differentiable", "custom Function", "zero derivative"}
BEFORE_THE_STEP = {"Residual.weight-hook", "SimSiam.module-hook"}  # hooks that are there already


class Mark(NamedTuple):
    """A marked line of `cut_models`."""

    word: str
    kind: str
    operation: str | None
    network: str
    cut: str
    line: int

    @property
    def name(self) -> str:
        return f"{self.network}.{self.cut}"

    @property
    def can_be_healed(self) -> bool:
        is_exit = self.kind == "exit" and self.operation not in {"tensor", "new_tensor"}
        return not (is_exit or self.kind in HAVE_NO_DERIVATIVE or self.name in BEFORE_THE_STEP)


MARKS = [
    Mark(*(found.groups("")), number)
    for number, text in enumerate(LINES, 1)
    if (found := MARKER.search(text)) and not text.startswith("-")
]
PLANTED = [mark for mark in MARKS if mark.word == "cut"]
HEALED = [mark for mark in PLANTED if mark.can_be_healed]
planted = pytest.mark.parametrize("mark", PLANTED, ids=lambda mark: mark.name)
healed = pytest.mark.parametrize("mark", HEALED, ids=lambda mark: mark.name)


@cache
def found_in(network, cut=""):
    """What the finder says, from a seed that the oracle uses too."""
    torch.manual_seed(1)
    model = NETWORKS[network](cut)
    return rowgrad.find_cuts(model, model.step, heal=None)


@cache
def oracle(network, cut=""):
    """The loss, and its gradient by parameter and by input (as `input 4×3`), from plain `torch.autograd.grad`."""
    model = NETWORKS[network](cut)
    inputs = {"input " + "×".join(map(str, x.shape)): x for x in vars(model).values() if is_input(x)}
    leaves = dict(model.named_parameters()) | inputs
    torch.manual_seed(1)
    losses = model.step()
    total = sum(losses) if isinstance(losses, tuple) else losses
    values = sum(map(float, losses)) if isinstance(losses, tuple) else float(losses)
    none = [None] * len(leaves)
    gradients = torch.autograd.grad(total, leaves.values(), allow_unused=True) if total.requires_grad else none
    return values, dict(zip(leaves, gradients, strict=True))


def is_input(value):
    return isinstance(value, torch.Tensor) and value.requires_grad


def is_there(gradient):
    return gradient is not None and bool(gradient.any())


def lost(mark):
    """The names of parameters and inputs whose gradient the planted cut takes."""
    (_, with_cut), (_, without) = oracle(mark.network, mark.cut), oracle(mark.network)
    return [name for name in without if is_there(without[name]) and not is_there(with_cut[name])]


def vectors(with_cut, without):
    """Both gradients as vectors in double precision; what is absent is zero."""
    names = [name for name in without if with_cut[name] is not None or without[name] is not None]
    pairs = [(with_cut[name], without[name]) for name in names]
    pairs = [(torch.zeros_like(h) if g is None else g, torch.zeros_like(g) if h is None else h) for g, h in pairs]
    return (torch.cat([one.flatten() for one in side]).double() for side in zip(*pairs, strict=True))


def places(cuts):
    return {(cut.file, cut.line, cut.kind) for cut in cuts}


def marked(word, network):
    return {(FILE, mark.line, mark.kind) for mark in MARKS if mark.word == word and mark.network == network}


def on_the_way(found):
    return [cut for cut in found.cuts if cut.reaches_loss is not False]


def found_at(mark):
    """The planted cut, as it was found."""
    (cut,) = [cut for cut in found_in(mark.network, mark.cut).cuts if (cut.line, cut.kind) == (mark.line, mark.kind)]
    return cut


def test_each_marked_line_is_code():
    assert not [mark for mark in MARKS if LINES[mark.line - 1].strip().startswith((")", "#"))]


def test_there_are_at_least_four_of_each_kind():
    kinds = [mark.kind for mark in PLANTED]
    assert len(PLANTED) == len({mark.name for mark in PLANTED}) >= 60
    assert {kind for kind in kinds if kinds.count(kind) >= 4} == {
        *("detach", "detach_", ".data", "no_grad", "inference_mode", "set_grad_enabled", "not differentiable"),
        *("exit", "custom Function", "hook", "zero derivative", "create_graph"),
    }


@planted
def test_the_oracle_shows_that_a_planted_cut_stops_gradient(mark):
    (loss, with_cut), (other, without) = oracle(mark.network, mark.cut), oracle(mark.network)
    assert math.isfinite(loss)
    if mark.can_be_healed:
        assert loss == other
        same = [with_cut[n] is not None and with_cut[n].equal(one) for n, one in without.items() if one is not None]
        assert not all(same)
    else:
        assert lost(mark)


@pytest.mark.parametrize("network", NETWORKS)
def test_without_a_planted_cut_only_what_the_architecture_wants_is_found(network):
    found = found_in(network)
    assert places(on_the_way(found)) == marked("wanted", network)
    assert found.loss == oracle(network)[0]


@pytest.mark.parametrize("network", NETWORKS)
def test_without_a_planted_cut_every_parameter_is_reached(network):
    unreached = {name for name, one in found_in(network).parameters.items() if one.status != "reached"}
    assert not {name for name in unreached if not name.startswith(NETWORKS[network].teachers or "no teacher")}


@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_only_looked_at_never_reaches_the_loss(network):
    seen = places(cut for cut in found_in(network).cuts if cut.reaches_loss is False)
    assert marked("looked at", network) <= seen
    assert not seen & marked("wanted", network)


@planted
def test_a_planted_cut_is_found_at_its_line_and_nothing_else_is(mark):
    found = found_in(mark.network, mark.cut)
    assert places(on_the_way(found)) == {(FILE, mark.line, mark.kind)} | marked("wanted", mark.network)
    assert found_at(mark).reaches_loss is True


@planted
def test_a_planted_cut_is_described(mark):
    cut = found_at(mark)
    assert cut.operation == (mark.operation or cut.operation)
    assert cut.code == LINES[mark.line - 1].strip()
    assert cut.count >= 1


@pytest.mark.parametrize(
    ("name", "count"),
    {"Gru.lambda": 5, "Gru.burn-in": 2, "Attention.comprehension": 2, "SimSiam.prediction": 2}.items(),
)
def test_a_place_is_counted_in_one_step(name, count):
    (mark,) = [mark for mark in PLANTED if mark.name == name]
    assert found_at(mark).count == count


@planted
def test_parameters_have_the_status_that_autograd_gives_them(mark):
    found = found_in(mark.network, mark.cut).parameters
    reached = {name for name, one in found.items() if one.status == "reached"}
    names = dict(NETWORKS[mark.network]().named_parameters())
    assert reached == {name for name in names if is_there(oracle(mark.network, mark.cut)[1][name])}
    for name in set(names) & set(lost(mark)):
        is_zero = oracle(mark.network, mark.cut)[1][name] is not None
        assert found[name].status in ({"dead"} if is_zero else {"cut", "dead"})
        assert found_at(mark) in found[name].cuts


@healed
def test_what_a_cut_costs_is_what_autograd_says(mark):
    cut = found_at(mark)
    (loss, with_cut), (other, without) = oracle(mark.network, mark.cut), oracle(mark.network)
    g, h = vectors(with_cut, without)
    stopped = (h - g).square().sum() / ((h - g).square().sum() + g.square().sum())
    assert cut.withheld == ""
    assert found_in(mark.network, mark.cut).loss == loss
    assert loss == other
    assert cut.stopped == pytest.approx(float(stopped), rel=1e-5)
    if g.any():
        assert cut.cosine == pytest.approx(float(g @ h / (g.norm() * h.norm())), rel=1e-5)
    else:
        assert cut.cosine is None or math.isnan(cut.cosine)


@healed
def test_what_gets_gradient_without_a_cut_is_named(mark):
    cut = found_at(mark)
    assert list(cut.parameters) == [name for name in lost(mark) if not name.startswith("input ")]
    shapes = [name.removeprefix("input ") for name in lost(mark) if name.startswith("input ")]
    assert len(cut.inputs) == len(shapes)
    assert all(
        shape.replace("×", ", ") in words or shape in words for shape, words in zip(shapes, cut.inputs, strict=True)
    )


@pytest.mark.parametrize("mark", [m for m in PLANTED if not m.can_be_healed], ids=lambda mark: mark.name)
def test_a_cut_that_cannot_be_let_through_says_why(mark):
    if mark.name in BEFORE_THE_STEP and not found_at(mark).withheld:
        test_what_a_cut_costs_is_what_autograd_says(mark)
        return
    assert found_at(mark).withheld
    assert found_at(mark).stopped is None
    assert found_at(mark).cosine is None
    assert found_at(mark).parameters == ()


# Cases of their own: what a planted cut in a network cannot show.


class Pair(nn.Module):
    """Two layers, and a generator of the second one's weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.weights = nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(2, 5)
        self.x = torch.randn(5, 3)


def find(step):
    """What is found in a step of a `Pair`: its places (the text of the line, the kind), and the statuses by layer."""
    module = Pair()
    torch.manual_seed(1)
    found = rowgrad.find_cuts(module, lambda: step(module))
    statuses = {name.split(".")[0]: one.status for name, one in found.parameters.items()}
    return {(cut.code, cut.kind) for cut in on_the_way(found)}, statuses


def test_a_parameter_made_of_values_is_a_cut():
    def step(module):
        hidden = module.first(module.x)
        hidden = nn.Parameter(hidden)
        return module.second(hidden).mean()

    places, statuses = find(step)
    assert {code for code, _ in places} == {"hidden = nn.Parameter(hidden)"}
    assert statuses["first"] == "cut"


def test_a_state_dict_is_detached():
    def step(module):
        state = module.second.state_dict()
        return torch.func.functional_call(module.second, state, module.first(module.x)).mean()

    places, statuses = find(step)
    assert places == {("state = module.second.state_dict()", "detach")}
    assert statuses == {"first": "reached", "second": "cut", "weights": "unused"}


def test_weights_that_are_written_over_are_cut():
    def step(module):
        weights = module.weights(torch.ones(2))
        nn.utils.vector_to_parameters(weights, module.second.parameters())
        return module.second(module.first(module.x)).mean()

    places, statuses = find(step)
    assert places == {("nn.utils.vector_to_parameters(weights, module.second.parameters())", ".data")}
    assert statuses == {"first": "reached", "second": "reached", "weights": "cut"}


def test_a_forward_hook_that_detaches():
    def detached(module, inputs, output):  # noqa: ARG001
        return output.detach()

    def step(module):
        with contextlib.closing(Handle(module.first.register_forward_hook(detached))):
            return module.second(module.first(module.x)).mean()

    places, statuses = find(step)
    assert places == {("return output.detach()", "detach")}
    assert statuses["first"] == "cut"


class Handle(NamedTuple):
    """A hook that can be closed."""

    hook: object

    def close(self):
        self.hook.remove()


@torch.no_grad
def without_parentheses(module):
    return module.first(module.x)


@torch.no_grad()
def generator(module):
    yield module.first(module.x)


def named_context(module):
    off = torch.no_grad()
    with off:
        return module.first(module.x)


def by_hand(module):
    off = torch.no_grad()
    off.__enter__()
    hidden = module.first(module.x)
    off.__exit__(None, None, None)
    return hidden


@pytest.mark.parametrize(
    ("hidden", "line"),
    [
        (without_parentheses, "@torch.no_grad"),
        (lambda module: next(generator(module)), "@torch.no_grad()"),
        (named_context, "with off:"),
        (by_hand, "off.__enter__()"),
    ],
    ids=["decorator without parentheses", "generator", "named context", "by hand"],
)
def test_gradients_are_switched_off_in_many_ways(hidden, line):
    places, statuses = find(lambda module: module.second(hidden(module)).mean())
    assert places == {(line, "no_grad")}
    assert statuses["first"] == "cut"


def test_gradients_that_are_on_again_are_no_cut():
    def step(module):
        with torch.no_grad(), torch.enable_grad():
            hidden = module.first(module.x)
        return module.second(hidden).mean()

    assert find(step) == (set(), {"first": "reached", "second": "reached", "weights": "unused"})


def test_optimizers_between_two_losses_are_no_cut():
    """The second loss depends on weights that the first one has changed: gradient is not meant to go that way."""

    def step(module):
        hidden = module.first(module.x)
        optimizers = [torch.optim.Adam(part.parameters()) for part in (module.second, module.first)]
        (module.second(hidden.detach()).mean() - module.second(torch.ones(1, 4)).mean()).backward()
        nn.utils.clip_grad_norm_(module.second.parameters(), 0.1)
        optimizers[0].step()
        (-module.second(hidden).mean()).backward()
        optimizers[1].step()

    (place,), statuses = find(step)
    assert place[0].startswith("(module.second(hidden.detach())")
    assert statuses == {"first": "reached", "second": "reached", "weights": "unused"}


def test_gradient_that_is_passed_on_by_hand_has_arrived():
    def step(module):
        hidden = module.first(module.x)
        begins = hidden.detach().requires_grad_()
        module.second(begins).mean().backward()
        hidden.backward(begins.grad)

    places, statuses = find(step)
    assert places == {("begins = hidden.detach().requires_grad_()", "detach")}
    assert statuses == {"first": "reached", "second": "reached", "weights": "unused"}


def test_an_integer_that_leaves_torch_may_reach_the_loss():
    def step(module):
        answers = module.second(module.first(module.x))
        best = answers.argmax()
        return answers[int(best)].sum()

    places, _ = find(step)
    assert places == {
        ("best = answers.argmax()", "not differentiable"),
        ("return answers[int(best)].sum()", "exit"),
    }


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_checkpointing_without_an_input_that_wants_gradient_is_a_cut():
    def step(module):
        hidden = checkpoint(module.first, module.x, use_reentrant=True)
        return module.second(hidden).mean()

    ((line, _),), statuses = find(step)
    assert line == "hidden = checkpoint(module.first, module.x, use_reentrant=True)"
    assert statuses["first"] == "cut"


def test_a_derivative_of_torch_func_is_no_cut():
    def step(module):
        slope = torch.func.grad(lambda row: module.second(module.first(row).tanh()).sum())(module.x)
        return slope.square().mean()

    places, statuses = find(step)
    assert not places
    assert statuses["first"] == "reached"


def test_a_detach_in_vmap_is_found():
    def step(module):
        rows = torch.vmap(lambda row: module.first(row).detach())(module.x)
        return module.second(rows).mean()

    places, statuses = find(step)
    assert places == {("rows = torch.vmap(lambda row: module.first(row).detach())(module.x)", "detach")}
    assert statuses["first"] == "cut"


def test_a_cut_in_another_thread_is_not_called_unused():
    def step(module):
        with ThreadPoolExecutor(1) as pool:
            hidden = pool.submit(lambda: module.first(module.x).detach()).result()
        return module.second(hidden).mean()

    _, statuses = find(step)
    assert statuses["first"] != "unused"


# Many places in one step, in networks that are drawn by lot.


def detached(x, planted):
    return x.detach() if planted else x


def by_data(x, planted):
    return x.data if planted else x


def without_grad(x, planted):
    with torch.set_grad_enabled(torch.is_grad_enabled() and not planted):
        return x * 1.5


def written(x, planted):
    y = torch.empty_like(x)
    y[:, 1:] = x[:, 1:]
    y[:, 0] = x[:, 0].detach() if planted else x[:, 0]
    return y


def hooked(x, planted):
    y = x * 1
    if planted and y.requires_grad:
        y.register_hook(torch.zeros_like)
    return y


LOTS = {"detached": detached, "by_data": by_data, "without_grad": without_grad, "written": written, "hooked": hooked}


class Lots(nn.Module):
    """A graph of random calls, with cuts at random places. The same lots are drawn in every step."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed
        torch.manual_seed(seed)
        self.weights = nn.ParameterList(torch.randn(3, 3) for _ in range(6))
        self.x = torch.randn(4, 3)

    def step(self, healed=None):
        lots = random.Random(self.seed)
        values = [self.x, self.x @ self.weights[0]]
        for weight in self.weights[1:]:
            one, other, name = lots.choice(values[1:]), lots.choice(values[-2:]), lots.choice(list(LOTS) + [None] * 3)
            value = lots.choice([torch.add, torch.mul, torch.maximum])(one @ weight, other).tanh()
            values.append(LOTS[name](value, name != healed) if name else value)
        return (values[-1] + values[lots.randrange(2, 5)]).square().mean()

    def gradient(self, healed=None):
        """The oracle: of a step with one function let through."""
        loss = self.step(healed)
        gradients = (
            torch.autograd.grad(loss, list(self.weights), allow_unused=True) if loss.requires_grad else [None] * 6
        )
        pairs = zip(gradients, self.weights, strict=True)
        return torch.stack([torch.zeros_like(weight) if one is None else one for one, weight in pairs]).double()


def test_random_networks_have_cuts_of_each_function():
    cuts = [{cut.function for cut in on_the_way(rowgrad.find_cuts(m, m.step, heal=0))} for m in map(Lots, range(24))]
    assert set.union(*cuts) == set(LOTS)
    assert sum(len(each) > 1 for each in cuts) >= 10


@pytest.mark.parametrize("seed", range(24))
def test_each_of_several_places_costs_what_autograd_says(seed):
    module = Lots(seed)
    found = rowgrad.find_cuts(module, module.step, heal=None)
    g, cuts = module.gradient(), {cut.function: cut for cut in on_the_way(found)}
    assert found.loss == module.step().detach().item()
    for name in LOTS:
        h = module.gradient(name)
        if name not in cuts:
            assert h.equal(g)
            continue
        new = tuple(f"weights.{number}" for number in range(6) if h[number].any() and not g[number].any())
        assert cuts[name].parameters == new
        total = (h - g).square().sum() + g.square().sum()
        assert cuts[name].stopped == pytest.approx(float((h - g).square().sum() / total) if total else 0.0, rel=1e-5)
        if g.any() and h.any():
            assert cuts[name].cosine == pytest.approx(float((g * h).sum() / (g.norm() * h.norm())), rel=1e-5)


@pytest.mark.parametrize("seed", range(24))
def test_parameters_of_random_networks_have_the_status_that_autograd_gives_them(seed):
    module = Lots(seed)
    found = rowgrad.find_cuts(module, module.step, heal=0)
    reached = [name for name, one in found.parameters.items() if one.status == "reached"]
    assert reached == [f"weights.{number}" for number in range(6) if module.gradient()[number].any()]
    loss, weights = module.step(), module.weights
    for number in range(6):
        if found.parameters[f"weights.{number}"].status == "unused":
            weights[number].data = weights[number] + 1
            assert module.step().equal(loss)


@pytest.mark.parametrize(
    "made",
    [
        lambda h: torch.full_like(h, 2.0),
        lambda h: h.new_full(h.shape, 2.0),
        torch.rand_like,
        lambda h: h.new_zeros(h.shape) + 1,
        lambda h: torch.ones(1).expand_as(h),
        lambda h: torch.ones(h.shape, dtype=torch.float64).to(h),
        lambda h: torch.ones(h.shape, dtype=torch.float64).type_as(h),
    ],
    ids=["full_like", "new_full", "rand_like", "new_zeros", "expand_as", "to", "type_as"],
)
def test_what_takes_no_values_is_no_cut(made):
    def step(module):
        hidden = module.first(module.x)
        return (module.second(hidden) * made(module.second(hidden))).mean()

    places, statuses = find(step)
    assert not places
    assert statuses["first"] == statuses["second"] == "reached"
