"""Rows, operation, detach, route -> the network's input. The cut is one `detach()`, in `Scenario._operated`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rowgrad.errors import UserError
from rowgrad.operations import read_operation
from rowgrad.rows import name_rows, select_rows
from rowgrad.settings import check, check_together

if TYPE_CHECKING:
    from collections.abc import Callable

    from rowgrad.randomness import Draw
    from rowgrad.rows import RowSpec


class Scenario(nn.Module):
    """Chooses rows, puts them through an operation, detached or not, and says who gets the result.

    Args:
        name: what the scenario is called.
        rows: which rows are selected, in the row grammar.
        operation: what is done to them: a name with its numbers, or a function of images (B, 1, H, W).
        probability: chance, for each image, that the operation is used; the others keep their values in the selected
            rows, detached all the same.
        detach: whether the operation's input is detached.
        route: where the result goes: `replace` (into the network), `observe` (to observers only; the network sees the
            untouched rows) or `exclude` (to observers only; the network sees black).
        when: `train`, or `train and eval`.
        from_step: the scenario is at work from this optimizer step on, counted from 0. Before it the network sees the
            images as they are, and nothing is detached. Evaluation goes by the last step that was trained.
        to_step: the step from which on it is at work no more, or None.
        random_rows: so many of the selected rows are drawn anew for each optimizer step, the same ones for all of its
            images; None for all of them. Evaluation, which has no step, draws for each image.
        straight_through: whether gradient passes as if the operation were the identity (Bengio et al.,
            arXiv:1308.3432). With `detach` there is none to pass: the rows stay cut.
        height: H of the images.
        black: the value of a black pixel in normalised units.
        white: the value of a white one.

    Raises:
        UserError: a value that is not accepted; it names the key.
    """

    selected: Tensor

    def __init__(
        self,
        name: str = "custom",
        rows: RowSpec = "none",
        operation: str | Callable[[Tensor], Tensor] = "none",
        probability: float = 1.0,
        detach: bool = True,
        route: str = "replace",
        when: str = "train",
        from_step: int = 0,
        to_step: int | None = None,
        random_rows: int | None = None,
        straight_through: bool = False,
        *,
        height: int,
        black: float = 0.0,
        white: float = 1.0,
    ) -> None:
        super().__init__()
        for key, value in {
            "probability": probability,
            "detach": detach,
            "route": route,
            "when": when,
            "from_step": from_step,
            "to_step": to_step,
            "random_rows": random_rows,
            "straight_through": straight_through,
        }.items():
            check(f"scenario.{key}", value)
        selected = select_rows(rows, height)
        check_together(selected, random_rows, from_step, to_step)
        self.name = name
        self.rows = name_rows(selected)
        self.operation = read_operation(operation, black, white)
        self.probability = float(probability)
        self.detach = detach
        self.route = route
        self.when = when
        self.from_step, self.to_step = from_step, to_step
        self.random_rows = random_rows
        self.straight_through = straight_through
        self.black = black
        self.idle = not any(selected) or random_rows == 0
        self.register_buffer("selected", torch.tensor(selected), persistent=False)

    def forward(self, images: Tensor, draw: Draw, step: int | None = None) -> Tensor:
        """What the network sees in this phase, (B, 1, H, W).

        Args:
            images: u, of that shape.
            draw: the randomness.
            step: the optimizer step that the schedule goes by; without it, that of `draw`.
        """
        in_phase = self.training or self.when == "train and eval"
        if in_phase and self.at_work(draw.step if step is None else step):
            return self.routed(images, draw, self.probability)
        return images

    def at_work(self, step: int) -> bool:
        """Whether the schedule has the scenario at work at an optimizer step."""
        return self.from_step <= step and (self.to_step is None or step < self.to_step)

    def mask(self, images: Tensor, draw: Draw) -> Tensor:
        """The selected rows as booleans that broadcast over images (B, 1, H, W)."""
        if self.random_rows is None:
            return self.selected[:, None]
        draw, count = (replace(draw, first=0), 1) if self.training else (draw, len(images))
        lots = draw.uniform("random rows", (count, len(self.selected)), images.device).masked_fill(~self.selected, 1)
        places = lots.argsort(dim=1, stable=True).argsort(dim=1)
        return (places < self.random_rows)[:, None, :, None]

    def routed(self, images: Tensor, draw: Draw, probability: float) -> Tensor:
        """What the network sees while the scenario is at work, with the given probability of the operation."""
        if self.idle or self.route == "observe":
            return images
        if self.route == "exclude":
            return torch.where(self.mask(images, draw), self.black, images)
        # θ stays in the graph through `images`, so even a cut of all rows gives gradients: zeros.
        return torch.where(self.mask(images, draw), self._operated(images, draw, probability), images)

    def observed(self, images: Tensor, draw: Draw) -> Tensor:
        """What observers see, (B, 1, H, W): the operation's result in the selected rows, whatever the route."""
        return torch.where(self.mask(images, draw), self._operated(images, draw, self.probability), images)

    def _operated(self, images: Tensor, draw: Draw, probability: float) -> Tensor:
        source = images.detach() if self.detach else images
        result = self.operation(source, draw)
        if result.shape != images.shape:
            raise UserError(
                f"scenario.operation turned images of shape {tuple(images.shape)} into {tuple(result.shape)};"
                " it must keep the shape."
            )
        if self.straight_through:
            # u + (op(u) - u).detach(), put together so that the values are op(u) to the last bit.
            result = result.detach() + (source - source.detach())
        if probability == 1:
            return result
        hit = draw.uniform("probability", (len(images),), images.device) < probability
        return torch.where(hit[:, None, None, None], result, source)

    def sentence(self) -> str:
        """The scenario in one plain sentence."""
        if self.idle:
            return "No row is selected: the network sees the images as they are."
        rows = self.rows[0].upper() + self.rows[1:]
        verb = "is" if self.rows.startswith("row ") or self.random_rows == 1 else "are"
        if self.random_rows is not None:
            rows = f"{self.random_rows} of {self.rows}, drawn anew at each step,"
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

    def _schedule(self) -> str:
        """The schedule as a sentence's end; empty where the scenario is always at work."""
        start = f", from step {self.from_step}" if self.from_step else ""
        if self.to_step is None:
            return start and f"{start} on"
        return f"{start} to step {self.to_step - 1}" if start else f", up to step {self.to_step - 1}"
