"""What each of several processes has -> their mean: the gradient of the loss of the whole step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

from rowgrad.errors import UserError

if TYPE_CHECKING:
    import lightning.pytorch as pl


class Ranks:
    """The processes of a trainer. In a single one, everything is left as it is.

    Args:
        trainer: whose processes they are.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self.strategy, self.several = trainer.strategy, trainer.world_size > 1
        self.device = trainer.strategy.root_device
        self._kinds: dict[str, tuple[torch.Size, torch.dtype]] = {}

    def mean(self, name: str, kept: Tensor | None) -> Tensor | None:
        """The mean of what each process has; all must ask at once.

        Args:
            name: of what it is, for a mistake's words.
            kept: this process's; it is changed. None where nothing is known of it here yet.

        Raises:
            UserError: it is of different sizes.
        """
        if not self.several:
            return kept
        if name not in self._kinds:
            self._agree(name, kept)
        if name not in self._kinds:  # nowhere
            return None
        size, numbers = self._kinds[name]
        if kept is None:
            kept = torch.zeros(size, dtype=numbers, device=self.device)
        if kept.shape != size:
            raise self._mistake(name, {tuple(size), tuple(kept.shape)})
        return self.strategy.reduce(kept, reduce_op="mean")

    def _agree(self, name: str, kept: Tensor | None) -> None:
        """Asks all processes once what size it is, and of which numbers."""
        kinds: list[Any] = [None] * distributed.get_world_size()  # ty: ignore[possibly-missing-attribute]
        distributed.all_gather_object(kinds, None if kept is None else (kept.shape, kept.dtype))  # ty: ignore[possibly-missing-attribute]
        known = {kind for kind in kinds if kind is not None}
        if len({size for size, _ in known}) > 1:
            raise self._mistake(name, {tuple(size) for size, _ in known})
        if known:
            self._kinds[name] = known.pop()

    @staticmethod
    def _mistake(name: str, sizes: set[tuple[int, ...]]) -> UserError:
        words = " and ".join(map(str, sorted(sizes)))
        return UserError(
            f"{name} is of different sizes, {words}: with several processes it must be the same everywhere and at every"
            " step. Sequences of different lengths: RowTap(rows=the longest)."
        )
