"""How soon the command line answers: `--help`, `--cfg job` and user errors, compared with an empty Hydra program."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import PROJECT, Result, main, side_by_side

EMPTY = """
import hydra


@hydra.main(config_path=None)
def main(config):
    pass


main()
"""


def seconds(*command: str | Path, folder: Path) -> float:
    """Wall time of a Python process that may use bytecode files."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begun = time.perf_counter()
    subprocess.run([sys.executable, *map(str, command)], cwd=folder, env=env, capture_output=True, check=False)
    return time.perf_counter() - begun


def measure(device: str, quick: bool = False) -> list[Result]:
    """Runs each command with both programs."""
    train, results = PROJECT / "scripts" / "train.py", []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        empty = folder / "empty.py"
        empty.write_text(EMPTY, encoding="utf-8")
        questions = {
            "--help": (["--help"], ["--help"]),
            "--cfg job": (["--cfg", "job"], ["--cfg", "job"]),
            "an unknown group": (["scenario=agument"], ["unknown=1"]),
            "an unknown key": (["optimizer.learning_rate=1"], ["unknown=1"]),
            "an unknown row": (["scenario.rows=28"], ["unknown=1"]),
            "an unknown key in a sweep": (["-m", "optimizer.learning_rate=1,2"], ["-m", "unknown=1,2"]),
            "an unknown row in a sweep": (["-m", "scenario.rows=28,29"], ["-m", "unknown=1"]),
            "an unknown row in a sweep, where both launch two jobs": (
                ["-m", "scenario.rows=28,29"],
                ["-m", "+row=28,29"],
            ),
        }
        for name, (ours, its) in questions.items():
            sides = {
                "rowgrad": lambda ours=ours: seconds(train, *ours, folder=folder),
                "empty program": lambda its=its: seconds(empty, *its, folder=folder),
            }
            for side in [] if quick else sides.values():
                side()
            values = side_by_side(sides, 1 if quick else 15)
            what = f"answer to {name} ÷ an empty Hydra program's"
            results.append(Result("answers", what, ("rowgrad", "empty program"), "≤ 1.5", "s", values))
    return results


if __name__ == "__main__":
    main(__doc__, measure)
