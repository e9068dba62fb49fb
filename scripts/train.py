"""Trains: `python scripts/train.py scenario=augment seed=1`. `--help` lists the config groups and keys."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rowgrad.errors import report_plainly
from rowgrad.settings import check_config, finished, saved_config

# The folder of a run that goes on, else a new one.
OmegaConf.register_resolver("run_folder", lambda resume, new: resume if Path(str(resume)).is_dir() else new)


@hydra.main(config_path="../configs", config_name="train")
def main(config: DictConfig) -> None:
    """One run."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    resume = config.resume is not None
    if resume:
        changes = [change for change in HydraConfig.get().overrides.task if not change.startswith("resume=")]
        config = saved_config(Path(config.resume), changes)
        if not changes and (done := finished(folder)):
            print(f"{folder} is finished: test accuracy {done['test/acc']:.2%}. trainer.max_epochs=… extends it.")
            return
    check_config(config)

    from rowgrad.run import train  # late, so that --help and typing mistakes answer at once

    if train(config, folder, resume=resume)["status"] == "interrupted":
        sys.exit(130)


if __name__ == "__main__":
    report_plainly("train")
    main()
