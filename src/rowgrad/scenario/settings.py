"""What `scenario` and `corruption` may say: every default and every limit."""

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
STATE = "state"  # the route that acts on the edges between rows


@dataclass(frozen=True, kw_only=True)
class ScenarioSettings(Settings, key="scenario"):
    """Rows, operation, detach, route, and when."""

    name: str = setting("custom", A_NAME, "what the scenario is called; a folder is called so too")
    rows: Rows = setting("none", read_rows, "the selected rows: all, none, 5, -1, 0:14, ::2, or a list of these")
    operation: Any = setting("none", read_operation, ACCEPTED)
    probability: float = setting(
        1.0, number("from 0 to 1", lambda v: 0 <= v <= 1), "chance, for each image, that the operation is used"
    )
    detach: bool = setting(True, BOOLEAN, "whether the operation's input is detached")
    route: str = setting(
        "replace",
        one_of("replace", "observe", "exclude", STATE),
        "the result goes into the network, to observers only, or to observers while the network sees black; or images"
        " are left alone and the state that a network carries into the rows is detached",
    )
    state: str = setting("all", one_of("all", "hidden", "cell"), "which part of the state: an LSTM has two")
    when: str = setting("train", one_of("train", "train and eval"), "in which phase")
    from_step: int = setting(0, whole(0), "at work from this optimizer step on")
    to_step: int | None = setting(None, or_null(whole(1)), "at work no more from this optimizer step on")
    random_rows: int | None = setting(None, or_null(whole(0)), "so many of the rows, drawn anew at each step")
    straight_through: bool = setting(False, BOOLEAN, "gradient passes as if the operation were the identity")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to_step is not None and self.to_step <= self.from_step:
            raise UserError(f"scenario.to_step={self.to_step} is not more than scenario.from_step={self.from_step}.")
        if self.route == STATE and (self.operation != NOTHING or self.straight_through):
            raise UserError(
                f"scenario.route={STATE} leaves images untouched: it goes with scenario.operation=none and"
                " scenario.straight_through=false."
            )

    def select(self, height: int) -> Sequence[bool]:
        """The selected ones of `height` rows; on route `state` those that a state is carried into, which row 0 is not.

        Raises:
            UserError: rows that such an image does not have, or more random rows than selected ones.
        """
        selected = self.rows.select(height)
        if self.route == STATE and selected[0]:
            if not any(selected[1:]) or self.rows.names(0, height):
                raise UserError(
                    f"scenario.rows={self.rows.spec}: row 0 is read first, so that no state is carried into it."
                    f" Accepted with scenario.route={STATE}: rows 1 to {height - 1}."
                )
            selected = (False, *selected[1:])
        if self.random_rows is not None and self.random_rows > sum(selected):
            limit = f"at most {sum(selected)}, the number of rows in scenario.rows"
            raise UserError(f"scenario.random_rows={self.random_rows} is not {limit}.")
        return selected


@dataclass(frozen=True, kw_only=True)
class CorruptionSettings(Settings, key="corruption"):
    """A broken camera."""

    name: str = setting("none", A_NAME, "what the damage is called")
    rows: Rows = setting("none", read_rows, "the damaged rows, in the row grammar")
    offset: float = setting(0.0, FINITE, "added to each of them in every image, in normalised units")
    std: float = setting(
        0.0, NOT_NEGATIVE, "and a number of its own for each row from N(0, std²), as row noise of sensors"
    )
    seed: int = setting(0, whole(0), "of these numbers; ${seed} gives every seed a camera of its own")
