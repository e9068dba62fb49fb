"""Which figures some runs have, each with a sentence that says how to read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rowgrad.results import figures
from rowgrad.results.experiments import atlas_figure, repair_figure
from rowgrad.results.names import by_group, group_names, run_names
from rowgrad.results.truncation import truncation_figure
from rowgrad.results.vanishing import vanishing_figure
from rowgrad.watch.quantities import ARRIVES, REACHES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure

    from rowgrad.results.run import Run

CURVES = ("train/loss", "train/acc", "val/loss", "val/acc")
MOST = 24  # runs of which each has a panel in a figure

Drawn = dict[str, tuple[str, "Figure"]]  # sentence and figure by the figure's name


def draw(runs: Sequence[Run], progress: Callable[[str], None] = lambda _: None) -> Drawn:
    """The figures of some runs by their names, each with a sentence that says how to read it.

    Args:
        runs: at least one.
        progress: is told what is being drawn.
    """
    drawn: Drawn = {}
    drawings = {
        "heatmaps": _heatmaps,
        "vanishing": vanishing_figure,
        "truncation": truncation_figure,
        "row_profiles": _row_profiles,
        "learning_curves": _learning_curves,
        "repair": lambda runs: repair_figure(dict(list(zip(run_names(runs), runs, strict=True))[:MOST])),
        "row_atlas": atlas_figure,
        "learnt_rows": _learnt_rows,
    }
    for name, drawing in drawings.items():
        progress(name.replace("_", " "))
        if (made := drawing(runs)) is not None:
            drawn[name] = made
    return drawn


def _heatmaps(runs: Sequence[Run]) -> tuple[str, Figure] | None:
    recorded = {name: run for name, run in zip(run_names(runs), runs, strict=True) if len(run.steps)}
    if not recorded:
        return None
    shown = recorded
    if len(recorded) > MOST:  # one run of each group first
        groups = by_group(list(recorded.values())).values()
        order = [run for place in range(max(map(len, groups))) for some in groups for run in some[place : place + 1]]
        shown = {name: run for name, run in recorded.items() if run in order[:MOST]}
    words = (
        "Every row at every step, all runs on one colour scale. Grey is exactly zero: no gradient reaches the row."
        " On the right, what arrives at the network's input all the same."
    )
    if len(shown) < len(recorded):
        words += f" {len(shown)} of {len(recorded)} runs."
    wall = {name: (run.steps, run.norms, run.selected) for name, run in shown.items()}
    return words, figures.compared_heatmaps(wall)


def _row_profiles(runs: Sequence[Run]) -> tuple[str, Figure] | None:
    profiles = {
        group: {
            quantity: torch.stack([run.norms[quantity].mean(0) for run in some])
            for quantity in (REACHES, ARRIVES)
            if all(quantity in run.norms for run in some)
        }
        for group, some in by_group(runs).items()
    }
    if not any(profiles.values()):
        return None
    words = "Each row's norm, averaged over the steps; the band is one standard deviation over seeds."
    return words, figures.row_profiles(profiles)


def _learning_curves(runs: Sequence[Run]) -> tuple[str, Figure]:
    groups = group_names(runs)
    curves: dict[str, dict[str, list[Any]]] = {group: {} for group in groups}
    for group, run in zip(groups, runs, strict=True):
        for tag, curve in run.curves(CURVES).items():
            curves[group].setdefault(tag, []).append(curve)
    words = "Training batches, averaged over neighbouring steps, one line a run; dots are the validation images."
    return words, figures.learning_curves(curves)


def _learnt_rows(runs: Sequence[Run]) -> tuple[str, Figure] | None:
    thetas = {
        n: (run.theta, run.selected) for n, run in zip(run_names(runs), runs, strict=True) if run.theta is not None
    }
    if not thetas:
        return None
    words = "θ, what the rows have learnt to add to every image. A row that was always cut has stayed at zero."
    return words, figures.compared_theta(dict(list(thetas.items())[:MOST]))
