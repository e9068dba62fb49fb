"""Calls of torch: their names, how each ends gradient, and how it is let through."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from types import GetSetDescriptorType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.utils.hooks import RemovableHandle

from rowgrad.cuts.state import tensors_in

if TYPE_CHECKING:
    from rowgrad.cuts.places import Place, Stack

DETACHING = {"detach": "detach", "detach_": "detach_", ".data": ".data", "detach_copy": "detach"}
COPYING = {"tensor", "new_tensor"}  # `torch.tensor(x)`
LEAVING = {"item", "tolist", "numpy", "__float__", "__int__", "__array__", "__complex__"}
# Kinds of cuts that are named in several places; the others are names of torch.
EXIT, FUNCTION, HOOK = "exit", "custom Function", "hook"
NOT_DIFFERENTIABLE, ZERO_DERIVATIVE = "not differentiable", "zero derivative"
# The result has the shape of the argument, and none of its values.
_VALUELESS = re.compile(r"(zeros|ones|empty|full|rand|randn|randint)_like|new_(zeros|ones|empty|full)\w*|\.grad")
_LIKE = {"expand_as", "reshape_as", "to", "type_as", "view_as"}  # the second argument gives its shape or its type
REPLACING = {"detach_", ".data="}  # these change a tensor, and not its version
IN_PLACE = re.compile(r"[a-z_].*[a-z0-9]_|__setitem__|__i\w+__|\.\w+=")
_RUNNING = {"batch_norm": (1, 2, 5), "instance_norm": (1, 2, 5)}  # mean, variance; whether they are only written
NUDGE = 2.0**-8


class Key(NamedTuple):
    """What is let through when healing: all calls of one kind on one line."""

    kind: str
    place: Place


class Switch(NamedTuple):
    """What has switched gradients off, and where."""

    key: Key
    stack: Stack


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
    """

    name: str
    stack: Stack
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    wants: bool = False
    lost: list[Tensor] = field(default_factory=list)
    kind: str = ""
    switch: Switch | None = None
    off: int = 0
    is_inside: bool = False
    number: int = 0

    @property
    def where(self) -> Stack:
        """Where gradient ends: at the call, or where gradients were switched off."""
        return self.stack if self.switch is None else self.switch.stack

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


def kind_of(name: str, args: tuple[Any, ...]) -> str:
    """How a call ends gradient; empty if it does not by its name."""
    if name in DETACHING:
        return DETACHING[name]
    if name in LEAVING or (name in COPYING and any(True for _ in tensors_in(args[-1:]))):
        return EXIT
    return {"register_hook": HOOK, "grad": "create_graph", ".data=": ".data", "Parameter": "detach"}.get(name, "")


def let_through(name: str, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Makes a call so that it gives the same values, with gradient."""
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


def nudge(value: Any) -> Any:
    """A value that is a little larger; an integer by one."""
    if isinstance(value, list):
        return [nudge(each) for each in value]
    if isinstance(value, np.ndarray):
        kinds = {"f": NUDGE, "c": NUDGE, "i": 1, "u": 1}
        return value + value.dtype.type(kinds[value.dtype.kind]) if value.dtype.kind in kinds else value
    if isinstance(value, bool):
        return value
    return value + (1 if isinstance(value, int) else NUDGE) if isinstance(value, int | float | complex) else value


def name_of(func: Any) -> str:
    """Torch's name for a function; of attributes `.data`, and `.data=` where it is set."""
    owner = getattr(func, "__self__", None)
    if isinstance(owner, GetSetDescriptorType):
        return f".{owner.__name__}" + "=" * (func.__name__ == "__set__")
    return getattr(func, "__name__", "")


def unwrapped(tensor: Tensor) -> Tensor:
    """The tensor itself, in transforms of `torch.func`."""
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor


def read_by(name: str, inputs: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors whose values a call uses."""
    if _VALUELESS.fullmatch(name):
        return inputs[1:]
    if name == ".data=":
        return inputs[1:]
    if name in _LIKE:
        return inputs[:1]
    if name in _RUNNING:
        mean, variance, training = _RUNNING[name]
        named = [*args, *[None] * 6]
        is_written = kwargs.get("training", kwargs.get("use_input_stats", named[training]))
        running = [kwargs.get("running_mean", named[mean]), kwargs.get("running_var", named[variance])]
        return [t for t in inputs if not (is_written and any(t is one for one in running))]
    return inputs
