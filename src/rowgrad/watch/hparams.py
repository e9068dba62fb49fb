"""What TensorBoard and other loggers are told of a run beside its numbers: what it is, and how it ended."""

from __future__ import annotations

import base64
import hashlib
import json
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.tensorboard.summary import hparams

from rowgrad.config import flat, group_key
from rowgrad.scenario.settings import STATE
from rowgrad.watch.events import add_facts, add_record
from rowgrad.watch.quantities import COSINE
from rowgrad.watch.tags import ABOUT, OUTCOME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from torch.utils.tensorboard.writer import SummaryWriter

    from rowgrad.model.classifier import RowClassifier

# Final metrics in the HParams tab -> where summary.json has them.
FINAL = {
    "test/acc": "test/acc",
    "test/loss": "test/loss",
    "grad_flow/mean_cut_fraction": "cut_fraction",
    "grad_bias/mean_cosine": COSINE,
}


PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "tensorboard", "rowgrad")


def versions() -> dict[str, str]:
    """Of Python and of what a run is computed with."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def announce(
    writer: SummaryWriter,
    config: DictConfig,
    sentences: Sequence[str],
    versions: dict[str, str],
    *,
    compares: bool,
) -> None:
    """Writes what the run is, and its hyperparameters.

    Args:
        writer: the run's event file.
        config: the run's config, as `config.yaml` has it.
        sentences: scenario and data, in plain words.
        versions: of packages, by their names.
        compares: whether the gradient is compared with the one without detach.
    """
    table = ["| package | version |", "| --- | --- |", *(f"| {n} | {v} |" for n, v in versions.items())]
    writer.add_text("about", "\n\n".join([*sentences, "\n".join(table)]))
    resolved = OmegaConf.to_yaml(config, resolve=True)
    writer.add_text("config", "\n".join("    " + line for line in resolved.splitlines()))  # four spaces: code
    experiment, start, _ = hparams(
        hyperparameters(config), {tag: 0.0 for tag, name in FINAL.items() if compares or name != COSINE}
    )
    for record in (experiment, start):
        add_record(writer, record)


def describe(
    writer: SummaryWriter, config: DictConfig, module: RowClassifier, images: Tensor, *, zeros: str, zeros_by: str
) -> None:
    """Writes what the tab *Rows* shows beside a run's heatmaps.

    Args:
        writer: the run's event file.
        config: the run's config, as `config.yaml` has it.
        module: what is trained.
        images: the training images, (N, H, W) or (N, C, H, W) of uint8.
        zeros: who makes them, in a sentence.
        zeros_by: the same in a word.
    """
    mean = images.reshape(-1, *images.shape[-2:]).mean(0, dtype=torch.float32)
    digit = (mean * (255 / mean.max().clamp_min(1))).byte()
    add_facts(
        writer,
        ABOUT,
        {
            "sentence": module.sentence(),
            "zeros": zeros,
            "zeros_by": zeros_by,
            "settings": hyperparameters(config),
            "alike": digest_but_for_seed(config),
            "selected": [row for row, chosen in enumerate(module.scenario.chosen) if chosen],
            "edges": module.scenario.route == STATE,
            "digit": base64.b64encode(digit.numpy().tobytes()).decode(),
            "columns": digit.shape[1],
        },
    )


def digest_but_for_seed(config: DictConfig) -> str:
    """The same for all runs of a group, which the tab averages over seeds."""
    key = json.dumps(group_key(flat(config)), sort_keys=True, default=str)
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def write_outcome(writer: SummaryWriter, summary: Mapping[str, Any], step: int) -> None:
    """Writes how the run ended and, where it is done, its final metrics and its end for *HParams*."""
    facts = {name: value for name, value in summary.items() if name == "status" or "/" in name}
    writer.add_text("outcome", "\n".join(f"- {name}: {value}" for name, value in facts.items()), step)
    if summary["status"] == "done":
        for tag, name in FINAL.items():
            if tag != name and summary.get(name) is not None:
                writer.add_scalar(tag, summary[name], step)
        *_, end = hparams({}, {})
        add_record(writer, end, step)
    facts |= {name: summary[name] for name in ("cut_fraction", "error") if summary.get(name) is not None}
    add_facts(writer, OUTCOME, facts, step)  # last: what is written after it is of a run that goes on


def hyperparameters(config: DictConfig) -> dict[str, str | float]:
    """What tells one run from another in *HParams*: scenario, seed, sizes and rates."""
    scenario = {
        f"with {k}": _shown(v)
        for k, v in config.scenario.items()
        if k not in {"name", "rows", "detach"} and v is not None
    }
    return {
        # TensorBoard shows the first five by the alphabet; the others can be switched on.
        "detach": _shown(config.scenario.detach),
        "lr": config.optimizer.lr,
        "rows": _shown(config.scenario.rows),
        "scenario": config.scenario.name,
        "seed": config.seed,
        "with rows_lr": config.optimizer.rows_lr,
        "with weight_decay": config.optimizer.weight_decay,
        "with batch_size": config.data.batch_size,
        "with max_epochs": config.trainer.max_epochs,
        "with data": config.data.name,
        "with corruption": config.get("corruption", {}).get("name", "none"),
        "with model": config.model.get("name") or str(config.model.network.get("_target_", "")).rpartition(".")[2],
        **scenario,
    }


def _shown(value: Any) -> str | float:
    return value if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
