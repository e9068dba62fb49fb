"""How wrong is a gradient that detach has cut? The weights' gradient beside that without detach, on one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from rowgrad.model.classifier import RowClassifier
from rowgrad.watch.norms import row_norms
from rowgrad.watch.outlets import table_of, write_to_loggers
from rowgrad.watch.quantities import COSINE, RATIO, STOPPED
from rowgrad.watch.ranks import Ranks
from rowgrad.watch.settings import BiasSettings
from rowgrad.watch.taps import find_taps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rowgrad.data.batches import Batch

CHARTS = {
    "Weights' gradient beside the one without detach: cosine": COSINE,
    "Weights' gradient beside the one without detach: ratio of norms": RATIO,
}


class GradientBias(pl.Callback):
    """Takes the gradient without detach too, every so many optimizer steps, by one more pass over the same batch.

    Training is left as it is to the last bit: the pass sees the same images, weights and random numbers, and what it
    changes is put back. Of a step of several micro-batches, the first is looked at. Nothing is measured where the
    scenario detaches nothing.

    With g the gradient of all of the network's weights, and g* the one without detach, logs:
        * `grad_bias/cosine`: g · g* ÷ (‖g‖ ‖g*‖), 1 where detach does not turn it
        * `grad_bias/norm_ratio`: ‖g‖ ÷ ‖g*‖
        * `row_grad_stopped/row_00` ...: ‖∂L/∂θ_r* − ∂L/∂θ_r‖ ÷ ‖∂L/∂θ_r*‖, the share of a row's whole gradient that
          detach stops; 0 where there is none

    Args:
        every_n_steps: optimizer steps from one look to the next.

    Raises:
        UserError: a value that is not accepted; it names the key.
    """

    def __init__(self, every_n_steps: int = BiasSettings.every_n_steps) -> None:
        self.every_n_steps = BiasSettings(every_n_steps=every_n_steps).every_n_steps
        self.charts: dict[str, str] = {}
        self._batch: Batch | None = None
        self._numbers: list[Tensor] = []  # states of the generators before the training step
        self._sums: dict[str, float] = {}
        self._count = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Says which charts there will be."""
        self.charts = CHARTS if _detaches(pl_module) else {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps what the first micro-batch of a step that is due begins with."""
        due = trainer.global_step % self.every_n_steps == 0 and batch_idx % trainer.accumulate_grad_batches == 0
        if due and _detaches(pl_module, trainer.global_step):
            self._batch, self._numbers = batch, [torch.get_rng_state()]
            if pl_module.device.type == "cuda":
                self._numbers.append(torch.cuda.get_rng_state(pl_module.device))

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares, before anything is added to the micro-batch's gradient."""
        batch, self._batch = self._batch, None
        if batch is None:
            return
        assert isinstance(pl_module, RowClassifier), "it has a scenario"
        leaves = [pl_module.theta, *(p for p in pl_module.network.parameters() if p.requires_grad)]
        whole = self._without_detach(trainer, pl_module, batch, leaves)
        (rows, ours), (all_rows, theirs) = (
            _joined(Ranks(trainer), leaves, gradients) for gradients in ([p.grad for p in leaves], whole)
        )
        columns = compare(ours, theirs) if len(ours) else {}  # a frozen network has no weights that learn
        if not all(torch.isfinite(value) for value in columns.values()):
            return  # a step that the scaler of 16-bit precision will skip
        for tag, value in columns.items():
            self._sums[tag] = self._sums.get(tag, 0.0) + float(value)
        self._count += 1
        shape = (1, *pl_module.theta.shape)
        stopped = share_stopped(rows.view(shape), all_rows.view(shape))
        if trainer.is_global_zero:
            tags, table = table_of({STOPPED: stopped.cpu()}, {tag: v.cpu()[None] for tag, v in columns.items()})
            write_to_loggers(trainer, [trainer.global_step], tags, table)

    def means(self) -> dict[str, float]:
        """Cosine and ratio of norms, averaged over the steps that were looked at."""
        return {tag: value / self._count for tag, value in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """What the means are made of."""
        return {"sums": dict(self._sums), "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it from a checkpoint."""
        self._sums, self._count = dict(state_dict["sums"]), state_dict["count"]

    def _without_detach(
        self, trainer: pl.Trainer, module: RowClassifier, batch: Batch, leaves: list[Any]
    ) -> list[Tensor | None]:
        """The gradients that the training step would have given without detach, scaled as those of training are."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = (1.0 if scaler is None else scaler.get_scale()) / trainer.accumulate_grad_batches
        buffers = {buffer: buffer.clone() for buffer in module.network.buffers()}
        taps = {tap: tap.enabled for tap in find_taps(module).values()}
        devices = [module.device] if len(self._numbers) > 1 else []
        try:
            module.scenario.detach = False
            for tap in taps:
                tap.enabled = False
            with torch.random.fork_rng(devices), trainer.precision_plugin.train_step_context():
                torch.set_rng_state(self._numbers[0])
                for device, numbers in zip(devices, self._numbers[1:], strict=True):
                    torch.cuda.set_rng_state(numbers, device)
                loss = module.training_step(batch, 0)["loss"] * scale
            return list(torch.autograd.grad(loss, leaves, allow_unused=True))
        finally:
            module.scenario.detach = True
            for tap, was_on in taps.items():
                tap.enabled = was_on
            with torch.no_grad():
                for buffer, before in buffers.items():
                    buffer.copy_(before)


def compares_gradients(trainer: pl.Trainer, module: pl.LightningModule) -> bool:
    """Whether a trainer has the callback, and the module's scenario detaches something."""
    return _detaches(module) and any(isinstance(c, GradientBias) for c in getattr(trainer, "callbacks", []))


def measured_bias(trainer: pl.Trainer) -> dict[str, float]:
    """What a trainer's callback has measured, on average."""
    watchers = [c for c in getattr(trainer, "callbacks", []) if isinstance(c, GradientBias)]
    return watchers[0].means() if watchers else {}


def compare(ours: Tensor, theirs: Tensor) -> dict[str, Tensor]:
    """Cosine between two gradients (N,) and the ratio of their norms, by their tags; exactly 1 of equal ones."""
    ours, theirs = ours.double(), theirs.double()
    across, own, other = (ours * theirs).sum(), (ours * ours).sum(), (theirs * theirs).sum()
    return {COSINE: across / (own * other).sqrt(), RATIO: (own / other).sqrt()}


def share_stopped(used: Tensor, whole: Tensor) -> Tensor:
    """‖g*_r − g_r‖ ÷ ‖g*_r‖ of rows' gradients (N, C, H, W): (N, H); 0 where there is no gradient to stop."""
    everything = row_norms(whole)
    return torch.where(everything > 0, row_norms(whole - used) / everything, 0.0)


def _joined(ranks: Ranks, leaves: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """The gradient of the rows, which come first, and that of all weights, (N,) each, of all ranks."""
    pairs = zip(leaves, gradients, strict=True)
    flat = torch.cat([(torch.zeros_like(leaf) if g is None else g).detach().flatten() for leaf, g in pairs])
    mean = ranks.mean("the gradient", flat)
    assert mean is not None, "it is known here"
    rows = leaves[0].numel()
    return mean[:rows], mean[rows:]


def _detaches(module: pl.LightningModule, step: int | None = None) -> bool:
    """Whether a module has a scenario that detaches, at some step or at a certain one."""
    if not isinstance(module, RowClassifier) or module.scenario.is_noop or not module.scenario.detach:
        return False
    return step is None or module.scenario.is_active(step)
