"""The processes of `sweep=joblib`: one that is killed costs the others nothing but a new start."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rowgrad.errors import UserError
from rowgrad.files import read_json
from rowgrad.folders import SweepFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig


def outlive_killed_workers(config: DictConfig) -> None:
    """Has Hydra's joblib launcher start again what is left, where a worker was killed and joblib gave up all of them.

    Jobs that are done answer at once, the others go on from their checkpoints.

    Args:
        config: the sweep's, with Hydra's own.
    """
    if not str(config.hydra.launcher.get("_target_")).endswith(".JoblibLauncher"):
        return
    from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    folder, launch = SweepFolder(Path(config.hydra.sweep.dir)), JoblibLauncher.launch

    def launch_until_done(launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        before = -1
        while True:
            try:
                return launch(launcher, job_overrides, initial_job_idx)
            except TerminatedWorkerError as error:
                done = sum(read_json(job.summary_file).get("status") == "done" for job in folder.jobs())
                if done == before:
                    words = "processes are killed again and again, as where memory ends: hydra.launcher.n_jobs=1"
                    raise UserError(f"{words} starts one at a time.") from error
                before = done
                print("A process was killed from outside; what is left is started again.", file=sys.stderr)

    setattr(JoblibLauncher, "launch", launch_until_done)  # noqa: B010
