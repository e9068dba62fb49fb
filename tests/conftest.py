"""What the tests share: the project's own configs, quick runs on real digits, real processes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hydra import compose, initialize_config_dir
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

if TYPE_CHECKING:
    from omegaconf import DictConfig

PROJECT = Path(__file__).resolve().parents[1]
CONFIGS = PROJECT / "configs"
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def configure(*overrides: str) -> DictConfig:
    """The config that `scripts/train.py` would get."""
    with initialize_config_dir(str(CONFIGS)):
        return compose("train", list(overrides))


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    return request.param


@pytest.fixture
def run(tmp_path, device):
    """Trains in this process on real digits, a few steps, and returns the run's folder."""
    from rowgrad.run import train

    def run_(*overrides: str, name: str = "run") -> Path:
        basics = ["data=digits", "callbacks.progress=null", "trainer.deterministic=true"]
        basics.append(f"trainer.accelerator={device}")
        train(configure(*basics, *overrides), tmp_path / name)
        return tmp_path / name

    return run_


@pytest.fixture
def mnist() -> Path:
    """Real MNIST. Skipped only where nobody said where it is."""
    root = os.environ.get("MNIST_ROOT")
    if root is None:
        pytest.skip("MNIST_ROOT is not set")
    assert (Path(root) / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file(), f"MNIST_ROOT={root} holds no MNIST"
    return Path(root)


def command(*arguments: str, cwd: Path, timeout: int = 300, env: dict[str, str] | None = None):
    """Runs one of the project's scripts as a user would."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def norms(folder: Path, quantity: str) -> torch.Tensor:
    """A quantity of `row_gradients.csv`: (steps, H)."""
    with (folder / "row_gradients.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in rows[0] if name.startswith(quantity + "/")]
    assert columns == [f"{quantity}/row_{i:02d}" for i in range(28)]
    return torch.tensor([[float(row[name]) for name in columns] for row in rows], dtype=torch.float64)


def recorded_steps(folder: Path) -> list[int]:
    """The `step` column of `row_gradients.csv`."""
    with (folder / "row_gradients.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars of a run's event files: tag -> (step, value)."""
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    """The weights in a run's checkpoint."""
    return torch.load(folder / "checkpoints" / name, weights_only=True)["state_dict"]
