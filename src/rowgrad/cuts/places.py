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
        """As in `scenario.py:186`."""
        return f"{Path(self.file).name}:{self.line}"


NOWHERE = Place("", 0, "")


class Stack(NamedTuple):
    """Where a call is made.

    Attributes:
        place: the line; in a custom Function's `forward`, the line that applies the Function.
        module: whose forward runs; None outside modules.
        function: the custom Function whose `forward` runs.
        run: a number that tells one run of that `forward` from another.
        callers: the names of the functions between `place` and the call, innermost first.
    """

    place: Place
    module: nn.Module | None = None
    function: type | None = None
    run: int = 0
    callers: tuple[str, ...] = ()


def look(*, in_function: bool = False, names: bool = False) -> Stack:
    """Looks at the stack of the caller.

    Args:
        in_function: whether a custom Function's `forward` may run.
        names: whether to collect `callers`, and to name the decorator's line of a decorated function.
    """
    place = module = function = None
    run, callers = 0, []
    functions = _forwards() if in_function else {}
    for frame in _frames(sys._getframe(1)):  # noqa: SLF001
        code = frame.f_code
        if code is _MODULE_CALL:
            module = module or frame.f_locals["self"]
        elif code in functions and functions[code] is not CheckpointFunction:
            function, run = functions[code], id(frame)
            place = module = None
        elif place is None and not _is_hidden(code.co_filename):
            place = Place(code.co_filename, frame.f_lineno, code.co_qualname)
        elif names and place is None:
            callers.append(code.co_qualname)
            if code.co_filename == _DECORATORS and "func" in frame.f_locals:
                first = place_of(frame.f_locals["func"])
                place = None if _is_hidden(first.file) else _decorator(first, code.co_name)
        if place and module and not in_function:
            break
    return Stack(place or NOWHERE, module, function, run, tuple(callers))


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
