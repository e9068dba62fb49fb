"""`row_gradients.csv`: a line for each recorded optimizer step, a column for each row and quantity."""

from __future__ import annotations

import io
import os
import re
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from rowgrad.files import write_whole
from rowgrad.folders import RunFolder
from rowgrad.watch.quantities import row_tags

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lightning.pytorch as pl

    from rowgrad.watch.quantities import Quantity

SINGLE, DOUBLE = 9, 17  # decimal digits that tell each number of 32 bits, and of 64 bits, from all others
Norms = dict[str, Tensor]  # norms (T, H) by the names of their quantities
_LINE = re.compile(rb"(\d{1,18})((?:,-?(?:\d+(?:\.\d+)?(?:e[-+]\d+)?|inf|nan))*)\n")  # a step and its norms


class NormsFile:
    """The file while a run writes to it. Existing lines are kept.

    Args:
        path: of the file, which is created with the first steps.
        count: the lines that it has already.

    Attributes:
        count: the lines that it has, one for each recorded step.
    """

    def __init__(self, path: Path, count: int = 0) -> None:
        self.path, self.count = path, count
        self._file: TextIO | None = None
        self._heights: dict[str, int] = {}

    def append(self, steps: Sequence[int], norms: Norms, digits: int = SINGLE) -> None:
        """Writes the norms (T, H) of T steps. If H grows, the file is rewritten with 0 in the new columns."""
        if self._file is None:
            self._heights = heights_of(self.path) or _heights(norms)
            self._open()
        heights = {name: max(self._heights[name], height) for name, height in _heights(norms).items()}
        if heights != self._heights:
            self.close()
            earlier_steps, earlier = read_norms(self.path)
            write_whole(self.path, header(heights) + lines(earlier_steps.tolist(), _table(earlier, heights), digits))
            self._heights = heights
            self._open()
        self._write(lines(steps, _table(norms, heights), digits))
        self.count += len(steps)

    def sync(self) -> None:
        """Waits until all lines are on the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; all lines are on the disk then."""
        if self._file is not None:
            self.sync()
            self._file.close()
            self._file = None

    def _open(self) -> None:
        self._file = self.path.open("a", encoding="utf-8")
        if self._file.tell() == 0:
            self._write(header(self._heights))

    def _write(self, text: str) -> None:
        assert self._file is not None
        self._file.write(text)
        self._file.flush()


def open_norms_file(trainer: pl.Trainer, folder: Path | None, name: str, quantities: Sequence[Quantity]) -> NormsFile:
    """The file that a run writes to: its own on resume, else one that no other run has. All ranks must call this.

    It is in the run's own folder; without one, in the logger's, else in the trainer's `default_root_dir`. `name` is
    the optimizer's, if there are several.
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


def header(heights: dict[str, int]) -> str:
    """The first line."""
    columns = [tag for quantity, height in heights.items() for tag in row_tags(quantity, height)]
    return ",".join(["step", *columns]) + "\n"


def lines(steps: Sequence[int], table: Tensor, digits: int) -> str:
    """A line for each of T steps with its values (T, columns)."""
    line = "%d" + f",%.{digits}g" * table.shape[1] + "\n"
    return "".join(line % (step, *values) for step, values in zip(steps, table.tolist(), strict=True))


def _heights(norms: Norms) -> dict[str, int]:
    return {name: values.shape[1] for name, values in norms.items()}


def _table(norms: Norms, heights: dict[str, int]) -> Tensor:
    """Norms (T, H) side by side, (T, columns), each padded with 0 to its height."""
    return torch.cat([pad(norms[name], (0, height - norms[name].shape[1])) for name, height in heights.items()], 1)


def heights_of(path: Path) -> dict[str, int]:
    """How many rows each quantity has in a file; empty if there is no file."""
    heights: dict[str, int] = {}
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            first = next(file, "")
        for name in first.strip().split(",")[1:] if first.endswith("\n") else ():
            quantity = name.rpartition("/row_")[0]
            heights[quantity] = heights.get(quantity, 0) + 1
    return heights


def read_norms(path: Path) -> tuple[Tensor, Norms]:
    """Optimizer steps (T,) and norms (T, H) by the names of their quantities; T is 0 without a file."""
    heights = heights_of(path)
    content = path.read_text(encoding="utf-8").splitlines()[1:] if heights else []
    if not content:
        return torch.zeros(0, dtype=torch.long), {}
    table = torch.from_numpy(np.loadtxt(content, delimiter=",", ndmin=2))
    return table[:, 0].long(), dict(zip(heights, table[:, 1:].split(list(heights.values()), 1), strict=True))


def count_lines(path: Path, step: int) -> int:
    """The number of good lines of steps below `step`: up to the first that is cut off, out of order, or garbage."""
    return max(len(_good_lines(path, step)) - 1, 0)


def cut_back(path: Path, step: int) -> int:
    """Removes the lines of step `step` and later, and all from the first bad one on; returns how many are left."""
    sizes = _good_lines(path, step)
    if path.is_file():
        os.truncate(path, sum(sizes))
    return max(len(sizes) - 1, 0)


def _good_lines(path: Path, step: int) -> list[int]:
    """The sizes in bytes of a file's good lines: of the header, then of those of steps below `step`."""
    sizes: list[int] = []
    with path.open("rb") if path.is_file() else io.BytesIO() as file:
        first, before = next(file, b""), -1
        if first.startswith(b"step,") and first.endswith(b"\n"):
            sizes.append(len(first))
        for line in file if sizes else ():
            match = _LINE.fullmatch(line)
            if match is None or match[2].count(b",") != first.count(b",") or not before < int(match[1]) < step:
                break
            before = int(match[1])
            sizes.append(len(line))
    return sizes
