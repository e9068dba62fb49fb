"""What makes a row's gradient zero: detach, the loss (which ignores the row), or the operation."""

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

COUNT = 16  # images of noise, so that an operation with a small probability is used in one of them


class ZeroCause(Enum):
    """The cause of the zeros in a scenario's rows, as `zeros_by` in `summary.json`; in words: `watch/wording.py`."""

    DETACH = "detach"
    LOSS = "the loss"
    OPERATION = "the operation"
    NONE = "none"


def find_zero_cause(scenario: Scenario, shape: Shape) -> ZeroCause:
    """Finds the cause by asking which gradient would come back without detach.

    It is the loss if the network does not see the rows. It is the operation if the network sees them and the operation
    has zero gradient, as rounding has. In both cases the zeros are there with detach and without it.

    Args:
        scenario: it is not changed.
        shape: of its images.
    """
    if scenario.is_noop or scenario.route == "observe":
        return ZeroCause.NONE
    if scenario.route == "exclude":
        return ZeroCause.LOSS
    if scenario.route != STATE and not _lets_gradient_through(scenario, shape):
        return ZeroCause.OPERATION
    return ZeroCause.DETACH if scenario.detach else ZeroCause.NONE


@torch.enable_grad()
def _lets_gradient_through(scenario: Scenario, shape: Shape) -> bool:
    """Whether any selected row of `COUNT` noise images gets gradient with detach off."""
    control = copy.deepcopy(scenario).cpu()
    control.detach = False
    noise = torch.Generator().manual_seed(0)
    images, weights = torch.randn(2, COUNT, shape.channels, shape.height, shape.width, generator=noise).unbind()
    images.requires_grad_()
    seen = control.routed(images, Draw(0, 0), control.probability)
    (gradient,) = torch.autograd.grad((seen * weights).sum(), images)
    return bool(gradient[:, :, torch.tensor(control.chosen)].any())
