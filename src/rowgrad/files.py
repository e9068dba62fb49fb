"""Files: whole or not there, and paths as one would type them."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

PART = ".part"  # what a file's name ends in while it is not whole


@contextmanager
def whole_file(path: Path, *, move_old_to: Path | None = None) -> Generator[IO[bytes]]:
    """A file to write to; it appears under its name when all of it is on the disk, and never in part.

    Args:
        path: its name. What is there is replaced.
        move_old_to: where that goes, if it is to be kept.
    """
    part = path.with_name(path.name + PART)
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if move_old_to is not None and path.exists():
            path.replace(move_old_to)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Writes a text so that its file is whole or as it was before."""
    with whole_file(path) as file:
        file.write(text.encode())


def shown(path: Path) -> Path:
    """The path as one would type it here."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def command_typed() -> str:
    """How one types the command that trains: by the script of a clone, else by the package's name."""
    script = Path(__file__).parents[2] / "scripts" / "train.py"
    return "python scripts/train.py" if script.is_file() else "python -m rowgrad"


def configs_folder() -> Path:
    """Where the YAML files are: in the package where it was installed, beside `src` in a clone."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parents[1] / "configs"


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file's names and values; empty where it is not there, not whole, or something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
