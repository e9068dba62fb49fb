"""Opens the folders of runs: of this project's pipeline, or of any logger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rowgrad.errors import UserError
from rowgrad.folders import RunFolder
from rowgrad.results.logged import USUAL, LoggedRun, norms_files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike


def open_run(folder: str | PathLike[str]) -> LoggedRun:
    """Opens the folder of a run of this project, or of any logger beside which a recorder has written, and reads it.

    Example:
        >>> folder = train("data=digits", "trainer.max_steps=2").folder
        >>> sorted(open_run(folder).norms)
        ['input_grad_norm', 'row_grad_norm']

    Returns:
        A `Run` for a folder of this project's pipeline, which has more to say; else a `LoggedRun`.

    Raises:
        UserError: it is not a run's folder, or a file in it cannot be read.
    """
    return _opened(runs_in(Path(folder))[0])


def open_runs(paths: Iterable[Path]) -> tuple[list[LoggedRun], list[Path]]:
    """Opens all runs at and below some paths, in the order of their names.

    Returns:
        The runs, each once, and the paths at and below which there is none.

    Raises:
        UserError: there is no run at all, or a file cannot be read.
    """
    found: dict[tuple[Path, int], LoggedRun] = {}
    without: list[Path] = []
    for path in paths:
        below = [] if path.is_file() else _folders(path)
        for run in (run for folder in below for run in runs_in(folder)):
            found.setdefault((run.path, run.number), run)
        without += [] if below else [path]
    if not found:
        raise UserError(f"{without[0]} is neither a run's folder nor a folder of runs: {_no_run()}")
    return [_opened(run) for run in found.values()], without


def runs_in(folder: Path) -> list[LoggedRun]:
    """The runs of a folder, unread.

    Raises:
        UserError: there is none.
    """
    if _is_of_pipeline(folder):
        from rowgrad.results.run import Run  # late: it needs the packages of the pipeline

        return [Run(RunFolder(folder))]
    numbers = norms_files(folder)
    if not numbers:
        raise UserError(f"{folder} is not a run's folder: {_no_run()}")
    return [LoggedRun(folder, number) for number in numbers]


def _folders(path: Path) -> list[Path]:
    """The folders of runs: a path itself, or else those below it."""
    config = RunFolder(path).config_file.name
    if norms_files(path) or RunFolder(path).holds_a_run:
        return [path]
    below = {file.parent for name in (f"{USUAL.stem}*{USUAL.suffix}", config) for file in path.rglob(name)}
    return sorted(folder for folder in below if norms_files(folder) or _is_of_pipeline(folder))


def _is_of_pipeline(folder: Path) -> bool:
    """Whether a folder has a config of this project, or nothing else that a run leaves.

    Lightning's command line writes a `config.yaml`, too.
    """
    own = RunFolder(folder)
    if not own.holds_a_run:
        return False
    return own.job_file.exists() or own.summary_file.exists() or not norms_files(folder) or own.has_own_config


def _no_run() -> str:
    return f"there is no {RunFolder(Path()).config_file.name} and no {USUAL.name} in it."


def _opened(run: LoggedRun) -> LoggedRun:
    """Reads what every later step needs, so that a mistake in a file is found at once."""
    for name in run.needed:
        getattr(run, name)
    return run
