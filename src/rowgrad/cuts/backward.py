"""What comes back in a backward pass: which nodes of the graph get gradient, and which send none of it on."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.utils.checkpoint import CheckpointFunction

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch.autograd.graph import Node


def leaf_of(node: Node) -> Tensor | None:
    """The tensor whose gradient a node accumulates; None for other nodes."""
    return getattr(node, "variable", None)


class Flow:
    """Follows backward passes through their graphs.

    Args:
        looks: whether what each node receives and sends is noted, and not only what comes to leaves.

    Attributes:
        gradients: what came to each leaf that wants gradient, by its id; summed over passes.
        leaves: the leaves, by their ids.
        edges: where each node sends its gradient: nodes, None where none is wanted.
    """

    def __init__(self, *, looks: bool = True) -> None:
        self._looks = looks
        self.gradients: dict[int, Tensor] = {}
        self.leaves: dict[int, Tensor] = {}
        self.edges: dict[Node, list[Node | None]] = {}
        self._nodes: dict[int, Node] = {}  # those that accumulate the gradient of leaves
        self._received: dict[Node, list[Tensor]] = {}
        self._sent: dict[tuple[Node, int], list[Tensor]] = {}
        self._handles: list[Any] = []

    def begin(self, losses: Sequence[Tensor]) -> tuple[list[Tensor], bool]:
        """Prepares for the backward pass of losses.

        Returns:
            The leaves of its graph, and whether reentrant checkpointing is in it, which forbids `autograd.grad`.
        """
        is_reentrant = False
        leaves, seen, waiting = [], set(), [loss.grad_fn for loss in losses]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            self.edges[node] = [after for after, _ in node.next_functions]
            waiting += self.edges[node]
            leaf = leaf_of(node)
            is_reentrant |= getattr(node, "_forward_cls", None) is CheckpointFunction
            if leaf is not None:
                leaves.append(leaf)
                self.leaves[id(leaf)], self._nodes[id(leaf)] = leaf, node
            if self._looks or leaf is not None:
                self._handles.append(node.register_hook(self._hook_of(node, leaf)))
        return leaves, is_reentrant

    def run(
        self,
        losses: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        leaves: Sequence[Tensor],
        *,
        keeps: bool,
        creates: bool,
        takes: bool,
    ) -> None:
        """Runs a pass.

        `Tensor.backward` and `autograd.grad` would leave the mode that sees calls.

        Args:
            losses: its roots.
            gradients: of the roots; None for a scalar.
            leaves: those whose gradient is wanted; empty for all.
            keeps: whether the graph can be used again.
            creates: whether gradients have a graph.
            takes: whether `.grad` of all tensors is left alone. Then nobody else, as the hooks of DDP, learns of it.
        """
        if takes and not leaves:
            return
        pairs = zip(losses, gradients, strict=True)
        starts = tuple(torch.ones_like(loss) if gradient is None else gradient for loss, gradient in pairs)
        found = _engine_run_backward(
            tuple(losses),
            starts,
            keeps,
            creates,
            tuple(leaves),
            allow_unreachable=True,
            accumulate_grad=not takes,
        )
        for leaf, one in zip(leaves, found if takes else (), strict=takes):
            self._add(leaf, one)

    def end(self) -> None:
        """Ends a pass."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def take(self, leaf: Tensor) -> None:
        """Takes the `.grad` of a leaf that is in none of the graphs, as in reentrant checkpointing."""
        if id(leaf) not in self.leaves:
            self._add(leaf, leaf.grad)

    def _hook_of(self, node: Node, leaf: Tensor | None) -> Any:
        def hook(sent: Sequence[Tensor | None], received: Sequence[Tensor | None]) -> None:
            with torch._C.DisableTorchFunction():  # noqa: SLF001 (this is no part of what is watched)
                self._note(node, leaf, sent, received)

        return hook

    def _note(
        self, node: Node, leaf: Tensor | None, sent: Sequence[Tensor | None], received: Sequence[Tensor | None]
    ) -> None:
        if leaf is not None:
            self._add(leaf, received[0])
            return
        self._received.setdefault(node, []).extend(_any(gradient) for gradient in received if gradient is not None)
        for place, gradient in enumerate(sent):
            if gradient is not None:
                self._sent.setdefault((node, place), []).append(_any(gradient))

    @torch.no_grad()
    def _add(self, leaf: Tensor, gradient: Tensor | None) -> None:
        if gradient is None:
            return
        gradient = gradient.detach()
        known = self.gradients.get(id(leaf))
        # A copy: the engine makes this tensor the leaf's `.grad`, and adds to it later.
        self.gradients[id(leaf)] = gradient.clone() if known is None else known + gradient

    def received(self, node: Node) -> bool:
        """Whether anything other than zero came to a node."""
        leaf = leaf_of(node)
        if leaf is not None:
            gradient = self.gradients.get(id(leaf))
            return gradient is not None and bool(_any(gradient))
        return any(map(bool, self._received.get(node, ())))

    def sent(self, node: Node, place: int) -> bool:
        """Whether anything other than zero went from a node to the one at a place of its `edges`."""
        return any(map(bool, self._sent.get((node, place), ())))

    def node_of(self, leaf: Tensor) -> Node:
        """The node that accumulates the gradient of one of `leaves`."""
        return self._nodes[id(leaf)]

    def ends(self, nodes: Iterable[Node]) -> bool | None:
        """Whether a call gets gradient and sends exactly none on, though some is wanted.

        Args:
            nodes: all that the call has made.

        Returns:
            None if it gets none, or none is wanted.
        """
        own = {node for node in nodes if node in self.edges and leaf_of(node) is None}
        ways = [(n, place) for n in own for place, after in enumerate(self.edges[n]) if after and after not in own]
        if not ways or not any(map(self.received, own)):
            return None
        return not any(self.sent(*way) for way in ways)

    @cached_property
    def _before(self) -> dict[Node, list[tuple[Node, int]]]:
        """From where each node gets its gradient: nodes, and the place among their `edges`."""
        before: dict[Node, list[tuple[Node, int]]] = {}
        for node, after in self.edges.items():
            for place, one in enumerate(after):
                if one is not None:
                    before.setdefault(one, []).append((node, place))
        return before

    def ends_before(self, leaf: Tensor) -> tuple[list[Node], list[Node]]:
        """Where the gradient of a leaf that gets exactly zero has become so.

        Returns:
            Nodes that get gradient and send none on this way; and nodes to which some was sent, and that got none, as a
            hook makes it.
        """
        start = self.node_of(leaf)
        before = self._before
        ends, hooked, seen, waiting = [], [], set(), [start]
        while waiting:
            node = waiting.pop()
            if node in seen or self.received(node):
                continue
            seen.add(node)
            for earlier, place in before.get(node, ()):
                if self.sent(earlier, place):
                    hooked.append(node)
                elif self.received(earlier):
                    ends.append(earlier)
                else:
                    waiting.append(earlier)
        return ends, hooked


def _any(gradient: Tensor) -> Tensor:
    values = gradient._values() if gradient.is_sparse else gradient  # noqa: SLF001
    return values.detach().any()
