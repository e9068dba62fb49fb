"""Runs docs/tour.ipynb from top to bottom in a kernel of its own, and stores what its cells print and draw.

python tools/tour.py

What is stored names no machine: runs go to a temporary folder, and no times are kept.
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
    """The notebook with new outputs; the file stays as it is.

    Args:
        folder: the kernel's working directory.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell has failed.
    """
    notebook = nbformat.read(TOUR, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3", resources=place, record_timing=False).execute()
    notebook.metadata.language_info = {"name": "python"}  # without the version, which is this machine's
    return notebook


def main() -> None:
    """Executes and stores."""
    # So that a run calls TensorBoard by its name, as it does in an activated environment.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(execute(Path(folder)), TOUR)
    print(f"{TOUR.name}: {TOUR.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
