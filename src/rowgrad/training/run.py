"""A run: parse, build, train, close. And a run's folder -> its model and data again, for evaluation."""

from __future__ import annotations

import platform
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Timer
from rich.console import Console
from rich.panel import Panel

from rowgrad.errors import UserError
from rowgrad.folders import RunFolder
from rowgrad.results.ending import describe_run
from rowgrad.results.run import Run, read_checkpoint
from rowgrad.scenario.settings import ScenarioSettings
from rowgrad.training.build import build
from rowgrad.training.checkpoints import Checkpoints, newest_good
from rowgrad.training.settings import KNOWN_TARGETS, read_settings
from rowgrad.training.stops import FiniteLoss, GracefulStop
from rowgrad.training.trainer import be_quiet, lightning_trainer, make_trainer
from rowgrad.watch.events import announce, event_file, write_outcome
from rowgrad.watch.recorder import recorder_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import lightning.pytorch as pl
    from omegaconf import DictConfig

    from rowgrad.data.datamodule import ImageData
    from rowgrad.model.classifier import RowClassifier
    from rowgrad.training.settings import RunSettings

Summary = dict[str, Any]
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "tensorboard", "rowgrad")
be_quiet()


@dataclass
class Training:
    """What a run is made of while it trains.

    Attributes:
        config: what goes to `config.yaml`.
        folder: where everything goes.
        data: the images.
        module: what is trained.
        trainer: Lightning's.
        stop: listens to signals.
        timer: counts the seconds of training.
        checkpoint: from which the run goes on: its path, its step, newer ones that are damaged. None for the beginning.
        resume: whether the folder held the run already.
        console: prints on the first process alone.
    """

    config: DictConfig
    folder: RunFolder
    data: ImageData
    module: RowClassifier
    trainer: pl.Trainer
    stop: GracefulStop
    timer: Timer
    checkpoint: tuple[Path, int, list[Path]] | None
    resume: bool
    console: Console

    @property
    def notice(self) -> list[Panel]:
        """Says where nobody can miss it that other data are used; empty where they are not."""
        if not self.data.missing:
            return []
        instead = f"Training on [bold]{self.data.name}[/] instead. data.fallback=null makes this an error."
        title = "[bold]NOT THE DATA SET YOU ASKED FOR[/]"
        return [Panel(f"{self.data.missing}\n{instead}", title=title, border_style="bold red")]


def train_run(
    config: DictConfig, folder: RunFolder, *, settings: RunSettings | None = None, resume: bool = False
) -> Summary:
    """Trains, tests and leaves everything in `folder`.

    Args:
        config: the composed config of `configs/train.yaml`.
        folder: the run's folder; it is made.
        settings: the config, where it was read already.
        resume: whether to go on from the newest good checkpoint in `folder`, with `config` being the run's own.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: a mistake in the config or the data, or another process that trains in the folder.
    """
    training = prepare(config, settings or read_settings(config), folder, resume=resume)
    with ExitStack() as held:
        if training.trainer.is_global_zero:
            held.enter_context(folder.held())
            open_folder(training)
        return fit(training)


def prepare(config: DictConfig, settings: RunSettings, folder: RunFolder, *, resume: bool) -> Training:
    """Makes everything; nothing is written yet."""
    checkpoint = newest_good(folder) if resume else None
    data, module = build(settings, trained=checkpoint is not None)
    config.data.name = data.name  # the data set that is really used: evaluation must find the same
    if settings.trainer.compile:
        module.network.compile(dynamic=False)  # in place: rows, cut and tap stay outside, checkpoints stay the same
    if checkpoint is not None:
        _load_weights(module, checkpoint[0], folder)
    stop, timer = GracefulStop(), Timer()
    purge_step = (checkpoint[1] if checkpoint else 0) if resume else None
    trainer = make_trainer(settings, folder, [timer, stop, FiniteLoss()], purge_step)
    console = Console(quiet=not trainer.is_global_zero, soft_wrap=True)
    return Training(config, folder, data, module, trainer, stop, timer, checkpoint, resume, console)


def open_folder(training: Training) -> None:
    """Makes the folder this run's own, puts what is damaged aside, and says what the run is."""
    folder, checkpoint = training.folder, training.checkpoint
    folder.claim(training.config, resume=training.resume)
    if training.resume:
        folder.tidy()
        for damaged in checkpoint[2] if checkpoint else []:
            damaged.replace(damaged.with_suffix(".damaged"))
            training.console.print(
                f"[bold red]{damaged} is damaged[/] and was set aside; going on from the one before."
            )
        begin = "the beginning: no checkpoint was written"
        training.console.print(
            f"resuming from {f'step {checkpoint[1]}, {checkpoint[0].name}' if checkpoint else begin}"
        )
    if checkpoint is None:
        data, sentence = training.data, training.module.sentence()
        sentences = [sentence, *([data.missing] if data.missing else []), f"Data set: {data.name}."]
        recorder = recorder_of(training.trainer)
        quantities = recorder.quantities if recorder is not None else []
        announce(event_file(training.trainer), training.config, quantities, sentences, _versions())


def fit(training: Training) -> Summary:
    """Trains and tests, and writes what came of it, whatever comes."""
    trainer, module, data, stop = training.trainer, training.module, training.data, training.stop
    training.console.print(*training.notice, f"scenario       {module.sentence()}", sep="\n")
    summary: Summary = {"status": "failed"} | _circumstances(training)
    checkpoint = training.checkpoint and training.checkpoint[0]
    try:
        with stop.listening():
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            summary |= {"status": "interrupted"} if stop.received else _measure(trainer, module, data)
            summary |= {"signal": stop.received} if stop.received else {}
    except BaseException as error:
        summary["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        seconds = round(training.timer.time_elapsed("train"), 3)
        summary |= {"train/steps": trainer.global_step, "train/seconds": seconds}
        if trainer.is_global_zero:
            close_folder(training, summary)
    if trainer.is_global_zero:
        training.console.print(*training.notice, describe_run(Run(training.folder), module.scenario), sep="\n")
    return summary


def close_folder(training: Training, summary: Summary) -> None:
    """Writes how the run ended, to its summary and to TensorBoard."""
    summary["cut_fraction"] = Run(training.folder).cut_fraction
    training.folder.write_summary(summary)
    write_outcome(event_file(training.trainer), summary, training.trainer.global_step)
    if training.trainer.logger is not None:
        training.trainer.logger.finalize("success")


def _circumstances(training: Training) -> Summary:
    """What a run was made of: scenario, data, seed, device and versions."""
    data, module = training.data, training.module
    device = training.trainer.strategy.root_device
    return {
        "scenario": module.scenario.name,
        "corruption": module.corruption.name,
        "data": data.name,
        **({"data_missing": data.missing} if data.missing else {}),
        "seed": module.seed,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        **_versions(),
    }


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


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


def load_run(
    path: Path, scenario: DictConfig | None = None, targets: Sequence[str] | None = None
) -> tuple[RunSettings, ImageData, RowClassifier]:
    """Settings, data and trained model of a run.

    Args:
        path: the run's folder (its last weights are taken), or one of its checkpoints.
        scenario: what the rows are put through, in place of the run's own scenario.
        targets: patterns of what its config may name; without them, what is known.

    Raises:
        UserError: there is no run, or its checkpoint does not fit.
    """
    folder, checkpoint = RunFolder.of_checkpoint(path)
    for needed in (checkpoint, folder.config_file):
        if not needed.is_file():
            raise UserError(f"{path} is not a run's folder or checkpoint: there is no {needed}.")
    settings = read_settings(folder.read_config(), targets=KNOWN_TARGETS if targets is None else targets)
    if scenario is not None:
        settings = replace(settings, scenario=ScenarioSettings.read(scenario))
    data, module = build(settings, trained=True)
    _load_weights(module, checkpoint, folder)
    return settings, data, module


def _load_weights(module: RowClassifier, checkpoint: Path, folder: RunFolder) -> None:
    state = read_checkpoint(checkpoint)
    try:
        module.load_state_dict(state["state_dict"])
        module.trained = state["global_step"]
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(f"{checkpoint} does not fit the model in {folder.config_file}: {words}") from error


def evaluate(settings: RunSettings, data: ImageData, module: RowClassifier) -> Summary:
    """Test metrics of a model, under the names that a run reports."""
    keys = ("accelerator", "devices", "precision", "deterministic", "enable_model_summary")
    arguments = {key: value for key, value in settings.trainer.arguments().items() if key in keys}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning_trainer(settings, arguments, **quiet)
    trainer.test(module, datamodule=data, verbose=False)
    return _metrics(trainer)


def _metrics(trainer: pl.Trainer) -> Summary:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
