"""What `detach()` does to training, one image row at a time.

The packages follow the path of a batch: `data` -> `scenario` -> `model` -> `watch` -> `results`; `training` puts them
together. The names below are public. Importing `rowgrad` imports nothing heavy: each name is imported at its first use.
With torch, Lightning and TensorBoard alone, without the extra `pipeline`, there are `RowTap`, `RowGradientRecorder`,
`Recorder`, `Quantity`, `Watched`, `find_cuts`, `CutFinder`, `Cuts`, `Cut`, `open_run`, `LoggedRun`, `show`, `Draw` and
`UserError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rowgrad.cuts.finder import find_cuts as find_cuts
    from rowgrad.cuts.found import Cut as Cut
    from rowgrad.cuts.found import Cuts as Cuts
    from rowgrad.data.sources import DataSet as DataSet
    from rowgrad.data.sources import Images as Images
    from rowgrad.errors import UserError as UserError
    from rowgrad.randomness import Draw as Draw
    from rowgrad.results.logged import LoggedRun as LoggedRun
    from rowgrad.results.opening import open_run as open_run
    from rowgrad.results.run import Run as Run
    from rowgrad.results.show import show as show
    from rowgrad.scenario.operations import Operation as Operation
    from rowgrad.scenario.scenario import Scenario as Scenario
    from rowgrad.tap import RowTap as RowTap
    from rowgrad.tap import Watched as Watched
    from rowgrad.training.command import train as train
    from rowgrad.watch.cut_finder import CutFinder as CutFinder
    from rowgrad.watch.quantities import Quantity as Quantity
    from rowgrad.watch.recorder import Recorder as Recorder
    from rowgrad.watch.recorder import RowGradientRecorder as RowGradientRecorder

_MODULES = {
    "Cut": "cuts.found",
    "CutFinder": "watch.cut_finder",
    "Cuts": "cuts.found",
    "DataSet": "data.sources",
    "Draw": "randomness",
    "Images": "data.sources",
    "LoggedRun": "results.logged",
    "Operation": "scenario.operations",
    "Quantity": "watch.quantities",
    "Recorder": "watch.recorder",
    "RowGradientRecorder": "watch.recorder",
    "RowTap": "tap",
    "Run": "results.run",
    "Scenario": "scenario.scenario",
    "UserError": "errors",
    "Watched": "tap",
    "find_cuts": "cuts.finder",
    "open_run": "results.opening",
    "show": "results.show",
    "train": "training.command",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
