"""TensorBoard's event file: how it is written fast, which charts there are, what the run is, how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import google_crc32c
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from tensorboard.compat.proto import summary_pb2
from tensorboard.summary.writer import record_writer
from torch.utils.tensorboard.summary import hparams

from rowgrad.model.classifier import RowClassifier
from rowgrad.watch.quantities import ARRIVES, REACHES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import lightning.pytorch as pl
    from torch import Tensor
    from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

    from rowgrad.watch.quantities import Quantity

# Made at import, so type checkers do not see it.
EventSummary: Any = getattr(summary_pb2, "Summary")  # noqa: B009

# Final metrics in the HParams tab -> where summary.json has them.
FINAL = {"test/acc": "test/acc", "test/loss": "test/loss", "grad_flow/mean_cut_fraction": "cut_fraction"}


def masked_crc32c(data: bytes) -> int:
    """A record's checksum in TensorBoard's file format: CRC-32C (RFC 3720), rotated by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class Logger(TensorBoardLogger):
    """Lightning's logger with fast checksums, and without its `epoch` chart, which would stand before all others.

    TensorBoard's own checksum is a loop in Python over every byte. It takes 0.8 ms for a step's norms and holds the
    lock that the training loop needs; this one takes a microsecond.
    """

    def __init__(self, *arguments: Any, **others: Any) -> None:
        super().__init__(*arguments, **others)
        setattr(record_writer, "masked_crc32c", masked_crc32c)  # noqa: B010  (types differ in what theirs leaves out)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs everything but the epoch."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


class StepEvents:
    """One event for each step, which is refilled: making 88 values anew takes longer than writing them."""

    def __init__(self, writer: SummaryWriter, tags: Sequence[str]) -> None:
        self._file = _file(writer)
        self._summary = EventSummary(value=[EventSummary.Value(tag=tag) for tag in tags])
        self._slots = list(self._summary.value)

    def write(self, steps: Sequence[int], table: Tensor) -> None:
        """Writes values (T, tags) of T steps."""
        for step, values in zip(steps, table.tolist(), strict=True):
            for slot, value in zip(self._slots, values, strict=True):
                slot.simple_value = value
            self._file.add_summary(self._summary, step)  # which copies it


def add_pictures(writer: SummaryWriter, pictures: Mapping[str, bytes], step: int) -> None:
    """Writes PNG files as images, by their tags, in one event."""
    values = [
        EventSummary.Value(tag=tag, image=EventSummary.Image(encoded_image_string=png)) for tag, png in pictures.items()
    ]
    _file(writer).add_summary(EventSummary(value=values), step)


def event_file(trainer: pl.Trainer) -> Any:
    """The run's event file."""
    assert isinstance(trainer.logger, TensorBoardLogger), "rowgrad writes TensorBoard's own events"
    return trainer.logger.experiment


def classifier(module: pl.LightningModule) -> RowClassifier:
    """The module that is trained, as what it is."""
    assert isinstance(module, RowClassifier)
    return module


def announce(
    writer: SummaryWriter,
    config: DictConfig,
    quantities: Sequence[Quantity],
    sentences: Sequence[str],
    versions: dict[str, str],
) -> None:
    """Writes the layout of *Custom Scalars*, what the run is, and its hyperparameters.

    Args:
        writer: the run's event file.
        config: the run's config, as `config.yaml` has it.
        quantities: what is recorded.
        sentences: scenario and data, in plain words.
        versions: of packages, by their names.
    """
    writer.add_custom_scalars(layout(quantities))
    table = ["| package | version |", "| --- | --- |", *(f"| {n} | {v} |" for n, v in versions.items())]
    writer.add_text("about", "\n\n".join([*sentences, "\n".join(table)]))
    resolved = OmegaConf.to_yaml(config, resolve=True)
    writer.add_text("config", "\n".join("    " + line for line in resolved.splitlines()))  # four spaces: code
    experiment, start, _ = hparams(hyperparameters(config), dict.fromkeys(FINAL, 0.0))
    for record in (experiment, start):
        _file(writer).add_summary(record)


def write_outcome(writer: SummaryWriter, summary: Mapping[str, Any], step: int) -> None:
    """Writes how the run ended, its final metrics and, where it is done, its end for *HParams*."""
    facts = {name: value for name, value in summary.items() if name == "status" or "/" in name}
    writer.add_text("outcome", "\n".join(f"- {name}: {value}" for name, value in facts.items()), step)
    for tag, name in FINAL.items():
        if tag != name and summary.get(name) is not None:
            writer.add_scalar(tag, summary[name], step)
    if summary["status"] == "done":
        *_, end = hparams({}, {})
        _file(writer).add_summary(end, step)


def layout(quantities: Sequence[Quantity]) -> dict[str, dict[str, list[Any]]]:
    """The charts of *Custom Scalars*: those that a recorder of some quantities feeds."""
    names = [quantity.name for quantity in quantities]
    charts = {quantity.chart: rf"{quantity.name}/row_\d+" for quantity in quantities if quantity.in_csv}
    for name, words in {REACHES: "row", ARRIVES: "input"}.items():
        if name in names:
            charts[f"Mean {words} gradient: selected, others"] = rf"grad_means/{name}_(selected|other)"
    if {REACHES, ARRIVES} <= set(names):
        charts["Cut fraction: share of ‖∂L/∂τ‖² that the cut stops"] = "grad_flow/cut_fraction"
    charts["Accuracy: training batches, validation, test"] = "(train|val|test)/acc.*"
    charts |= {quantity.chart: rf"{quantity.name}/row_\d+" for quantity in quantities if not quantity.in_csv}
    charts["Loss: training batches, validation, test"] = "(train|val|test)/loss"
    return {"rowgrad": {title: ["Multiline", [tags]] for title, tags in charts.items()}}


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
        "with network": str(config.model.network.get("_target_", "")).rpartition(".")[2],
        **scenario,
    }


def _shown(value: Any) -> str | float:
    return value if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _file(writer: SummaryWriter) -> FileWriter:
    assert writer.file_writer is not None, "open until the writer is closed"
    return writer.file_writer
