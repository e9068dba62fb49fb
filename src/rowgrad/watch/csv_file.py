"""`row_gradients.csv`: a line for each recorded optimizer step, a column for each row and quantity.

A file belongs to one run. What a checkpoint knows of it (`NormsFile.known`) tells whether it is the run's own.
"""

from __future__ import annotations

import io
import json
import os
import re
import zlib
from itertools import count
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import torch
from torch import Tensor

from rowgrad.files import read_json, write_whole
from rowgrad.folders import RunFolder
from rowgrad.watch.quantities import row_tags

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

SINGLE, DOUBLE = 9, 17  # decimal digits that tell each number of 32 bits, and of 64 bits, from all others
Norms = dict[str, Tensor]  # norms (T, H) by the names of their quantities
Rows = dict[str, Tensor]  # how many rows were recorded at each step (T,), by the names of their quantities
_LINE = re.compile(rb"(\d{1,18})((?:,(?:-?(?:\d+(?:\.\d+)?(?:e[-+]\d+)?|inf|nan))?)*)\n")  # a step and its norms


class NormsFile:
    """The file while a run writes to it. Existing lines are kept.

    Args:
        path: of the file, which is created with the first steps.
        count: the lines that it has already.
        names: of the rows of quantities that have any.

    Attributes:
        count: the lines that it has, one for each recorded step.
    """

    def __init__(self, path: Path, count: int = 0, names: Mapping[str, Sequence[str]] | None = None) -> None:
        self.path, self.count = path, count
        self._file: TextIO | None = None
        self._heights: dict[str, int] = {}
        self._names = names or {}
        self._has_header = False
        self._crc: int | None = None

    def append(self, steps: Sequence[int], norms: Norms, digits: int = SINGLE, rows: Rows | None = None) -> None:
        """Writes the norms (T, H) of T steps. If there are more rows or quantities than before, the file is rewritten.

        Args:
            steps: optimizer steps.
            norms: of these steps.
            digits: decimal digits of a norm.
            rows: how many rows were recorded at each step; cells of the others are empty. None: all.
        """
        if self._file is None:
            self._open()
        if not self._has_header:
            self._has_header, self._heights = True, _heights(norms)
            self._write(header(self._heights, self._names))
        heights = {**self._heights}
        for name, height in _heights(norms).items():
            heights[name] = max(heights.get(name, 0), height)
        if heights != self._heights:
            self._widen(heights)
        text = lines(steps, norms, heights, digits, rows or {})
        self._write(text)
        self.count += len(steps)
        if self._crc is not None:
            self._crc = _checksum(text.encode().splitlines(), self._crc)

    def known(self) -> dict[str, Any]:
        """What a checkpoint says of the file: its number of steps, and a checksum of its lines, all on the disk."""
        self.sync()
        if self._crc is None:
            with self.path.open("rb") if self.path.is_file() else io.BytesIO() as file:
                next(file, b"")
                self._crc = _checksum(file)
        return {"steps": self.count, "checksum": self._crc}

    def sync(self) -> None:
        """Waits until all lines are on the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; all lines are on the disk then. A file without a line is removed."""
        if self._file is not None:
            self.sync()
            self._file.close()
            self._file = None
            if not self._has_header:
                self.path.unlink(missing_ok=True)
                _facts_file(self.path).unlink(missing_ok=True)

    def claim(self, known: Mapping[str, Any] | None = None) -> bool:
        """Takes a file that no run has, or, with what a checkpoint knows of it, goes on with the run's own.

        Lines that the checkpoint does not know are then removed: the run writes them again.

        Returns:
            False, and nothing is changed, if the file is another run's or another process writes to it.
        """
        if known is None:
            try:
                self.path.open("x").close()
            except FileExistsError:
                return False
        elif not holds(self.path, known):
            return False
        self._open()
        if not _locked(self._file):
            self._release()
            return False
        if known is not None:
            self.count, self._crc = cut_back(self.path, known["steps"]), known.get("checksum")
        return True

    def _widen(self, heights: dict[str, int]) -> None:
        """Rewrites the file with further columns, which are empty in its lines."""
        old = self._heights
        text = header(heights, self._names)
        self._release()
        for line in self.path.read_text(encoding="utf-8").splitlines()[1:]:
            step, *cells = line.split(",")
            parts, place = [step], 0
            for name, height in heights.items():
                parts += cells[place : place + old.get(name, 0)] + [""] * (height - old.get(name, 0))
                place += old.get(name, 0)
            text += ",".join(parts) + "\n"
        write_whole(self.path, text)
        self._open()
        _locked(self._file)

    def _open(self) -> None:
        self._file = self.path.open("a", encoding="utf-8")
        self._heights, self._has_header = heights_of(self.path), self._file.tell() > 0

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, text: str) -> None:
        assert self._file is not None
        self._file.write(text)
        self._file.flush()


def open_norms_file(
    folder: Path,
    name: str,
    earlier: Mapping[str, Any],
    names: Mapping[str, Sequence[str]] | None = None,
    *,
    writes: bool = True,
) -> NormsFile:
    """The file that a run writes to: its own, if it is resumed and nobody else has it, else one that no other run has.

    Args:
        folder: where.
        name: of the optimizer, if there are several.
        earlier: what the checkpoint knows of the run's files, by their names.
        names: of the rows of quantities that have any.
        writes: whether this process writes it; only one of several does.
    """
    usual = RunFolder(folder).norms_file
    stem = f"{usual.stem}.{name}" if name else usual.stem
    if not writes:
        return NormsFile(usual.with_name(stem + usual.suffix))
    folder.mkdir(parents=True, exist_ok=True)
    own = re.compile(re.escape(stem) + r"(-\d+)?" + re.escape(usual.suffix))
    for file in [file for file in earlier if own.fullmatch(file)]:
        found = NormsFile(usual.with_name(file), names=names)
        if found.claim(earlier[file]):
            return found
    for number in count():
        file = f"{stem}{f'-{number}' if number else ''}{usual.suffix}"
        found = NormsFile(usual.with_name(file), names=names)
        if found.claim():
            return found
    raise AssertionError("numbers do not end")


def write_facts(path: Path, quantities: Mapping[str, Any]) -> None:
    """Writes, beside a CSV file, what of its quantities does not follow from their names; without any, no file."""
    if quantities:
        write_whole(_facts_file(path), json.dumps({"quantities": quantities}, indent=2) + "\n")
    else:
        _facts_file(path).unlink(missing_ok=True)


def read_facts(path: Path) -> dict[str, Any]:
    """What `write_facts` has written beside a CSV file; empty without it, or if it is damaged."""
    found = read_json(_facts_file(path)).get("quantities")
    return found if isinstance(found, dict) else {}


def _facts_file(path: Path) -> Path:
    return path.with_suffix(".json")


def _locked(file: TextIO | None) -> bool:
    """Whether this process alone has a file; True where the system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    assert file is not None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _checksum(content: Iterator[bytes] | Sequence[bytes], crc: int = 0) -> int:
    """Of lines, whatever empty cells they have: further columns do not change it."""
    for line in content:
        crc = zlib.crc32(re.sub(rb",+", b",", line.strip()).rstrip(b","), crc)
    return crc


def holds(path: Path, known: Mapping[str, Any]) -> bool:
    """Whether a file begins with the lines that a checkpoint knows."""
    sizes = _good_lines(path, known["steps"])
    if len(sizes) - 1 < known["steps"]:
        return False
    if "checksum" not in known:  # of an earlier version
        return True
    with path.open("rb") if path.is_file() else io.BytesIO() as file:
        next(file, b"")
        return _checksum(line for line, _ in zip(file, sizes[1:], strict=False)) == known["checksum"]


def header(heights: Mapping[str, int], names: Mapping[str, Sequence[str]]) -> str:
    """The first line."""
    columns = [tag for name, height in heights.items() for tag in row_tags(name, height, names.get(name, ()))]
    return ",".join(["step", *columns]) + "\n"


def lines(steps: Sequence[int], norms: Norms, heights: dict[str, int], digits: int, rows: Rows) -> str:
    """A line for each of T steps with its norms, those of all quantities side by side; cells without one are empty."""
    cell = f"%.{digits}g"
    whole = bool(heights) and all(name in norms and norms[name].shape[1] == n for name, n in heights.items())
    if whole and all(bool((count == heights[name]).all()) for name, count in rows.items() if name in heights):
        line = "%d" + f",{cell}" * sum(heights.values()) + "\n"
        table = torch.cat([norms[name] for name in heights], 1)
        return "".join(line % (step, *values) for step, values in zip(steps, table.tolist(), strict=True))
    columns: list[list[list[str]]] = []
    for name, height in heights.items():
        values = norms.get(name, torch.zeros(len(steps), 0)).tolist()
        known = rows[name].tolist() if name in rows else [len(line) for line in values]
        columns.append(
            [[cell % v for v in line[:n]] + [""] * (height - n) for line, n in zip(values, known, strict=True)]
        )
    return "".join(
        ",".join([str(step), *(text for part in parts for text in part)]) + "\n"
        for step, *parts in zip(steps, *columns, strict=True)
    )


def _heights(norms: Norms) -> dict[str, int]:
    return {name: values.shape[1] for name, values in norms.items() if values.shape[1]}


def heights_of(path: Path) -> dict[str, int]:
    """How many rows each quantity has in a file; empty if there is no file."""
    heights: dict[str, int] = {}
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            first = next(file, "")
        for name in first.strip().split(",")[1:] if first.endswith("\n") else ():
            quantity = name.rpartition("/")[0]
            heights[quantity] = heights.get(quantity, 0) + 1
    return heights


def row_names(path: Path, quantity: str) -> list[str]:
    """The names of a quantity's rows in a file, as `row_00`; of layers, theirs."""
    with path.open(encoding="utf-8", errors="replace") as file:
        columns = next(file, "").strip().split(",")
    return [column.removeprefix(f"{quantity}/") for column in columns if column.startswith(f"{quantity}/")]


def read_norms(path: Path) -> tuple[Tensor, Norms]:
    """Steps (T,) and norms (T, H) by the names of their quantities, NaN in empty cells; T is 0 without a file."""
    heights = heights_of(path)
    content = path.read_text(encoding="utf-8").splitlines()[1:] if heights else []
    if not content:
        return torch.zeros(0, dtype=torch.long), {}
    full = [re.sub(r",(?=,|$)", ",nan", line) if ",," in line or line.endswith(",") else line for line in content]
    table = torch.from_numpy(np.loadtxt(full, delimiter=",", ndmin=2))
    return table[:, 0].long(), dict(zip(heights, table[:, 1:].split(list(heights.values()), 1), strict=True))


def cut_back(path: Path, count: int) -> int:
    """Keeps the first `count` lines behind the header, up to the first bad one; returns how many are left."""
    sizes = _good_lines(path, count)
    os.truncate(path, sum(sizes))
    return max(len(sizes) - 1, 0)


def count_lines(path: Path, most: int) -> int:
    """The number of good lines, up to `most`: until the first that is cut off, out of order, or garbage."""
    return max(len(_good_lines(path, most)) - 1, 0)


def _good_lines(path: Path, most: int) -> list[int]:
    """The sizes in bytes of a file's good lines: of the header, then of up to `most` steps."""
    sizes: list[int] = []
    with path.open("rb") if path.is_file() else io.BytesIO() as file:
        first, before = next(file, b""), -1
        if first.startswith((b"step,", b"step\n")) and first.endswith(b"\n"):
            sizes.append(len(first))
        for line in file if sizes else ():
            match = _LINE.fullmatch(line)
            bad = match is None or match[2].count(b",") != first.count(b",") or int(match[1]) <= before
            if bad or len(sizes) > most:
                break
            before = int(match[1])
            sizes.append(len(line))
    return sizes
