"""Who makes a row's gradient zero: detach, or the loss, which has no use for the row either way."""

from __future__ import annotations

import copy
from enum import Enum
from typing import TYPE_CHECKING

import torch

from rowgrad.randomness import Draw
from rowgrad.scenario.settings import STATE

if TYPE_CHECKING:
    from rowgrad.data.settings import Shape
    from rowgrad.scenario.scenario import Scenario

COUNT = 16  # images of noise: with a small probability, one of them is hit


class ZeroCause(Enum):
    """What makes the zeros that a scenario leaves in its rows, as `summary.json` calls it (`zeros_by`)."""

    DETACH = "detach"
    LOSS = "the loss"
    OPERATION = "the operation"
    NONE = "none"


def find_zero_cause(scenario: Scenario, shape: Shape) -> ZeroCause:
    """Who makes the zeros, found by asking what would come back without detach.

    Where the network does not see the rows it is the loss; where it does, and the operation lets nothing back through
    by itself, as one that rounds, it is the operation. Both times detach makes no difference.

    Args:
        scenario: that is looked at, and stays as it is.
        shape: of its images.
    """
    if scenario.is_noop or scenario.route == "observe":
        return ZeroCause.NONE
    if scenario.route == "exclude":
        return ZeroCause.LOSS
    if scenario.route != STATE and not _lets_gradient_through(scenario, shape):
        return ZeroCause.OPERATION
    return ZeroCause.DETACH if scenario.detach else ZeroCause.NONE


def describe_zeros(found: ZeroCause, *, detach: bool, route: str) -> str:
    """Who makes the zeros, in words that say why; where nobody does, what detach does instead.

    Args:
        found: who it is, in a scenario that selects rows.
        detach: whether detach is on.
        route: the scenario's.
    """
    if found is ZeroCause.LOSS:
        why = "the network never sees these rows, so they get 0 with detach and without"
    elif found is ZeroCause.OPERATION:
        why = "it lets no gradient back through these rows, detached or not"
    elif found is ZeroCause.DETACH and route == STATE:
        return "detach: without it, gradient would go on through the state to the rows above"
    elif found is ZeroCause.DETACH:
        return "detach: the loss uses these rows, and without detach gradient would reach them"
    elif route == "observe" and detach:
        return "detach is on copies that only observers see: nothing that is learnt from is cut"
    else:
        return "detach is off: this is the control of the same run with it"
    return f"{found.value}, not detach: {why}" + ("" if detach else " (detach is off here)")


def zeros_sentence(found: ZeroCause, *, detach: bool, route: str) -> str:
    """The same as a sentence by itself."""
    words = describe_zeros(found, detach=detach, route=route)
    return f"{words[0].upper()}{words[1:]}." if found is ZeroCause.NONE else f"Zeros are made by {words}."


@torch.enable_grad()
def _lets_gradient_through(scenario: Scenario, shape: Shape) -> bool:
    """Whether gradient comes back to a selected row of some image of noise, with detach off."""
    control = copy.deepcopy(scenario).cpu()
    control.detach = False
    noise = torch.Generator().manual_seed(0)
    images, weights = torch.randn(2, COUNT, shape.channels, shape.height, shape.width, generator=noise).unbind()
    images.requires_grad_()
    seen = control.routed(images, Draw(0, 0), control.probability)
    (gradient,) = torch.autograd.grad((seen * weights).sum(), images)
    return bool(gradient[:, :, torch.tensor(control.chosen)].any())
