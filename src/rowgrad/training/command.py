"""The command line of `python scripts/train.py`, and the function `rowgrad.train("scenario=augment", "seed=1")`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rowgrad.config import explain
from rowgrad.errors import INTERRUPTED, UserError, end_on_mistake
from rowgrad.files import command_typed, configs_folder
from rowgrad.folders import RunFolder, remove_if_empty
from rowgrad.training.jobs import command_to_repeat, run_job
from rowgrad.training.settings import OFFERED, read_packages, read_saved_settings, read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.conf import HydraConf

    from rowgrad.results.run import Run

EXTENDING = ("trainer.max_epochs", "trainer.max_steps", "trust")  # what may be typed with resume=RUN

OmegaConf.register_resolver("command_typed", command_typed, replace=True)
OmegaConf.register_resolver("explain_settings", lambda: explain(*OFFERED).replace("$", "$$"), replace=True)


def main() -> None:
    """The command, as `__main__` calls it."""
    sys.path.append(str(Path.cwd()))  # a module of one's own in the working directory, as with python -m
    sys.argv[1:] = _readable(command_to_repeat(sys.argv[1:]))
    _job()


def train(*overrides: str) -> Run:
    """Trains as `scripts/train.py` with the same overrides does, and opens the run.

    Example:
        >>> run = train("scenario=augment", "data=digits", "trainer.max_steps=2")
        >>> run.norms["row_grad_norm"].shape
        torch.Size([2, 28])

    Args:
        overrides: as typed on the command line.

    Returns:
        The run.

    Raises:
        UserError: a mistake in the config or the data.
    """
    with initialize_config_dir(str(configs_folder())):
        config = compose("train", _readable(overrides), return_hydra_config=True)
    folder = RunFolder(Path(config.hydra.run.dir).absolute())
    del config.hydra
    _start(config, folder, overrides)

    from rowgrad.results.run import Run

    return Run(folder)


@hydra.main(config_path=str(configs_folder()), config_name="train", execution_whitelist=["rowgrad.training.jobs.Sweep"])
def _job(config: DictConfig) -> float | None:
    """One run, or one job of a sweep."""
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        return run_job(config, job)
    try:
        if _repeats_a_run(job) and not any(word.startswith("trust=") for word in job.overrides.task):
            config.trust = []
        _check_command(job)
        summary = _start(config, RunFolder(Path(job.runtime.output_dir)), job.overrides.task)
    except Exception as error:
        end_on_mistake(error)  # before Hydra sees it, which would print a line of its own
        raise
    if summary.get("status") == "interrupted":
        sys.exit(INTERRUPTED)
    return None


def _start(config: DictConfig, folder: RunFolder, overrides: Sequence[str]) -> dict[str, Any]:
    """Trains a new run, or resumes one with its own config. A finished run is left alone.

    Args:
        config: the composed config.
        folder: where the run is, or will be.
        overrides: as typed.

    Returns:
        The run's summary; empty if the run was finished before.
    """
    resume = config.resume is not None
    try:
        if resume:
            typed, config = config, RunFolder(Path(config.resume)).read_config("resume=")
            settings = read_saved_settings(extended(config, overrides), read_packages(typed.trust, "trust") or ())
            if (summary := folder.read_summary()).get("status") == "done" and folder.read_config() == config:
                tested = f"test accuracy {summary['test/acc']:.2%}" if "test/acc" in summary else "not tested"
                print(f"{folder} is finished: {tested}. trainer.max_epochs=… extends it.")
                return {}
        else:
            settings = read_settings(config)
        from rowgrad.training.train import train_run  # late, so that --help and typing mistakes answer at once

        return train_run(config, folder, settings=settings, resume=resume)
    except BaseException:
        remove_if_empty(folder.path)
        raise


def extended(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """A run's own config, with the limits that were typed with `resume=RUN`.

    Raises:
        UserError: something else was typed.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        if key not in ("resume", *EXTENDING):
            accepted = ", ".join(EXTENDING)
            raise UserError(f"{override} cannot go with resume, which keeps the run's config. Accepted: {accepted}.")
        if key.startswith("trainer."):
            OmegaConf.update(config, key, int(value) if re.fullmatch(r"-?\d+", value) else value)
    return config


def _repeats_a_run(job: HydraConf) -> bool:
    """Whether the config is a run's own, as with `--config-path=RUN --config-name=config`."""
    mains = [Path(source.path) for source in job.runtime.config_sources if source.provider == "main"]
    return any(RunFolder(path).holds_a_run for path in mains)


def _check_command(job: HydraConf) -> None:
    """Refuses an empty folder's name, and says so if a choice that is for sweeps is typed without `-m`."""
    if not str(job.run.dir):
        raise UserError("hydra.run.dir= is empty. Without it, a run gets a folder below logs.")
    choices = job.runtime.choices
    if params := job.sweeper.get("params"):
        words = f"experiment={choices.get('experiment')} is a sweep over {', '.join(params)}: this is one run of it."
        print(f"note           {words} -m sweeps.")
    elif choices.get("sweep"):
        print(f"note           sweep={choices.get('sweep')} is for sweeps, and this is one run. -m sweeps.")


def _readable(words: Sequence[str]) -> list[str]:
    """`logger=null` and `corruption=null` as Hydra reads them: it has no null for the choice of a group."""
    return [re.sub(r"^(logger|corruption)=null$", r"\1=none", word) for word in words]
