"""The tap: lets a tensor through unchanged and keeps the gradient that comes back. Torch alone; nothing else is needed.

    self.tap = RowTap()   # in __init__
    x = self.tap(x)       # in forward
    ...
    loss.backward()
    self.tap.grad         # ∂L/∂x, summed over the batch

It is the leaf tensor τ of `z = x + τ`, always zero, with the addition left out: a step of autograd whose value is x
itself and whose gradient goes on to x, and, summed over the batch, to τ. So, as for any leaf, only `backward()` counts,
over micro-batches and uses; a gradient that a model takes for itself by `torch.autograd.grad` does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from rowgrad.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST = 3  # dimensions: batch, rows, columns


class _Through(torch.autograd.Function):
    """x -> x. Its gradient g goes on to x as it is; τ gets g, summed over the batch where τ has no batch."""

    # With `setup_context`, which functorch's transforms would need, every call takes three times as long.
    @staticmethod
    def forward(ctx: Any, x: Tensor, tau: Tensor) -> Tensor:
        ctx.dimensions, ctx.dtype = tau.ndim, tau.dtype
        # Shares memory and version with x, but is no view, so that it may be changed in place. A compiler copies
        # nothing either, and knows no other way.
        return x.clone() if torch.compiler.is_compiling() else x.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # ty: ignore[incompatible-method-override]
        if ctx.dimensions == gradient.ndim:
            return gradient, gradient.to(ctx.dtype)
        return gradient, gradient.sum(0, dtype=ctx.dtype)


class RowTap(nn.Module):
    """Lets a tensor through, bit for bit, and keeps the gradient that comes back, summed over the batch.

    Rows are the second to last dimension: image rows of (B, C, H, W), of as many channels as there are; time steps or
    tokens of (B, T, D). The tap has no parameter and no buffer, so it is in no optimizer, no checkpoint, no clipping.
    With gradients off, as in evaluation, it does nothing. `model.zero_grad()` and `model.requires_grad_()` do not reach
    it: its own switch is `enabled`, and `reset()` forgets its gradient.

    Example:
        >>> tap = RowTap()
        >>> tap(torch.ones(8, 1, 28, 28)).sum().backward()
        >>> tap.grad.shape, float(tap.grad[0, 0, 0])
        (torch.Size([1, 28, 28]), 8.0)

    Args:
        rows: at least so many rows are kept; further ones are zero. For batches of sequences of different lengths,
            which are otherwise kept as long as the longest that came.
        enabled: whether it is on from the start.

    Attributes:
        enabled: whether it keeps gradients.
        per_image: whether it also keeps the gradient of each image (or sequence) by itself.
    """

    def __init__(self, rows: int | None = None, *, enabled: bool = True) -> None:
        super().__init__()
        self.rows = rows
        self.enabled = enabled
        self.per_image = False
        self._sums: list[Tensor] = []  # τ, one for each shape that came
        self._images: Tensor | None = None  # τ of a whole batch

    def forward(self, x: Tensor) -> Tensor:
        """The same tensor, (B, ..., rows, columns).

        Raises:
            UserError: it has fewer dimensions, or is not of floating point.
        """
        if not (self.enabled and torch.is_grad_enabled()):
            return x
        return _Through.apply(x, self._tau(x))

    @property
    def grad(self) -> Tensor | None:
        """∂L/∂x summed over the batch, (..., rows, columns), in 32 bits at least.

        It adds up over `backward()` and over uses until `reset()`. Zero where nothing arrived; None before the
        first batch.
        """
        parts = [tau.grad for tau in self._sums if tau.grad is not None]
        if self._images is not None and self._images.grad is not None:
            parts.append(self._images.grad.sum(0))
        if not parts:
            known = self._sums[-1:] if self._images is None else [self._images[0]]
            parts = [torch.zeros_like(tau) for tau in known]
        if not parts:
            return None
        if len(parts) == 1 and (self.rows is None or parts[0].shape[-2] >= self.rows):
            return parts[0]
        return stacked(parts, self.rows).sum(0)

    @property
    def image_grads(self) -> Tensor | None:
        """∂L/∂x of the last batch that came while `per_image` was on, (B, ..., rows, columns); None without one."""
        return None if self._images is None else self._images.grad

    def reset(self) -> None:
        """Forgets what was kept."""
        # Shapes that did not come again are dropped, so that sequences of any length do not fill the memory.
        self._sums = [tau for tau in self._sums if tau.grad is not None] or self._sums[-1:]
        for tau in self._sums:
            tau.grad = None
        self._images = None

    def extra_repr(self) -> str:
        return "" if self.rows is None else f"rows={self.rows}"

    def _tau(self, x: Tensor) -> Tensor:
        if self.per_image:
            if self._images is None or not _fits(self._images, x, batch=True):
                self._images = _new_leaf(x, batch=True)
            return self._images
        for tau in self._sums:
            if _fits(tau, x):
                return tau
        self._sums.append(_new_leaf(x))
        return self._sums[-1]


class Watched(NamedTuple):
    """What a module may say of itself to the recorder, as its attribute `watched`; none of it is needed.

    Attributes:
        pair: names of two taps, before and after a cut.
        selected: which rows a scenario acts on, (H,); empty where none can be.
        outputs: of the training step, what is logged with each step's norms, as `train/<output>`.
    """

    pair: tuple[str, str] | None
    selected: Sequence[bool]
    outputs: tuple[str, ...]


def watched_of(module: nn.Module) -> Watched:
    """What a module says of itself, where it does."""
    watched = getattr(module, "watched", None)
    return watched if isinstance(watched, Watched) else Watched(None, (), ())


def stacked(parts: Sequence[Tensor], rows: int | None = None) -> Tensor:
    """Tensors (..., rows, columns) stacked, each filled up with zeros to the size of the largest.

    Args:
        parts: of as many dimensions, (..., rows, columns).
        rows: so many rows at least.
    """
    shapes = [part.shape for part in parts]
    if len(set(shapes)) == 1 and (rows is None or rows <= shapes[0][-2]):
        return torch.stack(list(parts))
    sizes = [max(size) for size in zip(*shapes, strict=True)]
    sizes[-2] = max(sizes[-2], rows or 0)
    whole = parts[0].new_zeros(len(parts), *sizes)
    for place, part in zip(whole, parts, strict=True):
        place[tuple(map(slice, part.shape))] = part
    return whole


def _fits(tau: Tensor, x: Tensor, *, batch: bool = False) -> bool:
    return tau.shape == (x.shape if batch else x.shape[1:]) and tau.device == x.device and tau.dtype == _dtype(x)


def _dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)  # sums of half precision are kept in single


@torch.compiler.disable(reason="a tap takes its size from its first batch: with fullgraph, send one before compiling")
def _new_leaf(x: Tensor, *, batch: bool = False) -> Tensor:
    if x.ndim < LEAST or not x.is_floating_point():
        raise UserError(
            f"a RowTap got {str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}. It takes tensors of"
            f" floating point of shape (batch, ..., rows, columns), as images (B, C, H, W) or sequences (B, T, D)."
        )
    shape = x.shape if batch else x.shape[1:]
    return torch.zeros(shape, dtype=_dtype(x), device=x.device, requires_grad=True)
