"""Places: the line of the person's code that makes a call of torch, and the module whose forward runs there."""

from __future__ import annotations

import contextlib
import functools
import inspect
import linecache
import os
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointFunction

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, FrameType

_OWN = str(Path(__file__).parent)
_TORCH = Path(torch.__file__).parent
_HIDDEN = (f"{_TORCH}{os.sep}", f"{_OWN}{os.sep}", contextlib.__file__, functools.__file__)
_OPTIMIZERS = f"{_TORCH}{os.sep}optim{os.sep}"
_DECORATORS = str(_TORCH / "utils" / "_contextlib.py")  # wraps functions under `@torch.no_grad()`
_MODULE_CALL = nn.Module._call_impl.__code__  # noqa: SLF001


@dataclass(frozen=True)
class Place:
    """A line of code.

    Attributes:
        file: its path.
        line: its number.
        function: the qualified name of the function it is in.
    """

    file: str
    line: int
    function: str

    @cached_property
    def code(self) -> str:
        """The line's text."""
        return linecache.getline(self.file, self.line).strip()

    @property
    def short(self) -> str:
        """As in `scenario.py:186`; of a notebook's cell its line."""
        if not self.line:
            return "an unknown line"
        in_cell = "ipykernel" in self.file or self.file.startswith("<ipython-input")
        return f"{'cell, line ' if in_cell else f'{Path(self.file).name}:'}{self.line}"


NOWHERE = Place("", 0, "")


class Stack(NamedTuple):
    """Where a call is made.

    Attributes:
        place: the line; in a custom Function's `forward`, the line that applies the Function.
        module: whose forward runs; None outside modules.
        function: the custom Function whose `forward` runs.
        inner: the names of the functions between `place` and the call, innermost first.
        way: the places of the calls that lead there, up to the module's `forward`, innermost first.
        in_optimizer: whether an optimizer makes the call.
    """

    place: Place
    module: nn.Module | None = None
    function: type | None = None
    inner: tuple[str, ...] = ()
    way: tuple[Place, ...] = ()
    in_optimizer: bool = False


def look(*, in_function: bool = False, decorated: bool = False) -> Stack:
    """Looks at the stack of the caller.

    Args:
        in_function: whether a custom Function's `forward` may run.
        decorated: whether the place is the decorator's line, if the caller is torch's wrapper of a decorated function.
    """
    place = module = function = None
    inner: list[str] = []
    way: list[Place] = []
    in_optimizer = False
    functions = _forwards() if in_function else {}
    for frame in _frames(sys._getframe(1)):  # noqa: SLF001
        code = frame.f_code
        if code is _MODULE_CALL:
            module = module or frame.f_locals["self"]
        elif functions.get(code, CheckpointFunction) is not CheckpointFunction:
            function, place, module, way = functions[code], None, None, []
        elif not _is_hidden(code.co_filename):
            here = Place(code.co_filename, frame.f_lineno, code.co_qualname)
            way += [here] if place is not None and module is None else []
            place = place or here
        elif place is not None and code.co_filename.startswith(_OWN):  # what has called the step
            break
        elif place is None:
            in_optimizer |= code.co_filename.startswith(_OPTIMIZERS)
            inner.append(code.co_qualname)
            if decorated and code.co_filename == _DECORATORS and "func" in frame.f_locals:
                first = place_of(frame.f_locals["func"])
                place = None if _is_hidden(first.file) else _decorator(first, code.co_name)
        if place and module and not in_function:
            break
    return Stack(place or NOWHERE, module, function, tuple(inner), tuple(way), in_optimizer)


def place_of(function: Any) -> Place:
    """The first line of a function, method or callable object, as of a hook; of a decorated one, its decorator."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return NOWHERE if code is None else Place(code.co_filename, code.co_firstlineno, code.co_qualname)


def _decorator(first: Place, name: str) -> Place:
    """The line of a function's decorators, from the first on, that has a name."""
    line = first.line
    while (text := linecache.getline(first.file, line).lstrip()).startswith("@"):
        if name in text:
            return replace(first, line=line)
        line += 1
    return first


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


@functools.cache
def _is_hidden(file: str) -> bool:
    return file.startswith(_HIDDEN)


def _forwards() -> dict[CodeType, type]:
    """The custom Functions that there are, by the code of their `forward`."""
    classes: list[Any] = [torch.autograd.Function]
    for cls in classes:
        classes += cls.__subclasses__()
    return {cls.forward.__code__: cls for cls in classes[1:] if hasattr(cls.forward, "__code__")}
