"""What a step changes, put back: parameters, gradients, buffers, attributes, hooks, optimizers, random numbers."""

from __future__ import annotations

import random
import sys
from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._pytree import tree_map_only
from torch.utils.data import Dataset

from rowgrad.tap import RowTap

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from torch.optim import Optimizer

    Flags = tuple[Tensor, bool, Tensor | None]

# Objects of these are not looked into.
_LIBRARIES = {*sys.stdlib_module_names, "lightning", "pytorch_lightning", "torch", "torchvision"}


class Kept:
    """The state of a module, as it was when this was made.

    Args:
        module: with its submodules, and all that these have as attributes, but for data sets and objects of Lightning,
            of torch and of Python's library.
        others: objects whose attributes are kept too, such as schedulers.
        taps: are on and empty in between; all others are off.
    """

    def __init__(self, module: nn.Module, others: Iterable[object] = (), taps: Sequence[RowTap] = ()) -> None:
        self._tensors: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # by id, with its memory and a copy
        self._flags: list[Flags] = []
        self._containers: list[tuple[Any, Any]] = []
        self._optimizers: dict[int, tuple[Optimizer, Any, Any]] = {}
        self._seen: dict[int, Any] = {}  # alive, so that an id stays its own
        self._taps = dict.fromkeys((part for part in module.modules() if isinstance(part, RowTap)), False)
        self._taps |= dict.fromkeys(taps, True)
        self.has_taps = bool(taps)
        self._calls: list[Callable[[], object]] = [  # put back what is no container, no tensor and no optimizer
            partial(torch.set_rng_state, torch.get_rng_state()),
            partial(random.setstate, random.getstate()),
            partial(np.random.set_state, np.random.get_state()),  # noqa: NPY002
        ]
        if torch.cuda.is_initialized():
            self._calls.append(partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
        self._keep_all(module, *others, *taps)

    def _keep_all(self, *values: Any) -> None:
        """Keeps what values are made of: containers, tensors, attributes of objects that are not a library's."""
        waiting = [*values]
        while waiting:
            value = waiting.pop()
            if id(value) not in self._seen and not isinstance(value, str | int | float | type | Dataset):
                self._seen[id(value)] = value
                waiting += self._keep_one(value)

    def _keep_one(self, value: Any) -> Iterable[Any]:
        """Keeps a value. Returns what it is made of."""
        if isinstance(value, dict | list | set | deque):
            self._containers.append((value, value.copy()))
        if isinstance(value, dict | list | set | deque | tuple):
            return [*(value.values() if isinstance(value, dict) else value)]
        if isinstance(value, Tensor):
            self.keep(value)
        elif isinstance(value, np.ndarray):
            self._calls += [partial(np.copyto, value, value.copy())] if value.flags.writeable else []
        elif isinstance(value, torch.Generator | np.random.RandomState):
            self._calls.append(partial(value.set_state, value.get_state()))
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator
            self._calls.append(partial(setattr, bits, "state", bits.state))
        elif isinstance(value, random.Random):
            self._calls.append(partial(value.setstate, value.getstate()))
        elif isinstance(value, torch.optim.Optimizer):
            self._keep_optimizer(value)
        elif isinstance(value, nn.Module | LRScheduler) or type(value).__module__.partition(".")[0] not in _LIBRARIES:
            slots = {name: getattr(value, name) for name in _slots(type(value)) if hasattr(value, name)}
            # Of a frozen dataclass, too.
            self._calls += [partial(object.__setattr__, value, name, before) for name, before in slots.items()]
            return [getattr(value, "__dict__", None), *slots.values()]
        return ()

    @torch.no_grad()
    def keep(self, tensor: Tensor) -> None:
        """Keeps a tensor that may be changed in place."""
        if id(tensor) not in self._tensors and not _is_expanded(tensor):  # nothing can be written to an expanded tensor
            self._tensors[id(tensor)] = tensor, tensor.data, tensor.detach().clone()
            if tensor.is_leaf:
                self._flags.append((tensor, tensor.requires_grad, tensor.grad))
                self._keep_all(tensor._backward_hooks)  # noqa: SLF001

    def leaves(self) -> list[Tensor]:
        """The tensors among those kept that may hold a gradient."""
        return [tensor for tensor, _, _ in self._flags]

    @contextmanager
    def put_back(self) -> Generator[Kept]:
        """Starts without gradients, and puts everything back at the end."""
        for tensor, _, _ in self._flags:
            tensor.grad = None
        for tap, is_on in self._taps.items():
            tap.begin_anew(on=is_on)
        hook = register_optimizer_step_pre_hook(lambda optimizer, *_: self._keep_optimizer(optimizer))
        try:
            yield self
        finally:
            hook.remove()
            self._restore()

    def _keep_optimizer(self, optimizer: Optimizer) -> None:
        if id(optimizer) in self._optimizers:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                self.keep(parameter)
        self._optimizers[id(optimizer)] = optimizer, _copied(optimizer.state), [*map(dict, optimizer.param_groups)]

    @torch.no_grad()
    def _restore(self) -> None:
        for container, before in self._containers:
            _refill(container, before)
        for tensor, memory, before in self._tensors.values():
            _restore_tensor(tensor, memory, before)
        for tensor, requires_grad, grad in self._flags:
            tensor.requires_grad_(requires_grad)
            tensor.grad = grad
            hooks = tensor._backward_hooks  # noqa: SLF001
            if hooks and id(hooks) not in self._seen:  # the tensor had none
                hooks.clear()
        for optimizer, state, groups in self._optimizers.values():
            optimizer.state.clear()
            optimizer.state.update(_copied(state))
            del optimizer.param_groups[len(groups) :]
            for group, before in zip(optimizer.param_groups, groups, strict=True):
                _refill(group, before)
        for call in self._calls:
            call()


def _slots(kind: type) -> list[str]:
    """The names of attributes that a class keeps in `__slots__`."""
    found = (getattr(one, "__slots__", ()) for one in kind.__mro__)
    every = (name for names in found for name in ([names] if isinstance(names, str) else names))
    return [name for name in every if not name.startswith("__")]


def _is_expanded(tensor: Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.is_nested:
        return False
    return any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True))


def _restore_tensor(tensor: Tensor, memory: Tensor, before: Tensor) -> None:
    if tensor.grad_fn is not None:
        tensor.detach_()
    if tensor.layout == torch.sparse_coo:  # may have more or fewer elements now
        tensor.data = before.clone()
        return
    if tensor.layout == torch.strided and tensor.data_ptr() != memory.data_ptr():
        tensor.data = memory
    memory.copy_(before)


def _copied(state: Mapping[Tensor, Any]) -> dict[Tensor, Any]:
    """An optimizer's state by its parameters, all containers and tensors anew: LBFGS has lists of tensors."""
    return {one: tree_map_only(Tensor, lambda x: x.detach().clone(), values) for one, values in state.items()}


def _refill(container: Any, before: Any) -> None:
    if isinstance(container, list):
        container[:] = before
        return
    container.clear()
    container.extend(before) if hasattr(container, "extend") else container.update(before)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from tensors_in(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors_in(each)
