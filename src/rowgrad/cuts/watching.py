"""One step of training, watched: each call of torch, with what went into it, what came out, and the line it is on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from rowgrad.cuts.backward import Flow, leaf_of
from rowgrad.cuts.calls import (
    IN_PLACE,
    LEAVING,
    REPLACING,
    Call,
    Key,
    Root,
    Switch,
    kind_of,
    let_through,
    name_of,
    nudge,
    read_by,
    unwrapped,
)
from rowgrad.cuts.places import look
from rowgrad.cuts.state import tensors_in
from rowgrad.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from torch.autograd.graph import Node

    from rowgrad.cuts.places import Stack
    from rowgrad.cuts.state import Kept

Step = Callable[[], Any]


_BACKWARD = (Tensor.backward, torch.autograd.backward)


class Watch(TorchFunctionMode):
    """Sees each call of torch's Python API while it is entered.

    Args:
        kept: keeps tensors from outside that are changed in place.
        healed: is let through.
        nudged: is an exit whose value is changed a little.
        records: whether calls are recorded.
        goes_back: whether the losses that the step returns have a backward pass.

    Attributes:
        calls: in their order.
        roots: the losses.
        producers: the call that made a tensor, by the tensor's id.
        nodes: the call that made a node of the graph.
        hooks: calls of `register_hook`.
        flow: what came back in backward passes.
        hits: how often `healed` or `nudged` was met.
    """

    def __init__(
        self,
        kept: Kept,
        *,
        healed: Key | None = None,
        nudged: Key | None = None,
        records: bool = True,
        goes_back: bool = True,
    ) -> None:
        super().__init__()
        self.kept, self.healed, self.nudged, self.records, self.goes_back = kept, healed, nudged, records, goes_back
        self.calls: list[Call] = []
        self.roots: list[Root] = []
        self.producers: dict[int, Call] = {}
        self.nodes: dict[Node, Call] = {}
        self.hooks: list[Call] = []
        self.flow = Flow(looks=records)
        self.hits = 0
        self._switch: Switch | None = None  # what has switched gradients off
        self._switches = 0
        self._is_apart = False  # in a backward pass, which is no part of the forward pass

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, more = name_of(func), dict(kwargs or {})
        if name == "_set_grad_enabled" and (self.healed or not self._is_apart):
            return None if self._switches_off(on=bool(args[0])) else func(*args, **more)
        if func in _BACKWARD and not self._is_apart:
            return self._backward(**_asked(func, args, more))
        key = self._key(name, args)
        if key is not None and key == self.healed:
            self.hits += 1
            func = partial(let_through, name, func)
        make = func if self._is_apart or not self.records else partial(self._recorded, name, func)
        result = make(*args, **more)
        if key is not None and key == self.nudged:
            self.hits += 1
            return nudge(result)
        return result

    def _key(self, name: str, args: tuple[Any, ...]) -> Key | None:
        """The place of a call, if it is of the kind that is to be let through or nudged."""
        wanted, kind = self.healed or self.nudged, kind_of(name, args)
        if wanted is None or kind != wanted.kind:
            return None
        return Key(kind, look(in_function=self._in_function()).place)

    def _in_function(self) -> bool:
        """Whether a custom Function's `forward` runs: gradients are off, and nothing seen has switched them off."""
        return self._switch is None and not torch.is_grad_enabled()

    def _recorded(self, name: str, func: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = [unwrapped(tensor) for tensor in (*tensors_in(args), *tensors_in(kwargs))]
        self._prepare(inputs, changes=bool(IN_PLACE.fullmatch(name)) or "out" in kwargs)
        call = Call(name, look(in_function=self._in_function()), read_by(name, inputs, args, kwargs))
        call.wants = any(tensor.requires_grad for tensor in call.inputs)
        call.kind, call.is_inside, call.off = kind_of(name, args), self._in_function(), self._switches
        call.switch = None if torch.is_grad_enabled() else self._switch
        versions = [_version(tensor) for tensor in inputs]
        result = func(*args, **kwargs)
        changed = [one for one, before in zip(inputs, versions, strict=True) if _version(one) != before]
        if name in REPLACING:
            changed = inputs[:1]
        same = {id(tensor) for tensor in inputs}
        made = [unwrapped(tensor) for tensor in tensors_in(result)]
        call.outputs = [tensor for tensor in made if id(tensor) not in same] + changed
        call.lost = [tensor for tensor in call.outputs if tensor.grad_fn is None]
        if name == "register_hook":
            self.hooks.append(call)
        elif (call.outputs or name in LEAVING) and not call.stack.in_optimizer:
            self._add(call)
        return result

    def _prepare(self, inputs: Sequence[Tensor], *, changes: bool) -> None:
        """Keeps what a call may change, and learns where tensors that no call has made come from."""
        for tensor in inputs:
            if changes and id(tensor) not in self.producers:
                self.kept.keep(tensor)
            if tensor.grad_fn is None or tensor.grad_fn in self.nodes:
                continue
            known = self.producers.get(id(tensor))  # of a custom Function's result, what has made it in its `forward`
            call = known or Call(type(tensor.grad_fn).__name__, look(), outputs=[tensor], wants=True)
            self._learn(tensor, call)
            if known is None:  # made in C++
                self._add(call)

    def _add(self, call: Call) -> None:
        call.number = len(self.calls)
        self.calls.append(call)
        for tensor in call.outputs:
            self.producers[id(tensor)] = call
            self._learn(tensor, call, is_seen=True)

    def _learn(self, tensor: Tensor, call: Call, *, is_seen: bool = False) -> None:
        """Notes which call made the nodes behind a tensor, and unless it `is_seen`, what these show of its inputs."""
        seen, waiting = set(), [tensor.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            maker, leaf = self.nodes.setdefault(node, call), leaf_of(node)
            if maker is call:
                waiting += [after for after, _ in node.next_functions]
            if not is_seen and (leaf is not None or maker is not call):
                call.inputs += maker.outputs if leaf is None else [leaf]

    def _switches_off(self, *, on: bool) -> bool:
        """Notes a switch of gradients. Returns whether it is let through, so that they stay on."""
        if on or not torch.is_grad_enabled():
            self._switch = None if on else self._switch
            return False
        stack = look(decorated=True)
        if stack.in_optimizer:
            return False
        kind = "no_grad" if any(name.startswith("no_grad.") for name in stack.inner) else "set_grad_enabled"
        return self._turn_off(kind, stack)

    def _turn_off(self, kind: str, stack: Stack) -> bool:
        key = Key(kind, stack.place)
        if key == self.healed:
            self.hits += 1
            return True
        self._switch = Switch(key, stack)
        self._switches += 1
        return False

    @contextmanager
    def watched(self, module: nn.Module) -> Generator[Watch]:
        """Sees the calls, with gradients on, uncompiled, in one thread, and without other ranks."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(mode=False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.autograd.set_multithreading_enabled(False))
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            for part in module.modules():
                if isinstance(part, DistributedDataParallel):
                    stack.enter_context(part.no_sync())
            stack.enter_context(self._parameters_watched())
            stack.enter_context(self._inference_watched())
            stack.enter_context(self)
            yield self

    @contextmanager
    def _parameters_watched(self) -> Generator[None]:
        """Sees `nn.Parameter(x)` too."""
        make: Any = nn.Parameter.__new__

        def make_watched(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
            if not isinstance(data, Tensor) or self._is_apart:
                return make(cls, data, requires_grad)
            if self.healed == Key("detach", look().place) and data.requires_grad:
                self.hits += 1
                return data.view_as(data)
            plain = partial(make, cls)
            return (partial(self._recorded, "Parameter", plain) if self.records else plain)(data, requires_grad)

        with patch.object(nn.Parameter, "__new__", make_watched):
            yield

    @contextmanager
    def _inference_watched(self) -> Generator[None]:
        """Sees `inference_mode` too, which is no call of the Python API."""
        enter = torch.inference_mode.__enter__

        def enter_watched(mode: Any) -> None:
            if mode.mode and torch.is_grad_enabled() and self._turn_off("inference_mode", look(decorated=True)):
                mode._inference_mode_context = nullcontext()  # noqa: SLF001
            else:
                enter(mode)

        with patch.object(torch.inference_mode, "__enter__", enter_watched):
            yield

    def _backward(
        self,
        losses: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Sequence[Tensor] = (),
        *,
        is_own: bool = False,
    ) -> None:
        """As `torch.autograd.backward`; a pass that `is_own`, not the step's, leaves `.grad` of all tensors alone."""
        self.roots += [Root(loss, len(self.calls)) for loss in losses]
        with torch._C.DisableTorchFunction():  # noqa: SLF001 (this is no part of the step)
            leaves, is_reentrant = self.flow.begin(losses)
            for leaf in leaves:
                self.kept.keep(leaf)
        self._is_apart = True
        keeps = retain_graph or create_graph or self.healed is not None  # what was apart may now be one graph
        takes = is_own and not is_reentrant and not self.kept.has_taps  # a tap reads `.grad`
        chosen = [one for one in leaves if one.requires_grad] if takes else inputs
        try:
            with self:  # for what is computed anew in it, as in checkpointing
                self.flow.run(losses, gradients, chosen, keeps=keeps, creates=create_graph, takes=takes)
        finally:
            self._is_apart = False
            self.flow.end()

    def finish(self, losses: Sequence[Tensor]) -> None:
        """Runs the backward pass of the losses that the step has returned, unless it has done its own."""
        if self.goes_back and not self.roots:
            total = sum(loss.sum() for loss in losses if loss.requires_grad)
            if isinstance(total, Tensor):
                self._backward([total], [None], is_own=True)
            self.roots = [Root(loss, len(self.calls)) for loss in losses]
        with torch._C.DisableTorchFunction():  # noqa: SLF001
            for leaf in self.kept.leaves():
                self.flow.take(leaf)


def _asked(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a call of a backward pass asks for, as arguments of `Watch._backward`."""
    given = inspect.signature(func).bind(*args, **kwargs).arguments
    names = ("self", "gradient") if func is Tensor.backward else ("tensors", "grad_tensors")
    losses, gradients = (given.pop(name, None) for name in names)
    inputs = given.pop("inputs", None)
    losses = [losses] if isinstance(losses, Tensor) else list(losses or ())
    gradients = [gradients] if isinstance(gradients, Tensor) else gradients
    return {
        "losses": losses,
        "gradients": list(gradients or [None] * len(losses)),
        "inputs": [inputs] if isinstance(inputs, Tensor) else list(inputs or ()),
        **{name: value for name, value in given.items() if name in {"retain_graph", "create_graph"}},
    }


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version  # noqa: SLF001


def is_watched() -> bool:
    """Whether a step is being looked at, so that what it does is no training."""
    return any(isinstance(mode, Watch) for mode in _get_current_function_mode_stack())


def run(step: Step, watch: Watch, module: nn.Module) -> Tensor:
    """Runs a step and its backward pass.

    Returns:
        The losses, in 64 bits.

    Raises:
        UserError: the step gives no loss.
    """
    with watch.watched(module):
        losses = losses_of(step())
        watch.finish(losses)
    found = [root.tensor for root in watch.roots] or losses
    if not found:
        raise UserError("step returned no loss. Accepted: a scalar tensor, or what a training_step returns.")
    return torch.stack([loss.detach().double().sum() for loss in found]).cpu()


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
