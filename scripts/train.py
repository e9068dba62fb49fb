"""Trains: `python scripts/train.py scenario=augment seed=1`. `--help` lists the config groups and keys."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rowgrad.errors import report_plainly


@hydra.main(config_path="../configs", config_name="train")
def main(config: DictConfig) -> None:
    """One run."""
    from rowgrad.run import train  # late, so that --help and typing mistakes answer at once

    summary = train(config, Path(HydraConfig.get().runtime.output_dir))
    if summary["status"] == "interrupted":
        sys.exit(130)


if __name__ == "__main__":
    report_plainly("train")
    main()
