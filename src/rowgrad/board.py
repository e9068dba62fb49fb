"""What TensorBoard shows of a run beside its curves: which charts there are, what the run is, how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import google_crc32c
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from tensorboard.summary.writer import record_writer
from torch.utils.tensorboard.summary import hparams

from rowgrad.settings import QUANTITIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

    from rowgrad.summary import Summary

# Final metrics in the HParams tab -> where summary.json has them.
FINAL = {"test/acc": "test/acc", "test/loss": "test/loss", "grad_flow/mean_cut_fraction": "cut_fraction"}
ROW_CHARTS = {
    "row_grad_norm": "What reaches each row: ‖∂L/∂θ_r‖",
    "input_grad_norm": "What arrives at the input: ‖∂L/∂τ_r‖",
    "row_update_norm": "How far each row moves",
}


def masked_crc32c(data: bytes) -> int:
    """A record's checksum in TensorBoard's file format: CRC-32C (RFC 3720), rotated by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


# TensorBoard's own is a loop in Python over every byte. It takes 0.8 ms for a step's norms and holds the lock that the
# training loop needs; this one takes a microsecond.
setattr(record_writer, "masked_crc32c", masked_crc32c)  # noqa: B010  (types differ in what theirs leaves out)


class Logger(TensorBoardLogger):
    """Lightning's logger without its `epoch` chart, which would stand before all others."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs everything but the epoch."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


def announce(writer: SummaryWriter, config: DictConfig, sentences: Sequence[str], versions: dict[str, str]) -> None:
    """Writes the layout of *Custom Scalars*, what the run is, and its hyperparameters.

    Args:
        writer: the run's event file.
        config: the run's config.
        sentences: scenario and data, in plain words.
        versions: of packages, by their names.
    """
    writer.add_custom_scalars(layout(config))
    table = ["| package | version |", "| --- | --- |", *(f"| {n} | {v} |" for n, v in versions.items())]
    writer.add_text("about", "\n\n".join([*sentences, "\n".join(table)]))
    resolved = OmegaConf.to_yaml(config, resolve=True)
    writer.add_text("config", "\n".join("    " + line for line in resolved.splitlines()))  # four spaces: code
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
    pair = {"row_grad_norm": "row", "input_grad_norm": "input"}
    charts = {ROW_CHARTS[q]: rf"{q}/row_\d+" for q in pair if q in quantities}
    for quantity, words in pair.items():
        if quantity in quantities:
            charts[f"Mean {words} gradient: selected, others"] = rf"grad_means/{quantity}_(selected|other)"
    if pair.keys() <= set(quantities):
        charts["Cut fraction: share of ‖∂L/∂τ‖² that the cut stops"] = "grad_flow/cut_fraction"
    charts["Accuracy: training batches, validation, test"] = "(train|val|test)/acc.*"
    if "row_update_norm" in quantities:
        charts[ROW_CHARTS["row_update_norm"]] = r"row_update_norm/row_\d+"
    charts["Loss: training batches, validation, test"] = "(train|val|test)/loss"
    return {"rowgrad": {title: ["Multiline", [tags]] for title, tags in charts.items()}}


def hyperparameters(config: DictConfig) -> dict[str, str | float]:
    """What tells one run from another in *HParams*: scenario, seed, sizes and rates."""
    scenario = {
        f"with {k}": _plain(v)
        for k, v in config.scenario.items()
        if k not in {"name", "rows", "detach"} and v is not None
    }
    return {
        # TensorBoard shows the first five by the alphabet; the others can be switched on.
        "detach": _plain(config.scenario.detach),
        "lr": config.optimizer.lr,
        "rows": _plain(config.scenario.rows),
        "scenario": config.scenario.name,
        "seed": config.seed,
        "with rows_lr": config.optimizer.rows_lr,
        "with weight_decay": config.optimizer.weight_decay,
        "with batch_size": config.data.batch_size,
        "with max_epochs": config.trainer.max_epochs,
        "with data": config.data.name,
        "with corruption": config.get("corruption", {}).get("name", "none"),
        "with network": str(config.model.network.get("_target_", "")).rpartition(".")[2],
        **scenario,
    }


def _plain(value: Any) -> str | float:
    return value if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _file(writer: SummaryWriter) -> FileWriter:
    assert writer.file_writer is not None, "open until the writer is closed"
    return writer.file_writer
