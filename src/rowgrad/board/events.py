"""Reads a run's event files: scalars, and what the run says of itself. No server is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto import event_pb2

from rowgrad.board.reading import Numbers, join, parsed_text
from rowgrad.watch.quantities import FACTS, LAYER, ROW

if TYPE_CHECKING:
    from pathlib import Path

Curve = tuple[list[int], list[float]]  # steps and values
Event: Any = getattr(event_pb2, "Event")  # noqa: B009  (generated at import, so type checkers do not see it)
PREFIX = "events.out.tfevents."


@dataclass
class Events:
    """What event files hold.

    Attributes:
        scalars: steps and values by their tags.
        facts: what the run says of itself, as the tab *Rows* has it.
    """

    scalars: dict[str, Curve] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def curves(self) -> dict[str, Curve]:
        """The scalars that are no number of a row or layer."""
        return {tag: curve for tag, curve in self.scalars.items() if not is_of_row(tag)}

    def numbers(self) -> dict[str, Numbers]:
        """The quantities of numbered rows, by their names."""
        found: dict[str, dict[int, str]] = {}
        for tag in self.scalars:
            if match := ROW.fullmatch(tag):
                found.setdefault(match["quantity"], {})[int(match["row"])] = tag
        columns = {tag: (np.array(steps), np.array(values)) for tag, (steps, values) in self.scalars.items()}
        return {name: join({row: columns[tag] for row, tag in tags.items()}) for name, tags in found.items()}


def read_events(folder: Path) -> Events:
    """All event files directly in a folder; without any, an empty result. Damaged ends of files are left out.

    As in TensorBoard, steps that a resumed run has repeated replace those of the interrupted one.
    """
    found = Events()
    records: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob(f"{PREFIX}*"), key=_in_time):
        for event in _events(file):
            if event.HasField("session_log") and event.session_log.status == event.session_log.START:
                _forget_from(found.scalars, event.step)
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    steps, values = found.scalars.setdefault(value.tag, ([], []))
                    steps.append(event.step)
                    values.append(value.simple_value)
                elif value.metadata.plugin_data.plugin_name == FACTS:
                    records[value.tag] = parsed_text(b"".join(value.tensor.string_val))
    for _, record in sorted(records.items()):  # the outcome after what was expected
        found.facts |= record
    return found


def is_of_row(tag: str) -> bool:
    """Whether a scalar is the number of a row or a layer."""
    return bool(ROW.fullmatch(tag) or LAYER.fullmatch(tag))


def _in_time(file: Path) -> list[tuple[bool, int, str]]:
    """The order of event files, by the numbers in their names: seconds, process, and a counter."""
    parts = file.name.removeprefix(PREFIX).split(".")
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _events(file: Path) -> Any:
    """The events of a file until its end, or until the first record that cannot be read."""
    try:
        for record in RawEventFileLoader(str(file)).Load():
            yield Event.FromString(record)
    except Exception:  # noqa: BLE001  (whatever garbage does to the reader)
        return


def _forget_from(curves: dict[str, Curve], step: int) -> None:
    for steps, values in curves.values():
        kept = next((place for place, one in enumerate(steps) if one >= step), len(steps))
        del steps[kept:], values[kept:]
