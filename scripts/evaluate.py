"""Tests a trained run again: `python scripts/evaluate.py RUN` shows the numbers beside those that the run reported."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rowgrad.errors import UserError, run_script

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """Prints the test metrics as a table, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run's folder (its last weights), or a checkpoint in it")
    parser.add_argument("--scenario", metavar="NAME", help="put the rows through this scenario, not the run's own")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: the numbers alone")
    parser.add_argument(
        "--trust", metavar="PACKAGE", action="append", default=[], help="of yours, that the run may name"
    )
    arguments = parser.parse_args()
    scenario = read_scenario(arguments.scenario) if arguments.scenario else None

    from rowgrad.results.evaluation import describe_evaluation
    from rowgrad.training.train import evaluate, load_run  # late, so that --help and typing mistakes answer at once

    settings, data, module = load_run(arguments.run, scenario, arguments.trust)
    metrics = evaluate(settings, data, module)
    if arguments.format == "json":
        print(json.dumps(metrics, indent=2))
    else:
        print(describe_evaluation(arguments.run, module, settings.data.name, metrics))


def read_scenario(name: str) -> "DictConfig":
    """A scenario's config by its name.

    Raises:
        UserError: there is none of this name.
    """
    from hydra import compose, initialize_config_dir

    from rowgrad.files import configs_folder

    names = sorted(path.stem for path in (configs_folder() / "scenario").glob("*.yaml"))
    if name not in names:
        raise UserError(f"there is no scenario {name}. Accepted: {', '.join(names)}.")
    with initialize_config_dir(str(configs_folder())):
        return compose("train", [f"scenario={name}"]).scenario


if __name__ == "__main__":
    sys.path.append(str(Path.cwd()))  # a module of one's own beside the command, as with python -m
    run_script("evaluate", main)
