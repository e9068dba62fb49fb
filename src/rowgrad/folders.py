"""The folders of runs and sweeps: the names of their files, who may write there, and how. Nothing heavy is imported."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from rowgrad.errors import UserError
from rowgrad.files import PART, read_json, write_whole

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable


class BusyError(UserError):
    """A folder in which another process trains."""


@dataclass(frozen=True)
class RunFolder:
    """Where a run leaves everything. Not all of it need be there."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def norms_file(self) -> Path:
        return self.path / "row_gradients.csv"

    @property
    def events(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def previous(self) -> Path:
        """The one before."""
        return self.last.with_name("previous.ckpt")

    @property
    def best(self) -> Path:
        """The one that was best in validation."""
        return self.last.with_name("best.ckpt")

    @property
    def job_file(self) -> Path:
        """The overrides of a job, where the run is one of a sweep's."""
        return self.path / "job.json"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def lock_file(self) -> Path:
        """Held while the run is trained."""
        return self.path / ".lock"

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
        if source.is_file():
            return cls(source.parent.parent), source
        folder = cls(source)
        return folder, folder.last

    def read_config(self, key: str = "") -> DictConfig:
        """The config that the run was made with.

        Args:
            key: what stands before the folder's name in a message, as in `resume=`.

        Raises:
            UserError: there is none, or it is not a run's.
        """
        if not self.config_file.is_file():
            raise UserError(f"{key}{self} is not a run's folder: there is no {self.config_file}.")
        try:
            config = OmegaConf.load(self.config_file)
        except Exception as error:
            words = " ".join(str(error).split())[:200]
            raise UserError(f"{key}{self}: {self.config_file} cannot be read: {words}") from error
        if not isinstance(config, DictConfig) or not {"data", "scenario", "model", "trainer"} <= config.keys():
            raise UserError(f"{key}{self}: {self.config_file} is not a run's config.")
        return config

    def read_summary(self) -> dict[str, Any]:
        """What the run has reported; empty where it did not come to that.

        Raises:
            UserError: the file cannot be read.
        """
        if not self.summary_file.is_file():
            return {}
        try:
            summary = json.loads(self.summary_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.summary_file} cannot be read: {error}") from error
        if not isinstance(summary, dict):
            raise UserError(f"{self.summary_file} is not a run's summary.")
        return summary

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes what the run reports."""
        write_whole(self.summary_file, json.dumps(summary, indent=2) + "\n")

    def tidy(self) -> None:
        """Removes what a killed process had not written to its end."""
        for part in self.path.glob(f"**/*{PART}"):
            part.unlink()

    @contextmanager
    def held(self) -> Generator[None]:
        """Inside, the folder is this process's alone. It is made where it is not there.

        Raises:
            BusyError: another process trains in it.
        """
        from filelock import FileLock, Timeout  # late: most answers need no lock

        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.lock_file, blocking=False, is_singleton=True)  # a job holds it, and then its run
        try:
            lock.acquire()
        except Timeout:
            raise BusyError(f"{self} is being trained by another process.") from None
        try:
            yield
        finally:
            if lock.lock_counter == 1:
                self.lock_file.unlink(missing_ok=True)  # whoever waits for it sees that, and takes a new one
            lock.release()

    def claim(self, config: DictConfig, *, resume: bool) -> None:
        """Makes the folder this run's own by writing its config: no two runs ever share one.

        Raises:
            UserError: it holds a run already, and `resume` is not meant.
        """
        if self.holds_a_run and not resume:
            raise UserError(f"hydra.run.dir={self} already holds a run. resume={self} goes on with it.")
        write_whole(self.config_file, OmegaConf.to_yaml(config, resolve=True))

    def leave_if_empty(self) -> None:
        """Removes the folder, and those around it below the working directory, where nothing was written there."""
        path, here = self.path.absolute(), Path.cwd()
        for folder in (path, *path.parents):
            if folder != path and here not in folder.parents or folder in (here, *here.parents):
                return
            try:
                folder.rmdir()
            except OSError:  # not empty, or not there
                return


@dataclass(frozen=True)
class SweepFolder:
    """Where a sweep leaves its command, its answers, and a folder for each of its jobs."""

    RESUME: ClassVar[str] = "sweep.resume="  # what goes on with a sweep
    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def file(self) -> Path:
        """The command that started it, and its overrides."""
        return self.path / "sweep.json"

    @property
    def table_file(self) -> Path:
        """A line for each job."""
        return self.path / "sweep.csv"

    @property
    def answers_file(self) -> Path:
        """What it found, in Markdown."""
        return self.path / "sweep.md"

    @property
    def report(self) -> Path:
        return self.path / "report"

    def read(self) -> dict[str, Any]:
        """The command and the overrides; empty where there is no sweep."""
        return read_json(self.file)

    def write(self, content: dict[str, Any]) -> None:
        """Makes the folder this sweep's own."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.file, json.dumps(content, indent=2) + "\n")

    def jobs(self) -> list[RunFolder]:
        """The folders of the jobs that were started, in no order."""
        name = RunFolder(self.path).job_file.name
        return [RunFolder(file.parent) for file in self.path.glob(f"*/{name}")]


def find_run_folders(paths: Iterable[Path]) -> list[RunFolder]:
    """The runs' folders among some folders and everything below them, in the order of their names.

    Raises:
        UserError: a path below which there is no run.
    """
    found: list[RunFolder] = []
    for path in paths:
        name = RunFolder(path).config_file.name
        below = [path] if RunFolder(path).config_file.is_file() else sorted(f.parent for f in path.rglob(name))
        if not below:
            raise UserError(f"{path} is neither a run's folder nor a folder of runs: there is no {name} in it.")
        found += [folder for folder in map(RunFolder, below) if folder not in found]
    return found
