"""The LightningModule: the camera's damage, row parameter θ, scenario, tap τ, network, loss.

    u = corruption(x) + θ,  v = scenario(u),  z = v + τ,  L = mean cross-entropy(network(z), labels)

θ taps the gradient before the scenario's cut and τ after it; broadcasting sums both over the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from rowgrad.randomness import Draw
from rowgrad.settings import check

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from torch.optim import Optimizer

    from rowgrad.corruption import Corruption
    from rowgrad.data import Batch
    from rowgrad.optimizers import Recipe
    from rowgrad.scenario import Scenario


class RowClassifier(pl.LightningModule):
    """A classifier in which every image row is a trainable input.

    Logs `val/acc`, `val/loss`, `test/acc`, `test/loss` and `test/acc_operated` (the test images put through the
    scenario as in training, with probability 1).

    Args:
        network: images (B, 1, H, W) -> logits (B, classes).
        corruption: what the camera does to every image.
        scenario: what happens to the rows.
        recipe: optimizer and schedule.
        height: H of the images.
        width: W of the images.
        classes: number of classes.
        label_smoothing: of the training loss, from 0 to 1 (Szegedy et al., arXiv:1512.00567).
        freeze: whether the network stays as it is, in evaluation mode, and only the rows learn.
        seed: the run's seed.

    Attributes:
        rows: θ, (H, W), zero at start, learnt.
        tap: τ, (H, W), always zero, never learnt. Without `tap.requires_grad` (the recorder switches it on) it is left
            out of the sum.
        trained: optimizer steps of the checkpoint that was loaded; evaluation goes by them.
    """

    def __init__(
        self,
        network: nn.Module,
        corruption: Corruption,
        scenario: Scenario,
        recipe: Recipe,
        *,
        height: int,
        width: int,
        classes: int,
        label_smoothing: float = 0.0,
        freeze: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check("model.label_smoothing", label_smoothing)
        check("model.freeze", freeze)
        self.network = network.requires_grad_(not freeze)
        self.corruption = corruption
        self.scenario = scenario
        self.recipe = recipe
        self.label_smoothing = label_smoothing
        self.frozen = freeze
        self.seed = seed
        self.trained = 0
        self.rows = nn.Parameter(torch.zeros(height, width))
        self.tap = nn.Parameter(torch.zeros(height, width), requires_grad=False)
        self.val_acc, self.test_acc, self.test_acc_operated = (
            MulticlassAccuracy(classes, average="micro") for _ in range(3)
        )
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Training mode or evaluation mode; a frozen network stays in the latter."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def forward(self, images: Tensor, draw: Draw) -> Tensor:
        """Normalised images x (B, 1, H, W) -> logits (B, classes)."""
        step = draw.step if self.training else max(self.trained, self.global_step, 1) - 1
        seen = self.scenario(self.corruption(images) + self.rows, draw, step)
        return self.network(seen + self.tap if self.tap.requires_grad else seen)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The micro-batch's share of the loss and the accuracy of one optimizer step."""
        logits = self(batch.images, self.training_draw(batch))
        loss = cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        accuracy = (logits.detach().argmax(1) == batch.labels).float().mean()
        if batch.weight != 1:
            loss, accuracy = loss * batch.weight, accuracy * batch.weight
        return {"loss": loss, "acc": accuracy}

    def training_draw(self, batch: Batch, steps_ago: int = 0) -> Draw:
        """The randomness of a batch in the optimizer step that is due, or of one that was `steps_ago`."""
        return Draw(self.seed, self.global_step - steps_ago, batch.first)

    def per_image_gradients(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What each image of a training batch contributes to its rows' gradient and to the input gradient.

        One pass more, which leaves no trace: no gradient, no statistics of batch normalisation, no random number that
        training would have had.

        Returns:
            ∂ΣL/∂u and ∂ΣL/∂z, (B, 1, H, W) each, where ΣL is the sum over the batch: their means over the images are
            ∂L/∂θ and ∂L/∂τ of this batch.
        """
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        device = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=device):
            images = (self.corruption(batch.images) + self.rows).detach().requires_grad_()
            seen = self.scenario(images, self.training_draw(batch))
            logits = functional_call(self.network, buffers, (seen,))
        loss = cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing, reduction="sum")
        of_images, of_seen = torch.autograd.grad(loss, (images, seen))
        return of_images, of_seen

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        """Clears τ's gradient, which no optimizer does."""
        self.tap.grad = None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs `val/loss` and `val/acc`."""
        self._evaluate("val", self.val_acc, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs `test/loss`, `test/acc` and `test/acc_operated`."""
        self._evaluate("test", self.test_acc, batch)
        operated = self.scenario.routed(self.corruption(batch.images) + self.rows, self._evaluation_draw(batch), 1.0)
        self._log_accuracy("test/acc_operated", self.test_acc_operated, self.network(operated), batch)

    def _evaluate(self, stage: str, accuracy: MulticlassAccuracy, batch: Batch) -> None:
        logits = self(batch.images, self._evaluation_draw(batch))
        loss = cross_entropy(logits, batch.labels)
        self.log(f"{stage}/loss", loss, on_epoch=True, batch_size=len(batch.labels), sync_dist=True)
        self._log_accuracy(f"{stage}/acc", accuracy, logits, batch)

    def _log_accuracy(self, tag: str, accuracy: MulticlassAccuracy, logits: Tensor, batch: Batch) -> None:
        accuracy.update(logits, batch.labels)
        self.log(tag, accuracy, on_epoch=True, batch_size=len(batch.labels), prog_bar=tag == "val/acc")

    def _evaluation_draw(self, batch: Batch) -> Draw:
        """Evaluation draws the same numbers every time, others than any training step."""
        return Draw(self.seed, -1, batch.first)

    def sentence(self) -> str:
        """What happens to the images and who learns, in plain sentences."""
        frozen = "The network is frozen: only the rows learn." if self.frozen else ""
        return " ".join(filter(None, [self.scenario.sentence(), self.corruption.sentence(), frozen]))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """θ and the network's weights, by the recipe. τ is left out."""
        # Asked for after the first step only: Lightning would make the loader now, before a checkpoint gives it its
        # position, and would then never give it.
        clips = self.trainer.gradient_clip_val and self.trainer.precision in {"16-mixed", "bf16-mixed"}
        optimizer, schedule = self.recipe.build(
            self.network,
            self.rows,
            lambda: int(self.trainer.estimated_stepping_batches),
            fused=not clips,  # Lightning 2.6 refuses that together
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
