"""Healing: a step again, with one place let through; and what that changes."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from rowgrad.cuts.calls import COPYING, EXIT, FUNCTION, HOOK, NOT_DIFFERENTIABLE, ZERO_DERIVATIVE, Key
from rowgrad.cuts.places import place_of
from rowgrad.cuts.watching import Watch, run

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from rowgrad.cuts.ends import Site
    from rowgrad.cuts.state import Kept
    from rowgrad.cuts.watching import Step


class Pass:
    """One run of a step that leaves no trace.

    Args:
        module: the module.
        step: the step.
        kept: what is put back.
        before: is called before the step.
        read: is called after it.
        **settings: of `Watch`.

    Attributes:
        watch: what was seen.
        losses: of the step, in 64 bits.
        read: what `read` has returned.
    """

    def __init__(
        self,
        module: nn.Module,
        step: Step,
        kept: Kept,
        *,
        before: Callable[[], Any] = lambda: None,
        read: Callable[[], Any] = lambda: None,
        **settings: Any,
    ) -> None:
        self.watch = Watch(kept, **settings)
        with kept.put_back():
            before()
            self.losses = run(step, self.watch, module)
            self.read = read()

    def is_like(self, other: Pass) -> bool:
        """Whether another run has the same losses, to the last bit."""
        return torch.allclose(self.losses, other.losses, rtol=0, atol=0, equal_nan=True)


@contextmanager
def without_hooks(key: Key, leaves: Iterable[Tensor], parts: Iterable[nn.Module]) -> Generator[int]:
    """Takes the hooks away that are to be let through, and were registered before the step. Gives their number."""
    held = [leaf._backward_hooks for leaf in leaves]  # noqa: SLF001
    held += [hooks for part in parts for hooks in (part._backward_hooks, part._backward_pre_hooks)]  # noqa: SLF001
    before = [(hooks, dict(hooks)) for hooks in held if hooks and key.kind == HOOK]
    count = 0
    for hooks, known in before:
        for number, hook in known.items():
            if place_of(hook) == key.place:
                del hooks[number]
                count += 1
    try:
        yield count
    finally:
        for hooks, known in before:
            hooks.clear()
            hooks.update(known)


def compare(pairs: Iterable[tuple[Tensor | None, Tensor | None]]) -> tuple[float, float | None]:
    """Compares gradients g and h, each as one vector over all pairs (g, h); None is zero.

    Returns:
        ‖h − g‖² / (‖h − g‖² + ‖g‖²), and the cosine of g and h; None if one of them is zero.
    """
    through = square = whole = both = 0.0
    for before, after in pairs:
        g, h = (torch.zeros(()) if one is None else one.detach().to_dense() for one in (before, after))
        if is_same := torch.equal(g, h):
            g = h = g.double()
        else:
            g, h = g.double(), h.double()
            through += float((h - g).square().sum())
        own = float(g.square().sum())
        square, whole = square + own, whole + (own if is_same else float(h.square().sum()))
        both += own if is_same else float((g * h).sum())
    total = through + square
    cosine = min(max(both / math.sqrt(square * whole), -1.0), 1.0) if square and whole else None
    return (through / total if total else 0.0), (1.0 if through == 0 and square else cosine)


def why_not(site: Site) -> str:
    """Why a place cannot be let through; empty if it can be tried."""
    kind, operation = site.kind, site.operation
    if kind == ZERO_DERIVATIVE:
        return "exactly nothing goes on; there is no other derivative that could be let through"
    if operation == CheckpointFunction.__name__:
        return "reentrant checkpointing needs an input that requires gradient; use_reentrant=False does not"
    if kind == FUNCTION:
        return "its backward decides; there is nothing to let through"
    if kind == NOT_DIFFERENTIABLE:
        return f"{operation} has no derivative that could be let through"
    if kind == EXIT and operation not in COPYING:
        return "the values leave torch, where no gradient can follow"
    return ""
