"""A config -> objects -> fit, test, summary. And back: a run's folder -> its model and data."""

from __future__ import annotations

import json
import logging
import platform
import shutil
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.panel import Panel

from rowgrad.callbacks import GracefulStop
from rowgrad.callbacks.checkpoints import AtomicCheckpointIO
from rowgrad.errors import UserError
from rowgrad.gradients import cut_fraction, cut_rows
from rowgrad.module import RowClassifier
from rowgrad.rows import name_rows
from rowgrad.scenario import Scenario

if TYPE_CHECKING:
    from rowgrad.data import ImageData

# Lightning 2.6 uses a name that torch deprecates; whoever runs this can do nothing about it.
warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")
# Lightning greets at length; its warnings are shown.
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)

# What a config may name as a _target_. Networks and operations of your own: add their package.
TARGETS = ["rowgrad.*", "torch.*", "torchvision.transforms.v2.*", "lightning.pytorch.*"]

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "tensorboard", "rowgrad")
Summary = dict[str, Any]


def make(config: Any, **arguments: Any) -> Any:
    """What a config's `_target_` says, with more arguments; plain lists and dicts in place of OmegaConf's."""
    return instantiate(config, **arguments, _convert_="all", _execution_whitelist_=TARGETS)


def build(config: DictConfig) -> tuple[ImageData, RowClassifier]:
    """Data and model of a config, the network with the weights that its seed gives.

    Raises:
        UserError: a value that is not accepted, or data that cannot be had.
    """
    if isinstance(config.seed, bool) or not isinstance(config.seed, int) or config.seed < 0:
        raise UserError(f"seed={config.seed} is not a whole number of at least 0.")
    data: ImageData = make(config.data, seed=config.seed)
    shape = {"height": data.height, "width": data.width}
    scenario = Scenario(**make(config.scenario), height=data.height, black=data.black)
    recipe = make(config.optimizer)
    pl.seed_everything(config.seed, verbose=False)
    model = dict(config.model)
    network = make(model.pop("network"), **shape, classes=data.classes)
    return data, RowClassifier(network, scenario, recipe, **shape, classes=data.classes, seed=config.seed, **model)


def train(config: DictConfig, folder: Path) -> Summary:
    """Trains, tests and leaves everything in `folder`.

    Args:
        config: the composed config of `configs/train.yaml`.
        folder: the run's folder; it is made.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: a mistake in the config or the data.
    """
    data, module = build(config)
    config.data.name = data.name  # the data set that is really used: evaluation must find the same
    logger = TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)
    stop, timer = GracefulStop(), Timer()
    watchers = [make(callback) for callback in config.callbacks.values() if callback]
    trainer: pl.Trainer = make(
        config.trainer,
        callbacks=[*watchers, timer, stop],
        logger=logger,
        default_root_dir=str(folder),
        plugins=[AtomicCheckpointIO()],
    )
    console = Console(quiet=not trainer.is_global_zero)
    if data.missing:
        console.print(_fallback_notice(data))
    if trainer.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / "config.yaml", resolve=True)
        logger.experiment.add_text("scenario", module.scenario.sentence())
        logger.experiment.add_text("data", data.missing or data.name)
    summary: Summary = {
        "status": "failed",
        "scenario": module.scenario.name,
        "data": data.name,
        "seed": config.seed,
        "device": _device_name(trainer.strategy.root_device),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }
    if data.missing:
        summary["data_missing"] = data.missing
    try:
        trainer.fit(module, datamodule=data)
        summary |= _metrics(trainer)
        if stop.received:
            summary["status"] = "interrupted"
        else:
            trainer.test(module, datamodule=data, verbose=False)
            summary |= _metrics(trainer) | {"status": "done"}
    except KeyboardInterrupt:
        summary["status"] = "interrupted"
    except BaseException as error:
        summary["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        summary |= {"train/steps": trainer.global_step, "train/seconds": round(timer.time_elapsed("train"), 3)}
        recorded = _recorded(folder)
        if trainer.is_global_zero:
            summary["cut_fraction"] = None if recorded is None else float(cut_fraction(*recorded).mean())
            _write_json(folder / "summary.json", summary)
            logger.finalize("success")
    if data.missing:
        console.print(_fallback_notice(data))
    if trainer.is_global_zero:
        console.print(_closing_lines(summary, folder, module.scenario, _cut_words(recorded)), soft_wrap=True)
    return summary


def load(path: Path, scenario: DictConfig | None = None) -> tuple[DictConfig, ImageData, RowClassifier]:
    """Config, data and trained model of a run.

    Args:
        path: the run's folder (its last weights are taken), or one of its checkpoints.
        scenario: what the rows are put through, in place of the run's own scenario.

    Raises:
        UserError: there is no run, or its checkpoint does not fit.
    """
    checkpoint = path if path.is_file() else path / "checkpoints" / "last.ckpt"
    folder = checkpoint.parent.parent
    for needed in (checkpoint, folder / "config.yaml"):
        if not needed.is_file():
            raise UserError(f"{path} is not a run's folder or checkpoint: there is no {needed}.")
    config = OmegaConf.load(folder / "config.yaml")
    assert isinstance(config, DictConfig)
    if scenario is not None:
        config.scenario = scenario
    data, module = build(config)
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        module.load_state_dict(state)
    except Exception as error:
        words = str(error).partition("\n")[0]
        raise UserError(f"{checkpoint} does not fit the model in {folder / 'config.yaml'}: {words}") from error
    return config, data, module


def evaluate(config: DictConfig, data: ImageData, module: RowClassifier) -> Summary:
    """Test metrics of a model, under the names that a run reports."""
    keys = ("_target_", "accelerator", "devices", "precision", "deterministic", "enable_model_summary")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer: pl.Trainer = make({key: config.trainer[key] for key in keys}, **quiet)
    trainer.test(module, datamodule=data, verbose=False)
    return _metrics(trainer)


def _metrics(trainer: pl.Trainer) -> Summary:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _recorded(folder: Path) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Row and input gradient norms (steps, H) of `row_gradients.csv`, or None where not both were recorded."""
    file = folder / "row_gradients.csv"
    if not file.is_file():
        return None
    with file.open(encoding="utf-8") as lines:
        names = next(lines).strip().split(",")
        content = lines.readlines()
    if not content:
        return None
    table = torch.from_numpy(np.loadtxt(content, delimiter=",", ndmin=2))
    parts = [
        table[:, [i for i, name in enumerate(names) if name.startswith(prefix)]]
        for prefix in ("row_grad_norm/", "input_grad_norm/")
    ]
    return (parts[0], parts[1]) if all(part.numel() for part in parts) else None


def _cut_words(recorded: tuple[torch.Tensor, torch.Tensor] | None) -> str:
    if recorded is None:
        return "not recorded"
    steps = len(recorded[0])
    counts = cut_rows(*recorded).sum(0)
    always, sometimes = counts == steps, (counts > 0) & (counts < steps)
    if not counts.any():
        return "no row: gradient reached every row"
    words = f"{name_rows(always.tolist())}: row gradient exactly 0.0 at each of {steps} steps"
    return words + (f"; {name_rows(sometimes.tolist())} at some of them" if sometimes.any() else "")


def _closing_lines(summary: Summary, folder: Path, scenario: Scenario, cut: str) -> str:
    lines = {}
    if "test/acc" in summary:
        operated = f"; {summary['test/acc_operated']:.2%} with the rows {scenario.operation.phrase} in every image"
        changed = scenario.route == "replace" and not scenario.idle
        lines["test accuracy"] = f"[bold]{summary['test/acc']:.2%}[/]" + (operated if changed else "")
    else:
        lines["status"] = f"[bold]{summary['status']}[/] after step {summary['train/steps']}; not tested"
    lines["cut"] = cut
    if summary["cut_fraction"]:
        lines[""] = f"they carried {summary['cut_fraction']:.1%} of the squared gradient at the network's input"
    lines["run's folder"] = str(_shown(folder))
    beside = Path(sys.executable).with_name("tensorboard")
    command = "tensorboard" if shutil.which("tensorboard") or not beside.exists() else str(_shown(beside))
    lines["watch it"] = f"{command} --logdir {_shown(folder)}"
    return "\n".join(f"{name:15}{words}" for name, words in lines.items())


def _shown(path: Path) -> Path:
    """The path as one would type it here."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _fallback_notice(data: ImageData) -> Panel:
    words = f"{data.missing}\nTraining on [bold]{data.name}[/] instead. data.fallback=null makes this an error."
    return Panel(words, title="[bold]NOT THE DATA SET YOU ASKED FOR[/]", border_style="bold red")


def _write_json(path: Path, content: Summary) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
