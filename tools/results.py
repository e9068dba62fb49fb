"""The experiments of docs/results.md and their figures, on MNIST: `make results` (most of an hour on 2 CPU cores).

Continues where it was interrupted. The sweeps' results are in FOLDER/*/sweep.md; the figures go to docs/images.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from pictures import IMAGES, script, shrink

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
NETWORK = Path("logs/repair/network")


def main() -> None:
    """Runs unfinished experiments and copies the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if not (NETWORK / "summary.json").exists():
        script("train.py", "scenario=baseline", "seed=0", f"hydra.run.dir={NETWORK}")
    for name, figures in SHOWN.items():
        sweep = ["sweep=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={folder / name}"]
        script("train.py", "-m", f"experiment={name}", *sweep)
        for figure in figures:
            target = IMAGES / f"{name}_{figure}.png"
            shutil.copyfile(folder / name / "report" / "figures" / f"{figure}.png", target)
            shrink(target)


if __name__ == "__main__":
    main()
