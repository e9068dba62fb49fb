"""The row atlas, 145 runs: a sweep whose jobs share the device, compared with the same networks stacked in one process.

The sweep is `experiment=row_atlas` in several joblib processes, with all that a run leaves behind; the stacked training
is the bare prototype in `stacked.py`. Both from the start of the command to the last test accuracy. Where NVIDIA's MPS
is installed, the processes share the GPU by it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from bare import default_network
from measure import PROJECT, Result, configure, main, say
from stacked import train_stacked
from torchvision import datasets

from rowgrad import open_run

if TYPE_CHECKING:
    from collections.abc import Generator

Reached = tuple[float, list[float]]
SEEDS = 5
MPS = "nvidia-cuda-mps-control"


@contextmanager
def shared_gpu() -> Generator[tuple[dict[str, str], str]]:
    """The environment of processes that share a GPU, and in words whether a server of MPS helps; it ends with them."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        if not shutil.which(MPS) or subprocess.run([MPS, "-d"], env=environment, check=False).returncode:
            yield dict(os.environ), ""
            return
        try:
            yield environment, " and MPS"
        finally:
            subprocess.run([MPS], input="quit\n", text=True, env=environment, check=False)


def sweep(device: str, seeds: int, processes: int, environment: dict[str, str], *words: str) -> Reached:
    """Seconds of the whole sweep, and its test accuracies in percent."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "scripts/train.py", "-m", "experiment=row_atlas", "sweep=joblib"]
        command += [f"hydra.launcher.n_jobs={processes}", f"seed={','.join(map(str, range(seeds)))}"]
        command += [f"trainer.accelerator={device}", f"hydra.sweep.dir={folder}", *words]
        begun = time.perf_counter()
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, env=environment, check=False)
        seconds = time.perf_counter() - begun
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        runs = [open_run(file.parent) for file in Path(folder).glob("*/summary.json")]
        return seconds, [100 * run.summary["test/acc"] for run in runs]


def stacked(device: str, seeds: int, rows: int, steps: int) -> Reached:
    """Seconds and test accuracies in percent of the stacked prototype."""
    begun = time.perf_counter()
    root = configure().data.root
    train, test = (datasets.MNIST(root, train=part) for part in (True, False))
    pixels, tests = ((p.data.to(device).unsqueeze(1).float() / 255 - 0.1307) / 0.3081 for p in (train, test))
    chosen = torch.arange(-1, rows - 1, device=device).repeat(seeds)
    training, predict = train_stacked(
        default_network, pixels[:55000], train.targets[:55000].to(device), chosen, batch_size=128, steps=steps
    )
    right = torch.stack([predict(part).argmax(-1).cpu() for part in tests.split(1000)], 1).flatten(1) == test.targets
    say(f"stacked: {training:.1f} s of training")
    return time.perf_counter() - begun, (100 * right.double().mean(1)).tolist()


def measure(device: str, quick: bool = False, processes: int = os.cpu_count() or 1) -> list[Result]:
    """Measures each side once, because a sweep takes long."""
    seeds, rows, steps = (1, 2, 2) if quick else (SEEDS, 29, 430)
    words = ["scenario.rows=none,0", "trainer.max_steps=2"] if quick else []
    sides = {"stacked": stacked(device, seeds, rows, steps)}
    with shared_gpu() as (environment, mps):
        sides["sweep"] = sweep(device, seeds, processes, environment, *words)
    what = f"the row atlas, {seeds * rows} runs: stacked in one process ÷ a sweep of {processes} processes{mps}"
    values = {name: [seconds] for name, (seconds, _) in sides.items()}
    notes = {"test accuracy in percent": {name: reached for name, (_, reached) in sides.items()}}
    return [Result("atlas", what, ("stacked", "sweep"), None, "s", values, notes)]


if __name__ == "__main__":
    main(__doc__, measure)
