"""Runs docs/tour.ipynb from top to bottom in a kernel of its own, and stores the outputs of its cells.

python tools/tour.py

The outputs name no machine: runs are written to a temporary folder, and execution times are not stored.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TOUR = Path(__file__).resolve().parents[1] / "docs" / "tour.ipynb"
PATIENCE = 600  # seconds for one cell


def execute(folder: Path) -> nbformat.NotebookNode:
    """Executes the notebook and returns it with new outputs; the file is not changed.

    Args:
        folder: the kernel's working directory.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell has failed.
    """
    notebook = nbformat.read(TOUR, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3", resources=place, record_timing=False).execute()
    notebook.metadata.language_info = {"name": "python"}  # not the version, which depends on the machine
    return notebook


def main() -> None:
    """Executes and stores."""
    # A run's last line then names `tensorboard` without its folder, as in an activated environment.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(execute(Path(folder)), TOUR)
    print(f"{TOUR.name}: {TOUR.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
