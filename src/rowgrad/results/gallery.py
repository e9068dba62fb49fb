"""Which figures some runs have, each with what is seen in it and how to read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from rowgrad.results import figures, heatmaps, verdicts
from rowgrad.results.experiments import atlas_figure, repair_figure
from rowgrad.results.groups import merged, settings_of, shared_out
from rowgrad.results.sheets import Picture
from rowgrad.results.truncation import truncation_figure
from rowgrad.results.vanishing import vanishing_figure
from rowgrad.watch.drawing import log_scale
from rowgrad.watch.quantities import ARRIVES, REACHES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from matplotlib.figure import Figure
    from torch import Tensor

    from rowgrad.results.groups import Curves, Setting
    from rowgrad.results.run import Run
    from rowgrad.results.sheets import Sheet

CURVES = ("train/loss", "train/acc", "val/loss", "val/acc")
MOST = 24  # settings that are drawn
LONG = 60  # letters of a name for which there is room in every figure
WALL, GRID = 4, 8  # settings in one figure of heatmaps, and in one of θ: more would be higher than a screen

Drawn = dict[str, Picture]  # by the figure's name


def draw(runs: Sequence[Run], progress: Callable[[str], None] = lambda _: None) -> Drawn:
    """The figures of some runs by their names.

    Args:
        runs: at least one.
        progress: is told what is being looked at.
    """
    settings = settings_of(runs)
    found: Drawn = {}
    kinds: dict[str, Callable[[], Iterable[Picture | None]]] = {
        "heatmaps": lambda: _heatmaps(settings),
        "vanishing": lambda: [vanishing_figure(runs)],
        "truncation": lambda: [truncation_figure(runs)],
        "row_profiles": lambda: [_row_profiles(settings)],
        "learning_curves": lambda: [_learning_curves(settings)],
        "repair": lambda: repair_figure(settings[:MOST], GRID),
        "row_atlas": lambda: [atlas_figure(runs)],
        "learnt_rows": lambda: _learnt_rows(settings),
    }
    for name, pictures in kinds.items():
        progress(name.replace("_", " "))
        for number, picture in enumerate(filter(None, pictures())):
            found[f"{name}_{number + 1}" if number else name] = picture
    return found


def _left_out(settings: Sequence[Setting]) -> str:
    """What a figure does not show: settings, and the ends of long names."""
    words = f" {MOST} of {len(settings)} settings are shown." if len(settings) > MOST else ""
    long = any(len(setting.title) > LONG for setting in settings)
    return words + (" Long names are shortened; the table above has them in full." if long else "")


def _over_seeds(settings: Sequence[Setting], what: str) -> str:
    return f" {what}." if any(len(setting.runs) > 1 for setting in settings) else ""


def _heatmaps(settings: Sequence[Setting]) -> list[Picture]:
    recorded = [setting for setting in settings if setting.recorded]
    shown = recorded[:MOST]
    if not shown:
        return []
    scale = log_scale([s.norms[q] for s in shown for q in (REACHES, ARRIVES) if q in s.norms])
    words = (
        "Every row at every step, all settings on one colour scale. Grey is exactly zero: no gradient reaches the row."
        " On the right, what arrives at the network's input all the same."
    )
    words += _over_seeds(shown, "Norms are means over seeds; grey is zero in every one of them") + _left_out(recorded)

    def picture(some: Sequence[Setting]) -> Picture:
        wall = {setting.title: (setting.steps, setting.norms, setting.first.selected) for setting in some}
        below = {setting.title: verdicts.on_cut(setting) for setting in some}

        def on(verdict: str, sheet: Sheet) -> Figure:
            return heatmaps.compared_heatmaps(wall, scale, below, verdict, sheet)

        how = f" {words}" if some[0] is shown[0] else ""
        return Picture(verdicts.on_heatmaps(some), f"{verdicts.on_makers(some)}{how}".strip(), on)

    return [picture(some) for some in shared_out(shown, WALL)]


def _row_profiles(settings: Sequence[Setting]) -> Picture | None:
    known = {
        setting: {
            quantity: torch.stack([run.norms[quantity].double().mean(0) for run in setting.recorded])
            for quantity in (REACHES, ARRIVES)
            if quantity in setting.norms
        }
        for setting in settings[:MOST]
    }
    profiles = merged({setting: norms for setting, norms in known.items() if norms}, _same_norms)
    if not profiles:
        return None
    zeros = {
        name: (norms[REACHES] == 0).all(0).tolist()
        for title, norms in profiles.items()
        if REACHES in norms
        for name in verdicts.name_in(title).split(" = ")
    }
    words = "Each row's norm, averaged over the steps."
    words += _over_seeds(settings, "Bands are one standard deviation over seeds") + _left_out(settings)
    return Picture(
        f"{verdicts.on_rows('Rows that get exactly 0', zeros)} {verdicts.on_equals(list(profiles))}".strip(),
        words,
        lambda verdict, sheet: figures.row_profiles(profiles, verdict, sheet),
    )


def _same_norms(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _same_curves(one: dict[str, Curves], other: dict[str, Curves]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(mine, theirs, equal_nan=True)
        for tag in one
        for mine, theirs in zip(one[tag], other[tag], strict=True)
    )


def _learning_curves(settings: Sequence[Setting]) -> Picture:
    curves = merged({setting: setting.curves(CURVES) for setting in settings[:MOST]}, _same_curves)
    last = {
        verdicts.name_in(title): float(found["val/acc"][1][:, -1].mean())
        for title, found in curves.items()
        if "val/acc" in found
    }
    words = "Training batches, averaged over neighbouring steps; dots are the validation images."
    words += _over_seeds(settings, "Lines are means over seeds, bands and bars one standard deviation")
    seen = verdicts.on_range("At the end, the validation accuracy", last)
    return Picture(
        f"{seen} {verdicts.on_equals(list(curves))}".strip(),
        words + _left_out(settings),
        lambda verdict, sheet: figures.learning_curves(curves, verdict, sheet),
    )


def _learnt_rows(settings: Sequence[Setting]) -> list[Picture]:
    known = [setting for setting in settings if setting.thetas]
    words = "θ, what the rows have learnt to add to every image. A row that was always cut has stayed at zero."
    words += _over_seeds(known, "Shown is the mean of θ over seeds") + _left_out(known)

    def picture(some: Sequence[Setting]) -> Picture:
        thetas = {one.title: (torch.stack(one.thetas).mean(0), one.first.selected) for one in some}
        still = {one.name: (torch.stack(one.thetas) == 0).all(-1).all(1).all(0).tolist() for one in some}
        return Picture(
            verdicts.on_rows("Rows whose θ is exactly 0", still),
            words,
            lambda verdict, sheet: heatmaps.compared_theta(thetas, verdict, sheet),
        )

    return [picture(some) for some in shared_out(known[:MOST], GRID)]
