"""Analyses of single experiments: `configs/experiment/<name>.py` beside `<name>.yaml`.

Such a file may have any of these functions, which a sweep and the report call with their runs:

    tables(runs: RunSet) -> Iterable[Table]
    figures(runs: RunSet) -> Mapping[str, Plot]
    sentences(runs: RunSet) -> Iterable[str]

Each returns nothing if the runs are not of its experiment. Files are loaded from the project's own config folder only,
never from the folder of a run or a sweep, nor from the working directory.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rowgrad.files import configs_folder

if TYPE_CHECKING:
    from rowgrad.results.runs import RunSet


def call_analyses(function: str, runs: RunSet) -> list[Any]:
    """What the analyses that have a function return for some runs."""
    return [getattr(module, function)(runs) for module in load_analyses() if hasattr(module, function)]


@lru_cache
def load_analyses() -> list[ModuleType]:
    """The modules `configs/experiment/*.py`, by name."""
    modules = []
    for file in sorted((configs_folder() / "experiment").glob("*.py")):
        module = ModuleType(f"rowgrad_experiment_{file.stem}")
        sys.modules[module.__name__] = module  # dataclasses look for it there
        SourceFileLoader(module.__name__, str(file)).exec_module(module)
        modules.append(module)
    return modules
