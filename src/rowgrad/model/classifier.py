"""The LightningModule: corruption, row parameter θ, scenario, taps, network, loss.

    u = corruption(x) + θ,  v = scenario(u),  z = v + τ,  L = mean cross-entropy(network(z), labels)

The tap `row` sits before the scenario's cut and accumulates ∂L/∂θ. The tap `input` sits after it and accumulates ∂L/∂τ,
where τ is always zero and never learnt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from rowgrad.model.optimizers import set_rates
from rowgrad.model.settings import ModelSettings
from rowgrad.randomness import Draw
from rowgrad.scenario.settings import STATE
from rowgrad.tap import RowTap, Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR
    from torchmetrics import Metric

    from rowgrad.data.batches import Batch
    from rowgrad.data.settings import Shape
    from rowgrad.scenario.corruption import Corruption
    from rowgrad.scenario.scenario import Scenario


class RowClassifier(pl.LightningModule):
    """A classifier in which every image row is a trainable input.

    Logs `val/acc`, `val/loss`, `test/acc`, `test/loss` and `test/acc_operated` (with the scenario's operation applied
    to every test image), and the same for each further metric.

    Args:
        network: images (B, C, H, W) -> logits (B, classes), or (B, H, classes) for a prediction after each row.
        corruption: offsets that are added to every image.
        scenario: selects, changes and detaches rows.
        optimizer: returns optimizer and schedule; `make_optimizer` with its settings bound.
        shape: shape of the images.
        settings: the settings of `model`.
        metrics: further torchmetrics metrics, by name.
        seed: the run's seed.

    Attributes:
        theta: θ, (C, H, W), learnt, initially zero.
        row: the tap before the scenario. Its batch sum equals θ's gradient, so it is enabled only to get the gradients
            of single images.
        input: the tap after the scenario, for ∂L/∂τ. The recorder enables it.
        trained: optimizer steps of the loaded checkpoint, for the scenario's schedule in evaluation.
    """

    def __init__(
        self,
        network: nn.Module,
        corruption: Corruption,
        scenario: Scenario,
        optimizer: Callable[..., tuple[Optimizer, LambdaLR]],
        *,
        shape: Shape,
        settings: ModelSettings | None = None,
        metrics: Mapping[str, Metric] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        settings = settings or ModelSettings()
        self.network = network.requires_grad_(not settings.freeze)
        self.corruption = corruption
        self.scenario = scenario
        self.make_optimizer = optimizer
        self.label_smoothing = settings.label_smoothing
        self.frozen = settings.freeze
        self.seed = seed
        self.trained = 0
        self.theta = nn.Parameter(torch.zeros(shape.channels, shape.height, shape.width))
        self.row, self.input = RowTap(enabled=False), RowTap(enabled=False)
        selected = () if scenario.route == STATE else scenario.chosen  # this route cuts between rows, not rows
        self.watched = Watched(("row", "input"), selected, ("loss", "acc"))
        measured = {"acc": MulticlassAccuracy(shape.classes, average="micro"), **(metrics or {})}
        self.metrics = nn.ModuleDict(
            {
                views: nn.ModuleDict({name: metric.clone() for name, metric in measured.items()})
                for views in ("val", "test", "test_operated")
            }
        )
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode; a frozen network stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def forward(self, images: Tensor, draw: Draw) -> Tensor:
        """Normalised images x (B, C, H, W) -> logits (B, classes), or (B, H, classes) for one prediction per row."""
        step = draw.step if self.training else self.last_step
        rows = self.row(self.corruption(images) + self.theta)
        seen = self.input(self.scenario(rows, draw, step))
        edges = self.scenario.edges(len(images), draw, step)
        return self.network(seen, edges) if edges else self.network(seen)

    @property
    def last_step(self) -> int:
        """Index of the last trained optimizer step, for the scenario's schedule in evaluation."""
        return max(self.trained, self.global_step, 1) - 1

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Returns loss and accuracy of a micro-batch, weighted so that their average is that of the optimizer step."""
        logits = self(batch.images, self.training_draw(batch))
        loss = mean_loss(logits, batch.labels, self.label_smoothing)
        accuracy = (final(logits.detach()).argmax(1) == batch.labels).float().mean()
        if batch.weight != 1:
            loss, accuracy = loss * batch.weight, accuracy * batch.weight
        return {"loss": loss, "acc": accuracy}

    def training_draw(self, batch: Batch, steps_ago: int = 0) -> Draw:
        """Returns the randomness of a batch in the current optimizer step, or in the one `steps_ago` before it."""
        return Draw(self.seed, self.global_step - steps_ago, batch.first)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs `val/loss`, `val/acc` and the other metrics."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs `test/loss`, `test/acc`, `test/acc_operated` and the other metrics."""
        self._evaluate("test", batch)
        operated = self.scenario.routed(self.corruption(batch.images) + self.theta, self._evaluation_draw(batch), 1.0)
        self._log_metrics("test", "_operated", self.network(operated), batch)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        logits = self(batch.images, self._evaluation_draw(batch))
        loss = mean_loss(logits, batch.labels)
        self.log(f"{stage}/loss", loss, on_epoch=True, batch_size=len(batch.labels), sync_dist=True)
        self._log_metrics(stage, "", logits, batch)

    def _log_metrics(self, stage: str, views: str, logits: Tensor, batch: Batch) -> None:
        for name, metric in cast("nn.ModuleDict", self.metrics[stage + views]).items():
            tag = f"{stage}/{name}{views}"
            cast("Metric", metric).update(final(logits), batch.labels)
            self.log(
                tag, cast("Metric", metric), on_epoch=True, batch_size=len(batch.labels), prog_bar=tag == "val/acc"
            )

    def _evaluation_draw(self, batch: Batch) -> Draw:
        """Returns randomness that is the same in every evaluation and differs from that of every training step."""
        return Draw(self.seed, -1, batch.first)

    def sentence(self) -> str:
        """Describes scenario, corruption and what is learnt, in plain sentences."""
        frozen = "The network is frozen: only the rows learn." if self.frozen else ""
        return " ".join(filter(None, [self.scenario.sentence(), self.corruption.sentence(), frozen]))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Returns the optimizer of θ and the network's weights, and its schedule."""
        clips = self.trainer.gradient_clip_val and self.trainer.precision in {"16-mixed", "bf16-mixed"}
        optimizer, schedule = self.make_optimizer(
            self.network,
            self.theta,
            self._steps,
            fused=not clips,  # Lightning 2.6 raises for clipping with a fused optimizer
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _steps(self) -> int | None:
        # estimated_stepping_batches creates the loader. Before a checkpoint is restored, that would lose its position.
        return None if self.trainer.train_dataloader is None else int(self.trainer.estimated_stepping_batches)

    def on_train_start(self) -> None:
        """Sets the learning rates of the first step; the number of steps is not known earlier."""
        set_rates(cast("LambdaLR", self.lr_schedulers()))


def mean_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Returns L, the mean cross-entropy over images, and over the predictions of each image.

    Args:
        logits: (B, classes), or (B, H, classes).
        labels: (B,).
        smoothing: label smoothing, from 0 to 1.
    """
    if logits.ndim > 2:  # noqa: PLR2004
        labels = labels.repeat_interleave(logits.shape[1])
    return cross_entropy(logits.reshape(-1, logits.shape[-1]), labels, label_smoothing=smoothing)


def final(logits: Tensor) -> Tensor:
    """Returns the logits (B, classes) of the final prediction: the last one of (B, H, classes)."""
    return logits if logits.ndim == 2 else logits[:, -1]  # noqa: PLR2004
