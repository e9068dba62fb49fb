"""Files: their names, whole or not there, and paths as one would type them."""

import json
from pathlib import Path
from typing import Any

# In a sweep's folder; in a job's folder; in a run's folder.
SWEEP, JOB, SUMMARY = "sweep.json", "job.json", "summary.json"
RESUME = "sweep.resume="  # what goes on with a sweep


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it is whole or as it was before."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def shown(path: Path) -> Path:
    """The path as one would type it here."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file; empty where it is not there or not whole."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
