"""What is logged about a run besides its steps: its description, its hyperparameters, its charts, how it ended."""

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

from rowgrad.config import as_typed, flat, group_key
from rowgrad.scenario.settings import STATE
from rowgrad.watch.bias import compares_gradients
from rowgrad.watch.loggers import add_facts, add_record
from rowgrad.watch.quantities import ABOUT, ARRIVES, COSINE, OUTCOME, RATIO, REACHES
from rowgrad.watch.recorder import recorder_of
from rowgrad.watch.wording import name_causes, zeros_sentence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import lightning.pytorch as pl
    from torch import Tensor
    from torch.utils.tensorboard.writer import SummaryWriter

    from rowgrad.data.datamodule import ImageData
    from rowgrad.model.classifier import RowClassifier
    from rowgrad.scenario.scenario import Scenario
    from rowgrad.scenario.zeros import Zeros

# Final metrics in the HParams tab -> their keys in summary.json.
FINAL = {
    "test/acc": "test/acc",
    "test/loss": "test/loss",
    "grad_flow/mean_cut_fraction": "cut_fraction",
    "grad_bias/mean_cosine": COSINE,
}
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "tensorboard", "rowgrad")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a run is computed with."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def announce(
    writer: SummaryWriter,
    trainer: pl.Trainer,
    config: DictConfig,
    module: RowClassifier,
    data: ImageData,
    zeros: Sequence[Zeros],
) -> None:
    """Writes what a run is, before it is trained: texts, hyperparameters, the charts of *Custom Scalars*.

    Args:
        writer: the run's event file.
        trainer: with the run's callbacks.
        config: the run's config, as in `config.yaml`.
        module: the run's model.
        data: the run's images.
        zeros: the zeros that the scenario will make, by cause.
    """
    facts = zeros_facts(zeros, module.scenario)
    sentences = filter(None, [module.sentence(), facts["zeros"], data.missing, f"Data set: {data.name}."])
    table = ["| package | version |", "| --- | --- |", *(f"| {n} | {v} |" for n, v in versions().items())]
    writer.add_text("about", "\n\n".join([*sentences, "\n".join(table)]))
    resolved = OmegaConf.to_yaml(config, resolve=True)
    writer.add_text("config", "\n".join("    " + line for line in resolved.splitlines()))  # four spaces: code
    compares = compares_gradients(trainer, module)
    final = {tag: 0.0 for tag, name in FINAL.items() if compares or name != COSINE}
    experiment, start, _ = hparams(hyperparameters(config), final)
    for record in (experiment, start):
        add_record(writer, record)
    add_facts(writer, ABOUT, describe(config, module, data.dataset.train.pixels) | facts)
    recorder = recorder_of(trainer)
    recorded = () if recorder is None else [quantity.name for quantity in recorder.quantities]
    charts = custom_scalars(recorded, selects=any(module.watched.selected), compares=compares)
    writer.add_custom_scalars({"rowgrad": {title: ["Multiline", [tags]] for title, tags in charts.items()}})


def describe(config: DictConfig, module: RowClassifier, images: Tensor) -> dict[str, Any]:
    """What the tab *Rows* shows about a run, with the mean of its training images, (N, H, W) or (N, C, H, W)."""
    mean = images.reshape(-1, *images.shape[-2:]).mean(0, dtype=torch.float32)
    digit = (mean * (255 / mean.max().clamp_min(1))).byte()
    return {
        "sentence": module.sentence(),
        "settings": hyperparameters(config),
        "alike": digest_but_for_seed(config),
        "selected": [row for row, chosen in enumerate(module.scenario.chosen) if chosen],
        "edges": module.scenario.route == STATE,
        "digit": base64.b64encode(digit.numpy().tobytes()).decode(),
        "columns": digit.shape[1],
    }


def zeros_facts(zeros: Sequence[Zeros], scenario: Scenario) -> dict[str, str]:
    """What the tab *Rows* says of a run's zeros: who makes them, and a sentence on why."""
    return {
        "zeros": "" if scenario.is_noop else zeros_sentence(zeros, scenario),
        "made_by": name_causes(zeros),
    }


def custom_scalars(recorded: Sequence[str], *, selects: bool, compares: bool) -> dict[str, str]:
    """The charts of *Custom Scalars*: regular expressions of tags by their titles.

    TensorBoard gives all lines of a run one colour, so lines that must be told apart have a chart each.
    """
    charts = {"Accuracy: validation images": "val/acc.*", "Accuracy: training batches": "train/acc.*"}
    if {REACHES, ARRIVES} <= {*recorded}:
        charts["Cut fraction: share of ‖∂L/∂τ‖² that the cut stops"] = "grad_flow/cut_fraction"
    for name, words in {REACHES: "row", ARRIVES: "input"}.items():
        for part in ("selected", "other") if selects and name in recorded else ():
            charts[f"Mean {words} gradient of the {part} rows"] = f"grad_means/{name}_{part}"
    charts |= {"Loss: validation images": "val/loss", "Loss: training batches": "train/loss"}
    if compares:
        charts["Weights' gradient with and without detach: cosine"] = COSINE
        charts["Weights' gradient with and without detach: ratio of norms"] = RATIO
    return charts


def digest_but_for_seed(config: DictConfig) -> str:
    """The same for all runs of a group, which the tab averages over seeds."""
    key = json.dumps(group_key(flat(config)), sort_keys=True, default=str)
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def write_outcome(writer: SummaryWriter, summary: Mapping[str, Any], step: int, zeros: Mapping[str, str]) -> None:
    """Writes how the run ended; of a finished run also its final metrics, for *HParams*.

    Args:
        writer: the run's event file.
        summary: the content of `summary.json`.
        step: the number of trained steps.
        zeros: `zeros_facts` of the recorded zeros, in place of the expected ones.
    """
    facts = {name: value for name, value in summary.items() if name == "status" or "/" in name}
    writer.add_text("outcome", "\n".join(f"- {name}: {value}" for name, value in facts.items()), step)
    if summary["status"] == "done":
        for tag, name in FINAL.items():
            if tag != name and summary.get(name) is not None:
                writer.add_scalar(tag, summary[name], step)
        *_, end = hparams({}, {})
        add_record(writer, end, step)
    facts |= {name: summary[name] for name in ("cut_fraction", "error") if summary.get(name) is not None}
    facts |= zeros
    add_facts(writer, OUTCOME, facts, step)  # last: any later event means that the run was resumed


def hyperparameters(config: DictConfig) -> dict[str, str | float]:
    """The columns of *HParams* that tell runs apart: scenario, seed, sizes and rates."""
    scenario = {
        f"with {k}": v if isinstance(v, float) else as_typed(v)
        for k, v in config.scenario.items()
        if k not in {"name", "rows", "detach"} and v is not None
    }
    return {
        # TensorBoard shows the alphabetically first five; the others can be switched on.
        "detach": as_typed(config.scenario.detach),
        "lr": config.optimizer.lr,
        "rows": as_typed(config.scenario.rows),
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
