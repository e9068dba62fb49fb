"""The jobs of a sweep: a job that is done is not done again, and one that stopped is resumed.

A sweep's folder holds `sweep.json` (the command that started it) and a folder for each job, named after the overrides
in which the jobs differ, with the job's overrides in `job.json`. So a job finds its folder again, in any order and with
any launcher. Nothing heavy is imported.
"""

from __future__ import annotations

import gc
import json
import math
import re
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback

from rowgrad.config import plain, targets_in
from rowgrad.errors import INTERRUPTED, UserError, end_on_mistake, words_for
from rowgrad.files import read_json, write_whole
from rowgrad.folders import BusyError, RunFolder, SweepFolder, refuse_resolvers
from rowgrad.training.naming import what_is_trained
from rowgrad.training.settings import read_packages, read_saved_settings, read_settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from hydra.conf import HydraConf
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

WITH_RESUME = ("hydra.", "hydra/", "trust=", "--config-dir=")  # what may be typed with sweep.resume
# What a sweep's folder may say of Hydra's own settings. Others could start any program.
HYDRAS = ("hydra.sweeper.n_trials", "hydra.sweeper.n_jobs", "hydra.launcher.n_jobs")
WORD = re.compile(r"(\+\+|\+|~)?(?P<key>[\w.]+)(=(?P<value>.*))?", re.DOTALL)


def command_to_repeat(arguments: list[str]) -> list[str]:
    """The arguments of `scripts/train.py`, with `sweep.resume=FOLDER` replaced by the command that started that sweep.

    Raises:
        UserError: the folder holds no sweep, its command says what a folder may not say, or something was typed that
            cannot go with `sweep.resume`.
    """
    resume = SweepFolder.RESUME
    chosen = [argument for argument in arguments if argument.startswith(resume)]
    if not chosen:
        return arguments
    folder = SweepFolder(Path(chosen[-1].removeprefix(resume)))
    typed = [argument for argument in arguments if argument not in {*chosen, "-m", "--multirun"}]
    for argument in typed:
        if not argument.startswith(WITH_RESUME):
            accepted = ", ".join(f"{word}…" for word in WITH_RESUME)
            raise UserError(
                f"{argument} cannot go with sweep.resume, which repeats the sweep's command. Accepted: {accepted}"
            )
    command = folder.read().get("command")
    if command is None:
        raise UserError(f"{resume}{folder} is not a sweep's folder: there is no {folder.file}.")
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise UserError(f"{folder.file} holds no sweep's command.")
    replaced = ("hydra.sweep.dir=", "trust=", *(f"{word.partition('=')[0]}=" for word in typed))
    words = [word for word in command if not word.startswith(replaced)]
    for word in words:
        _check_word(word, str(folder.file))
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    trust = [] if any(word.startswith("trust=") for word in typed) else ["trust=[]"]
    return [*words, f"hydra.sweep.dir='{quoted}'", *trust, *typed]


def _check_word(word: str, source: str) -> None:
    """Checks a word of the command in a sweep's folder, which may come from anybody: it may only set keys of runs.

    Raises:
        UserError: the word could do more.
    """
    if word in {"-m", "--multirun"}:
        return
    parts = WORD.fullmatch(word)
    key = parts["key"] if parts else ""
    if not key or key == "trust" or (key.startswith("hydra") and key not in HYDRAS):
        raise UserError(f"{source}: {word} could start any program. If it is yours: type it beside sweep.resume.")
    if "." not in key and ("/" in word or "\\" in word or ".." in word):  # the choice of a config group
        raise UserError(f"{source}: {word} names a file elsewhere.")
    refuse_resolvers(word, source)


class Sweep(Callback):
    """Hydra's callback: opens a sweep's folder, and ends the sweep with its tables and an exit code."""

    def __init__(self) -> None:
        self.folder: SweepFolder | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Makes the folder this sweep's own, or goes on with the same sweep."""
        with _leaving_on_errors():
            folder = SweepFolder(Path(config.hydra.sweep.dir))
            _check_alone(config)
            params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
            typed = [*params, *config.hydra.overrides.task]
            parsed = {x.get_key_element(): x for x in OverridesParser.create().parse_overrides(typed)}
            fixed = {key: override for key, override in parsed.items() if not override.is_sweep_override()}
            common = [f"{key}={override.get_value_element_as_str()}" for key, override in fixed.items()]
            sweep = {"overrides": what_is_trained(typed), "common": what_is_trained(common)}
            before = folder.read()
            if before and {key: before.get(key) for key in sweep} != sweep:
                words = " ".join(map(str, before.get("overrides", [])))
                hint = f"{folder.RESUME}{folder} goes on with that one."
                raise UserError(f"hydra.sweep.dir={folder} holds another sweep ({words}). {hint}")
            if not before:
                folder.write({"command": sys.argv[1:], **sweep, "jobs": _count(parsed.values())})
            self.folder = folder

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Writes and prints the results, and ends the process if not all jobs are done."""
        if self.folder is None:
            return
        error = sys.exc_info()[1]
        if not self.folder.jobs():
            self.folder.remove()
            return
        killed = type(error).__name__ == "TerminatedWorkerError"  # joblib's
        if killed:  # as when memory runs out
            print("Cannot train: a worker process was killed, and joblib ended the sweep.", file=sys.stderr)
        from rowgrad.results.sweep import answer_sweep

        with _leaving_on_errors():
            complete = answer_sweep(self.folder)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise SystemExit(INTERRUPTED)
        if killed or (error is None and not complete):
            raise SystemExit(1)


def _count(overrides: Iterable[Override]) -> int:
    """The number of jobs; 0 if a sweeper such as Optuna chooses values."""
    swept = [override for override in overrides if override.is_sweep_override()]
    if not all(override.is_discrete_sweep() for override in swept):
        return 0
    return math.prod(len(list(override.sweep_string_iterator())) for override in swept)


def _check_alone(config: DictConfig) -> None:
    """Refuses what cannot go with a sweep."""
    if "strategy" in config.trainer:
        # Each rank's process runs the command line again, so every rank would run the whole sweep.
        raise UserError("trainer=ddp cannot go with -m. Start one command for each run.")
    if config.resume is not None:
        raise UserError(f"resume={config.resume} cannot go with -m. {SweepFolder.RESUME}FOLDER goes on with a sweep.")


@contextmanager
def _leaving_on_errors() -> Generator[None]:
    """Ends the process if an exception is raised inside. Hydra would make it a warning."""
    try:
        yield
    except Exception as error:
        end_on_mistake(error)
        traceback.print_exc()
        raise SystemExit(1) from error


def run_job(config: DictConfig, job: HydraConf) -> float | None:
    """Trains one job of a sweep, resumes it, or leaves it alone if it is done.

    Args:
        config: the job's config.
        job: Hydra's config of the job.

    Returns:
        `val/acc`, for sweepers that look for the best; None if the job failed, which is recorded and not raised.

    Raises:
        SystemExit, KeyboardInterrupt: the job was interrupted, and the sweep ends.
    """
    folder = RunFolder(Path(job.runtime.output_dir))
    gc.freeze()  # the collection below then skips what exists already, which would take a third of a second
    try:
        with folder.held():
            return _attempt(config, job, folder)
    except BusyError as error:
        print(error, file=sys.stderr)
        return None
    finally:
        gc.collect()  # the objects of a run refer to each other, and hold images on the device
        gc.unfreeze()


def _attempt(config: DictConfig, job: HydraConf, folder: RunFolder) -> float | None:
    before = read_json(folder.summary_file)
    if before.get("status") == "done":
        print(f"{folder.path.name} is done already.")
        return before.get("val/acc")
    folder.summary_file.unlink(missing_ok=True)  # a job that is killed from here on has none
    write_whole(folder.job_file, json.dumps({"overrides": what_is_trained(job.overrides.task)}, indent=2) + "\n")
    try:
        _check_alone(config)
        if folder.checkpoints:
            trusted = read_packages(plain(config.trust), "trust")
            if trusted is None:  # the packages that a person has typed
                packages = {target.partition(".")[0] for _, target in targets_in(plain(config))}
                trusted = tuple(packages - {"rowgrad", "torch", "torchmetrics", "torchvision", "lightning"})
            config = folder.read_config()
            settings = read_saved_settings(config, trusted)
        else:
            settings = read_settings(config)
        from rowgrad.training.train import train_run  # late, so that mistakes answer at once

        summary = train_run(config, folder, settings=settings, resume=folder.holds_a_run)
    except BaseException as error:
        _record(folder, "failed" if isinstance(error, Exception) else "interrupted", error)
        if isinstance(error, Exception):
            return None
        raise
    if summary["status"] == "interrupted":
        raise SystemExit(INTERRUPTED)
    return summary.get("val/acc")


def _record(folder: RunFolder, status: str, error: BaseException) -> None:
    """Writes how a job ended into its summary, and prints it."""
    words = words_for(error)
    ending = {"status": status, "error": f"{type(error).__name__}: {words or error}"}
    folder.write_summary(read_json(folder.summary_file) | ending)
    if words is None and status == "failed":
        traceback.print_exception(error)
    print(f"{folder.path.name} {status}: {words or repr(error)}", file=sys.stderr)
