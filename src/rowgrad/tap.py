"""The tap: an identity operation that accumulates the batch-summed gradient of its input. It needs torch alone.

In the notation of `z = x + τ`, with τ = 0 a leaf tensor without a batch dimension, the tap keeps τ's gradient and omits
the addition. As for any leaf, `backward()` accumulates, over micro-batches and repeated uses; a gradient that a model
computes for itself by `torch.autograd.grad` does not count.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from rowgrad.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KIND = "row"  # what a row is, unless a tap says it
LEAST = 3  # dimensions: batch, rows, columns
# Attributes under which torch wraps a module: not part of the name that its author gave it.
WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}


class Layout(NamedTuple):
    """Where a tensor has its batch and its rows."""

    batch: int = 0
    rows: int = -2
    packed: PackedSequence | None = None  # of a packed sequence, whose tensor is its data

    def images(self, g: Tensor) -> Tensor:
        """The tensor as (B, ..., rows, columns). A view, except of packed sequences, which are padded with zeros."""
        if self.packed is not None:
            return pad_packed_sequence(_repacked(self.packed, g), batch_first=True)[0]
        if g.ndim == LEAST - 1:
            return g.movedim(self.batch, 0).unsqueeze(1)  # one time step, one row
        return g if (self.batch, self.rows) == (0, -2) else g.movedim((self.batch, self.rows), (0, -2))

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """The shape of τ: (..., rows, columns)."""
        if self.packed is not None:
            return (len(self.packed.batch_sizes), *x.shape[1:])
        return self.images(x.detach()).shape[1:]


class _Through(torch.autograd.Function):
    """x -> x. The gradient g goes on to x unchanged; τ gets g summed over the batch, and `images` gets g itself."""

    # With `setup_context`, which functorch's transforms would need, every call takes three times as long.
    @staticmethod
    def forward(ctx: Any, x: Tensor, tau: Tensor, _images: Tensor | None, layout: Layout, name: str) -> Tensor:
        ctx.layout, ctx.dtype, ctx.watch = layout, tau.dtype, None
        if torch.compiler.is_compiling():
            return x.view_as(x)  # a compiler then refuses to change it in place, where it would lose the skip
        if x.requires_grad:
            ctx.watch = _InPlace(x, name)
        return x.detach()  # shares memory and version with x but is not a view, so it may be changed in place

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # ty: ignore[incompatible-method-override]
        if ctx.watch is not None:
            ctx.watch.check(gradient)
        images = ctx.layout.images(gradient)
        each = images.to(ctx.dtype) if ctx.needs_input_grad[2] else None
        return gradient, images.sum(0, dtype=ctx.dtype), each, None, None


class _InPlace:
    """Refuses what would make training differ: x changed in place behind the tap, and used elsewhere too.

    Without a tap, autograd knows of the change wherever x is used. With one, x and what the tap returned share memory,
    but not history: what uses x elsewhere, as a skip connection does, would get a wrong gradient.
    """

    def __init__(self, x: Tensor, name: str) -> None:
        self.name, self.node, self.output = name, x.grad_fn, x.output_nr
        base = x._base  # noqa: SLF001  (of a view: the tensor whose memory it shares)
        self.last = x.grad_fn if base is None else base.grad_fn
        self.witness = x.detach()
        self.witness.data = x.new_empty(0)  # shares x's version counter, and not its memory
        self.version = self.witness._version  # noqa: SLF001

    def check(self, gradient: Tensor) -> None:
        """Raises a user error, now or before x's own node is reached, unless the tap alone has used x.

        Args:
            gradient: of what the tap returned.
        """
        if self.witness._version == self.version:  # noqa: SLF001
            return
        node, output = self.node, self.output
        if self.last is None:  # a leaf
            raise self.error()
        while True:  # x, and if it is a view, what it is a view of: each must be used once
            if node is None:
                raise self.error()
            node.register_prehook(partial(self._compare, output, gradient))
            if node is self.last:
                return
            node, output = node.next_functions[0] if node.next_functions else (None, 0)

    def _compare(self, output: int, gradient: Tensor, gradients: tuple[Tensor | None, ...]) -> None:
        total = gradients[output]
        if total is None or total.data_ptr() != gradient.data_ptr():  # a sum: something else has used it
            raise self.error()

    def error(self) -> UserError:
        """What is wrong, and what to do."""
        return UserError(
            f"{self.name or 'a RowTap'}: the tensor is changed in place behind the tap (as by ReLU(inplace=True)) and"
            " used elsewhere too, so watching would change training. Write inplace=False there, or tap what follows it."
        )


class RowTap(nn.Module):
    """Returns its input unchanged, bit for bit, and keeps the gradient that comes back, summed over the batch.

    Rows are the second to last dimension: image rows of (B, C, H, W), time steps or tokens of (B, T, D). The tap has no
    parameter and no buffer, so it is in no optimizer, no checkpoint and no gradient clipping.
    It does nothing with gradients off, as in evaluation, while a model is traced, and inside `torch.func`'s transforms.
    `model.zero_grad()` and `model.requires_grad_()` do not reach it: its own switch is `enabled`, and `reset()` forgets
    its gradient.

    Example:
        >>> tap = RowTap()
        >>> tap(torch.ones(8, 1, 28, 28)).sum().backward()
        >>> tap.grad.shape, float(tap.grad[0, 0, 0])
        (torch.Size([1, 28, 28]), 8.0)
        >>> sequence_first = RowTap(dim=0, batch_dim=1)
        >>> sequence_first(torch.ones(12, 8, 16)).sum().backward()  # (T, B, D)
        >>> sequence_first.grad.shape
        torch.Size([12, 16])

    Args:
        rows: the least number of rows of `grad`; missing rows are zero. For batches of sequences of different lengths:
            without it `grad` is as long as the longest batch so far.
        dim: the dimension of the rows.
        batch_dim: the dimension of the batch, over which gradients are summed.
        collect: whether the calls of one forward pass are the rows, as in a loop over time steps: each call takes
            (B, D), one row, or (B, T, D), T rows. The next call after a `backward()` is row 0 again.
        enabled: whether it is on from the start.
        kind: what a row is, in the singular: "token", "head", "channel". Charts say it.
        labels: the names of the first rows, for charts; further rows go by their number.

    Raises:
        UserError: a value of another type.

    Attributes:
        enabled: whether it keeps gradients.
        per_image: whether it also keeps the gradient of each single image (or sequence).
        name: for messages.
        listeners: are called when a gradient arrives, before it is added.
        earlier: the gradient of earlier passes, which `grad` contains.
    """

    listeners: list[Callable[[], None]]
    earlier: Tensor | None
    _holders: dict[int, bool]  # who wants the tap on or off, by id
    _sums: list[tuple[int, Tensor]]  # τ of each shape, with the number of its call when collecting
    _images: Tensor | None  # τ of a whole batch
    _latest: Tensor | None  # τ of the latest tensor that went through in this pass
    _call: int
    _is_over: bool  # the pass of the latest call

    def __init__(
        self,
        rows: int | None = None,
        *,
        dim: int = -2,
        batch_dim: int = 0,
        collect: bool = False,
        enabled: bool = True,
        kind: str = KIND,
        labels: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not isinstance(kind, str) or not kind:
            raise UserError(f"RowTap: kind={kind!r} is not a non-empty string.")
        if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
            raise UserError(f"RowTap: labels={labels!r} is not a list of strings.")
        for name, value in {"dim": dim, "batch_dim": batch_dim, "rows": rows or 0}.items():
            if not isinstance(value, int) or (name == "rows" and value < 0):
                raise UserError(f"RowTap: {name}={value!r} is not a whole number{' of at least 0' * (name == 'rows')}.")
        self.kind, self.labels = kind, tuple(labels)
        self.rows, self.collect = rows, collect
        self.dim, self.batch_dim = dim, batch_dim
        self.enabled = enabled
        self.per_image = False
        self.name = ""
        self.__dict__ |= self._empty()

    @staticmethod
    def _empty() -> dict[str, Any]:
        lists = {"listeners": [], "_holders": {}, "_sums": []}
        return {**lists, "earlier": None, "_images": None, "_latest": None, "_call": 0, "_is_over": False}

    def begin_anew(self, *, on: bool) -> None:
        """Drops all that it holds. What it held is as before if the values of its attributes are put back."""
        self.__dict__ |= self._empty()
        self.enabled = on

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets what changes ten times a step without a module's search for parameters."""
        if name in _STATE:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and files begin without gradients."""
        return self.__dict__ | self._empty()

    def forward(self, x: Any) -> Any:
        """Returns x, (B, ..., rows, columns), or a packed sequence.

        Raises:
            UserError: x does not have the dimensions of batch and rows beside another one, or is not of floating point;
                in `backward()`: x is changed in place and used elsewhere, so that the tap would change training.
        """
        if not (self.enabled and torch.is_grad_enabled()):
            return x
        if not torch.compiler.is_compiling() and (
            torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()  # noqa: SLF001
        ):
            return x
        if isinstance(x, PackedSequence):
            return _repacked(x, self._through(x.data, Layout(packed=x)))
        return self._through(x, Layout(self.batch_dim, self.dim))

    def _through(self, x: Tensor, layout: Layout) -> Tensor:
        tau = self._tau(x, layout)
        return _Through.apply(x, tau, self._image_leaf(x, layout), layout, self.name)

    @property
    def grad(self) -> Tensor | None:
        """∂L/∂x summed over the batch, (..., rows, columns), in 32 bits at least.

        Accumulated over `backward()` calls and uses until `reset()`. Zero if no gradient arrived; None before the first
        batch.
        """
        if not self._sums:
            return None
        parts = [part for part in (self.earlier, self._arrived()) if part is not None]
        return summed(parts or [torch.zeros_like(self._sums[-1][1])], self.rows)

    @property
    def image_grads(self) -> Tensor | None:
        """∂L/∂x of the last batch with `per_image` on, (B, ..., rows, columns); None before one."""
        return None if self._images is None else self._images.grad

    def reset(self) -> None:
        """Sets the gradient to zero."""
        self.begin_pass(None)
        self.forget_images()

    def forget_images(self) -> None:
        """Drops `image_grads`."""
        self._images = None

    def leaves(self) -> list[Tensor]:
        """The leaf tensors that collect its gradient."""
        return [tau for _, tau in self._sums]

    def begin_pass(self, earlier: Tensor | None) -> None:
        """Begins a backward pass, which `grad` adds to the gradient of earlier ones."""
        # A τ without a gradient is dropped: sequences of many lengths would fill the memory. If its gradient is yet to
        # come, it lives on in the graph and comes back with it.
        used = [(call, tau) for call, tau in self._sums if tau.grad is not None or tau is self._latest]
        self._sums = self._sums if self.collect else used or self._sums[-1:]
        for _, tau in self._sums:
            tau.grad = None
        self.earlier = earlier

    def finish_pass(self) -> Tensor | None:
        """Ends a forward and backward pass.

        Returns:
            The gradient since `reset()`, (..., rows, columns); zeros if a tensor went through and nothing came back;
            None if none went through.
        """
        grad = self._arrived()
        if grad is None and self._latest is not None:
            grad = self._by_calls({self._call: self._latest.detach()})
        self.forget()
        return grad

    def hold(self, holder: object, *, on: bool | None) -> None:
        """Switches the tap on while any holder wants it on; `on=None` lets go of it, and the last one restores it."""
        if self._holders.get(id(holder)) is on and (on is not None or id(holder) not in self._holders):
            return
        if not self._holders:
            self._was_enabled = self.enabled
        if on is None:
            del self._holders[id(holder)]
        else:
            self._holders[id(holder)] = on
        self.enabled = any(self._holders.values()) if self._holders else self._was_enabled

    def forget(self) -> None:
        """Forgets which tensors went through, as after a pass. The gradient is kept."""
        self._latest, self._is_over = None, True

    def _arrived(self) -> Tensor | None:
        calls: dict[int, list[Tensor]] = {}
        for call, tau in self._sums:
            if tau.grad is not None:
                calls.setdefault(call, []).append(tau.grad)
        return self._by_calls({call: self._summed(parts) for call, parts in calls.items()}) if calls else None

    def _summed(self, parts: list[Tensor]) -> Tensor:
        if len({part.ndim for part in parts}) > 1:
            words = " and ".join(str(tuple(part.shape)) for part in parts)
            raise UserError(f"{self.name or 'a RowTap'} got tensors of shapes {words}: use a tap for each.")
        return summed(parts)

    def _by_calls(self, calls: dict[int, Tensor]) -> Tensor:
        """The rows of all calls below each other; of calls that no gradient reached, zeros."""
        if not self.collect:
            return next(iter(calls.values()))
        places = {call: tau for call, tau in self._sums if call <= max(*calls, self._call)}
        return torch.cat([calls.get(call, torch.zeros_like(places[call])) for call in sorted(places)], -2)

    def extra_repr(self) -> str:
        given: dict[str, Any] = {
            "rows": self.rows,
            "dim": self.dim,
            "batch_dim": self.batch_dim,
            "collect": self.collect,
        }
        given |= {"kind": self.kind, "labels": self.labels}
        usual = {"rows": None, "dim": -2, "batch_dim": 0, "collect": False, "kind": KIND, "labels": ()}
        return ", ".join(f"{key}={value}" for key, value in given.items() if value != usual[key])

    def _tau(self, x: Tensor, layout: Layout) -> Tensor:
        if self.collect:
            self._call, self._is_over = 0 if self._is_over else self._call + (self._latest is not None), False
        if layout.packed is None or not x.is_floating_point():
            self._check(x)
        shape = layout.shape(x)
        for call, tau in self._sums:
            if call == self._call and _fits(tau, x, shape):
                self._latest = tau
                return tau
        tau = self._latest = self._new_leaf(x, shape)
        self._sums.append((self._call, tau))
        return tau

    def _image_leaf(self, x: Tensor, layout: Layout) -> Tensor | None:
        if not self.per_image:
            return None
        shape = layout.images(x.detach()).shape
        if self._images is None or not _fits(self._images, x, shape):
            self._images = torch.zeros(shape, dtype=_dtype(x), device=x.device, requires_grad=True)
        return self._images

    def _check(self, x: Any) -> None:
        if has_rows(x, LEAST - self.collect):
            batch, rows, ndim = self.batch_dim, self.dim, x.ndim
            if ndim >= LEAST and not (-ndim <= batch < ndim and -ndim <= rows < ndim and (batch - rows) % ndim):
                raise UserError(
                    f"{self.name or 'a RowTap'} got shape {tuple(x.shape)}, which does not have both a batch dimension"
                    f" {batch} and another dimension {rows} of rows."
                )
            return
        what = f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x)
        hint = " In a loop over time steps, RowTap(collect=True) takes (B, D)." if has_rows(x, LEAST - 1) else ""
        raise UserError(
            f"{self.name or 'a RowTap'} got {what}. A tap takes tensors of floating point of shape (batch, ..., rows,"
            f" columns), as images (B, C, H, W) or sequences (B, T, D).{hint}"
        )

    @torch.compiler.disable(
        reason="a tap takes its size from its first batch: with fullgraph, send one before compiling"
    )
    def _new_leaf(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        tau = torch.zeros(shape, dtype=_dtype(x), device=x.device, requires_grad=True)
        call, own = self._call, weakref.ref(tau)
        tau.register_hook(lambda _: self._on_gradient(call, own()))
        return tau

    def _on_gradient(self, call: int, tau: Tensor | None) -> None:
        self._is_over = True
        for listener in self.listeners:
            listener()
        if tau is not None and all(known is not tau for _, known in self._sums):  # `reset` has dropped it
            self._sums.append((call, tau))


_STATE = frozenset(RowTap._empty())  # noqa: SLF001


def find_taps(module: nn.Module) -> dict[str, RowTap]:
    """A module's taps by their attributes' names, as in `encoder.tap`."""
    return {name: part for name, part in named_parts(module).items() if isinstance(part, RowTap)}


def named_parts(module: nn.Module) -> dict[str, nn.Module]:
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


def summed(parts: Sequence[Tensor], rows: int | None = None) -> Tensor:
    """The sum of tensors (..., rows, columns), each padded with zeros to the largest size, and to `rows` at least."""
    if len(parts) == 1 and parts[0].shape[-2] >= (rows or 0):
        return parts[0]
    return stacked(parts, rows).sum(0)


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


def has_rows(value: Any, least: int = LEAST) -> bool:
    """Whether a value is a tensor of floating point, or packed sequences of it, with a batch, rows and columns."""
    if isinstance(value, PackedSequence):
        return value.data.is_floating_point()
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= least


def _repacked(packed: PackedSequence, data: Tensor) -> PackedSequence:
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)


def _fits(tau: Tensor, x: Tensor, shape: Sequence[int]) -> bool:
    return (tau.shape, tau.device, tau.dtype) == (shape, x.device, _dtype(x))


def _dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)  # sums of half precision are kept in single
