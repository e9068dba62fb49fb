"""`row_gradients.csv`: a line for each recorded optimizer step, a column for each row and quantity."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, TextIO

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from rowgrad.files import write_whole
from rowgrad.watch.tags import row_tags

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# Decimal digits by which a number of 32 bits, and one of 64, is known from all others.
SINGLE, DOUBLE = 9, 17
Norms = dict[str, Tensor]  # norms (T, H) by the names of their quantities
_LINE = re.compile(rb"(\d{1,18})((?:,-?(?:\d+(?:\.\d+)?(?:e[-+]\d+)?|inf|nan))*)\n")  # a step and its norms


class NormsFile:
    """The file while a run writes to it. Lines of before are kept.

    Args:
        path: where it is; it is made with the first steps.
        count: the lines of before.

    Attributes:
        count: the lines that it has, one for each recorded step.
    """

    def __init__(self, path: Path, count: int = 0) -> None:
        self.path, self.count = path, count
        self._file: TextIO | None = None
        self._heights: dict[str, int] = {}
        self._digits = SINGLE

    def append(self, steps: Sequence[int], norms: Norms, digits: int = SINGLE) -> None:
        """Writes the norms (T, H) of T steps. Where there are more rows than before, those of before got nothing."""
        self._digits = digits
        if self._file is None:
            self._open(norms)
        heights = {quantity: max(self._heights[quantity], values.shape[1]) for quantity, values in norms.items()}
        if heights != self._heights:
            self._widen(heights)
        table = torch.cat([_padded(values, heights[quantity]) for quantity, values in norms.items()], 1)
        self._write(lines(steps, table, digits))
        self.count += len(steps)

    def sync(self) -> None:
        """Waits until all lines are on the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Nothing is written after this."""
        if self._file is not None:
            self.sync()
            self._file.close()
            self._file = None

    def _open(self, norms: Norms) -> None:
        self._heights = heights_of(self.path) or {quantity: values.shape[1] for quantity, values in norms.items()}
        self._file = self.path.open("a", encoding="utf-8")
        if self._file.tell() == 0:
            self._write(header(self._heights))

    def _widen(self, heights: dict[str, int]) -> None:
        self.close()
        steps, before = read_norms(self.path)
        table = torch.cat([_padded(before[quantity], height) for quantity, height in heights.items()], 1)
        write_whole(self.path, header(heights) + lines(steps.tolist(), table, self._digits))
        self._heights = heights
        self._file = self.path.open("a", encoding="utf-8")

    def _write(self, text: str) -> None:
        assert self._file is not None
        self._file.write(text)
        self._file.flush()


def header(heights: dict[str, int]) -> str:
    """The first line."""
    columns = [tag for quantity, height in heights.items() for tag in row_tags(quantity, height)]
    return ",".join(["step", *columns]) + "\n"


def _padded(norms: Tensor, height: int) -> Tensor:
    return pad(norms, (0, height - norms.shape[1]))


def lines(steps: Sequence[int], table: Tensor, digits: int) -> str:
    """A line for each of T steps with its values (T, columns)."""
    line = "%d" + f",%.{digits}g" * table.shape[1] + "\n"
    return "".join(line % (step, *values) for step, values in zip(steps, table.tolist(), strict=True))


def heights_of(path: Path) -> dict[str, int]:
    """How many rows each quantity has in a file; empty where there is none."""
    heights: dict[str, int] = {}
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            first = next(file, "")
        for name in first.strip().split(",")[1:] if first.endswith("\n") else ():
            quantity = name.rpartition("/row_")[0]
            heights[quantity] = heights.get(quantity, 0) + 1
    return heights


def read_norms(path: Path) -> tuple[Tensor, Norms]:
    """Optimizer steps (T,) and norms (T, H) by their names; T is 0 where nothing is there."""
    names, content = [""], []
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            names = next(lines, "").strip().split(",")
            content = lines.readlines()
    if not content:
        return torch.zeros(0, dtype=torch.long), {}
    table = torch.from_numpy(np.loadtxt(content, delimiter=",", ndmin=2))
    columns: dict[str, list[int]] = {}
    for place, name in enumerate(names[1:], 1):
        columns.setdefault(name.rpartition("/row_")[0], []).append(place)
    return table[:, 0].long(), {quantity: table[:, places] for quantity, places in columns.items() if quantity}


def count_lines(path: Path, step: int) -> int:
    """How many steps below `step` a file has, up to the first line that is none: cut off, out of order, garbage."""
    return max(sum(1 for _ in _good_lines(path, step)) - 1, 0)


def cut_back(path: Path, step: int) -> int:
    """Removes the lines of step `step` and later, and all from the first on that is none; how many steps are left."""
    sizes = list(_good_lines(path, step))
    if path.is_file():
        os.truncate(path, sum(sizes))
    return max(len(sizes) - 1, 0)


def _good_lines(path: Path, step: int) -> Iterator[int]:
    """The lengths of a file's lines, in bytes: of the first, and of those of steps below `step`."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        first, before = next(file, b""), -1
        if not first.startswith(b"step,") or not first.endswith(b"\n"):
            return
        yield len(first)
        for line in file:
            match = _LINE.fullmatch(line)
            if match is None or match[2].count(b",") != first.count(b",") or not before < int(match[1]) < step:
                return
            before = int(match[1])
            yield len(line)
