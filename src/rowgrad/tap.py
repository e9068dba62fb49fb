"""The tap: an identity operation that accumulates the batch-summed gradient of its input. It needs torch alone.

In the notation of `z = x + τ`, with τ = 0 a leaf tensor without a batch dimension, the tap keeps τ's gradient and omits
the addition. As for any leaf, `backward()` accumulates, over micro-batches and repeated uses; a gradient that a model
computes for itself by `torch.autograd.grad` does not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from rowgrad.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.utils.hooks import RemovableHandle

LEAST = 3  # dimensions: batch, rows, columns
# Attributes under which torch wraps a module: not part of the name that its author gave it.
WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}


class _Through(torch.autograd.Function):
    """x -> x. The gradient g goes on to x unchanged; τ gets g, summed over the batch unless τ has one itself."""

    # With `setup_context`, which functorch's transforms would need, every call takes three times as long.
    @staticmethod
    def forward(ctx: Any, x: Tensor, tau: Tensor) -> Tensor:
        ctx.dimensions, ctx.dtype = tau.ndim, tau.dtype
        # Shares memory and version with x but is not a view, so it may be changed in place. A compiler accepts only the
        # clone, and copies nothing either.
        return x.clone() if torch.compiler.is_compiling() else x.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # ty: ignore[incompatible-method-override]
        if ctx.dimensions == gradient.ndim:
            return gradient, gradient.to(ctx.dtype)
        return gradient, gradient.sum(0, dtype=ctx.dtype)


class RowTap(nn.Module):
    """Returns its input unchanged, bit for bit, and keeps the gradient that comes back, summed over the batch.

    Rows are the second to last dimension: image rows of (B, C, H, W), time steps or tokens of (B, T, D). The tap has no
    parameter and no buffer, so it is in no optimizer, no checkpoint and no gradient clipping.
    With gradients off, as in evaluation, it does nothing. `model.zero_grad()` and `model.requires_grad_()` do not reach
    it: its own switch is `enabled`, and `reset()` forgets its gradient.

    Example:
        >>> tap = RowTap()
        >>> tap(torch.ones(8, 1, 28, 28)).sum().backward()
        >>> tap.grad.shape, float(tap.grad[0, 0, 0])
        (torch.Size([1, 28, 28]), 8.0)

    Args:
        rows: the least number of rows of `grad`; missing rows are zero. For batches of sequences of different lengths:
            without it `grad` is as long as the longest batch so far.
        enabled: whether it is on from the start.

    Attributes:
        enabled: whether it keeps gradients.
        per_image: whether it also keeps the gradient of each single image (or sequence).
    """

    def __init__(self, rows: int | None = None, *, enabled: bool = True) -> None:
        super().__init__()
        self.rows = rows
        self.enabled = enabled
        self.per_image = False
        self._sums: list[Tensor] = []  # τ, one for each shape that came
        self._images: Tensor | None = None  # τ of a whole batch

    def forward(self, x: Tensor) -> Tensor:
        """Returns x, (B, ..., rows, columns).

        Raises:
            UserError: x has fewer than three dimensions, or is not of floating point.
        """
        if not (self.enabled and torch.is_grad_enabled()):
            return x
        return _Through.apply(x, self._tau(x))

    @property
    def grad(self) -> Tensor | None:
        """∂L/∂x summed over the batch, (..., rows, columns), in 32 bits at least.

        Accumulated over `backward()` calls and uses until `reset()`. Zero if no gradient arrived; None before the first
        batch.
        """
        parts = [tau.grad for tau in self._sums if tau.grad is not None]
        if self._images is not None:
            images = self._images.grad
            parts.append(torch.zeros_like(self._images[0]) if images is None else images.sum(0))
        if not parts and not self._sums:
            return None
        parts = parts or [torch.zeros_like(self._sums[-1])]
        if len(parts) == 1 and parts[0].shape[-2] >= (self.rows or 0):
            return parts[0]
        return stacked(parts, self.rows).sum(0)

    @property
    def image_grads(self) -> Tensor | None:
        """∂L/∂x of the last batch with `per_image` on, (B, ..., rows, columns); None before one."""
        return None if self._images is None else self._images.grad

    def reset(self) -> None:
        """Sets the gradient to zero."""
        # Shapes that were not used since the last reset are dropped: sequences of many lengths do not fill the memory.
        self._sums = [tau for tau in self._sums if tau.grad is not None] or self._sums[-1:]
        for tau in self._sums:
            tau.grad = None
        self._images = None

    def extra_repr(self) -> str:
        return "" if self.rows is None else f"rows={self.rows}"

    def _tau(self, x: Tensor) -> Tensor:
        if self.per_image:
            if self._images is None or not _fits(self._images, x, x.shape):
                self._images = _new_leaf(x, x.shape)
            return self._images
        for tau in self._sums:
            if _fits(tau, x, x.shape[1:]):
                return tau
        self._sums.append(_new_leaf(x, x.shape[1:]))
        return self._sums[-1]


def find_taps(module: nn.Module) -> dict[str, RowTap]:
    """A module's taps by their attributes' names, as in `encoder.tap`."""
    return {name: part for name, part in _named_parts(module).items() if isinstance(part, RowTap)}


def attach(module: nn.Module, name: str) -> tuple[RowTap, RemovableHandle]:
    """Puts a tap before the submodule `name`, by a hook. The module's own parts, names and state stay as they are.

    Returns:
        The tap, and the handle that removes it.

    Raises:
        UserError: there is no such submodule; in forward: the submodule gets no tensor that has rows.
    """
    parts = _named_parts(module)
    if name not in parts:
        raise UserError(f"modules={name} is not a submodule of {type(module).__name__}{nearest(name, parts, most=3)}")
    tap = RowTap()

    def through(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        for place, value in enumerate(args):
            if _has_rows(value):
                return (*args[:place], tap(value), *args[place + 1 :]), kwargs
        for key, value in kwargs.items():
            if _has_rows(value):
                return args, {**kwargs, key: tap(value)}
        raise UserError(f"modules={name}: it gets no floating-point tensor with rows, (B, C, H, W) or (B, T, D).")

    return tap, parts[name].register_forward_pre_hook(through, with_kwargs=True)


def _named_parts(module: nn.Module) -> dict[str, nn.Module]:
    """All submodules by their names, without torch's wrappers: `net._orig_mod.conv1` is `net.conv1`."""
    parts = {
        ".".join(word for word in name.split(".") if word not in WRAPPERS): part  # a wrapper is before its content
        for name, part in module.named_modules()
    }
    return {name: part for name, part in parts.items() if name}


class Watched(NamedTuple):
    """What a module may say of itself to the recorder, as its attribute `watched`. Modules without it are recorded too.

    Example:
        >>> class Cut(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.before, self.after = RowTap(), RowTap()
        ...         self.watched = Watched(("before", "after"), (True, False, False), ("loss",))

    Attributes:
        pair: the names of two taps, before and after a cut; None without a cut.
        selected: which rows a scenario acts on, (H,); empty if it acts on no row.
        outputs: which outputs of the training step are logged with each step's norms, as `train/<output>`.
    """

    pair: tuple[str, str] | None = None
    selected: Sequence[bool] = ()
    outputs: tuple[str, ...] = ()


def watched_of(module: nn.Module) -> Watched:
    """A module's attribute `watched`; an empty one for other modules."""
    watched = getattr(module, "watched", None)
    return watched if isinstance(watched, Watched) else Watched()


def stacked(parts: Sequence[Tensor], rows: int | None = None) -> Tensor:
    """Stacks tensors (..., rows, columns), each padded with zeros to the largest size, and to `rows` rows at least."""
    sizes = [max(size) for size in zip(*(part.shape for part in parts), strict=True)]
    sizes[-2] = max(sizes[-2], rows or 0)
    if all(part.shape == torch.Size(sizes) for part in parts):
        return torch.stack(list(parts))
    whole = parts[0].new_zeros(len(parts), *sizes)
    for place, part in zip(whole, parts, strict=True):
        place[tuple(map(slice, part.shape))] = part
    return whole


def _fits(tau: Tensor, x: Tensor, shape: Sequence[int]) -> bool:
    return (tau.shape, tau.device, tau.dtype) == (shape, x.device, _dtype(x))


def _dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)  # sums of half precision are kept in single


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= LEAST


@torch.compiler.disable(reason="a tap takes its size from its first batch: with fullgraph, send one before compiling")
def _new_leaf(x: Tensor, shape: Sequence[int]) -> Tensor:
    if not _has_rows(x):
        raise UserError(
            f"a RowTap got {str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}. It takes tensors of"
            f" floating point of shape (batch, ..., rows, columns), as images (B, C, H, W) or sequences (B, T, D)."
        )
    return torch.zeros(shape, dtype=_dtype(x), device=x.device, requires_grad=True)
