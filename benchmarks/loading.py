"""The gain of resident images: images a second, compared with torchvision's data set, transforms and a DataLoader."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from bare import now
from measure import Result, apart, build, configure, main, side_by_side, train_with
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

BATCH = 128


class Stopwatch(pl.Callback):
    """Takes the time from optimizer step `start` to optimizer step `stop`.

    Attributes:
        seconds: a step.
    """

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self.begun = self.seconds = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Reads the time at the first and at the last step."""
        if trainer.global_step == self.start:
            self.begun = now()
        elif trainer.global_step == self.stop:
            self.seconds = (now() - self.begun) / (self.stop - self.start)


class Usual(pl.LightningModule):
    """The same network in a plain LightningModule."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Mean cross-entropy."""
        images, labels = batch
        return cross_entropy(self.network(images), labels, label_smoothing=0.05)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The pipeline's default optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=1e-2)


@apart
def usual(device: str, workers: int, start: int, stop: int) -> float:
    """Seconds a step with a DataLoader, as in tutorials."""
    config = configure("scenario=baseline")
    steps = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    images = datasets.MNIST(config.data.root, train=True, transform=transforms.Compose(steps))
    loader = DataLoader(
        images, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0, pin_memory=device == "cuda"
    )
    watch = Stopwatch(start, stop)
    trainer = pl.Trainer(
        accelerator=device, devices=1, max_epochs=-1, max_steps=stop + 1, callbacks=[watch],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Usual(build(config)[1].network), loader)
    return watch.seconds


@apart
def ours(*overrides: str, start: int, stop: int) -> float:
    """Seconds a step of the pipeline."""
    watch = Stopwatch(start, stop)
    with tempfile.TemporaryDirectory() as folder:
        train_with(watch, Path(folder), stop + 1, *overrides)
    return watch.seconds


def measure(device: str, quick: bool = False) -> list[Result]:
    """The default network, batch 128; the pipeline with its recorder, the other without callbacks."""
    length = {"start": 3, "stop": 6} if quick else {"start": 50, "stop": 250}
    counts = [n for n in (0, 1, 2, 4, 8, 16) if n <= (os.cpu_count() or 1)]
    tried = {} if quick else {n: BATCH / usual(device, n, **length) for n in counts}
    best = max(tried, key=tried.__getitem__) if tried else 0
    off = ["callbacks.pictures=null", "callbacks.histograms=null", "callbacks.checkpoints=null"]
    same = [f"data.batch_size={BATCH}", "scenario=baseline", "data.shift=0", f"trainer.accelerator={device}"]
    sides = {
        "rowgrad": lambda: BATCH / ours(*same, *off, **length),
        "DataLoader": lambda: BATCH / usual(device, best, **length),
    }
    what = "images a second ÷ torchvision's data set and DataLoader through Lightning (default network, batch 128)"
    values = side_by_side(sides, 1 if quick else 5)
    bound = "≥ 1.7" if device == "cpu" else "≥ 10"
    notes = {"tried before, by number of workers": {str(n): [value] for n, value in tried.items()}}
    return [Result("loading", what, ("rowgrad", "DataLoader"), bound, "images a second", values, notes)]


if __name__ == "__main__":
    main(__doc__, measure)
