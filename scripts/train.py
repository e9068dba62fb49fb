"""Trains: `python scripts/train.py scenario=augment seed=1`. `--help` lists the config groups and keys."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rowgrad.errors import report_plainly
from rowgrad.jobs import command_to_repeat, run_job
from rowgrad.settings import finished, settle


def run_folder(resume: str | None, new: str) -> str:
    """The folder of a run that goes on, else a new one; the working directory where there is nothing to resume."""
    return new if resume is None else resume if Path(resume).is_dir() else "."


OmegaConf.register_resolver("run_folder", run_folder)


@hydra.main(config_path="../configs", config_name="train", execution_whitelist=["rowgrad.jobs.Sweep"])
def main(config: DictConfig) -> float | None:
    """One run, or one job of a sweep."""
    job, resume = HydraConfig.get(), config.resume is not None
    if job.mode == RunMode.MULTIRUN:
        return run_job(config, job)
    folder, config = Path(job.runtime.output_dir), settle(config, job)
    if resume and (done := finished(folder, config)):
        print(done)
        return None

    from rowgrad.run import train  # late, so that --help and typing mistakes answer at once

    if train(config, folder, resume=resume)["status"] == "interrupted":
        sys.exit(130)
    return None


if __name__ == "__main__":
    report_plainly("train")
    sys.argv[1:] = command_to_repeat(sys.argv[1:])
    main()
