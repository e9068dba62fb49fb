"""Which parameters learn, how fast, and on what schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LambdaLR

from rowgrad.settings import check

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from torch.optim import Optimizer


@dataclass(frozen=True)
class Recipe:
    """An optimizer for the network and the rows, and its schedule.

    Attributes:
        algorithm: makes the optimizer from parameter groups, as in `functools.partial(torch.optim.AdamW)`.
        lr: the network's learning rate; with `one_cycle` the peak.
        weight_decay: of the network's weights; biases and normalisation have none.
        rows_lr: the row parameter's learning rate; with `one_cycle` the peak.
        rows_weight_decay: the row parameter's. It would move rows that detach has cut.
        schedule: `one_cycle` (Smith and Topin, arXiv:1708.07120, cosine in both halves) or `constant`.
        warmup: share of the steps in which `one_cycle` rises.

    Raises:
        UserError: a value that is not accepted; it names the key.
    """

    algorithm: Callable[..., Optimizer]
    lr: float
    weight_decay: float = 0.0
    rows_lr: float = 0.0
    rows_weight_decay: float = 0.0
    schedule: str = "one_cycle"
    warmup: float = 0.3

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "algorithm":
                check(f"optimizer.{field.name}", getattr(self, field.name))

    def build(
        self, network: nn.Module, rows: nn.Parameter, steps: Callable[[], int], *, fused: bool = True
    ) -> tuple[Optimizer, LambdaLR]:
        """The optimizer and its schedule, to be advanced after every step.

        Args:
            network: its matrices and kernels decay, its vectors (biases, normalisation) do not.
            rows: θ, (H, W).
            steps: tells the optimizer steps of the whole run; called after the first step, not before.
            fused: whether `algorithm` may be one that is fused.
        """
        weights = [p for p in network.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in weights if p.ndim > 1], "lr": self.lr, "weight_decay": self.weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "lr": self.lr, "weight_decay": 0.0},
            {"params": [rows], "lr": self.rows_lr, "weight_decay": self.rows_weight_decay},
        ]
        unfused = {} if fused or not getattr(self.algorithm, "keywords", {}).get("fused") else {"fused": False}
        optimizer = self.algorithm([group for group in groups if group["params"]], **unfused)

        def factor(step: int) -> float:
            return 1.0 if self.schedule == "constant" else one_cycle(step, steps() if step else 1, self.warmup)

        return optimizer, LambdaLR(optimizer, factor)


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """The one-cycle schedule as a function of the step: factor of the peak rate, from 1/25 up to 1 and down to 4e-6.

    A function, not a state: a run that is extended follows the longer run's schedule from there on.

    Args:
        step: optimizer step, counted from 0.
        steps: optimizer steps of the whole run.
        warmup: share of the steps in which it rises.
    """
    start, end, top = 1 / 25, 1 / 25e4, max(warmup * steps - 1, 1)
    if step <= top:
        return start + (1 - start) * (1 - math.cos(math.pi * step / top)) / 2
    progress = min((step - top) / max(steps - 1 - top, 1), 1)
    return end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2
