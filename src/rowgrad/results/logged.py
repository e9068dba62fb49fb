"""A run as any logger has left it: `row_gradients.csv`, hyperparameters and metrics. It needs no pipeline."""

from __future__ import annotations

import csv
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rowgrad.board.events import Events, is_of_row, read_events
from rowgrad.board.reading import Numbers, quantities_told
from rowgrad.config import flat, is_below
from rowgrad.errors import UserError, in_one_line, nearest
from rowgrad.folders import RunFolder, read_yaml
from rowgrad.watch.csv_file import read_facts, read_norms, row_names
from rowgrad.watch.quantities import describe_quantity, is_of_layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.figure import Figure
    from torch import Tensor

    from rowgrad.board.events import Curve
    from rowgrad.results.page import Page
    from rowgrad.watch.quantities import Description

HPARAMS, METRICS = "hparams.yaml", "metrics.csv"  # Lightning's names
SEEDS = {"seed", "random_seed", "seed_everything"}  # the last part of a setting that is the run's seed
NO_METRICS = {"epoch", "step", "hp_metric"}  # what loggers write beside metrics
USUAL = RunFolder(Path()).norms_file
# The files of a run: of each optimizer, if there are several, and with a number for a further run in the same folder.
_FILE = re.compile(rf"{USUAL.stem}(?:\.(?P<optimizer>.+?))?(?:-(?P<number>\d+))?{re.escape(USUAL.suffix)}")


class LoggedRun:
    r"""A folder in which a recorder has written `row_gradients.csv`, and what loggers have written beside it.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("row_gradients.csv").write_text("step,tap_grad_norm/row_00,tap_grad_norm/row_01\n0,0,0.5\n")
        >>> open_run(".").norms["tap_grad_norm"].tolist()
        [[0.0, 0.5]]

    Args:
        path: the folder.
        number: of the run in this folder; 0 for the first, which has `row_gradients.csv`.

    Raises:
        UserError: by each attribute, if its file cannot be read; the message names the file.
    """

    needed = ("settings", "numbers")  # what is read when a run is opened

    def __init__(self, path: Path, number: int = 0) -> None:
        self.path, self.number = path, number

    @property
    def name(self) -> str:
        """The folder's name, with a number for a further run in it."""
        return self.path.absolute().name + (f" ({self.number + 1})" if self.number else "")

    @property
    def norms_files(self) -> dict[str, Path]:
        """The CSV files by what precedes the names of their quantities: `optimizer_0.`, or nothing for a single one."""
        found = norms_files(self.path).get(self.number, {})
        return {f"{optimizer}." if optimizer else "": file for optimizer, file in found.items()}

    @cached_property
    def numbers(self) -> dict[str, Numbers]:
        """Steps (T,) and norms (T, H) of each quantity, by its name; NaN where nothing was recorded."""
        found = {}
        for prefix, file in self.norms_files.items():
            try:
                steps, norms = read_norms(file)
            except Exception as error:
                raise UserError(f"{file} cannot be read: {in_one_line(error)[:200]}") from error
            found |= {prefix + name: Numbers(steps.numpy(), values.numpy()) for name, values in norms.items()}
        return found

    def all_numbers(self) -> dict[str, Numbers]:
        """The same with quantities that are in the event files alone, and without those that have no number."""
        known = self.numbers
        others = {name: numbers for name, numbers in self.events.numbers().items() if name not in known}
        return {name: numbers for name, numbers in (known | others).items() if numbers.values.size}

    @cached_property
    def steps(self) -> Tensor:
        """The recorded optimizer steps of any optimizer, (T,)."""
        import torch

        every = [numbers.steps for numbers in self.numbers.values()]
        return torch.from_numpy(np.unique(np.concatenate(every)) if every else np.zeros(0, np.int64))

    @cached_property
    def norms(self) -> dict[str, Tensor]:
        """Norms (T, H) by the names of their quantities; NaN at steps of other optimizers."""
        import torch

        found = {}
        for name, (steps, values) in self.numbers.items():
            table = np.full((len(self.steps), values.shape[1]), np.nan)
            table[np.searchsorted(self.steps.numpy(), steps)] = values
            found[name] = torch.from_numpy(table)
        return found

    def labels(self, quantity: str) -> list[str]:
        """The names of a quantity's rows, if they have any."""
        for prefix, file in self.norms_files.items():
            own = quantity.removeprefix(prefix)
            if quantity.startswith(prefix) and is_of_layers(own):
                return row_names(file, own)
        return []

    @cached_property
    def told(self) -> dict[str, Any]:
        """What the run says of its quantities, where it does not follow from their names."""
        beside = [read_facts(file) for file in self.norms_files.values()]
        return {name: one for some in [quantities_told(self.facts), *beside] for name, one in some.items()}

    @property
    def described(self) -> dict[str, Description]:
        """What charts say of each quantity."""
        return {name: describe_quantity(name, self.told) for name in self.numbers}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The hyperparameters by their full keys, from `hparams.yaml`; empty without one."""
        file = self.path / HPARAMS
        values = read_yaml(file, any_tag=True) if file.is_file() else None
        return flat(values) if isinstance(values, dict) else {}

    @property
    def seed(self) -> Any:
        """The setting that is called `seed`; None if there is none."""
        return next((value for key, value in self.settings.items() if is_seed(key)), None)

    @cached_property
    def events(self) -> Events:
        """What the event files hold."""
        return read_events(self.path)

    @cached_property
    def _logged(self) -> dict[str, Curve]:
        """Steps and values of all metrics, from `metrics.csv` or else from the event files."""
        file = self.path / METRICS
        found = _read_metrics(file) if file.is_file() else self.events.curves
        return {name: curve for name, curve in found.items() if name not in NO_METRICS}

    def curves(self, tags: Sequence[str]) -> dict[str, Curve]:
        """Steps and values of metrics by their names; those that are missing are left out."""
        return {tag: self._logged[tag] for tag in tags if tag in self._logged}

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric."""
        return {name: values[-1] for name, (_, values) in self._logged.items() if values}

    @property
    def status(self) -> str:
        """How it ended, if it says so."""
        return str(self.facts.get("status", ""))

    @property
    def facts(self) -> dict[str, Any]:
        """What it says of itself in its event files."""
        return self.events.facts

    @property
    def troubles(self) -> list[str]:
        """Sentences about files that cannot be shown."""
        return []

    def show(self, *, steps: int | None = None) -> Page:
        """The run as a page: in a notebook's cell, or in a file by `save(path)`. See `rowgrad.show`."""
        from rowgrad.results.show import show

        return show(self, steps=steps)

    def figures(self) -> dict[str, Figure]:
        """The run's own pictures by their names: norms of all rows at all steps."""
        from rowgrad.watch import figures

        if not self.norms:
            return {}
        return {"row_gradients": figures.heatmaps(self.steps, self.norms, [], told=self.described)}


def norms_files(folder: Path) -> dict[int, dict[str, Path]]:
    """The CSV files directly in a folder: by the number of the run, and by the optimizer's name."""
    found: dict[int, dict[str, Path]] = {}
    for file in sorted(folder.glob(f"{USUAL.stem}*{USUAL.suffix}")):
        if match := _FILE.fullmatch(file.name):
            found.setdefault(int(match["number"] or 0), {})[match["optimizer"] or ""] = file
    return dict(sorted(found.items()))


def is_seed(key: str) -> bool:
    """Whether a setting is the run's seed."""
    return key.rpartition(".")[2] in SEEDS


def check_keys(keys: Sequence[str], settings: Iterable[Mapping[str, Any]]) -> None:
    """Checks that some runs have settings of these names.

    Raises:
        UserError: a name that no run has.
    """
    known = {key for some in settings for key in some} if keys else set()
    for key in keys:
        if not any(is_below(one, [key]) for one in known):
            raise UserError(f"group_by={key}: no run has this setting{nearest(key, known)}")


def _read_metrics(file: Path) -> dict[str, Curve]:
    """Steps and values of the columns of Lightning's `metrics.csv`; cells that are no numbers are left out."""
    found: dict[str, Curve] = {}
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            for count, line in enumerate(csv.DictReader(lines)):
                step = _number(line.get("step"))
                for name, cell in line.items():
                    value = _number(cell) if name and not is_of_row(name) else None
                    if value is not None:
                        steps, values = found.setdefault(name, ([], []))
                        steps.append(count if step is None else int(step))
                        values.append(value)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file} cannot be read: {in_one_line(error)[:200]}") from error
    return found


def _number(cell: Any) -> float | None:
    try:
        return float(cell)
    except (TypeError, ValueError):  # an empty cell, or one too few
        return None
