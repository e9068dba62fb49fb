"""The folders of runs and sweeps: the names of their files, locks, and what is safe to read from anybody's folder.

A folder may come from anybody (SECURITY.md): its config resolves interpolations of its own keys only, and nothing is
written through a link that leads out of it. Nothing heavy is imported.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rowgrad.errors import UserError, in_one_line
from rowgrad.files import PART, read_json, shown, write_whole

if TYPE_CHECKING:
    from collections.abc import Generator

    from omegaconf import DictConfig

OWN_KEYS = {"data", "scenario", "model", "trainer"}  # in every config of this project
DRY = "dry run"  # the status of a run with trainer.fast_dev_run
MOST_BYTES, MOST_LEVELS = 1_000_000, 50  # of a config file; libyaml ends the process at 100,000 levels
OWN_KEY = re.compile(r"\$\{[\w.\[\]]+\}")  # ${seed}, but no resolver, such as ${oc.env:HOME}


class BusyError(UserError):
    """Another process trains in the folder."""


class RunFolder:
    """The folder of one run. Its files need not exist.

    Args:
        path: the folder.

    Attributes:
        config_file: the resolved config.
        summary_file: what the run reports when it ends.
        norms_file: `row_gradients.csv`.
        events: TensorBoard's event files.
        last: the newest checkpoint; `previous` is the one before it, `best` the best by `val/acc`.
        job_file: the overrides of a job of a sweep.
        lock_file: locked while a process trains.
        report: where `scripts/report.py` writes its page.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.summary_file = path / "summary.json"
        self.norms_file = path / "row_gradients.csv"
        self.events = path / "tensorboard"
        self.last, self.previous, self.best = (
            path / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous", "best")
        )
        self.job_file = path / "job.json"
        self.lock_file = path / ".lock"
        self.report = path / "report"

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def holds_a_run(self) -> bool:
        return self.config_file.exists()

    @property
    def has_own_config(self) -> bool:
        """Whether its config is one of this project: Lightning's command line writes a file of this name, too."""
        try:
            config = read_yaml(self.config_file)
        except UserError:
            return False
        return isinstance(config, dict) and config.keys() >= OWN_KEYS

    @property
    def checkpoints(self) -> list[Path]:
        """The existing checkpoints from which a run can be resumed, the newest first."""
        return [file for file in (self.last, self.previous) if file.exists()]

    @classmethod
    def of_checkpoint(cls, source: Path) -> tuple[RunFolder, Path]:
        """The run's folder and the checkpoint that a path means: a checkpoint, or a run's folder and its last one."""
        folder = cls(source.parent.parent if source.is_file() else source)
        return folder, source if source.is_file() else folder.last

    def read_config(self, key: str = "") -> DictConfig:
        """The config of the run.

        Args:
            key: what precedes the folder's name in a message, as in `resume=`.

        Raises:
            UserError: the file is missing, or it is not a run's config.
        """
        from omegaconf import DictConfig, OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        if not self.config_file.is_file():
            raise UserError(f"{key}{self} is not a run's folder: there is no {self.config_file}.")
        config = read_yaml(self.config_file)
        if not isinstance(config, dict) or not config.keys() >= OWN_KEYS:
            raise UserError(f"{key}{self}: {self.config_file} is not a run's config.")
        try:
            for _ in range(2):  # once more, because an interpolation may be put together from several keys
                _refuse_resolvers_in(config, str(self.config_file))
                config = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
        except OmegaConfBaseException as error:
            raise UserError(f"{key}{self}: {self.config_file} cannot be read: {in_one_line(error)[:200]}") from error
        return DictConfig(config)

    def read_summary(self) -> dict[str, Any]:
        """What the run reported, without what is null; empty if it has not ended.

        Raises:
            UserError: the file cannot be read.
        """
        if not self.summary_file.is_file():
            return {}
        summary = {name: value for name, value in read_json(self.summary_file).items() if value is not None}
        measured = [value for name, value in summary.items() if "/" in name or name == "cut_fraction"]
        if not isinstance(summary.get("status"), str) or not all(isinstance(value, int | float) for value in measured):
            raise UserError(f"{self.summary_file} cannot be read: it is not a run's summary.")
        return summary

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes what the run reports."""
        write_whole(self.summary_file, json.dumps(summary, indent=2) + "\n")

    @property
    def is_trained_now(self) -> bool:
        """Whether a process trains in the folder."""
        from filelock import FileLock, Timeout

        if self.lock_file.is_symlink() or not self.lock_file.is_file():
            return False
        try:
            with FileLock(self.lock_file, blocking=False):
                return False
        except Timeout:
            return True
        except OSError:  # a read-only folder
            return False

    def remove_partial_files(self) -> None:
        """Removes files that a killed process was writing."""
        for part in self.path.glob(f"**/*{PART}"):
            part.unlink()

    @contextmanager
    def held(self) -> Generator[None]:
        """Makes the folder and locks it. A folder that stays empty is removed again.

        Raises:
            BusyError: another process trains in it.
            UserError: a link in it leads out of it.
        """
        from filelock import FileLock, Timeout  # late: most answers need no lock

        self.path.mkdir(parents=True, exist_ok=True)
        check_inside(self.path)
        lock = FileLock(self.lock_file, blocking=False, is_singleton=True)  # reentrant: a job holds it, then its run
        try:
            lock.acquire()
        except Timeout:
            raise BusyError(f"{shown(self.path)} is being trained by another process.") from None
        try:
            yield
        finally:
            if lock.lock_counter == 1:
                self.lock_file.unlink(missing_ok=True)
            lock.release()
            remove_if_empty(self.path)

    def claim(self, config: DictConfig, *, resume: bool) -> None:
        """Writes the run's config, which makes the folder this run's own.

        Raises:
            UserError: it holds a run already, and that run is not resumed.
        """
        from omegaconf import OmegaConf

        if self.holds_a_run and not resume:
            raise UserError(f"hydra.run.dir={self} already holds a run. resume={self} goes on with it.")
        write_whole(self.config_file, OmegaConf.to_yaml(config, resolve=True))


class SweepFolder:
    """The folder of a sweep, with a folder for each job.

    Args:
        path: the folder.

    Attributes:
        file: the command that started the sweep, and its overrides.
        table_file: a line for each job.
        answers_file: the results, in Markdown.
        report: the results, as a page.
    """

    RESUME = "sweep.resume="

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "sweep.json"
        self.table_file = path / "sweep.csv"
        self.answers_file = path / "sweep.md"
        self.report = path / "report"

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> dict[str, Any]:
        """The command and the overrides; empty if the folder holds no sweep."""
        return read_json(self.file)

    @property
    def planned(self) -> int:
        """The number of jobs of the sweep; 0 if it is not known."""
        count = self.read().get("jobs", 0)
        return count if isinstance(count, int) else 0

    def write(self, content: dict[str, Any]) -> None:
        """Makes the folder this sweep's own."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.file, json.dumps(content, indent=2) + "\n")

    def remove(self) -> None:
        """Removes a sweep that started no job."""
        for file in (self.file, self.path / "multirun.yaml"):  # the second is Hydra's
            file.unlink(missing_ok=True)
        remove_if_empty(self.path)

    def jobs(self) -> list[RunFolder]:
        """The folders of the jobs that were started, in no order."""
        name = RunFolder(self.path).job_file.name
        return [RunFolder(file.parent) for file in self.path.glob(f"*/{name}")]


def remove_if_empty(folder: Path) -> None:
    """Removes a folder if it is empty, and then its parents inside the working directory if they are."""
    path, here = folder.absolute(), Path.cwd()
    for parent in (path, *path.parents):
        if (parent != path and here not in parent.parents) or parent in {here, *here.parents}:
            return
        try:
            parent.rmdir()
        except OSError:  # not empty, or already removed
            return


def read_yaml(file: Path, *, any_tag: bool = False) -> Any:
    """A YAML file of a run's folder as plain Python values, read by libyaml, which takes two milliseconds.

    Args:
        file: the file.
        any_tag: whether values with tags of Python's, as Lightning's `hparams.yaml` may have, are read as their tags.

    Raises:
        UserError: it cannot be read, is too large or deep, or has an alias (a few can expand to billions of values).
    """
    import yaml

    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader = type("Loader", (base,), {}) if any_tag else base
    if any_tag:
        loader.add_multi_constructor("", lambda _loader, tag, _node: tag.removeprefix("tag:yaml.org,2002:"))
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError("it is larger than a megabyte.")
        text, level = file.read_bytes(), 0
        for event in yaml.parse(text, Loader=loader):
            level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or level > MOST_LEVELS:
                raise UserError(f"it has a YAML alias, or more than {MOST_LEVELS} levels.")
        return yaml.load(text, Loader=loader)  # noqa: S506  (a safe loader)
    except (yaml.YAMLError, OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {in_one_line(error)[:200]}") from error


def refuse_resolvers(text: str, source: str) -> None:
    """Refuses an interpolation other than of a key.

    Raises:
        UserError: it names the text.
    """
    if "${" in OWN_KEY.sub("", text):
        raise UserError(f"{source}: {text!r} is not resolved: a file in a folder may name its own keys only.")


def _refuse_resolvers_in(node: Any, source: str) -> None:
    if isinstance(node, str):
        refuse_resolvers(node, source)
    elif isinstance(node, dict | list):
        for inner in [*node, *node.values()] if isinstance(node, dict) else node:
            _refuse_resolvers_in(inner, source)


def check_inside(folder: Path) -> None:
    """Checks that everything in a folder is inside it, before anything is written there.

    Raises:
        UserError: a link that leads out of the folder, or a pipe or device.
    """
    home = folder.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            raise UserError(f"{path} is a link that leads out of the run's folder, and nothing is written through it.")
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is neither a file nor a folder.")
