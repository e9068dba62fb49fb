"""Which gradient an optimizer's step uses: that of the backward passes since its weights' gradients were last empty.

Gradients are emptied by optimizers, by `module.zero_grad()`, by Lightning, by a learning-rate finder, or by hand. So
hooks on the weights and the taps tell when a backward pass begins, and what the weights hold at that moment tells
whether it is the first of a step. What came back in other passes, as in those of an attack on the input, is not in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd import Variable

from rowgrad.cuts.watching import is_watched
from rowgrad.tap import summed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch.utils.hooks import RemovableHandle

    from rowgrad.tap import RowTap


class Weights:
    """The weights of one optimizer.

    Args:
        parameters: returns them. An optimizer may get more of them during training.

    Attributes:
        grads: what came back through each tap, (..., rows, columns), in the passes that are in the weights' gradients;
            zeros if a tensor went through the tap and nothing came back. Other taps are missing.
    """

    def __init__(self, parameters: Callable[[], Iterable[Tensor]]) -> None:
        self.parameters = parameters
        self.grads: dict[RowTap, Tensor] = {}
        self.is_reached = False
        self._is_new = False  # whether a pass came since the last step
        self._known: tuple[int, int] | None = None  # a weight's gradient and its version at the end of the last pass

    def take(self) -> dict[RowTap, Tensor]:
        """`grads` for a step; empty if the step has none, as one whose loss was None."""
        is_new, self._is_new = self._is_new, False
        holds_any = any(parameter.grad is not None for parameter in self.parameters())
        return dict(self.grads) if is_new or holds_any else {}

    def begin(self) -> None:
        """Looks at the weights' gradients before a pass changes any of them."""
        self.is_reached = False
        if self._are_empty():
            self.grads = {}

    def end(self, arrived: Mapping[RowTap, Tensor]) -> None:
        """Adds what a pass brought, if it reached the weights."""
        if not self.is_reached and any(parameter.requires_grad for parameter in self.parameters()):
            return
        self._is_new = True
        first = next((p.grad for p in self.parameters() if p.grad is not None), None)
        self._known = None if first is None else (id(first), first._version)  # noqa: SLF001
        for tap, grad in arrived.items():
            self.grads[tap] = summed([self.grads[tap], grad]) if tap in self.grads else grad

    def _are_empty(self) -> bool:
        for parameter in self.parameters():
            grad = parameter.grad
            if grad is None:
                continue
            # Only a gradient that was changed since the last pass is looked into: `zero_grad(set_to_none=False)`.
            if self._known == (id(grad), grad._version) or bool(grad.count_nonzero()):  # noqa: SLF001
                return False
        return True


class BackwardPasses:
    """Follows backward passes, and gives what each brings to the taps to the optimizers whose weights it reaches.

    Args:
        taps: the taps.
        weights: of each optimizer.
        at_end: is called at the end of each pass.

    Attributes:
        count: the number of passes so far.
    """

    def __init__(self, taps: Iterable[RowTap], weights: Sequence[Weights], at_end: Callable[[], None]) -> None:
        self.taps, self.weights, self._at_end = list(taps), weights, at_end
        self.count, self._task = 0, -1
        self._handles: dict[tuple[int, int], RemovableHandle] = {}
        for tap in self.taps:
            tap.reset()
            tap.forget()
            tap.listeners.append(self._on_gradient)
        self.follow_new_weights()

    def follow_new_weights(self) -> None:
        """Puts hooks on weights that have none: those that an optimizer got, or that were unfrozen, since."""
        for number, weights in enumerate(self.weights):
            for parameter in weights.parameters():
                if parameter.requires_grad and (number, id(parameter)) not in self._handles:
                    handle = parameter.register_hook(lambda _, weights=weights: self._on_gradient(weights))
                    self._handles[number, id(parameter)] = handle

    def close(self) -> None:
        """Removes all hooks."""
        for handle in self._handles.values():
            handle.remove()
        self._handles = {}
        for tap in self.taps:
            tap.listeners.remove(self._on_gradient)
        self.taps = []

    def _on_gradient(self, weights: Weights | None = None) -> None:
        """A gradient arrives at weights or at a tap, and is not added yet. The first of a pass begins it."""
        task = torch._C._current_graph_task_id()  # noqa: SLF001
        if task != self._task:
            if is_watched():  # by `find_cuts`: this is no training
                return
            self._task = task
            self._begin()
        if weights is not None:
            weights.is_reached = True

    def _begin(self) -> None:
        for weights in self.weights:
            weights.begin()
        for tap in self.taps:
            tap.begin_pass(next((weights.grads[tap] for weights in self.weights if tap in weights.grads), None))
        Variable._execution_engine.queue_callback(self._end)  # noqa: SLF001

    def _end(self) -> None:
        self._task, self.count = -1, self.count + 1
        found = {tap: tap.finish_pass() for tap in self.taps}
        arrived = {tap: grad for tap, grad in found.items() if grad is not None}
        for weights in self.weights:
            weights.end(arrived)
        self._at_end()
