"""Values: from which leaves each call's values come, and which of them a loss depends on, with gradient or without."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from rowgrad.cuts.calls import Call, Root


class Values:
    """Follows values through the calls of a step.

    A tensor's values go where its memory goes: a write to one tensor changes all that share memory with it.

    Args:
        calls: in their order.
        leaves: the tensors whose gradient is wanted.
    """

    def __init__(self, calls: Sequence[Call], leaves: Iterable[Tensor]) -> None:
        self.calls = calls
        self.sources: dict[int, int] = {}  # bits of the leaves in a tensor's values, by its id
        self.open: dict[int, int] = {}  # bits of those that its gradient reaches
        self._leaf_bits = {id(leaf): 1 << place for place, leaf in enumerate(leaves)}
        self._read: list[tuple[int, int]] = []  # bits that each call reads: of values, and of open ways
        self._reads: list[list[int]] = []  # ids of the tensors that each call reads
        self._written: list[list[int]] = []  # ids of the tensors that each call changes
        self._lost: list[list[int]] = []  # those of them whose gradient it loses
        self._smuggled: dict[int, int] = {}  # bits that come in through memory that a call has given without gradient
        self._follow()

    def _follow(self) -> None:
        sharing: dict[int, dict[int, Tensor]] = {}
        makers: dict[int, Call] = {}
        self.sources |= self._leaf_bits
        self.open |= self._leaf_bits
        for call in self.calls:
            bits = is_open = 0
            self._reads.append([id(tensor) for tensor in call.inputs])
            for tensor in call.inputs:
                memory = sharing.setdefault(memory_of(tensor), {})
                if id(tensor) not in memory and memory:  # made out of sight, as by numpy
                    self._reads[-1] += memory
                    for one in memory:
                        bits |= self.sources.get(one, 0)
                memory[id(tensor)] = tensor
                bits |= self.sources.get(id(tensor), 0)
                is_open |= self.open.get(id(tensor), 0)
            self._read.append((bits, is_open))
            lost = {id(tensor) for tensor in call.lost} if call.ends else set()
            changed = {id(tensor) for tensor in call.inputs} & {id(tensor) for tensor in call.outputs}
            written: list[int] = []
            self._lost.append([])
            for tensor in call.outputs:
                memory = sharing.setdefault(memory_of(tensor), {})
                memory[id(tensor)] = tensor
                others = memory if id(tensor) in changed else {id(tensor): tensor}
                for one, other in others.items():
                    self.sources[one] = self.sources.get(one, 0) | bits
                    if one in lost:
                        self.open[one] = self._leaf_bits.get(one, 0)
                    elif other is tensor or _base(other) is _base(tensor):
                        self.open[one] = self.open.get(one, 0) | is_open
                    elif (maker := makers.get(id(tensor))) is not None:  # written to behind autograd's back
                        self._smuggled[maker.number] = self._smuggled.get(maker.number, 0) | is_open
                written += others
                self._lost[-1] += others if id(tensor) in {id(one) for one in call.lost} else ()
                makers.setdefault(id(tensor), call)
            self._written.append(written)

    def sources_of(self, call: Call) -> int:
        """Bits of the leaves whose values a call reads."""
        return self._read[call.number][0]

    def open_to(self, call: Call) -> int:
        """Bits of the leaves that gradient would reach from a call's inputs."""
        return self._read[call.number][1] | self._smuggled.get(call.number, 0)

    def holds(self, bits: int, leaf: Tensor) -> bool:
        """Whether a leaf is among `bits`."""
        return bool(bits & self._leaf_bits.get(id(leaf), 0))

    def needed(self, roots: Iterable[Root], exits: Iterable[Call] = ()) -> tuple[set[int], set[int]]:
        """What the losses depend on.

        Args:
            roots: the losses.
            exits: calls whose values have left torch and come back.

        Returns:
            The ids of the tensors, and the numbers of the calls of which an output is needed; of calls that lose the
            gradient of some of their outputs, one of these.
        """
        ids: set[int] = set()
        starts: dict[int, list[int]] = {}
        for root in roots:
            starts.setdefault(root.after, []).append(id(root.tensor))
        leaving = {call.number for call in exits}
        numbers: set[int] = set()
        for number in range(len(self.calls), -1, -1):
            ids.update(starts.get(number, ()))
            if number == 0:
                break
            call = self.calls[number - 1]
            if call.number in leaving or not ids.isdisjoint(self._written[call.number]):
                if call.number in leaving or not call.lost or not ids.isdisjoint(self._lost[call.number]):
                    numbers.add(call.number)
                ids.update(self._reads[call.number])
        return ids, numbers


def _base(tensor: Tensor) -> Tensor | None:
    return tensor._base if tensor._is_view() else tensor  # noqa: SLF001


def memory_of(tensor: Tensor) -> int:
    """What tells a tensor's memory from that of others."""
    try:
        return tensor.untyped_storage()._cdata  # noqa: SLF001
    except (NotImplementedError, RuntimeError):  # a sparse tensor has none
        return id(tensor)
