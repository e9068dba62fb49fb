"""What TensorBoard shows of a run beside its curves: which charts there are, what the run is, how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from torch.utils.tensorboard.summary import hparams

from rowgrad.settings import QUANTITIES

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

    from rowgrad.summary import Summary

# Final metrics in the HParams tab -> where summary.json has them.
FINAL = {"test/acc": "test/acc", "test/loss": "test/loss", "grad_flow/mean_cut_fraction": "cut_fraction"}
ROW_CHARTS = {
    "row_grad_norm": "What reaches the rows: ‖∂L/∂θ_r‖ of all 28 rows (0 = cut)",
    "input_grad_norm": "What arrives at the network's input: ‖∂L/∂τ_r‖ of all 28 rows",
    "row_update_norm": "How far each row moves: ‖θ_r(t+1) − θ_r(t)‖",
}


def announce(writer: SummaryWriter, config: DictConfig, sentences: dict[str, str], versions: dict[str, str]) -> None:
    """Writes the layout of *Custom Scalars*, the texts and the hyperparameters.

    Args:
        writer: the run's event file.
        config: the run's config.
        sentences: texts by their tags.
        versions: of packages, by their names.
    """
    writer.add_custom_scalars(layout(config))
    resolved = OmegaConf.to_yaml(config, resolve=True)
    table = "\n".join(["| package | version |", "| --- | --- |", *(f"| {n} | {v} |" for n, v in versions.items())])
    code = "\n".join("    " + line for line in resolved.splitlines())  # four spaces: Markdown's code
    for tag, text in (sentences | {"config": code, "versions": table}).items():
        writer.add_text(tag, text)
    experiment, start, _ = hparams(hyperparameters(config), dict.fromkeys(FINAL, 0.0))
    for record in (experiment, start):
        _file(writer).add_summary(record)


def conclude(writer: SummaryWriter, summary: Summary, step: int) -> None:
    """Writes how the run ended, its final metrics and, where it is done, its end for *HParams*."""
    facts = {name: value for name, value in summary.items() if name == "status" or "/" in name}
    writer.add_text("outcome", "\n".join(f"- {name}: {value}" for name, value in facts.items()), step)
    for tag, name in FINAL.items():
        if tag != name and summary.get(name) is not None:
            writer.add_scalar(tag, summary[name], step)
    if summary["status"] == "done":
        *_, end = hparams({}, {})
        _file(writer).add_summary(end, step)


def layout(config: DictConfig) -> dict[str, dict[str, list[Any]]]:
    """The charts of *Custom Scalars*: those that the run's recorder feeds."""
    recorder = config.callbacks.get("recorder")
    quantities = [q for q in QUANTITIES if recorder is not None and q in recorder.quantities]
    charts = {ROW_CHARTS[q]: [rf"{q}/row_\d+"] for q in quantities}
    for quantity, words in {"row_grad_norm": "row gradient", "input_grad_norm": "input gradient"}.items():
        if quantity in quantities:
            charts[f"Mean {words} of the selected rows and of the others"] = [rf"grad_flow/{quantity}_(selected|other)"]
    if {"row_grad_norm", "input_grad_norm"} <= set(quantities):
        charts["Cut fraction: share of the squared input gradient that reaches no row"] = ["grad_flow/cut_fraction"]
    watched = ["Accuracy: training batches, validation, test", "Loss: training batches, validation, test"]
    charts |= {watched[0]: [r"(train|val|test)/acc.*"], watched[1]: [r"(train|val|test)/loss"]}
    return {"rowgrad": {title: ["Multiline", tags] for title, tags in charts.items()}}


def hyperparameters(config: DictConfig) -> dict[str, str | float]:
    """What tells one run from another in *HParams*: scenario, seed, sizes and rates."""
    scenario = {k: _plain(v) for k, v in config.scenario.items() if k != "name"}
    return {
        "scenario": config.scenario.name,
        **scenario,
        "seed": config.seed,
        "data": config.data.name,
        "network": str(config.model.network.get("_target_", "")).rpartition(".")[2],
        "batch_size": config.data.batch_size,
        "max_epochs": config.trainer.max_epochs,
        "lr": config.optimizer.lr,
        "rows_lr": config.optimizer.rows_lr,
        "weight_decay": config.optimizer.weight_decay,
    }


def _plain(value: Any) -> str | float:
    return value if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _file(writer: SummaryWriter) -> FileWriter:
    assert writer.file_writer is not None, "open until the writer is closed"
    return writer.file_writer
