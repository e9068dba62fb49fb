"""Where recorded steps go: `row_gradients.csv`, TensorBoard's event file, any other logger."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger

from rowgrad.errors import UserError
from rowgrad.folders import RunFolder
from rowgrad.watch.csv_file import Norms, NormsFile, cut_back, heights_of
from rowgrad.watch.events import StepEvents
from rowgrad.watch.norms import cut_fraction, means
from rowgrad.watch.quantities import ARRIVES, GRAD_NORM, REACHES
from rowgrad.watch.tags import row_tags

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import lightning.pytorch as pl
    from lightning.pytorch.loggers import Logger
    from torch import Tensor
    from torch.utils.tensorboard.writer import SummaryWriter

    from rowgrad.watch.quantities import Quantity

Columns = dict[str, "Tensor"]  # numbers (T,) by their tags


def derived(norms: Norms, pairs: Sequence[tuple[str, str]], selected: Sequence[bool]) -> Columns:
    """What follows from the norms: the cut fraction of pairs of taps, means over the selected rows and the others.

    Args:
        norms: of T steps, (T, H) by their names.
        pairs: names of two taps, before and after a cut. One pair is `grad_flow/cut_fraction`; of several, each has its
            names behind that.
        selected: which rows are; empty where none can be.
    """
    columns: Columns = {}
    for quantity in (REACHES, ARRIVES) if selected else ():
        if quantity in norms:
            for part, mean in means(norms[quantity], selected).items():
                columns[f"grad_means/{quantity}_{part}"] = mean
    for before, after in pairs:
        reaches, arrives = norms.get(before + GRAD_NORM), norms.get(after + GRAD_NORM)
        if reaches is not None and arrives is not None:
            if reaches.shape != arrives.shape:
                sizes = f"{reaches.shape[1]} rows and {after} has {arrives.shape[1]}"
                raise UserError(f"pairs: {before} has {sizes}: only taps of as many rows can be a pair.")
            tag = "grad_flow/cut_fraction" + (f"_{before}_{after}" if len(pairs) > 1 else "")
            columns[tag] = cut_fraction(reaches, arrives)
    return columns


def table_of(norms: Norms, columns: Mapping[str, Tensor]) -> tuple[list[str], Tensor]:
    """Tags, and their numbers as a table (T, tags)."""
    tags = [*columns, *(tag for name, values in norms.items() for tag in row_tags(name, values.shape[1]))]
    return tags, torch.cat([*(column[:, None] for column in columns.values()), *norms.values()], 1)


def writes_events(trainer: pl.Trainer) -> bool:
    """Whether there are event files, on whichever rank."""
    return any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)


def writers(trainer: pl.Trainer) -> list[SummaryWriter]:
    """TensorBoard's event files, where this process writes to any."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


def other_loggers(trainer: pl.Trainer) -> list[Logger]:
    """Loggers that write no event files."""
    return [logger for logger in trainer.loggers if not isinstance(logger, TensorBoardLogger | DummyLogger)]


def save_loggers(trainer: pl.Trainer) -> None:
    """Has loggers write what they have kept back."""
    for writer in writers(trainer):
        writer.flush()
    for logger in other_loggers(trainer):
        logger.save()


def close_loggers(trainer: pl.Trainer) -> None:
    """Ends what loggers have begun: event files have a thread each, and W&B would give a run's numbers to the next."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.finalize("failed")  # writes nothing more, where "success" would
    for logger in other_loggers(trainer):
        finish = getattr(getattr(logger, "experiment", None), "finish", None)
        if callable(finish):
            finish()


def write_to_loggers(trainer: pl.Trainer, steps: Sequence[int], tags: Sequence[str], table: Tensor) -> None:
    """Writes numbers (T, tags) of T steps: to TensorBoard one event a step, to other loggers as they take them."""
    for writer in writers(trainer):
        StepEvents(writer, tags).write(steps, table)
    for logger in other_loggers(trainer):
        for step, values in zip(steps, table.tolist(), strict=True):
            logger.log_metrics(dict(zip(tags, values, strict=True)), step)


def open_norms_file(trainer: pl.Trainer, folder: Path | None, name: str, quantities: Sequence[Quantity]) -> NormsFile:
    """The file that a run writes to: it goes on with its own, and leaves those of other runs alone. All ranks must ask.

    Args:
        trainer: the trainer.
        folder: the run's own; without one, the logger's, else the trainer's `default_root_dir`.
        name: of the optimizer, where there are several.
        quantities: what is recorded.
    """
    own = Path(folder or trainer.log_dir or trainer.default_root_dir)
    file = RunFolder(own).norms_file
    stem = f"{file.stem}.{name}" if name else file.stem
    file = file.with_name(stem + file.suffix)
    names = {quantity.name for quantity in quantities if quantity.in_csv}
    for number in count(1):
        same = heights_of(file).keys() in (set(), names)  # a file with other columns is another run's
        if not file.exists() or (same and (folder is not None or trainer.global_step > 0)):
            break
        file = file.with_name(f"{stem}-{number}{file.suffix}")
    if not trainer.is_global_zero:
        return NormsFile(file)
    own.mkdir(parents=True, exist_ok=True)
    return NormsFile(file, cut_back(file, trainer.global_step))
