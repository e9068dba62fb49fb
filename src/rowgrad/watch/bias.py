"""How wrong is a gradient that detach has cut? The weights' gradient with and without detach, on the same batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from rowgrad.model.classifier import RowClassifier
from rowgrad.tap import find_taps
from rowgrad.watch.loggers import Log
from rowgrad.watch.norms import row_norms
from rowgrad.watch.quantities import COSINE, RATIO, STOPPED
from rowgrad.watch.settings import BiasSettings
from rowgrad.watch.stream import mean_over_ranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rowgrad.data.batches import Batch


class GradientBias(pl.Callback):
    """Takes the gradient without detach too, every `every_n_steps` optimizer steps, by one more pass over the batch.

    Training does not change, to the last bit: the pass uses the same images, weights and random numbers, and restores
    what it changes. Of a step of several micro-batches, it takes the first. If the scenario detaches nothing, nothing
    is measured.

    With g the gradient of all of the network's weights, and g* the one without detach, logs:
        * `grad_bias/cosine`: g · g* ÷ (‖g‖ ‖g*‖), 1 if detach does not change the direction
        * `grad_bias/norm_ratio`: ‖g‖ ÷ ‖g*‖
        * `row_grad_stopped/row_00` ...: ‖∂L/∂θ_r* − ∂L/∂θ_r‖ ÷ ‖∂L/∂θ_r*‖, the share of a row's whole gradient that
          detach stops; 0 if the row has no gradient

    Args:
        every_n_steps: optimizer steps from one comparison to the next.

    Raises:
        UserError: a value that is not accepted; it names the key.
    """

    def __init__(self, every_n_steps: int = BiasSettings.every_n_steps) -> None:
        self.every_n_steps = BiasSettings(every_n_steps=every_n_steps).every_n_steps
        self._batch: Batch | None = None
        self._rng_states: list[Tensor] = []  # before the training step
        self._sums: dict[str, float] = {}
        self._count = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the first micro-batch of a step that is due, and the state of the random numbers before it."""
        due = trainer.global_step % self.every_n_steps == 0 and batch_idx % trainer.accumulate_grad_batches == 0
        if due and _detaches(pl_module, trainer.global_step):
            self._batch, self._rng_states = batch, [torch.get_rng_state()]
            if pl_module.device.type == "cuda":
                self._rng_states.append(torch.cuda.get_rng_state(pl_module.device))

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares, before anything is added to the micro-batch's gradient."""
        batch, self._batch = self._batch, None
        if batch is None:
            return
        assert isinstance(pl_module, RowClassifier), "it has a scenario"
        leaves = [pl_module.theta, *(p for p in pl_module.network.parameters() if p.requires_grad)]
        without = self._without_detach(trainer, pl_module, batch, leaves)
        (rows_cut, g_cut), (rows_full, g_full) = (
            _joined(leaves, grads) for grads in ([p.grad for p in leaves], without)
        )
        compared = compare(g_cut, g_full) if len(g_cut) else {}  # a frozen network has no weights that learn
        if not all(torch.isfinite(value) for value in compared.values()):
            return  # the scaler of 16-bit precision will skip this step
        for tag, value in compared.items():
            self._sums[tag] = self._sums.get(tag, 0.0) + float(value)
        self._count += 1
        shape = (1, *pl_module.theta.shape)
        stopped = share_stopped(rows_cut.view(shape), rows_full.view(shape))
        if trainer.is_global_zero:
            scalars = {tag: value.cpu()[None] for tag, value in compared.items()}
            Log.of(trainer).write([trainer.global_step], scalars, {STOPPED: stopped.cpu()})

    def means(self) -> dict[str, float]:
        """Cosine and ratio of norms, averaged over the compared steps."""
        return {tag: value / self._count for tag, value in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """The sums behind `means`."""
        return {"sums": dict(self._sums), "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self._sums, self._count = dict(state_dict["sums"]), state_dict["count"]

    def _without_detach(
        self, trainer: pl.Trainer, module: RowClassifier, batch: Batch, leaves: list[Any]
    ) -> list[Tensor | None]:
        """The gradients of the same training step without detach, scaled as those of training are."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = (1.0 if scaler is None else scaler.get_scale()) / trainer.accumulate_grad_batches
        buffers = {buffer: buffer.clone() for buffer in module.network.buffers()}
        taps = {tap: tap.enabled for tap in find_taps(module).values()}
        devices = [module.device] if len(self._rng_states) > 1 else []
        try:
            module.scenario.detach = False
            for tap in taps:
                tap.enabled = False
            with torch.random.fork_rng(devices), trainer.precision_plugin.train_step_context():
                torch.set_rng_state(self._rng_states[0])
                for device, state in zip(devices, self._rng_states[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
                loss = module.training_step(batch, 0)["loss"] * scale
            return list(torch.autograd.grad(loss, leaves, allow_unused=True))
        finally:
            module.scenario.detach = True
            for tap, enabled in taps.items():
                tap.enabled = enabled
            with torch.no_grad():
                for buffer, before in buffers.items():
                    buffer.copy_(before)


def compares_gradients(trainer: pl.Trainer, module: pl.LightningModule) -> bool:
    """Whether a trainer has the callback and the module's scenario detaches something."""
    return _detaches(module) and any(isinstance(c, GradientBias) for c in getattr(trainer, "callbacks", []))


def measured_bias(trainer: pl.Trainer) -> dict[str, float]:
    """The means of a trainer's callback, by their tags; empty without one."""
    found = [c for c in getattr(trainer, "callbacks", []) if isinstance(c, GradientBias)]
    return found[0].means() if found else {}


def compare(g_cut: Tensor, g_full: Tensor) -> dict[str, Tensor]:
    """Cosine between two gradients (N,) and the ratio of their norms, by their tags; exactly 1 for equal gradients."""
    g_cut, g_full = g_cut.double(), g_full.double()
    product, cut, full = (g_cut * g_full).sum(), (g_cut * g_cut).sum(), (g_full * g_full).sum()
    return {COSINE: product / (cut * full).sqrt(), RATIO: (cut / full).sqrt()}


def share_stopped(g_cut: Tensor, g_full: Tensor) -> Tensor:
    """‖g*_r − g_r‖ ÷ ‖g*_r‖ of rows' gradients (N, C, H, W): (N, H); 0 for a row without a gradient."""
    full = row_norms(g_full)
    return torch.where(full > 0, row_norms(g_full - g_cut) / full, 0.0)


def _joined(leaves: Sequence[Tensor], grads: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """The gradient of the rows, which are the first leaf, and that of all weights, (N,) each, averaged over ranks."""
    pairs = zip(leaves, grads, strict=True)
    flat = torch.cat([(torch.zeros_like(leaf) if g is None else g).detach().flatten() for leaf, g in pairs])
    mean = mean_over_ranks(flat)
    rows = leaves[0].numel()
    return mean[:rows], mean[rows:]


def _detaches(module: pl.LightningModule, step: int | None = None) -> bool:
    """Whether a module's scenario detaches something, at any step or at a given one."""
    if not isinstance(module, RowClassifier) or module.scenario.is_noop or not module.scenario.detach:
        return False
    return step is None or module.scenario.is_active(step)
