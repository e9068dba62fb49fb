"""The processes of `sweep=joblib`: one that is killed costs no job anything, and a signal to the sweep reaches them."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from rowgrad.errors import UserError
from rowgrad.files import read_json
from rowgrad.folders import SweepFolder
from rowgrad.process import SIGNALS, STOPPING, TOLD

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from omegaconf import DictConfig

_began = False


def is_worker() -> bool:
    """Whether this process is one of joblib's."""
    return _began


def begin_worker() -> None:
    """In a worker, before all else: signals are noted from here on, those that came while it began too."""
    global _began  # noqa: PLW0603  (one process, one beginning)
    _began = True
    SIGNALS.listen(TOLD)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


@contextmanager
def _workers_told() -> Generator[None]:
    """Inside, a signal to this process reaches the workers, and none reaches a worker that cannot take note yet."""
    over = Event()
    teller = Thread(target=_tell_workers, args=[over], daemon=True)
    teller.start()  # it takes this process's signals, because it begins before they are blocked here
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # workers inherit that, until begin_worker
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        over.set()
        teller.join()


def _tell_workers(over: Event) -> None:
    """Tells them again and again, because a worker that begins does not hear it."""
    from multiprocessing import active_children

    while not over.wait(0.1):
        for worker in active_children() if SIGNALS.received else []:
            if worker.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, TOLD)


def outlive_killed_workers(config: DictConfig) -> None:
    """Has Hydra's joblib launcher start again what is left, where a worker was killed and joblib gave up all of them.

    Jobs that are done answer at once, the others go on from their checkpoints.

    Args:
        config: the sweep's, with Hydra's own.
    """
    launcher = config.hydra.launcher
    if not str(launcher.get("_target_")).endswith(".JoblibLauncher") or launcher.get("backend") not in {None, "loky"}:
        return
    from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    folder, launch = SweepFolder(Path(config.hydra.sweep.dir)), JoblibLauncher.launch

    def launch_until_done(launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        before = -1
        launcher.joblib["initializer"] = begin_worker
        while True:
            try:
                with _workers_told():
                    returns = launch(launcher, job_overrides, initial_job_idx)
            except TerminatedWorkerError as error:
                SIGNALS.check()
                done = sum(read_json(job.summary_file).get("status") == "done" for job in folder.jobs())
                if done == before:
                    words = "processes are killed again and again, as where memory ends: hydra.launcher.n_jobs=1"
                    raise UserError(f"{words} starts one at a time.") from error
                before = done
                print("A process was killed from outside; what is left is started again.", file=sys.stderr)
            else:
                SIGNALS.check()
                return returns

    setattr(JoblibLauncher, "launch", launch_until_done)  # noqa: B010
