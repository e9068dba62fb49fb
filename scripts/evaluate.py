"""Tests a trained run again: `python scripts/evaluate.py RUN` prints the same numbers as the run reported."""

import argparse
import json
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir

from rowgrad.errors import UserError, tell_mistakes_plainly
from rowgrad.files import configs_folder
from rowgrad.process import commanded


def main() -> None:
    """Prints the test metrics as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run's folder (its last weights), or a checkpoint in it")
    parser.add_argument("--scenario", metavar="NAME", help="put the rows through this scenario, not the run's own")
    parser.add_argument(
        "--trust", metavar="PACKAGE", action="append", default=[], help="of yours, that the run may name"
    )
    arguments = parser.parse_args()
    scenario = None
    if arguments.scenario:
        names = sorted(path.stem for path in (configs_folder() / "scenario").glob("*.yaml"))
        if arguments.scenario not in names:
            raise UserError(f"there is no scenario {arguments.scenario}. Accepted: {', '.join(names)}.")
        with initialize_config_dir(str(configs_folder())):
            scenario = compose("train", [f"scenario={arguments.scenario}"]).scenario

    from rowgrad.training.run import evaluate, load_run  # late, so that --help and typing mistakes answer at once

    print(json.dumps(evaluate(*load_run(arguments.run, scenario, arguments.trust)), indent=2))


if __name__ == "__main__":
    sys.path.append(str(Path.cwd()))  # a module of one's own beside the command, as with python -m
    tell_mistakes_plainly("evaluate")
    with commanded(at_once=True):
        main()
