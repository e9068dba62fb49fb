"""Atomic file writes, JSON files, and paths as a user types them."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

PART = ".part"  # the suffix of a file while it is written


@contextmanager
def whole_file(path: Path, *, move_old_to: Path | None = None) -> Generator[IO[bytes]]:
    """A file to write to. It gets its name when all of it is on the disk, so no reader ever sees a part of it.

    Args:
        path: its name. An existing file is replaced.
        move_old_to: where an existing file is moved first, to keep it.
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
    """Writes a text atomically."""
    with whole_file(path) as file:
        file.write(text.encode())


def shown(path: Path) -> Path:
    """The path relative to the working directory if it is inside it, else absolute."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def command_typed() -> str:
    """How the training command is typed: by the script in a clone, else by the package's name."""
    script = Path(__file__).parents[2] / "scripts" / "train.py"
    return "python scripts/train.py" if script.is_file() else "python -m rowgrad"


def configs_folder() -> Path:
    """The folder of the YAML files: inside an installed package, beside `src` in a clone."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parents[1] / "configs"


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing, damaged, or holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
