"""The experiments of docs/results.md and their figures, on MNIST: `make results` (most of an hour on 2 CPU cores).

Continues where it was interrupted. The sweeps' results are in FOLDER/*/sweep.md; the figures go to docs/images.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from pictures import IMAGES, script, shrink, sweep

SHOWN = {
    "article": ["row_profiles"],
    "repair": ["repair", "learning_curves"],
    "row_atlas": ["row_atlas"],
    "straight_through": [],
    "detach_is_not_freeze": [],
    "random_rows": [],
    "vanishing": ["vanishing"],
    "truncation": ["truncation"],
    "h_detach": [],
}


def main() -> None:
    """Runs unfinished experiments and copies the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for name, figures in SHOWN.items():
        sweep(name, folder / name)
        drawn = folder / name / "figures"
        if figures:
            script("report.py", folder / name, "--figures", drawn)
        for figure in figures:
            target = IMAGES / f"{name}_{figure}.png"
            shutil.copyfile(drawn / f"{figure}.png", target)
            shrink(target)


if __name__ == "__main__":
    main()
