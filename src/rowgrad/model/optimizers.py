"""Optimizer, parameter groups and learning-rate schedule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from torch.optim import Optimizer

    from rowgrad.model.settings import OptimizerSettings


def make_optimizer(
    settings: OptimizerSettings,
    algorithm: Callable[..., Optimizer],
    network: nn.Module,
    theta: nn.Parameter,
    steps: Callable[[], int | None],
    *,
    fused: bool = True,
) -> tuple[Optimizer, LambdaLR]:
    """Returns the optimizer of network and rows, and its schedule, which advances after every optimizer step.

    Args:
        settings: the settings of `optimizer`.
        algorithm: returns an optimizer of parameter groups, as `functools.partial(torch.optim.AdamW)` does.
        network: weight decay applies to its matrices and kernels, not to its vectors (biases, normalisation).
        theta: θ, the row parameter.
        steps: returns the number of optimizer steps of the whole run, or None if it is not known yet: see `set_rates`.
        fused: whether a fused optimizer is allowed.
    """
    weights = [p for p in network.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in weights if p.ndim > 1], "lr": settings.lr, "weight_decay": settings.weight_decay},
        {"params": [p for p in weights if p.ndim <= 1], "lr": settings.lr, "weight_decay": 0.0},
        {"params": [theta], "lr": settings.rows_lr, "weight_decay": settings.rows_weight_decay},
    ]
    unfused = {} if fused or not getattr(algorithm, "keywords", {}).get("fused") else {"fused": False}
    optimizer = algorithm([group for group in groups if group["params"]], **unfused)

    def factor(step: int) -> float:
        if settings.schedule == "constant" or (known := steps()) is None:
            return 1.0
        return one_cycle(step, known, settings.warmup)

    return optimizer, LambdaLR(optimizer, factor)


def set_rates(schedule: LambdaLR) -> None:
    """Sets the learning rates of the next step, once the number of steps of the run is known or has changed."""
    groups = schedule.optimizer.param_groups
    for group, peak, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = peak * factor(schedule.last_epoch)


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """One-cycle schedule: the factor of the peak rate, which rises from 1/25 to 1 and falls to 4e-6.

    Equals `torch.optim.lr_scheduler.OneCycleLR`, but has no state: a run that is extended continues on the longer run's
    schedule. A run of a single step has the last rate, 4e-6.

    Args:
        step: optimizer step, counted from 0.
        steps: optimizer steps of the whole run.
        warmup: fraction of the steps in which the rate rises.
    """
    start, end, top = 1 / 25, 1 / 25e4, warmup * steps - 1
    if step >= steps:
        return end
    if step == top:  # at step 0 the next formula would divide by zero
        return 1.0
    if step < top:
        return start + (1 - start) * (1 - math.cos(math.pi * step / top)) / 2
    progress = (step - top) / (steps - 1 - top)
    return end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2
