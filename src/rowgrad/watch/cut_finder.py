"""`CutFinder`: where gradient ends in the first training step of any Lightning run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from rowgrad.cuts.finder import HEALED, Finder, check_heal
from rowgrad.cuts.lightning import TrainingStep
from rowgrad.files import write_whole
from rowgrad.watch.loggers import writers

if TYPE_CHECKING:
    from rowgrad.cuts.found import Cuts

FILE = "gradient_cuts.json"


class CutFinder(pl.Callback):
    """Finds the places where gradient ends, once, before the first training step. Training is as without it.

    It writes `gradient_cuts.json` into the logger's folder and a text into TensorBoard. It warns in one line if a
    parameter that an optimizer has gets no gradient.

    Example:
        >>> trainer = pl.Trainer(callbacks=[CutFinder()])  # doctest: +SKIP

    Args:
        heal: at most how many places are let through, each in one more step; None for all.

    Attributes:
        found: the answer, after the first step.

    Raises:
        UserError: a value that is not accepted.
    """

    def __init__(self, heal: int | None = HEALED) -> None:
        check_heal(heal)
        self.heal = heal
        self.found: Cuts | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Looks at the first step. All ranks do, as the step may need the others."""
        if self.found is not None or trainer.global_step > 0:
            return
        step = TrainingStep(pl_module, batch, batch_idx)
        self.found = Finder(pl_module, step, step.optimizers, step.others).find(self.heal)
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # on all ranks: it is a broadcast
        if not trainer.is_global_zero:
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / FILE, json.dumps(self.found.to_dict(), indent=1))
        for writer in writers(trainer):
            writer.add_text("gradient cuts", "\n".join("    " + line for line in str(self.found).splitlines()))
        if words := warning(self.found, folder / FILE):
            rank_zero_warn(words)
        else:
            rank_zero_info(f"gradient cuts: all parameters get gradient; see {folder / FILE}")


def warning(found: Cuts, file: Path) -> str:
    """One line on the parameters that an optimizer has and that get no gradient; empty if there are none."""
    without = [one for one in found.without_gradient() if one.optimizer is not False]
    if not without:
        return ""
    first, more = without[0], len(without) - 1
    others = f" and {more} other parameter{'s' * (more > 1)}" if more else ""
    maker = first.cuts[0] if first.cuts else None
    why = f"{maker.kind} at {maker.place}" if maker else f"it is {first.status}"
    return f"{first.name}{others} got no gradient in the first step: {why}. See {file}."
