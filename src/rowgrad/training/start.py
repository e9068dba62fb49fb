"""What is to be trained: the config that was typed, or a run's own that goes on. Nothing heavy is imported."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from rowgrad.config import plain
from rowgrad.errors import UserError
from rowgrad.files import command_typed
from rowgrad.folders import RunFolder
from rowgrad.training.settings import read_saved_settings, read_settings
from rowgrad.training.targets import read_packages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rowgrad.training.settings import RunSettings

EXTENDING = ("trainer.max_epochs", "trainer.max_steps", "trust")


def config_to_train(config: DictConfig, folder: RunFolder, overrides: Sequence[str]) -> tuple[DictConfig, RunSettings]:
    """The config of the run that is to start, and the same, read.

    Args:
        config: the composed config.
        folder: where the run is to be.
        overrides: what was typed.

    Raises:
        UserError: a value that is not accepted, a folder that holds another run, or nothing to resume.
    """
    if config.resume is not None:
        beside = [override for override in overrides if not override.startswith("resume=")]
        saved = extended(RunFolder(Path(config.resume)).read_config("resume="), beside)
        return saved, read_saved_settings(saved, read_packages(plain(config.trust), "trust") or ())
    if folder.holds_a_run and os.environ.get("LOCAL_RANK", "0") == "0":
        raise UserError(f"hydra.run.dir={folder} already holds a run. resume={folder} goes on with it.")
    settings = read_settings(config)
    if settings.model.checkpoint is not None:
        find_checkpoint(settings.model.checkpoint)
    return config, settings


def find_checkpoint(source: str) -> Path:
    """The checkpoint that `model.checkpoint` means: a file, or the last one in a run's folder.

    Raises:
        UserError: there is none; it says how to make one.
    """
    _, file = RunFolder.of_checkpoint(Path(source))
    if not file.is_file():
        raise UserError(
            f"model.checkpoint={source} is not a run's folder or checkpoint: there is no {file}."
            f" This trains one: {command_typed()} scenario=baseline seed=0 hydra.run.dir={source}"
        )
    return file


def extended(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """A run's own config, with the limits that are extended.

    Raises:
        UserError: something else is to be changed.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        if key not in EXTENDING:
            accepted = ", ".join(EXTENDING)
            raise UserError(f"{override} cannot go with resume, which keeps the run's config. Accepted: {accepted}.")
        if key != "trust":
            OmegaConf.update(config, key, int(value) if re.fullmatch(r"-?\d+", value) else value)
    return config


def describe_finished(folder: RunFolder, config: DictConfig) -> str | None:
    """The words for a run that is done and is not to be extended, else None."""
    summary = folder.read_summary()
    if summary.get("status") != "done" or folder.read_config() != config:
        return None
    tested = f"test accuracy {summary['test/acc']:.2%}" if "test/acc" in summary else "not tested"
    return f"{folder} is finished: {tested}. trainer.max_epochs=… extends it."
