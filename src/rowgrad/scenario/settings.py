"""Settings of `scenario` and `corruption`, with defaults and limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rowgrad.config import A_NAME, BOOLEAN, FINITE, NOT_NEGATIVE, Settings, number, one_of, or_null, setting, whole
from rowgrad.errors import UserError
from rowgrad.scenario.operations import ACCEPTED, read_operation
from rowgrad.scenario.rows import Rows, read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence


NOTHING = read_operation("none")
STATE = "state"  # the route that detaches a recurrent network's state between rows


def state_words(state: str) -> str:
    """The part of the state that is detached, in words."""
    return "state" if state == "all" else f"{state} state alone"


@dataclass(frozen=True, kw_only=True)
class ScenarioSettings(Settings, key="scenario"):
    """Rows, operation, detach, route and schedule."""

    name: str = setting("custom", A_NAME, "name of the scenario, also used for the run's folder")
    rows: Rows = setting("none", read_rows, "the selected rows: all, none, 5, -1, 0:14, ::2, or a list of these")
    operation: Any = setting("none", read_operation, ACCEPTED)
    probability: float = setting(
        1.0, number("from 0 to 1", lambda v: 0 <= v <= 1), "probability, per image, that the operation is applied"
    )
    detach: bool = setting(True, BOOLEAN, "whether the operation's input is detached")
    route: str = setting(
        "replace",
        one_of("replace", "observe", "exclude", STATE),
        "replace: the network sees the result; observe: only observers do; exclude: the network sees black; state: the"
        " images stay unchanged, and a recurrent network's state is detached before the rows",
    )
    state: str = setting(
        "all", one_of("all", "hidden", "cell"), "the part of the state that is detached; only an LSTM has a cell"
    )
    when: str = setting("train", one_of("train", "train and eval"), "the phases in which it is active")
    from_step: int = setting(0, whole(0), "first optimizer step at which it is active")
    to_step: int | None = setting(None, or_null(whole(1)), "first optimizer step at which it is no longer active")
    random_rows: int | None = setting(None, or_null(whole(0)), "number of selected rows that are drawn at each step")
    straight_through: bool = setting(False, BOOLEAN, "pass the gradient as if the operation were the identity")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to_step is not None and self.to_step <= self.from_step:
            raise UserError(f"scenario.to_step={self.to_step} is not more than scenario.from_step={self.from_step}.")
        if self.route == STATE and (self.operation != NOTHING or self.straight_through):
            raise UserError(
                f"scenario.route={STATE} leaves images unchanged. Accepted with it: scenario.operation=none and"
                " scenario.straight_through=false."
            )

    def select(self, height: int) -> Sequence[bool]:
        """Returns for each of `height` rows whether it is selected.

        On route `state`, row 0 is never selected, because no state is carried into it.

        Raises:
            UserError: a row that images of this height do not have, or more random rows than selected ones.
        """
        selected = self.rows.select(height)
        if self.route == STATE and selected[0]:
            if not any(selected[1:]) or self.rows.names(0, height):
                raise UserError(
                    f"scenario.rows={self.rows.spec}: row 0 is read first, so no state is carried into it."
                    f" Accepted with scenario.route={STATE}: rows 1 to {height - 1}."
                )
            selected = (False, *selected[1:])
        if self.random_rows is not None and self.random_rows > sum(selected):
            limit = f"at most {sum(selected)}, the number of rows in scenario.rows"
            raise UserError(f"scenario.random_rows={self.random_rows} is not {limit}.")
        return selected


@dataclass(frozen=True, kw_only=True)
class CorruptionSettings(Settings, key="corruption"):
    """Fixed offsets that a broken camera adds to image rows."""

    name: str = setting("none", A_NAME, "name of the damage")
    rows: Rows = setting("none", read_rows, "the damaged rows, in the row grammar")
    offset: float = setting(0.0, FINITE, "added to these rows of every image, in normalised units")
    std: float = setting(
        0.0, NOT_NEGATIVE, "each row also gets a fixed random offset from N(0, std²), the row noise of sensors"
    )
    seed: int = setting(0, whole(0), "seed of the random offsets; ${seed} draws them anew for each run's seed")
