"""Shared by the tests: the project's configs, short runs on real digits, processes, and readers of a run's files."""

from __future__ import annotations

import atexit
import csv
import json
import os
import shutil
import signal
import subprocess
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from filelock import FileLock
from forked import Forked, Nursery
from hydra import compose, initialize_config_dir
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

import rowgrad
from rowgrad.errors import words_for
from rowgrad.folders import RunFolder
from rowgrad.training.build import build as build_settings
from rowgrad.training.settings import read_settings
from rowgrad.training.train import train_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from omegaconf import DictConfig

# A shell starts background jobs with SIGINT ignored, and processes inherit that: `make test &`, nohup, some CI runners.
signal.signal(signal.SIGINT, signal.default_int_handler)

PROJECT = Path(__file__).resolve().parents[1]
CONFIGS = PROJECT / "configs"
TRAIN, EVALUATE, REPORT = (PROJECT / "scripts" / f"{name}.py" for name in ("train", "evaluate", "report"))
# A run on real digits that neither draws a picture nor a progress bar.
QUICK = ["data=digits", "trainer.accelerator=cpu", "callbacks.progress=null", "callbacks.pictures=null"]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def configure(*overrides: str) -> DictConfig:
    """The config that `scripts/train.py` composes from these overrides."""
    with initialize_config_dir(str(CONFIGS)):
        return compose("train", list(overrides))


def train(config: DictConfig, folder: Path, *, resume: bool = False) -> dict:
    """Trains in this process."""
    return train_run(config, RunFolder(folder), resume=resume)


def build(config: DictConfig, *, trained: bool = False):
    """The data and the model of a config."""
    return build_settings(read_settings(config), trained=trained)


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    return request.param


@pytest.fixture
def run(tmp_path, device, request):
    """A function that trains in this process on real digits and returns the run's folder.

    Pictures take longer than the training, so only the tests of pictures draw them.
    """
    pictures = [] if request.module.__name__ == "test_pictures" else ["callbacks.pictures=null"]

    def run_(*overrides: str, name: str = "run") -> Path:
        basics = ["data=digits", "callbacks.progress=null", "trainer.deterministic=true"]
        basics.append(f"trainer.accelerator={device}")
        train(configure(*basics, *pictures, *overrides), tmp_path / name)
        return tmp_path / name

    return run_


@pytest.fixture(scope="session")
def swept(tmp_path_factory) -> tuple[str, Path]:
    """A sweep over scenario, detach and seed by the real command: what it printed, and its folder."""

    def make(folder: Path) -> None:
        quick = ["data=digits", "model=mlp", "trainer.accelerator=cpu", "trainer.max_steps=4"]
        quick += ["callbacks.progress=null", "callbacks.pictures=null", "callbacks.histograms=null"]
        varied = ["scenario=modify,augment", "scenario.detach=true,false", "seed=0,1"]
        result = done(TRAIN, "-m", *quick, *varied, "hydra.sweep.dir=sweep", cwd=folder)
        (folder / "printed.txt").write_text(result.stdout)

    folder = made_once(tmp_path_factory, "swept", make)
    return (folder / "printed.txt").read_text(), folder / "sweep"


@pytest.fixture(autouse=True)
def events_in_order(monkeypatch):
    """TensorBoard reads files of one second by the order of their names, in which 9 comes after 10."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(1000))


@pytest.fixture
def mnist() -> Path:
    """The folder of real MNIST; the test is skipped if MNIST_ROOT is not set."""
    root = os.environ.get("MNIST_ROOT")
    if root is None:
        pytest.skip("MNIST_ROOT is not set")
    assert (Path(root) / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file(), f"MNIST_ROOT={root} holds no MNIST"
    return Path(root)


# Imported before scripts are forked: HEAVY for scripts that train, LIGHT for those that answer before heavy imports.
HEAVY = ["torch", "torchvision", "rowgrad.training.train", "rowgrad.results.report", "torch.utils.tensorboard"]
HEAVY += ["scipy.stats", "sklearn.datasets", "tensorboard.backend.event_processing.event_accumulator"]
LIGHT = ["hydra", "rich.console", "filelock"]


@lru_cache
def nursery(*imports: str) -> Nursery:
    """A process that has imported some packages, shared by all tests of this process."""
    born = Nursery(*imports)
    atexit.register(born.close)
    return born


def start(*arguments: object, cwd: Path, env: dict[str, str] | None = None, imports: Sequence[str] = HEAVY) -> Forked:
    """Starts one of the project's scripts, as `python` would, and returns a handle like `subprocess.Popen`."""
    return nursery(*imports).start(*arguments, cwd=cwd, env=os.environ | (env or {}))


def command(*arguments: object, cwd: Path, timeout: int = 300, **others: Any) -> subprocess.CompletedProcess[str]:
    """Runs one of the project's scripts, as `python` would, to its end."""
    process = start(*arguments, cwd=cwd, **others)
    try:
        output, errors = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.wait(), output, errors)


def done(*arguments: object, cwd: Path, **others: Any) -> subprocess.CompletedProcess[str]:
    """Runs a script that must succeed."""
    result = command(*arguments, cwd=cwd, **others)
    assert result.returncode == 0, result.stderr
    return result


def refused(*arguments: object, cwd: Path, **others: Any) -> str:
    """Runs a script that must fail with one line, which is returned: no traceback, no warning before it."""
    result = command(*arguments, cwd=cwd, **others)
    assert result.returncode == 1, result.stderr
    (line,) = result.stderr.splitlines()
    return line


def mistake(*typed: str) -> str:
    """The plain words with which `rowgrad.train` answers these overrides, as the command does."""
    try:
        rowgrad.train(*typed)
    except Exception as error:
        if (words := words_for(error)) is None:
            raise
        return words
    return "nothing: it was trained"


def wait_for(process: Forked | subprocess.Popen, condition: Callable[[], object], seconds: int = 120) -> None:
    """Waits until a condition holds while a process runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


# With `-c`: runs the script that follows, with SIGINT as in a terminal. Children of background jobs ignore it.
DEFAULTS = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def norms(folder: Path, quantity: str) -> torch.Tensor:
    """A quantity of `row_gradients.csv`: (steps, H)."""
    with (folder / "row_gradients.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in rows[0] if name.startswith(quantity + "/")]
    assert columns == [f"{quantity}/row_{i:02d}" for i in range(28)]
    return torch.tensor([[float(row[name]) for name in columns] for row in rows], dtype=torch.float64)


def summary(folder: Path) -> dict[str, Any]:
    """A run's `summary.json`."""
    return json.loads((folder / "summary.json").read_text())


def recorded_steps(folder: Path) -> list[int]:
    """The `step` column of `row_gradients.csv`, read at once because the run may be writing to it."""
    text = (folder / "row_gradients.csv").read_text()
    return [int(row["step"]) for row in csv.DictReader(text.splitlines())]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars of a run's event files: tag -> (step, value)."""
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    """The weights in a run's checkpoint."""
    return torch.load(folder / "checkpoints" / name, weights_only=True)["state_dict"]


def assert_identical(folder: Path, other: Path) -> None:
    """Two runs have recorded the same norms and ended with the same weights, to the last bit."""
    assert (folder / "row_gradients.csv").read_bytes() == (other / "row_gradients.csv").read_bytes()
    ours, others = weights(folder), weights(other)
    assert ours.keys() == others.keys()
    assert not [name for name, value in ours.items() if not value.equal(others[name])]


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one worker of this session fills and all of them read. Whoever changes a file copies the folder."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"made-once-{name}"
    finished = folder.with_suffix(".finished")
    with FileLock(folder.with_suffix(".lock")):
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)  # another worker's attempt that failed
            folder.mkdir()
            make(folder)
            finished.touch()
    return folder


@pytest.fixture(scope="module")
def chromium():
    """A real browser; `make test-browser` installs its driver."""
    from browser import chromium as open_chromium

    with open_chromium() as opened:
        yield opened


def wait_until(page: Any, true: Callable[[], object], what: str, seconds: int = 60) -> None:
    """Waits until `true()` holds for a page; fails with the words `what` after `seconds`."""
    for _ in range(seconds * 10):
        if true():
            return
        page.wait_for_timeout(100)
    pytest.fail(f"after {seconds} s: {what}")
