"""One step of training, watched: each call of torch, with what went into it, what came out, and the line it is on."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import GetSetDescriptorType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from rowgrad.cuts.backward import Flow, Node
from rowgrad.cuts.places import NOWHERE, Place, Stack, look
from rowgrad.cuts.state import Kept, tensors_in
from rowgrad.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Step = Callable[[], Any]

DETACHING = {"detach": "detach", "detach_": "detach_", ".data": ".data", "detach_copy": "detach"}
COPYING = {"tensor", "new_tensor"}  # `torch.tensor(x)`
LEAVING = {"item", "tolist", "numpy", "__float__", "__int__", "__array__", "__complex__"}
EXIT, FUNCTION = "exit", "custom Function"
# The result has the shape of the argument, and none of its values.
_VALUELESS = re.compile(r"(zeros|ones|empty|rand|randn|randint)_like|new_(zeros|ones|empty)\w*|\.grad|empty_strided")
_IN_PLACE = re.compile(r"[a-z].*[a-z0-9]_|__setitem__|__i\w+__|\.\w+=")
_RUNNING = {"batch_norm": (1, 2, 5), "instance_norm": (1, 2, 5)}  # mean, variance; whether they are only written
NUDGE = 2.0**-8


class Key(NamedTuple):
    """What is let through when healing: all calls of one kind on one line."""

    kind: str
    place: Place


@dataclass(eq=False, slots=True)
class Call:
    """A call of torch.

    Attributes:
        name: torch's name for it, as in `argmax`.
        stack: where it was made.
        inputs: the tensors that it read.
        outputs: those that it made or changed.
        wants: whether one of the inputs requires gradient.
        lost: which of the outputs have none.
        kind: how it ends gradient: of `found.Cut.kind`; empty if it does not, or by having no derivative.
        switch: while gradients are off, what switched them off.
        off: while gradients are off, the number of the switch.
        is_inside: whether gradients are off in a custom Function's `forward`.
        number: its place among the calls.
        is_float: of an exit, whether its value is no integer.
    """

    name: str
    stack: Stack
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    wants: bool = False
    lost: list[Tensor] = field(default_factory=list)
    kind: str = ""
    switch: Key | None = None
    off: int = 0
    is_inside: bool = False
    number: int = 0
    is_float: bool = True

    @property
    def ends(self) -> bool:
        """Whether the outputs without gradient are lost. In a custom Function's `forward` only its result counts."""
        if self.stack.function is not None:
            return self.kind == FUNCTION
        return bool(self.lost) and (bool(self.kind) or not self.is_inside)


class Root(NamedTuple):
    """A loss: a tensor, and the number of calls before its backward pass."""

    tensor: Tensor
    after: int


class Watch(TorchFunctionMode):
    """Sees each call of torch's Python API while it is entered.

    Args:
        kept: keeps tensors from outside that are changed in place.
        healed: is let through.
        nudged: is an exit whose value is changed a little.
        records: whether calls are recorded.

    Attributes:
        calls: in their order.
        roots: of the backward passes that the step does itself.
        producers: the call that made a tensor, by the tensor's id.
        nodes: the call that made a node of the graph.
        hooks: calls of `register_hook`.
        flow: what came back in backward passes.
        hits: how often `healed` or `nudged` was met.
    """

    def __init__(
        self, kept: Kept, *, healed: Key | None = None, nudged: Key | None = None, records: bool = True
    ) -> None:
        super().__init__()
        self.kept, self.healed, self.nudged, self.records = kept, healed, nudged, records
        self.calls: list[Call] = []
        self.roots: list[Root] = []
        self.producers: dict[int, Call] = {}
        self.nodes: dict[Node, Call] = {}
        self.hooks: list[Call] = []
        self.flow = Flow()
        self.hits = 0
        self._switch: Key | None = None
        self._switches = 0
        self._is_off = False
        self._is_apart = False  # in a backward pass or an optimizer's step, which are no part of the forward pass

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, kwargs = _name(func), dict(kwargs or {})
        if name == "_set_grad_enabled" and not self._is_apart:
            return None if self._switches_off(on=bool(args[0])) else func(*args, **kwargs)
        if func is Tensor.backward and not self._is_apart:
            return self._backward(func, args, kwargs)
        call = partial_call(func, args, kwargs)
        key = self._key(name, args)
        if key is not None and key == self.healed:
            self.hits += 1
            call = lambda: _let_through(name, func, args, kwargs)  # noqa: E731
        if not self.records or self._is_apart:
            result = call()
        else:
            result = self._recorded(name, call, args, kwargs)
        if key is not None and key == self.nudged:
            self.hits += 1
            return _nudge(result)
        return result

    def _key(self, name: str, args: tuple[Any, ...]) -> Key | None:
        """The place of a call that can be let through or nudged, if one is wanted."""
        wanted = self.healed or self.nudged
        if wanted is None:
            return None
        kind = kind_of(name, args)
        return Key(kind, look(in_function=self._in_function()).place) if kind == wanted.kind else None

    def _in_function(self) -> bool:
        """Whether a custom Function's `forward` runs: gradients are off, and nothing seen has switched them off."""
        return not (torch.is_grad_enabled() or self._is_off)

    def _recorded(self, name: str, call: Callable[[], Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs = [*tensors_in(args), *tensors_in(kwargs)]
        if _IN_PLACE.fullmatch(name) or "out" in kwargs:
            for tensor in inputs:
                if id(tensor) not in self.producers:
                    self.kept.keep(tensor)
        versions = [_version(tensor) for tensor in inputs]
        wants = any(tensor.requires_grad for tensor in inputs)
        in_function = self._in_function()
        for tensor in inputs:
            if tensor.grad_fn is not None and tensor.grad_fn not in self.nodes:
                self._learn_unseen(tensor)
        result = call()
        outputs = list(tensors_in(result))
        changed = [t for t, version in zip(inputs, versions, strict=True) if _version(t) != version]
        if name in {"detach_", ".data="}:
            changed = inputs[:1]
        is_exit = name in LEAVING
        if not outputs and not changed and not is_exit and name != "register_hook":
            return result
        one = Call(name, look(in_function=in_function), _read(name, inputs, args, kwargs), wants=wants)
        one.is_inside = in_function
        one.number, one.kind = len(self.calls), kind_of(name, args)
        if is_exit:
            one.is_float = inputs[0].is_floating_point() or inputs[0].is_complex()
        if not torch.is_grad_enabled() and self._is_off:
            one.switch, one.off = self._switch, self._switches
        same = {id(tensor) for tensor in inputs}
        one.outputs = [tensor for tensor in outputs if id(tensor) not in same] + changed
        one.lost = [tensor for tensor in one.outputs if tensor.grad_fn is None]
        for tensor in one.outputs:
            self.producers[id(tensor)] = one
            self._learn(tensor, one)
        (self.hooks if name == "register_hook" else self.calls).append(one)
        return result

    def _learn(self, tensor: Tensor, call: Call) -> list[Node]:
        """Notes which call made the nodes behind a tensor. Returns the known nodes that these come from."""
        known, waiting = [], [tensor.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None:
                continue
            if node in self.nodes:
                known.append(node)
                continue
            self.nodes[node] = call
            waiting += [after for after, _ in node.next_functions]
        return known

    def _learn_unseen(self, tensor: Tensor) -> None:
        """Notes a tensor that a call in C++ or a custom Function has made."""
        call = self.producers.get(id(tensor))
        if call is not None:  # a custom Function's result, made in its `forward`
            self._learn(tensor, call)
            return
        call = Call(type(tensor.grad_fn).__name__, look(), outputs=[tensor], wants=True, number=len(self.calls))
        known = self._learn(tensor, call)
        call.inputs = [output for node in known for output in self.nodes[node].outputs]
        call.inputs += [
            node.variable for node, made in self.nodes.items() if made is call and hasattr(node, "variable")
        ]
        self.producers[id(tensor)] = call
        self.calls.append(call)

    def _switches_off(self, *, on: bool) -> bool:
        """Notes a switch of gradients. Returns whether it is let through, so that they stay on."""
        if on or not torch.is_grad_enabled():
            self._is_off = self._is_off and not on
            return False
        stack = look(names=True)
        kind = "no_grad" if any(name.startswith("no_grad.") for name in stack.callers) else "set_grad_enabled"
        return self._turn_off(Key(kind, stack.place))

    def _turn_off(self, key: Key) -> bool:
        if key == self.healed:
            self.hits += 1
            return True
        self._is_off, self._switch = True, key
        self._switches += 1
        return False

    @contextmanager
    def watched(self, module: nn.Module) -> Iterator[Watch]:
        """Sees the calls, with gradients on, uncompiled, in one thread, and without other ranks."""
        enter = torch.inference_mode.__enter__

        def enter_watched(mode: torch.inference_mode) -> None:
            if mode.mode and torch.is_grad_enabled() and self._turn_off(Key("inference_mode", look(names=True).place)):
                mode._inference_mode_context = nullcontext()  # noqa: SLF001
                return
            enter(mode)

        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(mode=False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.autograd.set_multithreading_enabled(False))
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            for part in module.modules():
                if isinstance(part, DistributedDataParallel):
                    stack.enter_context(part.no_sync())
            torch.inference_mode.__enter__ = enter_watched  # ty: ignore[invalid-assignment]
            stack.callback(setattr, torch.inference_mode, "__enter__", enter)
            stack.callback(register_optimizer_step_pre_hook(lambda *_: self._set_apart(on=True)).remove)
            stack.callback(register_optimizer_step_post_hook(lambda *_: self._set_apart(on=False)).remove)
            stack.enter_context(self)
            yield self

    def _set_apart(self, *, on: bool) -> None:
        self._is_apart = on

    def _backward(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A backward pass that the step does itself."""
        loss: Tensor = args[0]
        self.roots.append(Root(loss, len(self.calls)))
        for leaf in self.flow.begin(loss):
            self.kept.keep(leaf)
        self._is_apart = True
        more = {} if self.healed is None else {"retain_graph": True}  # what was apart may now be one graph
        try:
            with self:  # for what is computed anew in it
                return func(*args, **kwargs | more)
        finally:
            self._is_apart = False
            self.flow.end()

    def finish(self, losses: Sequence[Tensor]) -> None:
        """Runs the backward pass of the losses that the step has returned."""
        if not losses:
            return
        total = sum(loss.sum() for loss in losses)
        assert isinstance(total, Tensor)
        self.roots += [Root(loss, len(self.calls)) for loss in losses]
        if total.requires_grad:
            self._is_apart = True
            self.flow.run(total)


def is_watched() -> bool:
    """Whether a step is being looked at, so that what it does is no training."""
    return any(isinstance(mode, Watch) for mode in _get_current_function_mode_stack())


def run(step: Step, watch: Watch, module: nn.Module) -> float | None:
    """Runs a step and its backward pass.

    Returns:
        The loss, or the sum of the losses; None if a nudged step has none.

    Raises:
        UserError: the step gives no loss.
    """
    with watch.watched(module):
        losses = losses_of(step())
        losses = [] if watch.roots else losses
        if watch.nudged is None:
            watch.finish(losses)
    found = losses or [root.tensor for root in watch.roots]
    if not found:
        raise UserError("step returned no loss. Accepted: a scalar tensor, or what a training_step returns.")
    return float(torch.stack([loss.detach().double().sum() for loss in found]).sum())


def losses_of(output: Any) -> list[Tensor]:
    """The losses in what a step returns: a tensor, a `loss` in a dictionary or as an attribute, or several tensors.

    Raises:
        UserError: a loss is not a scalar.
    """
    if isinstance(output, Mapping) and "loss" in output:
        output = output["loss"]
    elif isinstance(getattr(output, "loss", None), Tensor):
        output = output.loss
    values = output.values() if isinstance(output, Mapping) else output
    values = [values] if isinstance(values, Tensor) else list(values or ()) if not callable(values) else []
    found = [value for value in values if isinstance(value, Tensor)]
    if isinstance(output, Tensor) and output.numel() != 1:
        raise UserError(f"step returned a tensor of shape {tuple(output.shape)}. Accepted: a scalar loss.")
    return [value for value in found if value.numel() == 1 and value.is_floating_point()]


def kind_of(name: str, args: tuple[Any, ...]) -> str:
    """How a call ends gradient; empty if it does not by its name."""
    if name in DETACHING:
        return DETACHING[name]
    if name in LEAVING or (name in COPYING and any(True for _ in tensors_in(args[-1:]))):
        return EXIT
    return {"register_hook": "hook", "grad": "create_graph"}.get(name, "")


def partial_call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
    return lambda: func(*args, **kwargs)


def _let_through(name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same values, with gradient."""
    x = args[0] if args else next(iter(kwargs.values()))
    if name == "detach_":
        return x
    if name in DETACHING:
        return x.view_as(x)
    if name in COPYING:
        source = args[-1] if args else kwargs["data"]
        like = func(*args, **kwargs)
        if not isinstance(source, Tensor):
            source = torch.stack([part.reshape(()) for part in tensors_in(source)]).view(like.shape)
        return source.to(like, copy=True)
    if name == "register_hook":
        return RemovableHandle(OrderedDict())
    if name == "grad":
        return func(*args, **kwargs | {"create_graph": True})
    return func(*args, **kwargs)


def _nudge(value: Any) -> Any:
    """A value that is a little larger; integers stay as they are."""
    if isinstance(value, list):
        return [_nudge(each) for each in value]
    if isinstance(value, np.ndarray):
        return value + value.dtype.type(NUDGE) if np.issubdtype(value.dtype, np.inexact) else value
    return value + NUDGE if isinstance(value, float | complex) else value


def _name(func: Any) -> str:
    owner = getattr(func, "__self__", None)
    if isinstance(owner, GetSetDescriptorType):
        return f".{owner.__name__}" + "=" * (func.__name__ == "__set__")
    return getattr(func, "__name__", "")


def _read(name: str, inputs: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors whose values a call uses."""
    if _VALUELESS.fullmatch(name):
        return []
    if name in _RUNNING:
        mean, variance, training = _RUNNING[name]
        named = [*args, *[None] * 6]
        is_written = kwargs.get("training", kwargs.get("use_input_stats", named[training]))
        running = [kwargs.get("running_mean", named[mean]), kwargs.get("running_var", named[variance])]
        return [t for t in inputs if not (is_written and any(t is one for one in running))]
    return inputs


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version  # noqa: SLF001
