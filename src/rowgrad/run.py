"""A config -> objects -> fit, test, summary. And back: a run's folder -> its model and data."""

from __future__ import annotations

import json
import logging
import platform
import warnings
from contextlib import nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Checkpoint, ProgressBar, Timer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from rowgrad.board import Logger, announce, conclude
from rowgrad.callbacks import Checkpoints, FiniteLoss, GracefulStop
from rowgrad.callbacks.checkpoints import AtomicCheckpointIO, newest_good
from rowgrad.corruption import Corruption
from rowgrad.errors import UserError
from rowgrad.files import write_whole
from rowgrad.module import RowClassifier
from rowgrad.networks import take_weights
from rowgrad.runs import read_run
from rowgrad.scenario import Scenario
from rowgrad.settings import check_config
from rowgrad.summary import closing_lines, fallback_notice

if TYPE_CHECKING:
    from pathlib import Path

    from rowgrad.data import ImageData
    from rowgrad.summary import Summary

# Lightning 2.6 uses a name that torch deprecates; whoever runs this can do nothing about it.
warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")
# A frozen network is in evaluation mode on purpose.
warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode at the start of training")
# Lightning greets at length; its warnings are shown.
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)

# What a config may name as a _target_. Networks and operations of your own: add their package.
TARGETS = ["rowgrad.*", "torch.*", "torchvision.transforms.v2.*", "lightning.pytorch.*"]

NOTHING = nullcontext()
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "tensorboard", "rowgrad")


def make(config: Any, **arguments: Any) -> Any:
    """What a config's `_target_` says, with more arguments; plain lists and dicts in place of OmegaConf's."""
    return instantiate(config, **arguments, _convert_="all", _execution_whitelist_=TARGETS)


def build(config: DictConfig, *, trained: bool = False) -> tuple[ImageData, RowClassifier]:
    """Data and model of a config, the network with the weights of `model.checkpoint` or those that its seed gives.

    Args:
        config: the composed config.
        trained: whether the run has weights of its own, so that `model.checkpoint` is not asked for.

    Raises:
        UserError: a value that is not accepted, or data that cannot be had.
    """
    check_config(config)
    data: ImageData = make(config.data, seed=config.seed)
    shape: dict[str, Any] = {"height": data.height, "width": data.width}
    scenario = Scenario(**make(config.scenario), height=data.height, black=data.black, white=data.white)
    corruption = Corruption(**make(config.get("corruption", {})), height=data.height)
    recipe = make(config.optimizer)
    pl.seed_everything(config.seed, verbose=False)
    model = dict(config.model)
    network = make(model.pop("network"), **shape, classes=data.classes)
    source = model.pop("checkpoint", None)
    if source is not None and not trained:
        take_weights(network, source)
    return data, RowClassifier(
        network, corruption, scenario, recipe, **shape, classes=data.classes, seed=config.seed, **model
    )


def train(config: DictConfig, folder: Path, *, resume: bool = False) -> Summary:
    """Trains, tests and leaves everything in `folder`.

    Args:
        config: the composed config of `configs/train.yaml`.
        folder: the run's folder; it is made.
        resume: whether to go on from the newest good checkpoint in `folder`, with `config` being the run's own.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: a mistake in the config or the data.
    """
    checkpoint = newest_good(folder) if resume else None
    data, module = build(config, trained=checkpoint is not None)
    config.data.name = data.name  # the data set that is really used: evaluation must find the same
    if config.trainer.get("compile"):
        module.network.compile(dynamic=False)  # in place: rows, cut and tap stay outside, checkpoints stay the same
    stop, timer = GracefulStop(), Timer()
    if checkpoint is not None:
        _load_weights(module, checkpoint[0], folder)
    purge_step = (checkpoint[1] if checkpoint else 0) if resume else None
    trainer = _trainer(config, folder, [timer, stop, FiniteLoss()], purge_step)
    console = Console(quiet=not trainer.is_global_zero, soft_wrap=True)
    if trainer.is_global_zero:
        _claim(folder, config, resume=resume)
        if resume:
            console.print(_set_aside_damaged(folder, checkpoint))
    notice = fallback_notice(data)
    console.print(*notice, f"scenario       {module.sentence()}", sep="\n")
    summary: Summary = {"status": "failed"} | _circumstances(config, data, module, trainer)
    if trainer.is_global_zero and checkpoint is None:
        sentences = [module.sentence(), *([data.missing] if data.missing else []), f"Data set: {data.name}."]
        announce(_logger(trainer).experiment, config, sentences, {n: str(summary[n]) for n in ("python", *PACKAGES)})
    try:
        with stop.listening():
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint and checkpoint[0], weights_only=True)
            summary |= {"status": "interrupted"} if stop.received else _measure(trainer, module, data)
            summary |= stop.told()
    except BaseException as error:
        summary["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        summary |= {"train/steps": trainer.global_step, "train/seconds": round(timer.time_elapsed("train"), 3)}
        if trainer.is_global_zero:
            summary["cut_fraction"] = read_run(folder).cut_fraction
            write_whole(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
            conclude(_logger(trainer).experiment, summary, trainer.global_step)
            _logger(trainer).finalize("success")
    if trainer.is_global_zero:
        console.print(*notice, closing_lines(read_run(folder), module.scenario), sep="\n")
    return summary


class Unprofiled(PassThroughProfiler):
    """No profiler. Lightning enters one fifty times a step, and its own empty one is a generator each time."""

    def profile(self, action_name: str) -> Any:
        """Measures nothing."""
        return NOTHING


def lightning_settings(config: DictConfig) -> DictConfig:
    """The group `trainer` without `compile`, the one key in it that is not an argument of Lightning's Trainer."""
    config = config.copy()  # the whole of it: what knows its place in the config can be named in a message
    with open_dict(config):
        config.trainer.pop("compile", None)
    return config.trainer


def _trainer(config: DictConfig, folder: Path, callbacks: list[pl.Callback], purge_step: int | None) -> pl.Trainer:
    """Lightning's trainer with the config's callbacks and more; events from `purge_step` on are taken back."""
    watchers = [make(callback) for callback in config.callbacks.values() if callback]
    purge: dict[str, Any] = {} if purge_step is None else {"purge_step": purge_step}
    settings = lightning_settings(config)
    profiler = {} if "profiler" in settings else {"profiler": Unprofiled()}
    try:
        return make(
            settings,
            callbacks=[*watchers, *callbacks],
            # Lightning would add its own where there are none.
            enable_progress_bar=any(isinstance(watcher, ProgressBar) for watcher in watchers),
            enable_checkpointing=any(isinstance(watcher, Checkpoint) for watcher in watchers),
            logger=Logger(folder, name="tensorboard", version="", default_hp_metric=False, **purge),
            default_root_dir=str(folder),
            plugins=[AtomicCheckpointIO()],
            **profiler,
        )
    except (MisconfigurationException, InstantiationException) as error:
        cause = error if isinstance(error, MisconfigurationException) else error.__cause__
        if isinstance(cause, MisconfigurationException):
            chosen = ", ".join(f"trainer.{key}={settings[key]}" for key in ("accelerator", "devices", "precision"))
            raise UserError(f"{chosen} cannot be had here: {cause}") from error
        raise


def _logger(trainer: pl.Trainer) -> TensorBoardLogger:
    assert isinstance(trainer.logger, TensorBoardLogger)
    return trainer.logger


def _circumstances(config: DictConfig, data: ImageData, module: RowClassifier, trainer: pl.Trainer) -> Summary:
    """What a run was made of: scenario, data, seed, device and versions."""
    missing = {"data_missing": data.missing} if data.missing else {}
    return {
        "scenario": module.scenario.name,
        "corruption": module.corruption.name,
        "data": data.name,
        **missing,
        "seed": config.seed,
        "device": _device_name(trainer.strategy.root_device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def _measure(trainer: pl.Trainer, module: RowClassifier, data: ImageData) -> Summary:
    """Validation and test metrics of the last weights."""
    checkpoints = trainer.checkpoint_callback
    if not isinstance(checkpoints, Checkpoints):
        trainer.validate(module, datamodule=data, verbose=False)
        validation = _metrics(trainer)
    else:
        if checkpoints.validated_step != trainer.global_step:  # training ended in mid-epoch
            trainer.validate(module, datamodule=data, verbose=False)
        validation = checkpoints.validation
    trainer.test(module, datamodule=data, verbose=False)
    return validation | _metrics(trainer) | {"status": "done"}


def _claim(folder: Path, config: DictConfig, *, resume: bool) -> None:
    """Makes the folder this run's own: no two runs ever share one."""
    folder.mkdir(parents=True, exist_ok=True)
    text = OmegaConf.to_yaml(config, resolve=True)
    if resume:
        write_whole(folder / "config.yaml", text)
        return
    try:
        with (folder / "config.yaml").open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        words = f"hydra.run.dir={folder} already holds a run. resume={folder} goes on with it."
        raise UserError(words) from None


def _set_aside_damaged(folder: Path, checkpoint: tuple[Path, int, list[Path]] | None) -> str:
    """Moves what cannot be read out of the way of new checkpoints; says where the run goes on."""
    for part in folder.glob("**/*.part"):
        part.unlink()
    lines = []
    for damaged in checkpoint[2] if checkpoint else []:
        damaged.replace(damaged.with_suffix(".damaged"))
        lines.append(f"[bold red]{damaged} is damaged[/] and was set aside; going on from the one before.")
    start = f"step {checkpoint[1]}, {checkpoint[0].name}" if checkpoint else "the beginning: no checkpoint was written"
    return "\n".join([*lines, f"resuming from {start}"])


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
    data, module = build(config, trained=True)
    _load_weights(module, checkpoint, folder)
    return config, data, module


def _load_weights(module: RowClassifier, checkpoint: Path, folder: Path) -> None:
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(state["state_dict"])
        module.trained = state["global_step"]
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(f"{checkpoint} does not fit the model in {folder / 'config.yaml'}: {words}") from error


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
