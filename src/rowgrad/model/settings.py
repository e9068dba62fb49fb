"""Settings of `model` and `optimizer`, with defaults and limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rowgrad.config import A_NAME, BOOLEAN, GROUP, NOT_NEGATIVE, SHARE, Settings, number, one_of, or_null, setting, text


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings, key="model"):
    """Network, loss and metrics."""

    name: str = setting("custom", A_NAME, "name of the network")
    network: Any = setting({}, GROUP, "a _target_ and its arguments: images (B, C, H, W) -> logits (B, classes)")
    label_smoothing: float = setting(0.05, SHARE, "label smoothing of the training loss (arXiv:1512.00567)")
    checkpoint: str | None = setting(
        None, or_null(text("a run's folder")), "a run's folder, or a checkpoint: initial weights of the network"
    )
    freeze: bool = setting(False, BOOLEAN, "freeze the network in evaluation mode; only the rows learn")
    metrics: Any = setting({}, GROUP, "further torchmetrics metrics, by name: logged as val/<name> and test/<name>")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Settings, key="optimizer"):
    """Optimizer, learning rates, weight decay and schedule."""

    algorithm: Any = setting({}, GROUP, "a _target_ that returns an optimizer of parameter groups")
    lr: float = setting(0.01, NOT_NEGATIVE, "the network's learning rate; with one_cycle the peak")
    weight_decay: float = setting(0.01, NOT_NEGATIVE, "of the network's weights; biases and normalisation have none")
    rows_lr: float = setting(0.01, NOT_NEGATIVE, "the row parameter's learning rate; with one_cycle the peak")
    rows_weight_decay: float = setting(0.0, NOT_NEGATIVE, "the row parameter's; it would move rows that detach has cut")
    schedule: str = setting(
        "one_cycle", one_of("one_cycle", "constant"), "one_cycle: Smith and Topin, arXiv:1708.07120, with cosines"
    )
    warmup: float = setting(0.3, number("between 0 and 1", lambda v: 0 < v < 1), "share of the steps in which it rises")
