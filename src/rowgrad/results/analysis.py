"""Analyses of single experiments: `configs/experiment/<name>.py` beside `<name>.yaml`.

Such a file may have any of these functions, which a sweep and the report call with their runs:

    tables(runs: RunSet) -> Iterable[Table]
    figures(runs: RunSet) -> Mapping[str, Plot]
    sentences(runs: RunSet) -> Iterable[str]

Each returns nothing if the runs are not of its experiment. Files are loaded from the project's own config folder only,
never from the folder of a run or a sweep, nor from the working directory.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rowgrad.files import configs_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from rowgrad.results.plots import Plot
    from rowgrad.results.runs import RunSet
    from rowgrad.results.tables import Table


def tables_of_experiments(runs: RunSet) -> list[Table]:
    """The tables of all analyses."""
    return [table for tables in _call("tables", runs) for table in tables]


def figures_of_experiments(runs: RunSet) -> dict[str, Plot]:
    """The figures of all analyses, by their names."""
    return {name: plot for plots in _call("figures", runs) for name, plot in plots.items()}


def sentences_of_experiments(runs: RunSet) -> list[str]:
    """The sentences of all analyses."""
    return [sentence for sentences in _call("sentences", runs) for sentence in sentences]


def _call(function: str, runs: RunSet) -> Iterator[Any]:
    for module in load_analyses():
        if hasattr(module, function):
            yield getattr(module, function)(runs)


@lru_cache
def load_analyses() -> list[ModuleType]:
    """The modules `configs/experiment/*.py`, by name."""
    modules = []
    for file in sorted((configs_folder() / "experiment").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"rowgrad_experiment_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look for it there
        spec.loader.exec_module(module)
        modules.append(module)
    return modules
