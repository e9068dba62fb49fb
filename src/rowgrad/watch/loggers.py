"""Where recorded steps are logged: TensorBoard's event files, written fast, and any other logger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import google_crc32c
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto import summary_pb2, types_pb2
from tensorboard.summary.writer import record_writer
from torch import Tensor

from rowgrad.folders import RunFolder
from rowgrad.watch.quantities import FACTS, row_tags

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import lightning.pytorch as pl
    from torch.utils.tensorboard.writer import SummaryWriter

    from rowgrad.watch.csv_file import Norms

Scalars = dict[str, Tensor]  # numbers (T,) of T steps by their tags
LEAST = 2.0**-149  # the smallest positive number of 32 bits
# Of a SummaryWriter: after how many seconds events are on the disk (its default is 120), and how many may wait for the
# thread that writes them before training waits for it (its default is 10).
LIVE: dict[str, Any] = {"flush_secs": 2, "max_queue": 1000}
# Generated at import, so type checkers do not see them.
EventSummary: Any = getattr(summary_pb2, "Summary")  # noqa: B009
TENSOR: Any = getattr(summary_pb2, "DATA_CLASS_TENSOR")  # noqa: B009
STRING: Any = getattr(types_pb2, "DT_STRING")  # noqa: B009


class Logger(TensorBoardLogger):
    """Lightning's logger without its `epoch` chart, which TensorBoard would show before all others.

    Args:
        save_dir: the run's folder.
        purge_step: events from this step on are hidden by TensorBoard; for a run that is resumed there.
    """

    def __init__(self, save_dir: str, purge_step: int | None = None) -> None:
        purge: dict[str, Any] = {} if purge_step is None else {"purge_step": purge_step}
        name = RunFolder(Path(save_dir)).events.name
        super().__init__(save_dir, name=name, version="", default_hp_metric=False, **LIVE, **purge)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs everything but the epoch."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


def writes_events(trainer: pl.Trainer) -> bool:
    """Whether any rank writes event files."""
    return any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)


def writers(trainer: pl.Trainer) -> list[SummaryWriter]:
    """TensorBoard's writers in this process; only the first rank has any."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


def other_loggers(trainer: pl.Trainer) -> list[Any]:
    """Loggers that write no event files."""
    return [logger for logger in trainer.loggers if not isinstance(logger, TensorBoardLogger | DummyLogger)]


def save_loggers(trainer: pl.Trainer) -> None:
    """Writes what loggers hold in memory."""
    for writer in writers(trainer):
        writer.flush()
    for logger in other_loggers(trainer):
        logger.save()


def close_loggers(trainer: pl.Trainer) -> None:
    """Closes all loggers: an event file has a thread, and W&B would log the next run's numbers to this one."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.finalize("failed")  # "success" would write a file of hyperparameters
    for logger in other_loggers(trainer):
        finish = getattr(getattr(logger, "experiment", None), "finish", None)
        if callable(finish):
            finish()


class Log(NamedTuple):
    """Where recorded steps are shown.

    Attributes:
        writers: TensorBoard's, of one event a step.
        others: any other loggers of Lightning.
    """

    writers: Sequence[SummaryWriter] = ()
    others: Sequence[Any] = ()

    @classmethod
    def of(cls, trainer: pl.Trainer) -> Log:
        """A trainer's loggers, in this process."""
        return cls(writers(trainer), other_loggers(trainer))

    def write(
        self,
        steps: Sequence[int],
        scalars: Scalars,
        norms: Norms,
        prefix: str = "",
        rows: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Logs T steps: one event a step to TensorBoard, one `log_metrics` a step to any other logger.

        Args:
            steps: T of them.
            scalars: (T,) by their tags.
            norms: (T, H) by the names of their quantities.
            prefix: of all tags.
            rows: the rows' names, of quantities that have any.
        """
        of_rows = (row_tags(name, values.shape[1], (rows or {}).get(name, ())) for name, values in norms.items())
        tags = [prefix + name for name in [*scalars, *(tag for tags in of_rows for tag in tags)]]
        if not tags:
            return
        table = torch.cat([*(column[:, None] for column in scalars.values()), *norms.values()], 1)
        for writer in self.writers:
            StepEvents(writer, tags).write(steps, table)
        for logger in self.others:
            for step, values in zip(steps, table.tolist(), strict=True):
                logger.log_metrics(dict(zip(tags, values, strict=True)), step)


class StepEvents:
    """One event for each step. The same event is refilled: making 88 values anew takes longer than writing them.

    TensorBoard's own checksum is a loop in Python over every byte. It takes 0.8 ms for a step's norms and holds the
    lock that the training loop needs; this one takes a microsecond.

    An event holds values of 32 bits. Smaller numbers than these can represent are written as the smallest positive
    one: in the event file, as in the CSV, a zero is an exact zero.

    Args:
        writer: TensorBoard's.
        tags: the tag of each value.
    """

    def __init__(self, writer: SummaryWriter, tags: Sequence[str]) -> None:
        setattr(record_writer, "masked_crc32c", masked_crc32c)  # noqa: B010  (types differ in what theirs leaves out)
        self._writer = writer
        self._summary = EventSummary(value=[EventSummary.Value(tag=tag) for tag in tags])
        self._slots = list(self._summary.value)

    def write(self, steps: Sequence[int], table: Tensor) -> None:
        """Writes values (T, tags) of T steps."""
        tiny = (table != 0) & (table.abs() < LEAST)
        table = torch.where(tiny, table.sign() * LEAST, table)
        for step, values in zip(steps, table.tolist(), strict=True):
            for slot, value in zip(self._slots, values, strict=True):
                slot.simple_value = value
            add_record(self._writer, self._summary, step)  # copies the event


def masked_crc32c(data: bytes) -> int:
    """A record's checksum in TensorBoard's file format: CRC-32C (RFC 3720), rotated by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def add_record(writer: SummaryWriter, record: Any, step: int | None = None) -> None:
    """Writes one of TensorBoard's `Summary` records."""
    assert writer.file_writer is not None, "open until the writer is closed"
    writer.file_writer.add_summary(record, step)


def add_pictures(writer: SummaryWriter, pictures: Mapping[str, bytes], step: int) -> None:
    """Writes PNG files by their tags, in one event."""
    values = [
        EventSummary.Value(tag=tag, image=EventSummary.Image(encoded_image_string=png)) for tag, png in pictures.items()
    ]
    add_record(writer, EventSummary(value=values), step)


def add_facts(writer: SummaryWriter, tag: str, facts: Mapping[str, Any], step: int | None = None) -> None:
    """Writes facts about a run as JSON, for the tab *Rows*."""
    value = EventSummary.Value(tag=tag)
    value.metadata.plugin_data.plugin_name = FACTS
    value.metadata.data_class = TENSOR  # readers skip records without a class
    value.tensor.dtype = STRING
    value.tensor.string_val.append(json.dumps(facts).encode())
    add_record(writer, EventSummary(value=[value]), step)
