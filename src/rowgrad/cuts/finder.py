"""`find_cuts`: which lines end gradient on its way to a module's parameters, and what each of them costs."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from rowgrad.cuts.backward import leaf_of
from rowgrad.cuts.calls import COPYING, EXIT, FUNCTION, Call, Key
from rowgrad.cuts.found import CUT, DEAD, FROZEN, REACHED, UNUSED, Cut, Cuts, ParameterGradient
from rowgrad.cuts.places import NOWHERE, Place, place_of
from rowgrad.cuts.state import Kept
from rowgrad.cuts.values import Values, memory_of
from rowgrad.cuts.watching import Watch, run
from rowgrad.errors import UserError, in_one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from torch.autograd.graph import Node
    from torch.optim import Optimizer

    from rowgrad.cuts.watching import Step
    from rowgrad.tap import RowTap

HEALED = 20  # places at most
NO_DERIVATIVE = "it has no derivative to let through"


def find_cuts(
    module: nn.Module,
    step: Step | Any,
    *,
    heal: int | None = HEALED,
    optimizers: Optimizer | Sequence[Optimizer] = (),
) -> Cuts:
    """Finds every place where gradient ends on its way from the loss, by file and line, and what it would give.

    The step is run once to see each call, and once more for each place, with the same random numbers and that place let
    through. Afterwards the module is as before: parameters, gradients, buffers, attributes, modes, random numbers.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
        >>> def step():
        ...     return model[1](model[0](torch.ones(2, 4)).detach()).mean()
        >>> found = find_cuts(model, step)
        >>> found.cuts[0].kind, found.cuts[0].parameters
        ('detach', ('0.weight', '0.bias'))

    Args:
        module: its parameters are looked at.
        step: a function without arguments that does a forward pass and returns the loss, or what a `training_step`
            returns; it may do its own backward passes, each of which counts as a loss. For a LightningModule also a
            batch.
        heal: at most how many places are let through, each in one more step; None for all.
        optimizers: if given, parameters that none of them has are named.

    Raises:
        UserError: the step gives no loss, or the module has parameters without a shape.
    """
    if any(nn.parameter.is_lazy(parameter) for parameter in module.parameters()):
        raise UserError(f"{type(module).__name__} has parameters without a shape: run one forward pass first.")
    known = [optimizers] if isinstance(optimizers, torch.optim.Optimizer) else list(optimizers)
    if callable(step):
        return Finder(module, step, known).find(heal)
    from rowgrad.cuts.lightning import TrainingStep  # late: not everybody has a LightningModule

    doing = TrainingStep(module, step)
    return Finder(module, doing, known or doing.optimizers, doing.others).find(heal)


class Site(NamedTuple):
    """What a place is known by."""

    kind: str
    operation: str
    place: Place


class Group:
    """The calls at one place.

    Attributes:
        site: the place.
        calls: all of them.
        events: what is counted.
        open: bits of the leaves that gradient would reach from there.
        reaches: whether the loss depends on it; None if that is unknown.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.calls: list[Call] = []
        self.events: set[int] = set()
        self.open = 0
        self.reaches: bool | None = False

    @property
    def key(self) -> Key:
        return Key(self.site.kind, self.site.place)


class Pass:
    """One run of a step that leaves no trace.

    Attributes:
        watch: what was seen.
        loss: of the step.
        read: what `read` returned at its end, before everything was put back.
    """

    def __init__(
        self, module: nn.Module, step: Step, kept: Kept, read: Callable[[], Any] = lambda: None, **settings: Any
    ) -> None:
        self.watch = Watch(kept, **settings)
        with kept.put_back():
            self.loss = run(step, self.watch, module)
            self.read = read()


class Finder:
    """Finds the cuts of a step. See `find_cuts`.

    Args:
        module: the module.
        step: the step.
        optimizers: those that are known.
        others: further objects whose attributes the step changes, such as schedulers.
        taps: are on in the step, others are off.

    Attributes:
        arrived: what came back through `taps` with each place let through.
    """

    def __init__(
        self,
        module: nn.Module,
        step: Step,
        optimizers: Sequence[Optimizer] = (),
        others: Sequence[object] = (),
        taps: Sequence[RowTap] = (),
    ) -> None:
        self.module, self.step, self.optimizers, self.taps = module, step, optimizers, taps
        self.kept = Kept(module, others, taps)
        self.arrived: dict[Cut, list[Tensor | None]] = {}
        self.names = {part: name for name, part in module.named_modules()}
        self.groups: dict[Site, Group] = {}
        self.dead: dict[int, list[Group]] = {}  # by the leaf's id

    def find(self, heal: int | None = HEALED) -> Cuts:
        """Runs the step, and again with each of at most `heal` places let through."""
        self.left = math.inf if heal is None else heal
        first = self.first = Pass(self.module, self.step, self.kept)
        watch = self.watch = first.watch
        self.parameters = {name: one for name, one in self.module.named_parameters() if one.requires_grad}
        made = {id(tensor) for call in watch.calls for tensor in call.outputs}
        read = self.read = {id(tensor): tensor for call in watch.calls for tensor in call.inputs}
        own = {id(one) for one in self.parameters.values()}
        self.inputs = [t for one, t in read.items() if t.is_leaf and t.requires_grad and one not in made | own]
        self.leaves = [*self.parameters.values(), *self.inputs]
        self._find_results_of_functions()
        self.values = Values(watch.calls, self.leaves)
        self._find_cuts()
        self._find_ends()
        needed, numbers = self.values.needed(watch.roots)
        exits = self._returning_exits(numbers)
        needed, numbers = self.values.needed(watch.roots, exits)
        for group in self.groups.values():
            reaching = [call for call in group.calls if call.number in numbers]
            group.reaches = group.reaches if group.reaches is not False else bool(reaching)
            if reaching:
                group.calls = reaching
        self._merge_detached_exits()
        return self._answer(needed)

    def _find_cuts(self) -> None:
        """Groups the calls that end gradient by their places."""
        for call in self.watch.calls:
            bits = self.values.sources_of(call)
            site = self._site(call) if bits else None
            if site is None:
                continue
            group = self.groups.setdefault(site, Group(site))
            group.calls.append(call)
            group.events.add(call.off if call.switch else id(call))
            group.open |= self.values.open_to(call)

    def _site(self, call: Call) -> Site | None:
        """Where and how a call ends gradient; None if it does not."""
        if call.kind != FUNCTION and call.stack.function is not None:
            return None
        if call.switch is not None:
            return Site(call.switch.kind, call.switch.kind, call.switch.place) if call.lost else None
        if call.kind and (call.lost or call.kind == EXIT):
            return Site(call.kind, call.name, call.stack.place)
        if not (call.ends and call.wants):
            return None
        # A result in the memory of an input that wants none, as of `torch.broadcast_tensors(a, b)`, is that input.
        plain = {memory_of(tensor) for tensor in call.inputs if not tensor.requires_grad}
        is_lost = any(memory_of(tensor) not in plain for tensor in call.lost)
        return Site("not differentiable", call.name, call.stack.place) if is_lost else None

    def _find_results_of_functions(self) -> None:
        """Marks the calls that make a custom Function's results, if these have no gradient."""
        for call in self.watch.calls:
            for tensor in call.inputs:
                made = self.watch.producers.get(id(tensor))
                inside = made is not None and made.stack.function is not None
                if inside and call.stack.function is None and tensor.grad_fn is None and made.wants:
                    made.kind, made.name = FUNCTION, made.stack.function.__name__

    def _find_ends(self) -> None:
        """Groups the calls that get gradient and send none on by their places."""
        flow = self.watch.flow
        made: dict[Call, list[Node]] = {}
        for node, call in self.watch.nodes.items():
            made.setdefault(call, []).append(node)
        ends = {call: end for call, nodes in made.items() if (end := flow.ends(nodes)) is not None}
        # If gradient goes on at another time at the same place, the values decide, as a first state of zeros does.
        going_on = {(call.name, call.stack.place) for call, is_end in ends.items() if not is_end}
        for call, is_end in ends.items():
            if is_end and (call.name, call.stack.place) not in going_on:
                self._add_end(made[call][0])
        for leaf in self.leaves:
            if id(leaf) in flow.leaves and not flow.received(flow.node_of(leaf)):
                nodes, hooked = flow.ends_before(leaf)
                groups = [*map(self._add_end, nodes), *map(self._add_hook, hooked)]
                self.dead[id(leaf)] = [group for group in groups if group]

    def _add_end(self, node: Node) -> Group | None:
        call = self.watch.nodes.get(node)
        forward = getattr(node, "_forward_cls", None)
        if type(node).__name__ == "BackwardHookFunctionBackward":
            return self._add_module_hook(call)
        if forward is CheckpointFunction:  # the cut is in what it has run
            return None
        if forward is not None:
            place = call.stack.place if call is not None and call.stack.function is not None else NOWHERE
            place = place if place.line else place_of(forward.backward)
            return self._add(Site(FUNCTION, forward.__name__, place), call)
        if call is None:
            return None
        return self._add(Site("zero derivative", call.name, call.stack.place), call)

    def _add_hook(self, node: Node) -> Group | None:
        """A tensor's hook that has made its gradient zero."""
        leaf = leaf_of(node)
        for hook in self.watch.hooks:
            tensor = hook.inputs[0]
            if tensor.grad_fn is node or (leaf is not None and tensor is leaf):
                return self._add(Site("hook", "register_hook", hook.stack.place), hook)
        call = self.watch.nodes.get(node)
        if leaf is not None:
            for hook in (leaf._backward_hooks or {}).values():  # noqa: SLF001
                return self._add(Site("hook", "register_hook", place_of(hook)), call)
        return None if call is None else self._add(Site("zero derivative", call.name, call.stack.place), call)

    def _add_module_hook(self, call: Call | None) -> Group | None:
        hooked = [part for part in self.names if part._backward_hooks or part._backward_pre_hooks]  # noqa: SLF001
        own = [part for part in hooked if call is not None and part is call.stack.module] or hooked
        for part in own:
            for hook in [*part._backward_hooks.values(), *part._backward_pre_hooks.values()]:  # noqa: SLF001
                return self._add(Site("hook", "register_full_backward_hook", place_of(hook)), call)
        return None

    def _add(self, site: Site, call: Call | None) -> Group:
        group = self.groups.setdefault(site, Group(site))
        if call is not None and call not in group.calls:
            group.calls.append(call)
            group.events.add(id(call))
        group.reaches = True
        return group

    def _returning_exits(self, numbers: set[int]) -> list[Call]:
        """The exits whose values come back: the loss changes if they do."""
        found = []
        for group in self.groups.values():
            if group.site.kind != EXIT or any(call.number in numbers for call in group.calls):
                continue
            if group.site.operation in COPYING:
                continue
            tested = [call for call in group.calls if call.is_float]
            self.left -= bool(tested)
            group.reaches = None if not tested or self.left < 0 else self._comes_back(group.key)
            if group.reaches:
                found += group.calls
        return found

    def _comes_back(self, key: Key) -> bool | None:
        try:
            nudged = Pass(self.module, self.step, self.kept, nudged=key, records=False)
        except Exception:  # noqa: BLE001 (a step may not stand another value)
            return True
        return nudged.loss != self.first.loss

    def _merge_detached_exits(self) -> None:
        """Drops a detach whose result leaves torch on the same line: `x.detach().numpy()`."""
        exits = {group.site.place: group for group in self.groups.values() if group.site.kind == EXIT and group.reaches}
        for site in [site for site in self.groups if site.kind in {"detach", ".data"} and site.place in exits]:
            exits[site.place].open |= self.groups.pop(site).open

    # What each place costs.

    def _answer(self, needed: set[int]) -> Cuts:
        groups = [group for group in self.groups.values() if group.reaches is not False or self._is_looked_at(group)]
        groups.sort(key=lambda group: (group.reaches is False, group.calls[0].number if group.calls else 0))
        cuts: dict[Site, Cut] = {}
        for group in groups:
            cut = self._described(group)
            if group.reaches:
                cut = self._healed(group, cut)
            cuts[group.site] = cut
        flow = self.watch.flow
        owned = {id(p) for one in self.optimizers for group in one.param_groups for p in group["params"]}
        parameters = {}
        for name, one in self.module.named_parameters():
            gradient, places = flow.gradients.get(id(one)), []
            if not one.requires_grad:
                status = FROZEN
            elif gradient is not None and bool(gradient.any()):
                status = REACHED
            elif id(one) in flow.leaves:
                status, places = DEAD, self.dead.get(id(one)) or self._open_at(one)
            elif id(one) in needed:
                status = CUT
                places = self._open_at(one)
            else:
                status = UNUSED
            known = id(one) in owned if self.optimizers else None
            places = sorted({group.site: group for group in places}.values(), key=groups.index)
            found = tuple(cuts[group.site] for group in places)
            parameters[name] = ParameterGradient(name, status, found, known)
        return Cuts(self.first.loss or 0.0, list(cuts.values()), parameters)

    def _open_at(self, leaf: Tensor) -> list[Group]:
        """The first places on the ways of a leaf's values to the loss."""
        return [group for group in self.groups.values() if group.reaches and self.values.holds(group.open, leaf)]

    def _described(self, group: Group) -> Cut:
        site, place = group.site, group.site.place
        call = group.calls[0] if group.calls else None
        module = self.names.get(call.stack.module, "") if call and call.stack.module else ""
        tensors = (call.lost or call.outputs or call.inputs) if call else []
        return Cut(
            kind=site.kind,
            operation=site.operation,
            file=place.file,
            line=place.line,
            code=place.code,
            function=place.function,
            module=module,
            count=max(len(group.events), 1),
            shape=tuple(tensors[0].shape) if tensors else (),
            reaches_loss=group.reaches,
        )

    def _is_looked_at(self, group: Group) -> bool:
        """Whether anything reads what ends there: the indices that `max` gives too are mostly left alone."""
        lost = (tensor for call in group.calls for tensor in call.lost)
        return group.site.kind == EXIT or any(id(tensor) in self.read for tensor in lost)

    def _healed(self, group: Group, cut: Cut) -> Cut:
        """A place with what letting it through changes."""
        if why := _why_not(group):
            return replace(cut, withheld=why)
        self.left -= 1
        if self.left < 0:
            return replace(cut, withheld="not tried: heal=None tries all")
        try:
            healed = self._let_through(group)
        except Exception as error:  # noqa: BLE001 (the step may not stand it, in whatever way)
            return replace(cut, withheld=f"it cannot be let through: {in_one_line(error)[:200]}")
        if not healed.watch.hits:
            return replace(cut, withheld="the step did not come by here a second time")
        if healed.loss != self.first.loss:
            return replace(cut, withheld="no numbers: the loss of a second run is another")
        before, after = self.watch.flow.gradients, healed.watch.flow.gradients
        parameters = tuple(n for n, one in self.parameters.items() if _is_new(before.get(id(one)), after.get(id(one))))
        inputs = tuple(_words(one) for one in self.inputs if _is_new(before.get(id(one)), after.get(id(one))))
        stopped, cosine = compare([(before.get(id(one)), after.get(id(one))) for one in self.leaves])
        cut = replace(cut, parameters=parameters, inputs=inputs, stopped=stopped, cosine=cosine)
        self.arrived[cut] = healed.read
        return cut

    def _let_through(self, group: Group) -> Pass:
        with _without_hooks(group.key, self.leaves, self.names) as count:
            read = lambda: [tap.grad for tap in self.taps]  # noqa: E731
            healed = Pass(self.module, self.step, self.kept, read, healed=group.key, records=False)
        healed.watch.hits += count
        return healed


@contextmanager
def _without_hooks(key: Key, leaves: Iterable[Tensor], parts: Iterable[nn.Module]) -> Generator[int]:
    """Takes the hooks away that are to be let through, and were registered before the step. Gives their number."""
    held = [leaf._backward_hooks for leaf in leaves]  # noqa: SLF001
    held += [hooks for part in parts for hooks in (part._backward_hooks, part._backward_pre_hooks)]  # noqa: SLF001
    before = [(hooks, dict(hooks)) for hooks in held if hooks and key.kind == "hook"]
    count = 0
    for hooks, known in before:
        for number, hook in known.items():
            if place_of(hook) == key.place:
                del hooks[number]
                count += 1
    try:
        yield count
    finally:
        for hooks, known in before:
            hooks.clear()
            hooks.update(known)


def compare(pairs: Iterable[tuple[Tensor | None, Tensor | None]]) -> tuple[float, float | None]:
    """Compares gradients g and h, each as one vector over all pairs (g, h); None is zero.

    Returns:
        ‖h − g‖² / (‖h − g‖² + ‖g‖²), and the cosine of g and h; None if one of them is zero.
    """
    through = square = whole = both = 0.0
    for before, after in pairs:
        if before is None and after is None:
            continue
        g, h = (None if one is None else one.detach().to_dense().double() for one in (before, after))
        g = torch.zeros_like(h) if g is None and h is not None else g
        h = torch.zeros_like(g) if h is None and g is not None else h
        assert g is not None
        assert h is not None
        through += float((h - g).square().sum())
        square, whole, both = (
            square + float(g.square().sum()),
            whole + float(h.square().sum()),
            both + float((g * h).sum()),
        )
    total = through + square
    cosine = min(max(both / math.sqrt(square * whole), -1.0), 1.0) if square and whole else None
    return (through / total if total else 0.0), (1.0 if through == 0 and square else cosine)


def _is_new(before: Tensor | None, after: Tensor | None) -> bool:
    return after is not None and bool(after.any()) and (before is None or not bool(before.any()))


def _why_not(group: Group) -> str:
    """Why a place cannot be let through; empty if it can be tried."""
    kind, operation = group.site.kind, group.site.operation
    if kind == "zero derivative":
        return NO_DERIVATIVE
    if kind == FUNCTION:
        return "its backward decides; there is nothing to let through"
    if kind == "not differentiable":
        return f"{operation} has no derivative to let through"
    if kind == EXIT and operation not in COPYING:
        return "the values leave torch, where no gradient can follow"
    return ""


def _words(tensor: Tensor) -> str:
    return f"an input of shape {tuple(tensor.shape)}"
