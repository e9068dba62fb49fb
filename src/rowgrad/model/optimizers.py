"""Which parameters learn, how fast, and on what schedule."""

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
    """The optimizer of network and rows and its schedule, to be advanced after every step.

    Args:
        settings: what `optimizer` says.
        algorithm: makes an optimizer of parameter groups, as in `functools.partial(torch.optim.AdamW)`.
        network: its matrices and kernels decay, its vectors (biases, normalisation) do not.
        theta: θ, the row parameter.
        steps: tells the optimizer steps of the whole run; None where nobody knows yet: see `set_rates`.
        fused: whether `algorithm` may be one that is fused.
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
    """Sets the rates of the step that is due by the steps of the whole run, which are known, or others, only now."""
    groups = schedule.optimizer.param_groups
    for group, peak, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = peak * factor(schedule.last_epoch)


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """The one-cycle schedule as a function of the step: factor of the peak rate, from 1/25 up to 1 and down to 4e-6.

    It is `torch.optim.lr_scheduler.OneCycleLR` for any number of steps, one included, which has the last rate, 4e-6.
    A function, not a state: a run that is extended follows the longer run's schedule from there on.

    Args:
        step: optimizer step, counted from 0.
        steps: optimizer steps of the whole run.
        warmup: share of the steps in which it rises.
    """
    start, end, top = 1 / 25, 1 / 25e4, warmup * steps - 1
    if step >= steps:
        return end
    if step == top:  # torch divides by zero where that is the first step
        return 1.0
    if step < top:
        return start + (1 - start) * (1 - math.cos(math.pi * step / top)) / 2
    progress = (step - top) / (steps - 1 - top)
    return end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2
