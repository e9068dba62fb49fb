"""What each of several processes has -> their mean: the gradient of the loss of the whole step."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
        self._sizes: dict[str, torch.Size] = {}

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
        if name not in self._sizes:
            self._agree(name, kept)
        size = self._sizes.get(name)
        if size is None:  # nowhere
            return None
        if kept is None:
            kept = torch.zeros(size, device=self.device)
        if kept.shape != size:
            raise self._mistake(name, {tuple(size), tuple(kept.shape)})
        return self.strategy.reduce(kept, reduce_op="mean")

    def _agree(self, name: str, kept: Tensor | None) -> None:
        """Asks all processes once what size it is."""
        sizes: list[torch.Size | None] = [None] * distributed.get_world_size()  # ty: ignore[possibly-missing-attribute]
        distributed.all_gather_object(sizes, None if kept is None else kept.shape)  # ty: ignore[possibly-missing-attribute]
        known = {size for size in sizes if size is not None}
        if len(known) > 1:
            raise self._mistake(name, {tuple(size) for size in known})
        if known:
            self._sizes[name] = known.pop()

    @staticmethod
    def _mistake(name: str, sizes: set[tuple[int, ...]]) -> UserError:
        words = " and ".join(map(str, sorted(sizes)))
        return UserError(
            f"{name} is of different sizes, {words}: with several processes it must be the same everywhere and at every"
            " step. Sequences of different lengths: RowTap(rows=the longest)."
        )
