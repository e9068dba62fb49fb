"""What `detach()` does to training, one image row at a time.

The path of a batch is the order of the rooms: `data` -> `scenario` -> `model` -> `watch` -> `results`; `training` puts
them together. What stands below is the public face. Importing it imports nothing heavy: names come when they are asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rowgrad.results.run import open_run as open_run
    from rowgrad.scenario.scenario import Scenario as Scenario
    from rowgrad.training.command import train as train
    from rowgrad.watch.recorder import RowGradientRecorder as RowGradientRecorder

_HOMES = {
    "RowGradientRecorder": "rowgrad.watch.recorder",
    "Scenario": "rowgrad.scenario.scenario",
    "open_run": "rowgrad.results.run",
    "train": "rowgrad.training.command",
}
__all__ = ["RowGradientRecorder", "Scenario", "open_run", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
