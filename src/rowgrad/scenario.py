"""Rows, operation, detach, route -> the network's input. The cut is one `detach()`, in `Scenario._operated`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rowgrad.errors import UserError
from rowgrad.operations import read_operation
from rowgrad.rows import name_rows, select_rows
from rowgrad.settings import check

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
        height: H of the images.
        black: the value of a black pixel in normalised units.

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
        *,
        height: int,
        black: float = 0.0,
    ) -> None:
        super().__init__()
        for key, value in {"probability": probability, "detach": detach, "route": route, "when": when}.items():
            check(f"scenario.{key}", value)
        selected = select_rows(rows, height)
        self.name = name
        self.rows = name_rows(selected)
        self.operation = read_operation(operation)
        self.probability = float(probability)
        self.detach = detach
        self.route = route
        self.when = when
        self.black = black
        self.idle = not any(selected)
        self.register_buffer("selected", torch.tensor(selected), persistent=False)

    def forward(self, images: Tensor, draw: Draw) -> Tensor:
        """What the network sees in this phase, (B, 1, H, W), from images u of that shape."""
        if self.training or self.when == "train and eval":
            return self.routed(images, draw, self.probability)
        return images

    def routed(self, images: Tensor, draw: Draw, probability: float) -> Tensor:
        """What the network sees while the scenario is at work, with the given probability of the operation."""
        if self.idle or self.route == "observe":
            return images
        if self.route == "exclude":
            return torch.where(self.selected[:, None], self.black, images)
        # θ stays in the graph through `images`, so even a cut of all rows gives gradients: zeros.
        return torch.where(self.selected[:, None], self._operated(images, draw, probability), images)

    def observed(self, images: Tensor, draw: Draw) -> Tensor:
        """What observers see, (B, 1, H, W): the operation's result in the selected rows, whatever the route."""
        return torch.where(self.selected[:, None], self._operated(images, draw, self.probability), images)

    def _operated(self, images: Tensor, draw: Draw, probability: float) -> Tensor:
        source = images.detach() if self.detach else images
        result = self.operation(source, draw)
        if result.shape != images.shape:
            raise UserError(
                f"scenario.operation turned images of shape {tuple(images.shape)} into {tuple(result.shape)};"
                " it must keep the shape."
            )
        if probability == 1:
            return result
        hit = draw.uniform("probability", (len(images),), images.device) < probability
        return torch.where(hit[:, None, None, None], result, source)

    def sentence(self) -> str:
        """The scenario in one plain sentence."""
        if self.idle:
            return "No row is selected: the network sees the images as they are."
        verb = "is" if self.rows.startswith("row ") else "are"
        chance = "" if self.probability == 1 else f" with probability {self.probability:g}"
        done = f"{'detached, ' if self.detach else ''}{self.operation.phrase}{chance}"
        end = {
            "replace": "and fed to the network",
            "observe": "for observers only; the network sees them untouched",
            "exclude": "for observers only; the network sees black in their place",
        }[self.route]
        return f"{self.rows[0].upper()}{self.rows[1:]} {verb} {done} {end}."
