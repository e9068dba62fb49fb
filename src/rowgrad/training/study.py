"""Optuna's study of a sweep that goes on: which trials are asked for again, and how many are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import OmegaConf, open_dict, read_write

if TYPE_CHECKING:
    from omegaconf import DictConfig


def go_on_with_study(config: DictConfig) -> None:
    """Has Optuna ask again for the trials that have no value, and then only for as many as are missing."""
    import optuna
    from optuna.trial import TrialState

    sweeper = config.hydra.sweeper
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.load_study(study_name=sweeper.study_name, storage=sweeper.storage)
    except KeyError:
        return  # it was killed before there was a study
    trials = study.get_trials()
    settled = [trial.params for trial in trials if trial.state == TrialState.COMPLETE]
    count = len(settled)
    settled += [trial.system_attrs["fixed_params"] for trial in trials if trial.state == TrialState.WAITING]
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        if trial.state in {TrialState.RUNNING, TrialState.FAIL} and trial.params and trial.params not in settled:
            study.enqueue_trial(trial.params)
            settled.append(trial.params)
    _override(config, "hydra.sweeper.n_trials", max(sweeper.n_trials - count, 0))
    if sweeper.sampler.get("seed") is not None:  # else a new process would draw the first numbers again
        _override(config, "hydra.sweeper.sampler.seed", sweeper.sampler.seed + len(trials))


def _override(config: DictConfig, key: str, value: int) -> None:
    """Changes Hydra's config as if it had been typed, so that the jobs' configs agree."""
    with read_write(config.hydra), open_dict(config.hydra):
        OmegaConf.update(config, key, value)
        config.hydra.overrides.hydra.append(f"{key}={value}")
