"""Tests a trained run again: `python scripts/evaluate.py RUN [--scenario augment]`."""

import argparse
from pathlib import Path

from rowgrad.errors import report_plainly


def main() -> None:
    """Prints the test metrics as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run's folder (its last weights), or a checkpoint in it")
    parser.add_argument("--scenario", help="put the test images through this scenario of configs/scenario instead")
    arguments = parser.parse_args()

    from rowgrad.run import evaluate  # noqa: PLC0415  (so that --help answers at once)

    evaluate(arguments.run, arguments.scenario)


if __name__ == "__main__":
    report_plainly("evaluate")
    main()
