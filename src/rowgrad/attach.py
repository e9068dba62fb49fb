"""Taps at submodules, from outside: which tensor of a call is tapped, and which of its dimensions are rows."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rowgrad.errors import UserError, nearest
from rowgrad.tap import KIND, LEAST, RowTap, has_rows, named_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch.autograd.graph import Node
    from torch.utils.hooks import RemovableHandle

Leaves = list[tuple[str, Any]]  # tensors of a call by their names, as in `hidden_states`, `batch.x`, `args.0`


@dataclass(frozen=True)
class Place:
    """What is tapped at a submodule.

    Attributes:
        argument: the name of an argument of `forward`, or, of an output, its place or key; None for the first tensor
            that has rows.
        output: whether the submodule's output is tapped, instead of its input.
        dim: the dimension of the rows; None for the second to last, or the first of modules with `batch_first=False`.
        batch_dim: the dimension of the batch; None for the first, or the second of modules with `batch_first=False`.
        rows: as of `RowTap`.
        collect: as of `RowTap`.
        kind: as of `RowTap`.
        labels: as of `RowTap`.
    """

    argument: str | None = None
    output: bool = False
    dim: int | None = None
    batch_dim: int | None = None
    rows: int | None = None
    collect: bool = False
    kind: str = KIND
    labels: Sequence[str] = ()


def attach(
    module: nn.Module,
    name: str,
    place: Place | None = None,
    tell: Callable[[str], None] = lambda _: None,
    warn: Callable[[str], None] = lambda _: None,
) -> tuple[RowTap, RemovableHandle]:
    """Puts a tap at the submodule `name`, by a hook. The module's own parts, names and state stay as they are.

    Args:
        module: the module.
        name: of the submodule, as in `named_modules()`.
        place: what is tapped there; by default the input.
        tell: is called once with a sentence that says which tensor was taken and which dimension is rows, unless
            `place` names both.
        warn: is called once if the weights may differ in the last bit from those of training without the tap.

    Returns:
        The tap, and the handle that removes it.

    Raises:
        UserError: there is no such submodule; in forward: it gets no tensor that has rows.
    """
    place = place or Place()
    parts = named_parts(module)
    if name not in parts:
        raise UserError(f"modules={name} is not a submodule of {type(module).__name__}{nearest(name, parts, most=3)}")
    part = parts[name]
    tap = RowTap(place.rows, collect=place.collect, kind=place.kind, labels=place.labels)
    tap.name = f"modules={name}"
    choose = _Choice(part, tap, place, tell)
    if place.output:
        return tap, part.register_forward_hook(_After(tap, choose, warn))
    return tap, part.register_forward_pre_hook(_Before(tap, choose, warn), with_kwargs=True)


class _Hook:
    """A hook of a tap. In a copy of the module, or in a file, it does nothing."""

    def __init__(self, tap: RowTap, choose: _Choice, warn: Callable[[str], None]) -> None:
        self.tap, self.choose, self.warn = tap, choose, warn
        self.is_first = True

    def __reduce__(self) -> tuple[Any, ...]:
        return _Nothing, ()


class _Before(_Hook):
    def __call__(self, part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        chosen = self.choose(list(_leaves(_bound(part, args, kwargs))))
        tapped = self.tap(chosen)
        if self.is_first and tapped is not chosen and not torch.compiler.is_compiling():
            self.is_first = False
            self._watch_order(part, *(x.data if isinstance(x, PackedSequence) else x for x in (chosen, tapped)))
        return _replaced(args, chosen, tapped), _replaced(dict(kwargs), chosen, tapped)

    def _watch_order(self, part: nn.Module, x: Tensor, tapped: Tensor) -> None:
        """Warns if gradients are added in another order than without the tap, as sums depend on it in the last bit.

        Autograd adds what comes back from each use of x to one sum. The tap adds those inside the module first.
        """
        node, source, output = tapped.grad_fn, x.grad_fn, x.output_nr
        if source is None or node is None:
            return
        sent: list[Tensor] = []

        def compare(gradients: tuple[Tensor | None, ...]) -> None:
            total = gradients[output]
            if sent and total is not None and total.data_ptr() != sent.pop().data_ptr():
                self.warn(
                    f"{self.tap.name}: its input is used several times inside and elsewhere, too. With a tap, gradients"
                    " are added in another order: weights may differ in the last bit. Taps on outputs are exact."
                )

        def after(_part: nn.Module, _args: tuple[Any, ...], result: Any) -> None:
            handle.remove()
            if _uses(node, [value for _, value in _leaves(result)]) > 1:
                node.register_hook(lambda gradients, _: sent.append(gradients[0]))
                source.register_prehook(compare)

        handle = part.register_forward_hook(after)


class _After(_Hook):
    def __call__(self, _part: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        chosen = self.choose(list(_leaves(output)))
        return _replaced(output, chosen, self.tap(chosen))


class _Nothing:
    def __call__(self, *_: object) -> None:
        """Changes nothing."""


class _Choice:
    """Chooses the tensor of each call, and at the first call the tap's dimensions."""

    def __init__(self, part: nn.Module, tap: RowTap, place: Place, tell: Callable[[str], None]) -> None:
        self.part, self.tap, self.place, self.tell = part, tap, place, tell
        self.is_first = True

    def __call__(self, leaves: Leaves) -> Any:
        wanted, least = self.place.argument, LEAST - self.place.collect
        named = [one for one in leaves if wanted is None or one[0] == wanted or one[0].startswith(f"{wanted}.")]
        found = next(((name, value) for name, value in named if has_rows(value, least)), None)
        if found is None:
            raise self._error(leaves, named)
        if self.is_first:
            self.is_first = False
            self._lay_out(*found)
        return found[1]

    def _lay_out(self, name: str, value: Any) -> None:
        place, tap = self.place, self.tap
        first = sequence_first(self.part) and isinstance(value, Tensor) and value.ndim == LEAST
        tap.dim = (0 if first else -2) if place.dim is None else place.dim
        tap.batch_dim = (1 if first else 0) if place.batch_dim is None else place.batch_dim
        if isinstance(value, PackedSequence) or place.collect or (place.argument is not None and place.dim is not None):
            return
        rows = tap.dim % value.ndim
        which = f"output {name}".strip() if place.output else name
        self.tell(
            f"{tap.name}: tapped {which} of shape {tuple(value.shape)}; rows are dimension {rows}"
            f" ({value.shape[rows]} rows), the batch is dimension {tap.batch_dim}. Others: dim, batch_dim, argument,"
            " output."
        )

    def _error(self, leaves: Leaves, named: Leaves) -> UserError:
        what = "returns" if self.place.output else "gets"
        if self.place.argument is not None and not named:
            names = ", ".join(dict.fromkeys(name for name, _ in leaves))
            return UserError(f"{self.tap.name}: it {what} no tensor {self.place.argument}. There are: {names}.")
        flat = any(has_rows(value, LEAST - 1) for _, value in named)
        hint = " For one time step a call, (B, D), as in a loop over a cell: collect=True." if flat else ""
        words = "no floating-point tensor with rows, (B, C, H, W) or (B, T, D)"
        return UserError(f"{self.tap.name}: it {what} {words}.{hint}")


def _uses(node: Node, results: Iterable[Any], most: int = 10_000) -> int:
    """How often a node's tensor was used on the way to some results."""
    tensors = (one.data if isinstance(one, PackedSequence) else one for one in results)
    waiting = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen: set[Any] = set()
    count = 0
    while waiting and len(seen) < most:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        for before, _ in one.next_functions:
            count += before is node
            if before is not None and before is not node:
                waiting.append(before)
    return count


def sequence_first(part: nn.Module) -> bool:
    """Whether a module says that the first dimension of its input is the sequence: `batch_first=False`, as in torch."""
    said = (getattr(one, "batch_first", None) for one in part.modules())
    return next((not value for value in said if isinstance(value, bool)), False)


def _bound(part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names, in the order of the signature: a mask given first is not the first."""
    try:
        bound = inspect.signature(part.forward).bind(*args, **kwargs)
    except (TypeError, ValueError):  # a wrong call, which the module itself refuses, or one without a signature
        return {**{str(number): value for number, value in enumerate(args)}, **kwargs}
    return dict(bound.arguments)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors in tuples, lists and dictionaries, with their names."""
    if isinstance(value, Tensor | PackedSequence):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{name}.{number}" if name else str(number))


def _replaced(value: Any, old: Any, new: Any) -> Any:
    """The same value with one tensor replaced wherever it is. What holds it is copied, never changed."""
    if value is old:
        return new
    if isinstance(value, PackedSequence) or not isinstance(value, dict | list | tuple):
        return value
    if isinstance(value, dict):
        inner = {key: _replaced(one, old, new) for key, one in value.items()}
        if all(inner[key] is value[key] for key in value):
            return value
        changed = copy.copy(value)  # of the same class, as the outputs of Hugging Face's models
        for key, one in inner.items():
            changed[key] = one
        return changed
    parts = [_replaced(one, old, new) for one in value]
    if all(one is before for one, before in zip(parts, value, strict=True)):
        return value
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
