"""Reads runs from TensorBoard's data provider: their quantities, the values of one, and their state."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tensorboard.data.provider import RunTagFilter
from tensorboard.plugins.scalar.metadata import PLUGIN_NAME as SCALARS

from rowgrad.watch.quantities import FACTS, KNOWN, LAYER, OUTCOME, ROW, describe_quantity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tensorboard.context import RequestContext
    from tensorboard.data.provider import DataProvider, ScalarTimeSeries

ALL = 2**31 - 1  # samples: all that TensorBoard has kept
ACCURACIES = ("test/acc", "val/acc", "train/acc")  # a run is shown with the first of these that it has
Tags = dict[int, str]  # by row


@dataclass
class RowsOf:
    """The rows of a quantity in one run.

    Attributes:
        tags: the tag of each row.
        step: the last logged step.
        names: of the rows, if they are layers.
    """

    tags: Tags = field(default_factory=dict)
    step: int = 0
    names: list[str] = field(default_factory=list)


class Numbers(NamedTuple):
    """A quantity's values (T, H) at steps (T,); NaN for a row without a value."""

    steps: np.ndarray
    values: np.ndarray

    def after(self, step: float) -> Numbers:
        """The part of later steps."""
        later = self.steps > step
        return Numbers(self.steps[later], self.values[later])

    def packed(self) -> bytes:
        """The format for the page, little-endian: T and H as uint32, T steps as float64, T × H values as float32."""
        count = np.array(self.values.shape, "<u4")
        return count.tobytes() + self.steps.astype("<f8").tobytes() + self.values.astype("<f4").tobytes()


class Reader:
    """Reads one experiment. All requests to the data provider are here.

    Args:
        provider: TensorBoard's.
        context: of the request.
        experiment: its id; empty for a plain logdir.
    """

    def __init__(self, provider: DataProvider, context: RequestContext, experiment: str) -> None:
        self._provider, self._asked = provider, {"experiment_id": experiment}
        self._context = context

    def quantities(self, runs: list[str] | None = None) -> dict[str, dict[str, RowsOf]]:
        """The quantities of each run that has any, by run and name."""
        chosen = RunTagFilter(runs=runs) if runs is not None else None
        facts = self._facts()
        return {
            run: found
            for run, tags in self._scalars(chosen).items()
            if (found := quantities_in(tags, facts.get(run, ({}, 0.0))[0].get("layers", ())))
        }

    def runs(self) -> list[dict[str, Any]]:
        """Each run that has rows: name, quantities, facts about it, and its state."""
        scalars = self._scalars(None)
        starts = {run.run_id: run.start_time for run in self._provider.list_runs(self._context, **self._asked)}
        facts, ends = self._facts(), self._last(ACCURACIES)
        layers = {run: own.get("layers", ()) for run, (own, _) in facts.items()}
        every = {run: quantities_in(tags, layers.get(run, ())) for run, tags in scalars.items()}
        found = {run: quantities for run, quantities in every.items() if quantities}
        runs = []
        for name, quantities in sorted(found.items()):
            own, ended = facts.get(name, ({}, 0.0))
            newest = max(series.max_wall_time for series in scalars[name].values())
            accuracy = next(((tag, ends[name, tag]) for tag in ACCURACIES if (name, tag) in ends), None)
            runs.append(
                {
                    "name": name,
                    "quantities": {
                        quantity: rows_told(quantity, max(rows.tags) + 1, rows.step, rows.names, quantities_told(own))
                        for quantity, rows in quantities.items()
                    },
                    "facts": own,
                    "ended": bool(own.get("status")) and ended >= newest,  # else it was resumed
                    "newest": newest,
                    "started": starts.get(name),
                    "accuracy": accuracy,
                }
            )
        return runs

    def numbers(self, run: str, quantity: str) -> Numbers | None:
        """A quantity's values at all steps that TensorBoard has kept; None if there is no such run or quantity."""
        rows = self.quantities([run]).get(run, {}).get(quantity)
        if rows is None:
            return None
        chosen = RunTagFilter(runs=[run], tags=list(rows.tags.values()))
        asked: Any = {**self._asked, "plugin_name": SCALARS, "run_tag_filter": chosen, "downsample": ALL}
        return table(rows.tags, self._provider.read_scalars(self._context, **asked).get(run, {}))

    def _scalars(self, chosen: RunTagFilter | None) -> Mapping[str, Mapping[str, ScalarTimeSeries]]:
        asked: Any = {**self._asked, "plugin_name": SCALARS, "run_tag_filter": chosen}
        return self._provider.list_scalars(self._context, **asked)

    def _last(self, tags: tuple[str, ...]) -> dict[tuple[str, str], float]:
        """The last values of some tags, by run and tag; values that are not finite are left out."""
        asked: Any = {**self._asked, "plugin_name": SCALARS, "run_tag_filter": RunTagFilter(tags=list(tags))}
        last = self._provider.read_last_scalars(self._context, **asked)
        found = {(run, tag): float(datum.value) for run, data in last.items() for tag, datum in data.items()}
        return {place: value for place, value in found.items() if np.isfinite(value)}

    def _facts(self) -> dict[str, tuple[dict[str, Any], float]]:
        """The facts that each run has logged about itself, and when it logged that it ended."""
        asked: Any = {**self._asked, "plugin_name": FACTS, "downsample": ALL}
        facts: dict[str, tuple[dict[str, Any], float]] = {}
        for run, tags in self._provider.read_tensors(self._context, **asked).items():
            own: dict[str, Any] = {}
            for _, data in sorted(tags.items()):  # the outcome after what was expected
                own |= parsed(data[-1].numpy) if data else {}
            ended = tags.get(OUTCOME)
            facts[run] = own, ended[-1].wall_time if ended else 0.0
        return facts


def quantities_in(tags: Mapping[str, ScalarTimeSeries], layers: Sequence[str] = ()) -> dict[str, RowsOf]:
    """The quantities among a run's scalars.

    Args:
        tags: the scalars.
        layers: in which order layers are rows; others follow by name.
    """
    found: dict[str, RowsOf] = {}
    order = {layer: place for place, layer in enumerate(layers)} if isinstance(layers, list) else {}
    for tag, series in sorted(tags.items(), key=lambda item: order.get(item[0].partition("/")[2], len(order))):
        match = ROW.fullmatch(tag) or LAYER.fullmatch(tag)
        if match is None:
            continue
        rows = found.setdefault(match["quantity"], RowsOf())
        layer = match.groupdict().get("layer")
        rows.tags[int(match["row"]) if layer is None else len(rows.names)] = tag
        rows.names += [] if layer is None else [layer]
        rows.step = max(rows.step, series.max_step)
    return found


def table(tags: Tags, series: Mapping[str, Any]) -> Numbers:
    """Joins the series of single rows to one table, over all steps of any of them."""
    columns = {
        row: (np.array([datum.step for datum in data]), np.array([datum.value for datum in data], np.float32))
        for row, tag in tags.items()
        if (data := series.get(tag))
    }
    return join(columns, max(tags) + 1)


def join(columns: Mapping[int, tuple[np.ndarray, np.ndarray]], height: int | None = None) -> Numbers:
    """Steps and values of single rows as one table, over all steps of any row."""
    if not columns:
        return Numbers(np.zeros(0), np.zeros((0, 0), np.float32))
    steps = np.unique(np.concatenate([steps for steps, _ in columns.values()]))
    values = np.full((len(steps), max(columns) + 1 if height is None else height), np.nan, np.float32)
    for row, (places, numbers) in columns.items():
        values[np.searchsorted(steps, places), row] = numbers
    return Numbers(steps, values)


def parsed(record: np.ndarray) -> dict[str, Any]:
    """The JSON object in a tensor of one string; empty for anything else."""
    return parsed_text(record.item()) if record.size == 1 else {}


def parsed_text(text: Any) -> dict[str, Any]:
    """The JSON object in a text; empty for anything else."""
    try:
        facts = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def described(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Names, titles and units of the runs' quantities: this project's own first, then all others by name.

    A quantity is described by the first run that has it.
    """
    facts = {name: quantities_told(run["facts"]) for run in reversed(runs) for name in run["quantities"]}
    own = list(KNOWN)
    order = sorted(facts, key=lambda name: (own.index(name) if name in KNOWN else len(own), name))
    found = [(name, describe_quantity(name, facts[name])) for name in order]
    return [{"name": name, "title": one.title, "unit": one.unit} for name, one in found]


def quantities_told(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a run says of its quantities."""
    found = facts.get("quantities")
    return found if isinstance(found, dict) else {}


def rows_told(name: str, height: int, step: int, names: Sequence[str], told: Mapping[str, Any]) -> dict[str, Any]:
    """What the page needs to know of a quantity's rows: how many, their names if any, and what they are."""
    one = describe_quantity(name, told)
    return {"rows": height, "step": step, "names": list(names or one.labels[:height]), "kind": one.kind}


def plain(value: Any) -> Any:
    """JSON-compatible values: numbers that are not finite, as in a hostile event file, become None."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
