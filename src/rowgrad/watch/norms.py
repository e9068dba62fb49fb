"""`row_gradients.csv`: a line for each recorded optimizer step, a column for each row and quantity."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Norms = dict[str, Tensor]  # norms (T, H) by the names of their quantities


def row_tags(quantity: str, height: int) -> list[str]:
    """TensorBoard tags and columns of a quantity: `row_grad_norm/row_00`, ..., one for each of the H rows."""
    return [f"{quantity}/row_{row:02d}" for row in range(height)]


class NormsFile:
    """The file while a run writes to it.

    Args:
        path: where it is; lines of before are kept.
        quantities: names of the quantities that have columns.
        height: H.
    """

    def __init__(self, path: Path, quantities: Sequence[str], height: int) -> None:
        self.quantities = quantities
        self._file = path.open("a", encoding="utf-8")
        if self._file.tell() == 0:
            names = ["step", *(tag for quantity in quantities for tag in row_tags(quantity, height))]
            self._file.write(",".join(names) + "\n")

    def append(self, steps: Sequence[int], norms: Norms) -> None:
        """Writes the norms (T, H) of T steps."""
        table = torch.cat([norms[quantity] for quantity in self.quantities], 1).tolist()
        line = "%d" + ",%.9g" * len(table[0]) + "\n"
        self._file.write("".join(line % (step, *values) for step, values in zip(steps, table, strict=True)))
        self._file.flush()

    def close(self) -> None:
        """Nothing is written after this."""
        self._file.close()


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


def cut_back(path: Path, step: int) -> None:
    """Removes the lines of step `step` and later, and a line that was not written to its end."""
    if not path.exists():
        return
    keep = 0
    with path.open("rb") as file:
        for number, line in enumerate(file):
            first = line.partition(b",")[0]
            if not line.endswith(b"\n") or (number > 0 and int(first) >= step):
                break
            keep += len(line)
    os.truncate(path, keep)
