"""`find_cuts`: which lines end gradient on its way to a module's parameters, and what each of them costs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rowgrad.cuts.calls import COPYING, EXIT, NUDGE, Call, Key
from rowgrad.cuts.ends import Ends, Group, Site
from rowgrad.cuts.found import CUT, DEAD, FROZEN, REACHED, UNUSED, Cut, Cuts, ParameterGradient
from rowgrad.cuts.healing import Pass, compare, why_not, without_hooks
from rowgrad.cuts.state import Kept
from rowgrad.errors import UserError, in_one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.optim import Optimizer

    from rowgrad.cuts.watching import Step
    from rowgrad.tap import RowTap

HEALED = 20  # places at most


def find_cuts(
    module: nn.Module,
    step: Step | Any,
    *,
    heal: int | None = HEALED,
    optimizers: Optimizer | Sequence[Optimizer] = (),
) -> Cuts:
    """Finds every place where gradient ends on its way from the loss, by file and line, and what it would give.

    The step is run once to see each call, and once more for each place, with the same random numbers and that place let
    through. Afterwards the module is as before: parameters, gradients, buffers, attributes, modes, random numbers.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
        >>> def step():
        ...     return model[1](model[0](torch.ones(2, 4)).detach()).mean()
        >>> found = find_cuts(model, step)
        >>> found.cuts[0].kind, found.cuts[0].parameters
        ('detach', ('0.weight', '0.bias'))

    Args:
        module: its parameters are looked at.
        step: a function without arguments that does a forward pass and returns the loss, or what a `training_step`
            returns; it may do its own backward passes, each of which counts as a loss. For a LightningModule also a
            batch.
        heal: at most how many places are let through, each in one more step; None for all.
        optimizers: if given, parameters that none of them has are named.

    Raises:
        UserError: the step gives no loss, the module has parameters without a shape, or a value is not accepted.
    """
    check_heal(heal)
    if not isinstance(module, nn.Module):
        raise UserError(f"find_cuts got a {type(module).__name__}. Accepted: an nn.Module, and a step.")
    if any(nn.parameter.is_lazy(parameter) for parameter in module.parameters()):
        raise UserError(f"{type(module).__name__} has parameters without a shape: run one forward pass first.")
    known = [optimizers] if isinstance(optimizers, torch.optim.Optimizer) else list(optimizers)
    if callable(step):
        return Finder(module, step, known).find(heal)
    from rowgrad.cuts.lightning import TrainingStep  # late: not everybody has a LightningModule

    doing = TrainingStep(module, step)
    return Finder(module, doing, known or doing.optimizers, doing.others).find(heal)


def check_heal(heal: object) -> None:
    """Checks how many places are to be let through.

    Raises:
        UserError: it is not accepted.
    """
    if heal is not None and (not isinstance(heal, int) or isinstance(heal, bool) or heal < 0):
        raise UserError(f"heal={heal!r} is not accepted. Accepted: a whole number of at least 0; None for all places.")


class Finder:
    """Finds the cuts of a step. See `find_cuts`.

    Args:
        module: the module.
        step: the step.
        optimizers: those that are known.
        others: further objects whose attributes the step changes, such as schedulers.
        taps: are on in the step, others are off.

    Attributes:
        arrived: what came back through `taps` with each place let through.
    """

    def __init__(
        self,
        module: nn.Module,
        step: Step,
        optimizers: Sequence[Optimizer] = (),
        others: Sequence[object] = (),
        taps: Sequence[RowTap] = (),
    ) -> None:
        self.module, self.step, self.optimizers, self.taps = module, step, optimizers, taps
        self.kept = Kept(module, others, taps)
        self.arrived: dict[Cut, list[Tensor | None]] = {}
        self.names = {part: name for name, part in module.named_modules()}

    def find(self, heal: int | None = HEALED) -> Cuts:
        """Runs the step, and again with each of at most `heal` places let through."""
        self.left = math.inf if heal is None else heal
        self.first = Pass(
            self.module, self.step, self.kept, read=lambda: [one for tap in self.taps for one in tap.leaves()]
        )
        watch = self.first.watch
        self.parameters = {name: one for name, one in self.module.named_parameters() if one.requires_grad}
        self.inputs = self._inputs() + self.first.read
        self.leaves = [*self.parameters.values(), *self.inputs]
        self.ends = Ends(watch, self.leaves, self.names)
        _, numbers = self.ends.values.needed(watch.roots)
        self.needed, numbers = self.ends.values.needed(watch.roots, self._returning_exits(numbers))
        self.ends.settle(numbers)
        groups = list(self.ends.groups.values())
        groups.sort(key=lambda group: (group.reaches is False, group.calls[0].number if group.calls else 0))
        cuts = {group.site: self._described(group) for group in groups}
        return Cuts(float(self.first.losses.sum()), list(cuts.values()), self._parameters(cuts))

    def _inputs(self) -> list[Tensor]:
        """The leaves from outside the step that want gradient and are no parameters."""
        made = {id(tensor) for call in self.first.watch.calls for tensor in call.outputs}
        known = made | {id(one) for one in self.parameters.values()}
        read = {id(tensor): tensor for call in self.first.watch.calls for tensor in call.inputs}
        return [one for number, one in read.items() if one.is_leaf and one.requires_grad and number not in known]

    def _returning_exits(self, numbers: set[int]) -> list[Call]:
        """The exits whose values come back: the loss changes if they do."""
        found = []
        for group in self.ends.groups.values():
            if group.site.kind != EXIT or any(call.number in numbers for call in group.calls):
                continue
            if group.site.operation in COPYING:
                continue
            self.left -= 1
            group.reaches = None if self.left < 0 else self._comes_back(group.key)
            if group.reaches:
                found += group.calls
        return found

    def _forward(self, before: Callable[[], Any] = lambda: None, **settings: Any) -> Pass:
        """The forward pass again."""
        return Pass(self.module, self.step, self.kept, before=before, records=False, goes_back=False, **settings)

    def _comes_back(self, key: Key) -> bool | None:
        try:
            nudged = self._forward(nudged=key)
        except Exception:  # noqa: BLE001 (a step may not stand another value)
            return True
        return not self.first.is_like(nudged)

    def _parameters(self, cuts: dict[Site, Cut]) -> dict[str, ParameterGradient]:
        """What each parameter gets."""
        owned = {id(p) for one in self.optimizers for group in one.param_groups for p in group["params"]}
        order = list(cuts)
        unseen = self._used([p for p in self.parameters.values() if self._status(p) == UNUSED])
        found = {}
        for name, one in self.module.named_parameters():
            status = CUT if id(one) in unseen else self._status(one)
            dead = self.ends.dead.get(id(one), []) if status == DEAD else []
            sites = {group.site for group in dead or (self.ends.before(one) if status in {CUT, DEAD} else ())}
            places = tuple(cuts[site] for site in sorted(sites, key=order.index))
            found[name] = ParameterGradient(name, status, places, id(one) in owned if self.optimizers else None)
        return found

    def _status(self, parameter: Tensor) -> str:
        gradient = self.first.watch.flow.gradients.get(id(parameter))
        if not parameter.requires_grad:
            return FROZEN
        if gradient is not None and bool(gradient.any()):
            return REACHED
        if id(parameter) in self.first.watch.flow.leaves:
            return DEAD
        return CUT if id(parameter) in self.needed else UNUSED

    def _used(self, parameters: Sequence[Tensor]) -> set[int]:
        """The ids of those whose values change the loss after all, as by C++ or another thread."""

        def nudge() -> None:
            for parameter in parameters:
                parameter.data.add_(NUDGE)

        if not parameters or self.left < 1 or self.first.is_like(self._forward(nudge)):
            return set()
        if len(parameters) == 1:
            return {id(parameters[0])}
        half = len(parameters) // 2
        return self._used(parameters[:half]) | self._used(parameters[half:])

    def _described(self, group: Group) -> Cut:
        site, place = group.site, group.site.place
        call = group.calls[0] if group.calls else None
        module = call and call.where.module
        tensors = (call.lost or call.outputs or call.inputs) if call else []
        cut = Cut(
            kind=site.kind,
            operation=site.operation,
            file=place.file,
            line=place.line,
            code=place.code,
            function=place.function,
            module=self.names.get(module, "") if module else "",
            callers=tuple(f"{one.function}:{one.line}" for one in call.where.way) if call else (),
            count=max(len(group.events), 1),
            shape=tuple(tensors[0].shape) if tensors else (),
            reaches_loss=group.reaches,
        )
        return self._healed(group, cut) if group.reaches else cut

    def _healed(self, group: Group, cut: Cut) -> Cut:
        """A place with what letting it through changes."""
        if why := why_not(group.site):
            return replace(cut, withheld=why)
        self.left -= 1
        if self.left < 0:
            return replace(cut, withheld="not tried: heal=None tries all")
        try:
            healed = self._let_through(group)
        except Exception as error:  # noqa: BLE001 (the step may not stand it, in whatever way)
            return replace(cut, withheld=f"it cannot be let through: {in_one_line(error)[:200]}")
        if not healed.watch.hits:
            return replace(cut, withheld="the step did not come by here a second time")
        if not self.first.is_like(healed):
            return replace(cut, withheld="no numbers: the loss of a second run is another")
        before, after = self.first.watch.flow.gradients, healed.watch.flow.gradients
        parameters = tuple(n for n, one in self.parameters.items() if _is_new(before.get(id(one)), after.get(id(one))))
        inputs = tuple(_words(one) for one in self.inputs if _is_new(before.get(id(one)), after.get(id(one))))
        stopped, cosine = compare([(before.get(id(one)), after.get(id(one))) for one in self.leaves])
        cut = replace(cut, parameters=parameters, inputs=inputs, stopped=stopped, cosine=cosine)
        self.arrived[cut] = healed.read
        return cut

    def _let_through(self, group: Group) -> Pass:
        with without_hooks(group.key, self.leaves, self.names) as count:
            read = lambda: [tap.grad for tap in self.taps]  # noqa: E731
            healed = Pass(self.module, self.step, self.kept, read=read, healed=group.key, records=False)
        healed.watch.hits += count
        return healed


def _is_new(before: Tensor | None, after: Tensor | None) -> bool:
    return after is not None and bool(after.any()) and (before is None or not bool(before.any()))


def _words(tensor: Tensor) -> str:
    return f"an input of shape {tuple(tensor.shape)}"
