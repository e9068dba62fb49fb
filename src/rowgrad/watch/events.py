"""TensorBoard's event file: how it is written fast, and which charts there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto import summary_pb2, types_pb2
from tensorboard.summary.writer import record_writer

from rowgrad.folders import RunFolder
from rowgrad.watch.quantities import ARRIVES, REACHES
from rowgrad.watch.tags import FACTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from torch.utils.tensorboard.writer import FileWriter, SummaryWriter


LEAST = 2.0**-149  # above 0 in 32 bits
LIVE = 2  # seconds from one writing to the next: SummaryWriter would keep what it has for two minutes
# Made at import, so type checkers do not see it.
EventSummary: Any = getattr(summary_pb2, "Summary")  # noqa: B009
TENSOR: Any = getattr(summary_pb2, "DATA_CLASS_TENSOR")  # noqa: B009
STRING: Any = getattr(types_pb2, "DT_STRING")  # noqa: B009


def masked_crc32c(data: bytes) -> int:
    """A record's checksum in TensorBoard's file format: CRC-32C (RFC 3720), rotated by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class Logger(TensorBoardLogger):
    """Lightning's logger without its `epoch` chart, which would stand before all others.

    Args:
        save_dir: the run's folder.
        purge_step: events from this step on are taken back.
    """

    def __init__(self, save_dir: str, purge_step: int | None = None) -> None:
        purge: dict[str, Any] = {} if purge_step is None else {"purge_step": purge_step}
        name = RunFolder(Path(save_dir)).events.name
        super().__init__(save_dir, name=name, version="", default_hp_metric=False, flush_secs=LIVE, **purge)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs everything but the epoch."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


class StepEvents:
    """One event for each step, which is refilled: making 88 values anew takes longer than writing them.

    TensorBoard's own checksum is a loop in Python over every byte. It takes 0.8 ms for a step's norms and holds the
    lock that the training loop needs; this one takes a microsecond.

    The format has 32 bits for a value. What is smaller than any of them is written as the least that is not 0: in the
    event file, as in the CSV, a zero is an exact zero.
    """

    def __init__(self, writer: SummaryWriter, tags: Sequence[str]) -> None:
        setattr(record_writer, "masked_crc32c", masked_crc32c)  # noqa: B010  (types differ in what theirs leaves out)
        self._file = _file(writer)
        self._summary = EventSummary(value=[EventSummary.Value(tag=tag) for tag in tags])
        self._slots = list(self._summary.value)

    def write(self, steps: Sequence[int], table: Tensor) -> None:
        """Writes values (T, tags) of T steps."""
        tiny = (table != 0) & (table.abs() < LEAST)
        table = torch.where(tiny, table.sign() * LEAST, table)
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


def add_facts(writer: SummaryWriter, tag: str, facts: Mapping[str, Any], step: int | None = None) -> None:
    """Writes what a run says of itself, as JSON: the tab *Rows* reads it."""
    value = EventSummary.Value(tag=tag)
    value.metadata.plugin_data.plugin_name = FACTS
    value.metadata.data_class = TENSOR  # no reader finds it without
    value.tensor.dtype = STRING
    value.tensor.string_val.append(json.dumps(facts).encode())
    _file(writer).add_summary(EventSummary(value=[value]), step)


def add_record(writer: SummaryWriter, record: Any, step: int | None = None) -> None:
    """Writes one of TensorBoard's own records."""
    _file(writer).add_summary(record, step)


def layout(*, means: Sequence[str], cut: bool, curves: bool) -> dict[str, str]:
    """The charts of *Custom Scalars*: regular expressions of tags by their titles. Rows have a tab of their own.

    TensorBoard gives all lines of a run one colour, so what is to be told apart has a chart of its own.

    Args:
        means: quantities of which there are means over the selected rows and over the others.
        cut: whether a cut fraction is recorded.
        curves: whether there are accuracy and loss of training batches.
    """
    charts: dict[str, str] = {}
    if curves:
        charts |= {"Accuracy: validation images": "val/acc.*", "Accuracy: training batches": "train/acc.*"}
    if cut:
        charts["Cut fraction: share of ‖∂L/∂τ‖² that the cut stops"] = "grad_flow/cut_fraction"
    for name, words in {REACHES: "row", ARRIVES: "input"}.items():
        if name in means:
            charts |= {
                f"Mean {words} gradient of the {part} rows": f"grad_means/{name}_{part}"
                for part in ("selected", "other")
            }
    if curves:
        charts |= {"Loss: validation images": "val/loss", "Loss: training batches": "train/loss"}
    return charts


def add_layout(writer: SummaryWriter, charts: Mapping[str, str]) -> None:
    """Writes the charts of *Custom Scalars*, where there are any, once a run: TensorBoard shows the first it finds."""
    if not charts:
        return
    writer.add_custom_scalars({"rowgrad": {title: ["Multiline", [tags]] for title, tags in charts.items()}})


def _file(writer: SummaryWriter) -> FileWriter:
    assert writer.file_writer is not None, "open until the writer is closed"
    return writer.file_writer
