"""Trains: `python scripts/train.py scenario=augment seed=1`. `--help` lists the config groups and keys."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rowgrad.errors import report_plainly
from rowgrad.settings import finished, settle


def run_folder(resume: str | None, new: str) -> str:
    """The folder of a run that goes on, else a new one; the working directory where there is nothing to resume."""
    return new if resume is None else resume if Path(resume).is_dir() else "."


OmegaConf.register_resolver("run_folder", run_folder)


@hydra.main(config_path="../configs", config_name="train")
def main(config: DictConfig) -> None:
    """One run."""
    job, resume = HydraConfig.get(), config.resume is not None
    folder, config = Path(job.runtime.output_dir), settle(config, job)
    if resume and (done := finished(folder, config)):
        print(done)
        return

    from rowgrad.run import train  # late, so that --help and typing mistakes answer at once

    if train(config, folder, resume=resume)["status"] == "interrupted":
        sys.exit(130)


if __name__ == "__main__":
    report_plainly("train")
    main()
