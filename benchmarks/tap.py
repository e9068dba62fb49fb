"""The cost of recording gradients in a plain LightningModule: ResNet-18, 3×32×32 images, batch 64.

Each way of watching against the same training without: the tap and the recorder, Lightning's `grad_norm` logged at each
step, and `wandb.watch` with all gradients at each step.
"""

from __future__ import annotations

import itertools
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from alternate import Pace, compare
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import grad_norm
from measure import Result, main, say
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

from rowgrad import RowGradientRecorder, RowTap

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    # A folder -> what is trained, and the Trainer's arguments with what watches it.
    Made = tuple[pl.LightningModule, dict[str, Any]]
    Variant = Callable[[Path], Made]

BATCH = 64


class Plain(pl.LightningModule):
    """ResNet-18 with ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.network = resnet18(num_classes=10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) -> logits (B, 10)."""
        return self.network(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Mean cross-entropy."""
        images, labels = batch
        return cross_entropy(self(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD, the cheapest optimizer, so that the relative cost of recording is not understated."""
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class GradNorm(Plain):
    """Logs the norm of each parameter's gradient by Lightning's `grad_norm`."""

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Logs the norms, as in Lightning's documentation."""
        self.log_dict(grad_norm(self, norm_type=2))


class NeedsInputGradient(Plain):
    """The same module, which also computes the gradient of the images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) -> logits (B, 10)."""
        return self.network(x.detach().requires_grad_())


class Tapped(Plain):
    """The same module with a tap on the images."""

    def __init__(self) -> None:
        super().__init__()
        self.tap = RowTap()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) -> logits (B, 10)."""
        return self.network(self.tap(x))


def plain(folder: Path) -> Made:
    """Records nothing."""
    return Plain(), {"logger": False}


def with_input_gradient(folder: Path) -> Made:
    """Records nothing, but computes the gradient of the images."""
    return NeedsInputGradient(), {"logger": False}


def with_tap(folder: Path) -> Made:
    """The tap on the images and the recorder, to TensorBoard and CSV."""
    return Tapped(), {"logger": TensorBoardLogger(folder), "callbacks": [RowGradientRecorder()]}


def with_layers(folder: Path) -> Made:
    """A tap, added by the recorder, before each of the four groups of layers: no further gradient is computed."""
    recorder = RowGradientRecorder(modules=[f"network.layer{number}" for number in range(1, 5)])
    return Plain(), {"logger": TensorBoardLogger(folder), "callbacks": [recorder]}


def with_layer_norms(folder: Path) -> Made:
    """The norms of each layer's parameters' gradients, without a tap."""
    return Plain(), {"logger": TensorBoardLogger(folder), "callbacks": [RowGradientRecorder(layers=True)]}


def with_grad_norm(folder: Path) -> Made:
    """Lightning's `grad_norm`, to TensorBoard."""
    return GradNorm(), {"logger": TensorBoardLogger(folder), "log_every_n_steps": 1}


def with_wandb(folder: Path) -> Made:
    """Histograms of all gradients, kept on this machine."""
    module, logger = Plain(), WandbLogger(save_dir=folder, offline=True)
    logger.watch(module, log="gradients", log_freq=1)
    return module, {"logger": logger, "log_every_n_steps": 1}


def train(pace: Pace, variant: Variant, device: str) -> None:
    """Trains a variant on one batch that stays in memory, as a loop."""
    pl.seed_everything(0, verbose=False)
    module, watched = variant(pace.folder)
    images, labels = torch.randn(BATCH, 3, 32, 32, device=device), torch.randint(10, (BATCH,), device=device)
    trainer = pl.Trainer(
        accelerator=device, devices=1, max_steps=10**6, callbacks=[*watched.pop("callbacks", []), pace],
        default_root_dir=pace.folder, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **watched,
    )  # fmt: skip
    trainer.fit(module, itertools.repeat((images, labels)))


def measure(device: str, quick: bool = False) -> list[Result]:
    """Compares each variant with a training that computes the same gradients, or with the plain one."""
    ways: dict[str, tuple[Variant, Variant, str | None]] = {
        "taps on four layers and recorder": (with_layers, plain, "≤ 1.02"),
        "tap on the images and recorder": (with_tap, with_input_gradient, "≤ 1.02"),
        "layers=True": (with_layer_norms, plain, "≤ 1.02"),
        "the gradient of the images, unwatched": (with_input_gradient, plain, None),
        "grad_norm": (with_grad_norm, plain, None),
    }
    if find_spec("wandb"):
        ways["wandb.watch"] = (with_wandb, plain, None)
    else:
        say("wandb is not installed: wandb.watch is left out")
    results = []
    for name, (variant, base, bound) in ways.items():
        beside = "plain" if base is plain else "plain, with the gradient of the images"
        loops = {side: partial(train, variant=made, device=device) for side, made in ((name, variant), (beside, base))}
        what = f"a step with {name} ÷ one that is {beside} (ResNet-18, 3×32×32, batch {BATCH})"
        result = Result("tap", what, (name, beside), bound, "ms a step", {})
        # Its steps take ten times as long as the others', and its turns should not.
        launches = 6 if bound else 2  # what has no bound needs no interval
        results.append(compare(result, loops, device, quick=quick, turn=4, pairs=1, launches=launches))
    return results


if __name__ == "__main__":
    main(__doc__, measure)
