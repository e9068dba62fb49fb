"""Training time to 99 %: the default run compared with the fastest published recipe, ten seeds each, five on a GPU.

The recipe: one epoch over all 60,000 images, unshuffled, batch 256, data on the device; two convolutions (24 of 5×5, 32
of 3×3), each with ReLU and max-pooling, then 800–256–10; Adam with betas 0.7 and 0.9, one-cycle up to 0.01.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from bare import now
from measure import PROJECT, Result, apart, configure, main, side_by_side
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision import datasets

if TYPE_CHECKING:
    from collections.abc import Callable


@apart
def recipe(device: str, seed: int, root: str, limit: int | None = None) -> tuple[float, float]:
    """Seconds of training, and test accuracy."""
    train, test = (datasets.MNIST(root, train=part) for part in (True, False))
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 24, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(24, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 256), nn.ReLU(), nn.Linear(256, 10),
    ).to(device)  # fmt: skip
    images, labels, test_images, test_labels = (
        part.to(device) for part in (train.data, train.targets, test.data, test.targets)
    )
    images, test_images = ((part.unsqueeze(1).float() / 255 - 0.1307) / 0.3081 for part in (images, test_images))
    batch, count = 256, len(labels) if limit is None else limit
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, betas=(0.7, 0.9))
    steps = -(-count // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps + 1, cycle_momentum=False)
    begun = now()
    for first in range(0, count, batch):
        loss = cross_entropy(network(images[first : first + batch]), labels[first : first + batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    seconds = now() - begun
    with torch.inference_mode():
        hits = [
            (network(i).argmax(1) == t).sum()
            for i, t in zip(test_images.split(1000), test_labels.split(1000), strict=True)
        ]
    return seconds, 100 * int(sum(hits)) / len(test_labels)


def default_run(device: str, seed: int, *, quick: bool) -> tuple[float, float, float]:
    """`python scripts/train.py seed=SEED`, all callbacks on.

    Returns:
        Seconds of training, test accuracy in percent, and seconds from Enter to the end of the process.
    """
    words = [f"seed={seed}", f"trainer.accelerator={device}", *(["trainer.max_steps=3"] if quick else [])]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, PROJECT / "scripts" / "train.py", *words, f"hydra.run.dir={folder}/run"]
        begun = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        whole = time.perf_counter() - begun
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text(encoding="utf-8"))
    return summary["train/seconds"], 100 * summary["test/acc"], whole


def measure(device: str, quick: bool = False) -> list[Result]:
    """Runs both sides with the same seeds, and notes their test accuracies."""
    runs: dict[str, list[tuple[float, ...]]] = {"default run": [], "recipe": []}
    root = configure().data.root

    def next_of(name: str, run: Callable[[int], tuple[float, ...]]) -> float:
        runs[name].append(run(len(runs[name])))
        return runs[name][-1][0]

    sides = {
        "default run": lambda: next_of("default run", lambda seed: default_run(device, seed, quick=quick)),
        "recipe": lambda: next_of("recipe", lambda seed: recipe(device, seed, root, 768 if quick else None)),
    }
    values = side_by_side(sides, 1 if quick else 5 if device == "cuda" else 10)
    what = "training time to a mean of 99 % ÷ the recipe's"
    bound = "≤ 0.8" if device == "cpu" else "≤ 0.5"
    notes = {"test accuracy in percent": {name: [reached for _, reached, *_ in some] for name, some in runs.items()}}
    notes["s from Enter to the end"] = {"default run": [whole for _, _, whole in runs["default run"]]}
    return [Result("recipe", what, ("default run", "recipe"), bound, "s", values, notes)]


if __name__ == "__main__":
    main(__doc__, measure)
