"""Scenario: rows, operation, detach and route -> the network's input, or the state it carries between rows.

The cut is a single `detach()`: of images in `Scenario._operated`, of a state in `Scenario._carried`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rowgrad.errors import UserError
from rowgrad.scenario.operations import with_greys
from rowgrad.scenario.rows import name_rows
from rowgrad.scenario.settings import STATE, ScenarioSettings, state_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowgrad.randomness import Draw

    State = dict[str, Tensor]


class Scenario(nn.Module):
    """Selects rows, applies an operation to them, detached or not, and routes the result.

    Example:
        >>> scenario = Scenario(rows="0:14", operation="shift 1", probability=0.5, height=28)
        >>> scenario.sentence()
        'Rows 0–13 are detached, shifted by +1 with probability 0.5 and fed to the network.'

    Args:
        height: H of the images.
        black: value of a black pixel in normalised units: a number, or one per channel, (C, 1, 1).
        white: value of a white pixel, in the same form.
        **settings: fields of `ScenarioSettings`, as on the command line. The scenario is active at optimizer steps
            `from_step <= step < to_step`, counted from 0; at other steps the network sees the images unchanged and
            nothing is detached. Evaluation uses the last trained step. `random_rows` draws the same rows for all
            images of a step; in evaluation it draws for each image. `straight_through` is the straight-through
            estimator (Bengio et al., arXiv:1308.3432); with `detach=True` it has no effect.

    Attributes:
        selected: (H,) boolean mask of the selected rows; `chosen` is the same as a tuple.
        is_noop: whether no row is ever selected.

    Raises:
        UserError: an unknown setting, a value that is not accepted, or a row that the images do not have.
    """

    selected: Tensor
    black: float | Tensor

    def __init__(
        self, *, height: int, black: float | Tensor = 0.0, white: float | Tensor = 1.0, **settings: Any
    ) -> None:
        super().__init__()
        read = ScenarioSettings.read(settings)
        selected = read.select(height)
        self.name, self.rows, self.chosen = read.name, name_rows(selected), tuple(selected)
        self.operation = with_greys(read.operation, black, white)
        self.probability = read.probability
        self.detach, self.route, self.when = read.detach, read.route, read.when
        self.from_step, self.to_step = read.from_step, read.to_step
        self.random_rows = read.random_rows
        self.straight_through = read.straight_through
        self.state = read.state
        if isinstance(black, Tensor):
            self.register_buffer("black", black, persistent=False)
        else:
            self.black = black
        self.is_noop = not any(selected) or self.random_rows == 0
        self.register_buffer("selected", torch.tensor(selected), persistent=False)

    def forward(self, images: Tensor, draw: Draw, step: int | None = None) -> Tensor:
        """Returns what the network sees in the current phase, (B, C, H, W).

        Args:
            images: u, (B, C, H, W).
            draw: the source of randomness.
            step: optimizer step for the schedule; default: `draw.step`.
        """
        return self.routed(images, draw, self.probability) if self._is_due(draw, step) else images

    def edges(self, count: int, draw: Draw, step: int | None = None) -> dict[int, Callable[[State], State]]:
        """Returns, on route `state`, a function for each row into which the network's state is carried detached.

        The function maps the state, tensors (..., B, units) by name, to a state with the same values. With a
        `probability` below 1, each image draws at each row. The result is empty while gradients are disabled, because
        values never change.

        Args:
            count: B, the number of images.
            draw: the source of randomness.
            step: optimizer step for the schedule; default: `draw.step`.
        """
        cuts = self.route == STATE and self.detach and not self.is_noop and self.probability > 0
        if not (cuts and torch.is_grad_enabled() and self._is_due(draw, step)):
            return {}
        drawn = None if self.random_rows is None else self._drawn(replace(draw, first=0), 1, torch.tensor(self.chosen))
        selected = self.chosen if drawn is None else drawn[0].tolist()  # on the CPU: the network is split at these rows
        if self.probability == 1:
            hits: list[Tensor | None] = [None] * len(selected)
        else:
            device = self.selected.device
            hits = [*(draw.uniform("probability", (count, len(selected)), device) < self.probability).unbind(1)]
        return {row: partial(self._carried, hits[row]) for row, chosen in enumerate(selected) if chosen}

    def _carried(self, hit: Tensor | None, state: State) -> State:
        """Detaches the state of the images in `hit`; None means all images."""
        return {
            name: value
            if self.state not in {"all", name}
            else value.detach()
            if hit is None
            else torch.where(hit[:, None], value.detach(), value)
            for name, value in state.items()
        }

    def _is_due(self, draw: Draw, step: int | None) -> bool:
        return (self.training or self.in_evaluation) and self.is_active(draw.step if step is None else step)

    @property
    def in_evaluation(self) -> bool:
        """Whether the scenario is also active in validation and test."""
        return self.when == "train and eval"

    def is_active(self, step: int) -> bool:
        """Whether the scenario is active at an optimizer step."""
        return self.from_step <= step and (self.to_step is None or step < self.to_step)

    def mask(self, images: Tensor, draw: Draw) -> Tensor:
        """Returns the boolean mask of the selected rows, broadcastable to images (B, C, H, W)."""
        if self.random_rows is None:
            return self.selected[:, None]
        draw, count = (replace(draw, first=0), 1) if self.training else (draw, len(images))
        return self._drawn(draw, count, self.selected)[:, None, :, None]

    def _drawn(self, draw: Draw, count: int, selected: Tensor) -> Tensor:
        """Draws `random_rows` of the selected rows (H,), `count` times: booleans (count, H)."""
        lots = draw.uniform("random rows", (count, len(selected)), selected.device).masked_fill(~selected, 1)
        places = lots.argsort(dim=1, stable=True).argsort(dim=1)
        return places < (self.random_rows or 0)

    def routed(self, images: Tensor, draw: Draw, probability: float) -> Tensor:
        """Returns what the network sees while the scenario is active, (B, C, H, W).

        Args:
            images: u, (B, C, H, W).
            draw: the source of randomness.
            probability: probability, per image, that the operation is applied.
        """
        if self.is_noop or self.route in {"observe", STATE}:
            return images
        if self.route == "exclude":
            return torch.where(self.mask(images, draw), self.black, images)
        # `images` keeps θ in the graph, so even with all rows cut its gradient exists: it is zero.
        return torch.where(self.mask(images, draw), self._operated(images, draw, probability), images)

    def observed(self, images: Tensor, draw: Draw) -> Tensor:
        """Returns what observers see on every route, (B, C, H, W): the operation's result in the selected rows."""
        return torch.where(self.mask(images, draw), self._operated(images, draw, self.probability), images)

    def _operated(self, images: Tensor, draw: Draw, probability: float) -> Tensor:
        source = images.detach() if self.detach else images
        result = self.operation(source, draw)
        if not isinstance(result, Tensor):
            raise UserError(f"scenario.operation turned images into a {type(result).__name__}.")
        if result.shape != images.shape:
            raise UserError(
                f"scenario.operation turned images of shape {tuple(images.shape)} into {tuple(result.shape)};"
                " it must keep the shape."
            )
        if self.straight_through:
            # u + (op(u) - u).detach(), in an order of additions that keeps the values of op(u) bit for bit.
            result = result.detach() + (source - source.detach())
        if probability == 1:
            return result
        hit = draw.uniform("probability", (len(images),), images.device) < probability
        return torch.where(hit[:, None, None, None], result, source)

    def sentence(self) -> str:
        """Describes the scenario in one sentence."""
        if self.is_noop:
            return "No row is selected: the network sees the images as they are."
        if self.route == STATE:
            state, verb = self.cut_edges(), "detached" if self.detach else "left as it is"
            pause = "," * (self.random_rows is not None or self.probability != 1)
            words = f"{state[0].upper()}{state[1:]}{pause} is {verb}{self._schedule()}"
            return f"{words}. The network sees the images as they are."
        rows = self.rows
        verb = "is" if self.rows.startswith("row ") or self.random_rows == 1 else "are"
        if self.random_rows is not None:
            rows = f"{self.random_rows} of {self.rows}, drawn anew at each step,"
        rows = rows[0].upper() + rows[1:]
        chance = "" if self.probability == 1 else f" with probability {self.probability:g}"
        done = f"{'detached, ' if self.detach else ''}{self.operation.phrase}{chance}"
        passes = self.straight_through and not self.detach and self.route == "replace"
        through = ", with their gradient passed straight through," if passes else ""
        end = {
            "replace": "and fed to the network",
            "observe": "for observers only; the network sees them untouched",
            "exclude": "for observers only; the network sees black in their place",
        }[self.route]
        return f"{rows} {verb} {done}{through} {end}{self._schedule()}."

    def cut_edges(self) -> str:
        """Describes what route `state` detaches: "the state that is carried into row 14"."""
        rows = self.rows if self.random_rows is None else f"{self.random_rows} of {self.rows}, drawn anew at each step"
        chance = "" if self.probability == 1 else f", for each image and row with probability {self.probability:g}"
        return f"the {state_words(self.state)} that is carried into {rows}{chance}"

    def _schedule(self) -> str:
        """Describes the schedule, as the end of a sentence; empty if the scenario is always active."""
        start = f", from step {self.from_step}" if self.from_step else ""
        if self.to_step is None:
            return start and f"{start} on"
        return f"{start} to step {self.to_step - 1}" if start else f", up to step {self.to_step - 1}"
