"""The command `python scripts/train.py`, and the same as a function: `rowgrad.train("scenario=augment", "seed=1")`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rowgrad.config import explain
from rowgrad.errors import UserError, end_on_mistake
from rowgrad.files import command_typed, configs_folder
from rowgrad.folders import RunFolder
from rowgrad.process import INTERRUPTED
from rowgrad.training.jobs import command_to_repeat, run_job
from rowgrad.training.settings import OFFERED
from rowgrad.training.start import config_to_train, describe_finished
from rowgrad.training.words import check_sweep, readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.conf import HydraConf

    from rowgrad.results.run import Run


OmegaConf.register_resolver("command_typed", command_typed, replace=True)
OmegaConf.register_resolver("explain_settings", lambda: explain(*OFFERED).replace("$", "$$"), replace=True)


def train(*overrides: str) -> Run:
    """Trains as `scripts/train.py` with the same overrides does, and opens the run.

    Example:
        >>> run = train("scenario=augment", "data=digits", "trainer.max_steps=2")
        >>> run.norms["row_grad_norm"].shape
        torch.Size([2, 28])

    Raises:
        UserError: a mistake in the config or the data.
    """
    with initialize_config_dir(str(configs_folder())):
        config = compose("train", readable(overrides), return_hydra_config=True)
    folder = RunFolder(Path(config.hydra.run.dir).absolute())
    del config.hydra
    try:
        _train_unless_finished(config, folder, overrides)
    except BaseException:
        folder.leave_if_empty()
        raise

    from rowgrad.results.run import Run

    return Run(folder)


@hydra.main(config_path=str(configs_folder()), config_name="train", execution_whitelist=["rowgrad.training.jobs.Sweep"])
def _job(config: DictConfig) -> float | None:
    """One run, or one job of a sweep."""
    job = HydraConfig.get()
    folder = RunFolder(Path(job.runtime.output_dir))
    if job.mode == RunMode.MULTIRUN:
        return run_job(config, job)
    try:
        _check_folder(job)
        if _repeats_a_run(job) and not any(word.startswith("trust=") for word in job.overrides.task):
            config.trust = []
        if params := job.sweeper.get("params"):
            print(
                f"note           {chosen(job)} is a sweep over {', '.join(params)}: this is one run of it. -m sweeps."
            )
        summary = _train_unless_finished(config, folder, job.overrides.task)
    except Exception as error:
        folder.leave_if_empty()
        end_on_mistake(error)  # here and not by Hydra, which would put a line of its own before ours
        raise
    if summary.get("status") == "interrupted":
        sys.exit(INTERRUPTED)
    return None


def _check_folder(job: HydraConf) -> None:
    if not str(job.run.dir):
        raise UserError("hydra.run.dir= is empty. Without it, a run gets a folder below logs.")


def _repeats_a_run(job: HydraConf) -> bool:
    """Whether the config is a run's own, as with `--config-path=RUN --config-name=config`."""
    mains = [Path(source.path) for source in job.runtime.config_sources if source.provider == "main"]
    return any(RunFolder(path).holds_a_run for path in mains)


def chosen(job: HydraConf) -> str:
    """The experiment of a command, as it was typed."""
    return f"experiment={job.runtime.choices.get('experiment')}"


def _train_unless_finished(config: DictConfig, folder: RunFolder, overrides: Sequence[str]) -> dict[str, Any]:
    """What the run reports; nothing where it was finished before, which is said."""
    resume = config.resume is not None
    config, settings = config_to_train(config, folder, overrides)
    if resume and (words := describe_finished(folder, config)):
        print(words)
        return {}
    from rowgrad.training.train import train_run  # late, so that --help and typing mistakes answer at once

    return train_run(config, folder, settings=settings, resume=resume)


def main() -> None:
    """The command, as `__main__` calls it."""
    sys.path.append(str(Path.cwd()))  # a module of one's own beside the command, as with python -m
    sys.argv[1:] = readable(command_to_repeat(sys.argv[1:]))
    check_sweep(sys.argv[1:])
    _job()
