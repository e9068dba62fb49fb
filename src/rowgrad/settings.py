"""What a config may say. Nothing heavy is imported, so that a mistake is told at once.

`ACCEPTED` is the only place where the limits of a value stand: the start of a run checks the whole config against it,
and constructors check their own arguments.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from rowgrad.errors import UserError
from rowgrad.operations import read_operation
from rowgrad.rows import select_rows

if TYPE_CHECKING:
    from hydra.conf import HydraConf

SIZE = 28  # H and W of every data set here
DATA_SETS = ("mnist", "fashion_mnist", "kmnist", "digits")
QUANTITIES = ("row_grad_norm", "input_grad_norm", "row_update_norm")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "64-true", "16-true", "bf16-true")
EXTENDING = ("trainer.max_epochs", "trainer.max_steps")


@dataclass(frozen=True)
class Accepted:
    """Which values a key takes: a test, and its words after "is not"."""

    fits: Callable[[Any], bool]
    words: str


def whole(least: int) -> Accepted:
    """A whole number of at least `least`."""
    fits = lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least  # noqa: E731
    return Accepted(fits, f"a whole number of at least {least}")


def number(words: str, fits: Callable[[float], bool]) -> Accepted:
    """A finite number with a property."""
    return Accepted(
        lambda v: isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) and fits(v),
        f"a number {words}",
    )


def one_of(*options: str) -> Accepted:
    """One of some words."""
    return Accepted(lambda value: value in options, f"one of {', '.join(options)}")


def or_null(accepted: Accepted) -> Accepted:
    """The same, or null."""
    return Accepted(lambda value: value is None or accepted.fits(value), f"{accepted.words}, or null")


def _some_quantities(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and not isinstance(value, str) and set(value) <= set(QUANTITIES)


NOT_NEGATIVE = number("of at least 0", lambda value: value >= 0)
BOOLEAN = Accepted(lambda value: isinstance(value, bool), "true or false")
LIMIT = Accepted(lambda value: value == -1 or whole(1).fits(value), "a whole number of at least 1, or -1 for no limit")

ACCEPTED = {
    "seed": whole(0),
    "data.name": one_of(*DATA_SETS),
    "data.fallback": or_null(one_of(*DATA_SETS)),
    "data.root": Accepted(lambda value: isinstance(value, str) and value != "", "a folder"),
    "data.batch_size": whole(1),
    "data.eval_batch_size": whole(1),
    "data.shift": whole(0),
    "scenario.probability": number("from 0 to 1", lambda value: 0 <= value <= 1),
    "scenario.detach": BOOLEAN,
    "scenario.route": one_of("replace", "observe", "exclude"),
    "scenario.when": one_of("train", "train and eval"),
    "scenario.from_step": whole(0),
    "scenario.to_step": or_null(whole(1)),
    "scenario.random_rows": or_null(whole(0)),
    "scenario.straight_through": BOOLEAN,
    "corruption.offset": Accepted(number("", lambda _: True).fits, "a finite number"),
    "corruption.std": NOT_NEGATIVE,
    "corruption.seed": whole(0),
    "model.checkpoint": or_null(Accepted(lambda value: isinstance(value, str) and value != "", "a run's folder")),
    "model.freeze": BOOLEAN,
    "model.label_smoothing": number("from 0 to below 1", lambda value: 0 <= value < 1),
    "optimizer.lr": NOT_NEGATIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.rows_lr": NOT_NEGATIVE,
    "optimizer.rows_weight_decay": NOT_NEGATIVE,
    "optimizer.schedule": one_of("one_cycle", "constant"),
    "optimizer.warmup": number("between 0 and 1", lambda value: 0 < value < 1),
    "trainer.accelerator": one_of(*ACCELERATORS),
    "trainer.precision": one_of(*PRECISIONS),
    "trainer.max_epochs": LIMIT,
    "trainer.max_steps": LIMIT,
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.gradient_clip_val": or_null(NOT_NEGATIVE),
    "trainer.compile": BOOLEAN,
    "callbacks.recorder.every": whole(1),
    "callbacks.recorder.flush_every": whole(1),
    "callbacks.recorder.quantities": Accepted(_some_quantities, f"a list of one or more of {', '.join(QUANTITIES)}"),
    "callbacks.pictures.every": whole(1),
    "callbacks.pictures.digits": whole(1),
    "callbacks.histograms.every": whole(1),
    "callbacks.checkpoints.every": whole(1),
}


def check(key: str, value: Any) -> None:
    """Compares a value with what its key takes.

    Raises:
        UserError: it does not fit; the message names key, value and what is accepted.
    """
    accepted = ACCEPTED[key]
    if not accepted.fits(value):
        raise UserError(f"{key}={value} is not {accepted.words}.")


def check_config(config: DictConfig) -> None:
    """Compares a composed config with `ACCEPTED`, the row grammar and the operations.

    Raises:
        UserError: the first value that does not fit.
    """
    for key in ACCEPTED:
        parent, _, name = key.rpartition(".")
        group = OmegaConf.select(config, parent) if parent else config
        if group is not None and name in group:
            value = group[name]
            check(key, list(value) if OmegaConf.is_list(value) else value)
    selected = {}
    for key in ("scenario.rows", "corruption.rows"):
        rows = OmegaConf.select(config, key, default="none")
        selected[key] = select_rows(list(rows) if OmegaConf.is_list(rows) else rows, SIZE, key)
    scenario = config.scenario
    check_together(
        selected["scenario.rows"], scenario.get("random_rows"), scenario.get("from_step", 0), scenario.get("to_step")
    )
    if not OmegaConf.is_dict(scenario.operation):
        read_operation(scenario.operation)


def check_together(selected: Sequence[bool], random_rows: int | None, from_step: int, to_step: int | None) -> None:
    """Compares a scenario's values with each other.

    Raises:
        UserError: more random rows than selected ones, or a schedule without a step.
    """
    if random_rows is not None and random_rows > sum(selected):
        limit = f"at most {sum(selected)}, the number of rows in scenario.rows"
        raise UserError(f"scenario.random_rows={random_rows} is not {limit}.")
    if to_step is not None and to_step <= from_step:
        raise UserError(f"scenario.to_step={to_step} is not more than scenario.from_step={from_step}.")


def settle(config: DictConfig, job: HydraConf) -> DictConfig:
    """The checked config of the run that is to start: the one that was typed, or a resumed run's own.

    Args:
        config: the composed config.
        job: Hydra's own config.

    Raises:
        UserError: a value that is not accepted, a folder that holds another run, or nothing to resume.
    """
    folder, resume = Path(job.runtime.output_dir), config.resume
    if resume is not None:
        beside = [override for override in job.overrides.task if not override.startswith("resume=")]
        config = _saved(Path(resume), beside)
    elif (folder / "config.yaml").exists() and os.environ.get("LOCAL_RANK", "0") == "0":
        raise UserError(f"hydra.run.dir={folder} already holds a run. resume={folder} goes on with it.")
    check_config(config)
    if resume is None and config.model.checkpoint is not None:
        find_checkpoint(config.model.checkpoint)  # a run that goes on has weights of its own
    return config


def find_checkpoint(source: str) -> Path:
    """The checkpoint that `model.checkpoint` means: a file, or the last one in a run's folder.

    Raises:
        UserError: there is none; it says how to make one.
    """
    path = Path(source)
    file = path if path.is_file() else path / "checkpoints" / "last.ckpt"
    if not file.is_file():
        raise UserError(
            f"model.checkpoint={source} is not a run's folder or checkpoint: there is no {file}."
            f" This trains one: python scripts/train.py scenario=baseline seed=0 hydra.run.dir={source}"
        )
    return file


def _saved(folder: Path, overrides: Sequence[str]) -> DictConfig:
    """A run's own config, with the limits that are extended."""
    file = folder / "config.yaml"
    if not file.is_file():
        raise UserError(f"resume={folder} is not a run's folder: there is no {file}.")
    try:
        config = OmegaConf.load(file)
    except Exception as error:
        raise UserError(f"resume={folder}: {file} cannot be read.") from error
    if not isinstance(config, DictConfig) or not {"data", "scenario", "model", "optimizer", "trainer"} <= config.keys():
        raise UserError(f"resume={folder}: {file} is not a run's config.")
    for override in overrides:
        key, _, value = override.partition("=")
        if key not in EXTENDING:
            accepted = ", ".join(EXTENDING)
            raise UserError(f"{override} cannot go with resume, which keeps the run's config. Accepted: {accepted}.")
        OmegaConf.update(config, key, int(value) if re.fullmatch(r"-?\d+", value) else value)
    return config


def finished(folder: Path, config: DictConfig) -> str | None:
    """The words for a run that is done and is not to be extended, else None."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        before = OmegaConf.load(folder / "config.yaml")
    except (OSError, ValueError):
        return None
    if summary.get("status") != "done" or before != config:
        return None
    return f"{folder} is finished: test accuracy {summary['test/acc']:.2%}. trainer.max_epochs=… extends it."
