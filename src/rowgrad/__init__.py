"""What `detach()` does to training, one image row at a time.

The path of a batch is the order of the rooms: `data` -> `scenario` -> `model` -> `watch` -> `results`; `training` puts
them together. What stands below is the public face. Importing it imports nothing heavy: names come when asked for.
`RowTap` and `RowGradientRecorder` need torch, Lightning and TensorBoard; most others need the extra `pipeline`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rowgrad.data.sources import DataSet as DataSet
    from rowgrad.data.sources import Images as Images
    from rowgrad.results.run import Run as Run
    from rowgrad.results.run import open_run as open_run
    from rowgrad.scenario.operations import Operation as Operation
    from rowgrad.scenario.scenario import Scenario as Scenario
    from rowgrad.tap import RowTap as RowTap
    from rowgrad.training.command import train as train
    from rowgrad.watch.quantities import Quantity as Quantity
    from rowgrad.watch.recorder import RowGradientRecorder as RowGradientRecorder

_HOMES = {
    "DataSet": "data.sources",
    "Images": "data.sources",
    "Operation": "scenario.operations",
    "Quantity": "watch.quantities",
    "RowGradientRecorder": "watch.recorder",
    "RowTap": "tap",
    "Run": "results.run",
    "Scenario": "scenario.scenario",
    "open_run": "results.run",
    "train": "training.command",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
