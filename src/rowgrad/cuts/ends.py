"""Places where gradient ends: the calls of a watched step, grouped by line and by how each ends gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch.utils.checkpoint import CheckpointFunction

from rowgrad.cuts.backward import leaf_of
from rowgrad.cuts.calls import EXIT, FUNCTION, HOOK, NOT_DIFFERENTIABLE, ZERO_DERIVATIVE, Call, Key
from rowgrad.cuts.places import NOWHERE, Place, place_of
from rowgrad.cuts.values import Values, memory_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor, nn
    from torch.autograd.graph import Node

    from rowgrad.cuts.watching import Watch


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
        """What is let through."""
        return Key(self.site.kind, self.site.place)

    def is_read(self, read: set[int]) -> bool:
        """Whether anything reads what ends here, by the ids of all tensors that are read."""
        return self.site.kind == EXIT or any(id(tensor) in read for call in self.calls for tensor in call.lost)


class Ends:
    """Finds the places where gradient ends in a watched step.

    Args:
        watch: the step.
        leaves: the tensors whose gradient is wanted.
        parts: the module's submodules.

    Attributes:
        values: where values go.
        groups: by their sites.
        dead: where the gradient of a leaf that gets exactly zero has become so, by the leaf's id.
    """

    def __init__(self, watch: Watch, leaves: Sequence[Tensor], parts: Iterable[nn.Module]) -> None:
        self.watch, self.leaves, self.parts = watch, leaves, parts
        self.groups: dict[Site, Group] = {}
        self.dead: dict[int, list[Group]] = {}
        self._find_results_of_functions()
        self.values = Values(watch.calls, leaves)
        self._find_cuts()
        self._find_ends()

    def settle(self, numbers: set[int]) -> None:
        """Notes which groups reach a loss, by the numbers of the calls that do; drops what says nothing."""
        for group in self.groups.values():
            reaching = [call for call in group.calls if call.number in numbers]
            group.reaches = group.reaches if group.reaches is not False else bool(reaching)
            group.calls = reaching or group.calls
        self._merge_detached_exits()
        read = {id(tensor) for call in self.watch.calls for tensor in call.inputs}
        for site, group in [*self.groups.items()]:
            # Nothing reads the indices that `max` gives too.
            if group.reaches is False and not group.is_read(read):
                del self.groups[site]

    def before(self, leaf: Tensor) -> list[Group]:
        """The first places on the ways of a leaf's values to the loss."""
        return [group for group in self.groups.values() if group.reaches and self.values.holds(group.open, leaf)]

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
            kind, place = call.switch.key
            return Site(kind, kind, place) if call.lost else None
        if call.kind and (call.lost or call.kind == EXIT):
            return Site(call.kind, call.name, call.stack.place)
        if not (call.ends and call.wants):
            return None
        # A result in the memory of an input that wants none, as of `torch.broadcast_tensors(a, b)`, is that input.
        plain = {memory_of(tensor) for tensor in call.inputs if not tensor.requires_grad}
        is_lost = any(memory_of(tensor) not in plain for tensor in call.lost)
        return Site(NOT_DIFFERENTIABLE, call.name, call.stack.place) if is_lost else None

    def _find_results_of_functions(self) -> None:
        """Marks the calls that make a custom Function's results, if these have no gradient."""
        for call in self.watch.calls:
            for tensor in call.inputs if not call.is_inside else ():
                made = self.watch.producers.get(id(tensor))
                if made is not None and made.is_inside and tensor.grad_fn is None and made.wants:
                    made.kind, made.name = FUNCTION, (made.stack.function or CheckpointFunction).__name__

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
        return self._add(Site(ZERO_DERIVATIVE, call.name, call.stack.place), call)

    def _add_hook(self, node: Node) -> Group | None:
        """A tensor's hook that has made its gradient zero."""
        leaf = leaf_of(node)
        for hook in self.watch.hooks:
            tensor = hook.inputs[0]
            if tensor.grad_fn is node or (leaf is not None and tensor is leaf):
                return self._add(Site(HOOK, "register_hook", hook.stack.place), hook)
        call = self.watch.nodes.get(node)
        if leaf is not None:
            for hook in (leaf._backward_hooks or {}).values():  # noqa: SLF001
                return self._add(Site(HOOK, "register_hook", place_of(hook)), call)
        return None if call is None else self._add(Site(ZERO_DERIVATIVE, call.name, call.stack.place), call)

    def _add_module_hook(self, call: Call | None) -> Group | None:
        hooked = [part for part in self.parts if part._backward_hooks or part._backward_pre_hooks]  # noqa: SLF001
        own = [part for part in hooked if call is not None and part is call.stack.module] or hooked
        for part in own:
            for hook in [*part._backward_hooks.values(), *part._backward_pre_hooks.values()]:  # noqa: SLF001
                return self._add(Site(HOOK, "register_full_backward_hook", place_of(hook)), call)
        return None

    def _add(self, site: Site, call: Call | None) -> Group:
        group = self.groups.setdefault(site, Group(site))
        if call is not None and id(call) not in group.events:
            group.calls.append(call)
            group.events.add(id(call))
        group.reaches = True
        return group

    def _merge_detached_exits(self) -> None:
        """Drops a detach whose result leaves torch on the same line: `x.detach().numpy()`."""
        exits = {group.site.place: group for group in self.groups.values() if group.site.kind == EXIT and group.reaches}
        for site in [site for site in self.groups if site.kind in {"detach", ".data"} and site.place in exits]:
            exits[site.place].open |= self.groups.pop(site).open
