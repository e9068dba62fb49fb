"""How exact the recorded norms are: recomputes each in 64 bits, from the same weights and images.

    python tools/exactness.py model=cnn data=mnist --steps 100

Trains `scenario=augment`, with rows 0–13 shifted in every image, and prints by how much recorded norms differ from
plain `torch.autograd.grad` in float64, written out here. Overrides may set anything but the scenario.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.nn.functional import cross_entropy

import rowgrad

SCENARIO = ["scenario=augment", "scenario.rows=0:14", "scenario.operation=shift 1", "scenario.probability=1"]
WATCHED = ["callbacks.progress=null", "callbacks.pictures=null", "+callbacks.again={_target_: exactness.Recompute}"]
FILE = "recomputed.pt"  # in the run's folder


class Recompute(pl.Callback):
    """Saves both norms of every row at every step, (T, 2, H), computed in 64 bits, in the run's folder."""

    def __init__(self) -> None:
        self.norms: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Computes the norms before the step changes the weights."""
        network = copy.deepcopy(pl_module.network).double()
        theta = pl_module.theta.detach().double().requires_grad_()
        tau = torch.zeros_like(theta, requires_grad=True)
        rows = batch.images.double() + theta
        seen = torch.cat([rows[:, :, :14].detach() + 1, rows[:, :, 14:]], 2) + tau
        loss = cross_entropy(network(seen), batch.labels, label_smoothing=pl_module.label_smoothing)
        gradients = torch.autograd.grad(loss, (theta, tau))
        self.norms.append(torch.stack([gradient.square().sum((0, 2)).sqrt() for gradient in gradients]))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves the norms."""
        torch.save(torch.stack(self.norms), Path(trainer.default_root_dir) / FILE)


def measure(overrides: list[str], steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Trains, and returns recorded and recomputed norms, (T, 2, H) each: row gradients, then input gradients."""
    with tempfile.TemporaryDirectory() as folder:
        long = ["trainer.max_epochs=-1", f"trainer.max_steps={steps}", f"hydra.run.dir={folder}/run"]
        run = rowgrad.train(*SCENARIO, *WATCHED, *long, *overrides)
        recorded = torch.stack([run.norms["row_grad_norm"], run.norms["input_grad_norm"]], 1).double()
        return recorded, torch.load(run.folder.path / FILE, weights_only=True)


def main(words: list[str] | None = None) -> None:
    """Measures and prints.

    Args:
        words: the command's arguments; None for those of this process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args(words)
    recorded, again = measure(options.overrides, options.steps)
    zeros = (recorded == 0, again == 0)
    print(f"exact zeros    {int(zeros[0].sum())} recorded, {int(zeros[1].sum())} in 64 bits,", end=" ")
    print("the same ones" if zeros[0].equal(zeros[1]) else "not the same ones")
    both = ~zeros[0] & ~zeros[1]
    off = ((recorded - again).abs() / again)[both]
    print(f"other norms    n = {len(off)}: off by {off.median():.1e} (median), {off.max():.1e} (largest)")


if __name__ == "__main__":
    main()
