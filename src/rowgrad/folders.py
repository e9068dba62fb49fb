"""The folders of runs and sweeps: the names of their files, who may write there, and how. Nothing heavy is imported."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rowgrad.errors import UserError
from rowgrad.files import PART, read_json, shown, write_whole
from rowgrad.trust import check_inside, load_config

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from omegaconf import DictConfig


DRY = "dry run"  # the status of a run of a few batches, which shows that all parts work


class BusyError(UserError):
    """A folder in which another process trains."""


class Folder:
    """A folder, which can be given to whatever takes a path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.report = path / "report"

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    def leave_if_empty(self) -> None:
        """Removes the folder, and those around it below the working directory, where nothing was written there."""
        path, here = self.path.absolute(), Path.cwd()
        for folder in (path, *path.parents):
            if (folder != path and here not in folder.parents) or folder in {here, *here.parents}:
                return
            try:
                folder.rmdir()
            except OSError:  # not empty, or not there
                return


class RunFolder(Folder):
    """Where a run leaves everything. Not all of it need be there.

    Attributes:
        events: TensorBoard's event files.
        last: the newest checkpoint; `previous` is the one before, `best` the one that was best in validation.
        job_file: the overrides of a job, where the run is one of a sweep's.
        lock_file: held while the run is trained.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.config_file = path / "config.yaml"
        self.summary_file = path / "summary.json"
        self.norms_file = path / "row_gradients.csv"
        self.events = path / "tensorboard"
        self.last, self.previous, self.best = (
            path / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous", "best")
        )
        self.job_file = path / "job.json"
        self.lock_file = path / ".lock"

    @property
    def holds_a_run(self) -> bool:
        return self.config_file.exists()

    @property
    def checkpoints(self) -> list[Path]:
        """Those from which a run can go on, the newest first."""
        return [file for file in (self.last, self.previous) if file.exists()]

    @classmethod
    def of_checkpoint(cls, source: Path) -> tuple[RunFolder, Path]:
        """The run and the checkpoint that are meant by a run's folder (its last one) or by a checkpoint's file."""
        folder = cls(source.parent.parent if source.is_file() else source)
        return folder, source if source.is_file() else folder.last

    def read_config(self, key: str = "") -> DictConfig:
        """The config that the run was made with.

        Args:
            key: what stands before the folder's name in a message, as in `resume=`.

        Raises:
            UserError: there is none, or it is not a run's.
        """
        from omegaconf import DictConfig

        if not self.config_file.is_file():
            raise UserError(f"{key}{self} is not a run's folder: there is no {self.config_file}.")
        try:
            config = load_config(self.config_file)
        except UserError:
            raise
        except Exception as error:
            words = " ".join(str(error).split())[:200]
            raise UserError(f"{key}{self}: {self.config_file} cannot be read: {words}") from error
        if not isinstance(config, DictConfig) or not {"data", "scenario", "model", "trainer"} <= config.keys():
            raise UserError(f"{key}{self}: {self.config_file} is not a run's config.")
        return config

    def read_summary(self) -> dict[str, Any]:
        """What the run has reported, without metrics that are null; empty where it did not come to that.

        Raises:
            UserError: the file cannot be read.
        """
        if not self.summary_file.is_file():
            return {}
        reported = read_json(self.summary_file)
        summary = {name: value for name, value in reported.items() if value is not None or "/" not in name}
        measured = [
            value for name, value in summary.items() if "/" in name or (name == "cut_fraction" and value is not None)
        ]
        if not isinstance(summary.get("status"), str) or not all(isinstance(value, int | float) for value in measured):
            raise UserError(f"{self.summary_file} cannot be read: it is not a run's summary.")
        return summary

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes what the run reports."""
        write_whole(self.summary_file, json.dumps(summary, indent=2) + "\n")

    @property
    def is_trained_now(self) -> bool:
        """Whether a process trains in it."""
        from filelock import FileLock, Timeout

        if self.lock_file.is_symlink() or not self.lock_file.is_file():
            return False
        try:
            with FileLock(self.lock_file, blocking=False):
                return False
        except Timeout:
            return True
        except OSError:  # a folder that can only be read
            return False

    def tidy(self) -> None:
        """Removes what a killed process had not written to its end."""
        for part in self.path.glob(f"**/*{PART}"):
            part.unlink()

    @contextmanager
    def held(self) -> Generator[None]:
        """Inside, the folder is this process's alone. It is made where it is not there, and goes if it stays empty.

        Raises:
            BusyError: another process trains in it.
        """
        from filelock import FileLock, Timeout  # late: most answers need no lock

        self.path.mkdir(parents=True, exist_ok=True)
        check_inside(self.path)
        lock = FileLock(self.lock_file, blocking=False, is_singleton=True)  # a job holds it, and then its run
        try:
            lock.acquire()
        except Timeout:
            raise BusyError(f"{shown(self.path)} is being trained by another process.") from None
        try:
            yield
        finally:
            if lock.lock_counter == 1:
                self.lock_file.unlink(missing_ok=True)  # whoever waits for it sees that, and takes a new one
            lock.release()
            self.leave_if_empty()

    def claim(self, config: DictConfig, *, resume: bool) -> None:
        """Makes the folder this run's own by writing its config: no two runs ever share one.

        Raises:
            UserError: it holds a run already, and `resume` is not meant.
        """
        from omegaconf import OmegaConf

        if self.holds_a_run and not resume:
            raise UserError(f"hydra.run.dir={self} already holds a run. resume={self} goes on with it.")
        write_whole(self.config_file, OmegaConf.to_yaml(config, resolve=True))


class SweepFolder(Folder):
    """Where a sweep leaves its command, its answers, and a folder for each of its jobs.

    Attributes:
        file: the command that started it, and its overrides.
        table_file: a line for each job.
        answers_file: what it found, in Markdown.
    """

    RESUME = "sweep.resume="  # what goes on with a sweep

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.file = path / "sweep.json"
        self.table_file = path / "sweep.csv"
        self.answers_file = path / "sweep.md"

    def read(self) -> dict[str, Any]:
        """The command and the overrides; empty where there is no sweep."""
        return read_json(self.file)

    @property
    def planned(self) -> int:
        """How many jobs the sweep has, as far as is known."""
        count = self.read().get("jobs", 0)
        return count if isinstance(count, int) else 0

    def write(self, content: dict[str, Any]) -> None:
        """Makes the folder this sweep's own."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.file, json.dumps(content, indent=2) + "\n")

    def remove(self) -> None:
        """Takes back a sweep of which no job was started."""
        for file in (self.file, self.path / "multirun.yaml"):  # which is Hydra's
            file.unlink(missing_ok=True)
        self.leave_if_empty()

    def jobs(self) -> list[RunFolder]:
        """The folders of the jobs that were started, in no order."""
        name = RunFolder(self.path).job_file.name
        return [RunFolder(file.parent) for file in self.path.glob(f"*/{name}")]


def find_run_folders(paths: Iterable[Path]) -> list[RunFolder]:
    """The runs' folders among some folders and everything below them, in the order of their names.

    Raises:
        UserError: a path below which there is no run.
    """
    found: dict[Path, RunFolder] = {}
    for path in paths:
        name = RunFolder(path).config_file.name
        below = [path] if RunFolder(path).holds_a_run else sorted(file.parent for file in path.rglob(name))
        if not below:
            raise UserError(f"{path} is neither a run's folder nor a folder of runs: there is no {name} in it.")
        found |= {folder: RunFolder(folder) for folder in below if folder not in found}
    return list(found.values())
