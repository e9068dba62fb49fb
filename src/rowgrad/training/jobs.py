"""The jobs of a sweep: what makes two of them the same, and how none is lost and none is done twice.

A sweep's folder holds `sweep.json` (the command that started it) and a folder for each job, named after the overrides
in which the jobs differ, with the job's overrides in `job.json`. So the same job finds its own folder again in
whatever order and by whatever launcher it is started. Nothing heavy is imported.
"""

from __future__ import annotations

import gc
import json
import signal
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import open_dict, read_write

from rowgrad.config import plain
from rowgrad.errors import UserError, words_for
from rowgrad.files import read_json, write_whole
from rowgrad.folders import BusyError, RunFolder, SweepFolder
from rowgrad.process import INTERRUPTED, SIGNALS, Interrupted
from rowgrad.training.naming import what_is_trained
from rowgrad.training.settings import read_saved_settings, read_settings
from rowgrad.training.start import find_checkpoint
from rowgrad.training.study import go_on_with_study
from rowgrad.training.targets import targets_of
from rowgrad.training.workers import is_worker, outlive_killed_workers
from rowgrad.trust import check_words

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from hydra.conf import HydraConf
    from omegaconf import DictConfig

BESIDE = ("hydra.", "hydra/", "trust=", "--config-dir=")  # what may stand beside sweep.resume


def command_to_repeat(arguments: list[str]) -> list[str]:
    """The arguments of `scripts/train.py`, with `sweep.resume=FOLDER` replaced by the command that started that sweep.

    Raises:
        UserError: there is no sweep in the folder, its command says what a folder may not say, or something stands
            beside `sweep.resume` that may not.
    """
    resume = SweepFolder.RESUME
    chosen = [argument for argument in arguments if argument.startswith(resume)]
    if not chosen:
        return arguments
    folder = SweepFolder(Path(chosen[-1].removeprefix(resume)))
    beside = [argument for argument in arguments if argument not in {*chosen, "-m", "--multirun"}]
    for argument in beside:
        if not argument.startswith(BESIDE):
            accepted = ", ".join(f"{word}…" for word in BESIDE)
            raise UserError(
                f"{argument} cannot go with sweep.resume, which repeats the sweep's command. Accepted: {accepted}"
            )
    command = folder.read().get("command")
    if command is None:
        raise UserError(f"{resume}{folder} is not a sweep's folder: there is no {folder.file}.")
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise UserError(f"{folder.file} holds no sweep's command.")
    replaced = ("hydra.sweep.dir=", "trust=", *(f"{word.partition('=')[0]}=" for word in beside))
    words = [word for word in command if not word.startswith(replaced)]
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    trust = [] if any(word.startswith("trust=") for word in beside) else ["trust=[]"]
    typed = "type it beside sweep.resume"
    return [*check_words(words, str(folder.file), typed), f"hydra.sweep.dir='{quoted}'", *trust, *beside]


class Sweep(Callback):
    """Hydra's callback: opens a sweep's folder, and ends the sweep with tables and an exit code."""

    def __init__(self) -> None:
        self.folder: SweepFolder | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Makes the folder this sweep's own, or goes on with the sweep that it holds."""
        with _not_swallowed():
            folder = SweepFolder(Path(config.hydra.sweep.dir))
            _check_alone(config)
            params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
            typed = [*params, *config.hydra.overrides.task]
            sweep = {"overrides": what_is_trained(typed), "common": what_is_trained(_common(typed))}
            before = folder.read()
            if before and {key: before.get(key) for key in sweep} != sweep:
                words = " ".join(map(str, before.get("overrides", [])))
                hint = f"{folder.RESUME}{folder} goes on with that one."
                raise UserError(f"hydra.sweep.dir={folder} holds another sweep ({words}). {hint}")
            if not before:
                folder.write({"command": sys.argv[1:], **sweep})
            elif config.hydra.sweeper.get("storage"):
                go_on_with_study(config)
            self.folder = folder
            outlive_killed_workers(config)
            # Where else a job's config is at hand before the first one starts, it would be composed once more.
            setattr(BasicSweeper, "validate_batch_is_legal", _read_before_all)  # noqa: B010

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Writes and prints what the sweep has found, and ends the process where not all of it is done."""
        if self.folder is None:
            return
        error = sys.exc_info()[1]
        if not self.folder.jobs():
            self.folder.remove()  # nothing was started, so it belongs to nobody
            return
        from rowgrad.results.sweep import answer_sweep

        with _not_swallowed():
            complete = answer_sweep(self.folder)
        if isinstance(error, KeyboardInterrupt) or SIGNALS.received:
            raise SystemExit(INTERRUPTED)
        if error is None and not complete:
            raise SystemExit(1)


def _read_before_all(sweeper: BasicSweeper, batch: Sequence[Sequence[str]]) -> None:
    """What Hydra does before it starts a batch of jobs, which is to compose the config of each; and reads it too."""
    assert sweeper.config is not None
    assert sweeper.hydra_context is not None
    folder = SweepFolder(Path(sweeper.config.hydra.sweep.dir))
    for overrides in batch:
        config = sweeper.hydra_context.config_loader.load_sweep_config(sweeper.config, list(overrides))
        with read_write(config), open_dict(config):
            del config.hydra
        try:
            read_settings(config)
        except UserError as error:
            raise UserError(f"{error} So {' '.join(overrides)} cannot be trained, and nothing was.") from error
    folder.write({**folder.read(), "jobs": max(folder.planned, len(batch))})


def _check_alone(config: DictConfig) -> None:
    """Refuses what only a run by itself can do."""
    if "strategy" in config.trainer:
        # Each rank's process runs the command line again, so every rank would run the whole sweep.
        raise UserError("trainer=ddp cannot go with -m. Start one command for each run.")
    if config.resume is not None:
        raise UserError(f"resume={config.resume} cannot go with -m. {SweepFolder.RESUME}FOLDER goes on with a sweep.")


def _common(typed: list[str]) -> list[str]:
    """The overrides that all jobs share, as a sweeper writes them in the jobs' own."""
    parsed = {override.get_key_element(): override for override in OverridesParser.create().parse_overrides(typed)}
    fixed = {key: override for key, override in parsed.items() if not override.is_sweep_override()}
    return [f"{key}={override.get_value_element_as_str()}" for key, override in fixed.items()]


@contextmanager
def _not_swallowed() -> Generator[None]:
    """Hydra makes a warning of what a callback raises. Here it ends the process."""
    try:
        yield
    except Exception as error:
        words = words_for(error)
        if words is None:
            traceback.print_exc()
        raise SystemExit(1 if words is None else f"Cannot train: {words}") from error


def run_job(config: DictConfig, job: HydraConf) -> float | None:
    """Trains one job of a sweep, goes on with it where it stopped, or leaves it alone if it is done.

    Args:
        config: the job's config.
        job: Hydra's own.

    Returns:
        `val/acc`, for sweepers that look for the best; None where the job failed, which is recorded, not raised.

    Raises:
        SystemExit, Interrupted: the job was interrupted, and the sweep with it.
    """
    folder = RunFolder(Path(job.runtime.output_dir))
    gc.freeze()  # what is there before the job is not looked at after it: that would take a third of a second
    try:
        with folder.held():
            SIGNALS.check()
            return _attempt(config, job, folder)
    except BusyError:
        print(f"{folder.path.name} is being trained by another process.", file=sys.stderr)
        return None
    except (KeyboardInterrupt, Interrupted, SystemExit):
        if not is_worker():
            raise
        return None  # Hydra would take minutes to hand the exception over to the sweep, which knows of the signal
    finally:
        gc.collect()  # a run's objects hold each other, images on the device among them
        gc.unfreeze()


def _attempt(config: DictConfig, job: HydraConf, folder: RunFolder) -> float | None:
    before = read_json(folder.summary_file)
    if before.get("status") == "done":
        print(f"{folder.path.name} is done already.")
        return before.get("val/acc")
    folder.summary_file.unlink(missing_ok=True)  # whoever is killed from here on has none
    write_whole(folder.job_file, json.dumps({"overrides": what_is_trained(job.overrides.task)}, indent=2) + "\n")
    try:
        _check_alone(config)
        settings = read_settings(config)
        if folder.checkpoints:
            named = targets_of(plain(config), "", None) if settings.trusted is None else settings.trusted
            config = folder.read_config()
            settings = read_saved_settings(config, named)
        elif settings.model.checkpoint is not None:
            find_checkpoint(settings.model.checkpoint)
        from rowgrad.training.train import train_run  # late, so that mistakes answer at once

        summary = train_run(config, folder, settings=settings, resume=folder.holds_a_run)
    except (KeyboardInterrupt, Interrupted) as error:
        _record(folder, "interrupted", error)
        raise
    except (Exception, SystemExit) as error:
        if _launchers_own(error):
            _record(folder, "interrupted", error)
            raise
        _record(folder, "failed", error)
        return None
    if "signal" in summary:
        _leave(summary["signal"])
    return summary.get("val/acc")


def _leave(name: str) -> NoReturn:
    """Ends the sweep after a signal, which the run has kept to itself: submitit's handler queues the job again."""
    number = signal.Signals[name]
    if not SIGNALS.listens and number != signal.SIGINT and callable(signal.getsignal(number)):
        signal.raise_signal(number)
    raise SystemExit(INTERRUPTED)


def _record(folder: RunFolder, status: str, error: BaseException) -> None:
    """Completes what the run has written about its end, or writes it where the run did not begin."""
    words = words_for(error)
    ending = {"status": status, "error": f"{type(error).__name__}: {words or error}"}
    folder.write_summary(read_json(folder.summary_file) | ending)
    if words is None and status == "failed":
        traceback.print_exception(error)
    print(f"{folder.path.name} {status}: {words or repr(error)}", file=sys.stderr)


def _launchers_own(error: BaseException) -> bool:
    """Whether submitit ends the process, which it does by SystemExit after it has queued the job again."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(error, SystemExit) and frames[-1].f_globals.get("__name__", "").startswith("submitit.")
