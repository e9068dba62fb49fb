"""Figures that answer one experiment's question, where the runs are those of that experiment."""

from __future__ import annotations

import math
import statistics
import warnings
from typing import TYPE_CHECKING

import torch

from rowgrad.results import figures
from rowgrad.results.groups import shared_out
from rowgrad.results.names import group_names
from rowgrad.results.paired import compare, corrected
from rowgrad.results.sheets import Picture
from rowgrad.results.verdicts import on_range
from rowgrad.scenario.rows import name_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from rowgrad.results.groups import Setting
    from rowgrad.results.run import Run


LEVEL = 0.05


def repair_figure(settings: Sequence[Setting], most: int) -> list[Picture]:
    """The broken cameras, and what the rows have made of them; of runs that differ in their seed, the first one's.

    Args:
        settings: of which those with a broken camera are shown.
        most: in one figure.
    """
    cameras: dict[str, tuple[Tensor, Tensor, Sequence[bool], float]] = {}
    for setting in settings:
        run, theta = setting.first, setting.first.theta
        if run.damage is not None and theta is not None:
            accuracy = run.summary.get("test/acc", math.nan)
            cameras[setting.name] = (run.damage, theta.float().mean((0, 2)), run.selected, accuracy)
    words = (
        "Grey: what the camera adds to each row. θ is drawn beside it, averaged over the row, and what is left of the"
        " damage; above it, the test accuracy."
    )
    if any(len(setting.runs) > 1 for setting in settings):
        words += " Of several seeds, the first run's."

    def picture(names: Sequence[str]) -> Picture:
        some = {name: cameras[name] for name in names}
        verdict = on_range("The test accuracy", {name: accuracy for name, (*_, accuracy) in some.items()})
        return Picture(verdict, words, lambda above, sheet: figures.repairs(some, above, sheet))

    return [picture(names) for names in shared_out(list(cameras), most)]


def atlas_figure(runs: Sequence[Run]) -> Picture | None:
    """What each row carries, where every row was cut alone, beside runs in which none was, with the same seeds.

    Of runs that differ in something else too, as the network or the camera, those of the first kind that is complete;
    of runs that are alike in everything, the first.
    """
    atlases = {name: atlas for name, found in _kinds(runs).items() if (atlas := _atlas(found))}
    if not atlases:
        return None
    name, (whole, alone, more) = next(iter(atlases.items()))
    lost = [[run.summary["test/acc"] - cut.summary["test/acc"] for cut in alone[seed]] for seed, run in whole.items()]
    shares = [[cut.cut_fraction or 0.0 for cut in alone[seed]] for seed in whole]
    losses = [
        [cut.summary["test/loss"] - run.summary["test/loss"] for cut in alone[seed]] for seed, run in whole.items()
    ]
    words = (
        "Each row alone was cut, with noise in its place: what accuracy that cost against the runs with all rows, and"
        f" which share of the gradient it stopped. Bars end at the mean of {len(whole)} seeds, whiskers are a standard"
        " deviation."
    )
    if more:
        words += f" Left aside, because a run with the same row and seed came before: {more}."
    if others := [other for other in atlases if other != name]:
        words += f" Shown: {name}. Not shown: {'; '.join(others)}."
    numbers = (torch.tensor(lost), torch.tensor(shares), next(iter(whole.values())).mean_image())
    return Picture(
        describe_atlas(lost, shares, losses), words, lambda verdict, sheet: figures.row_atlas(*numbers, verdict, sheet)
    )


def atlas_sentence(runs: Sequence[Run]) -> str:
    """What the atlas says, where some runs are one; nothing where they are not."""
    drawn = atlas_figure(runs)
    return f"Each row alone without its image: {drawn.verdict}" if drawn else ""


def _kinds(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs with a test accuracy and at most one row, by what they differ in beside that row and their seed."""
    fit = [run for run in runs if math.isfinite(run.summary.get("test/acc", math.nan)) and sum(run.selected) <= 1]
    kinds: dict[str, list[Run]] = {}
    for name, run in zip(group_names(fit, "scenario.rows"), fit, strict=True):
        kinds.setdefault(name, []).append(run)
    return kinds


def _atlas(runs: Sequence[Run]) -> tuple[dict[int, Run], dict[int, list[Run]], int] | None:
    """Runs with all rows by their seed, those without row 0, 1, …, how many more; None where one is missing."""
    found: dict[tuple[int | None, int], Run] = {}
    for run in runs:
        found.setdefault((run.selected.index(True) if any(run.selected) else None, run.seed), run)
    whole = {seed: run for (row, seed), run in found.items() if row is None}
    height = len(runs[0].selected)
    if not whole or found.keys() != {(row, seed) for row in (None, *range(height)) for seed in whole}:
        return None
    alone = {seed: [found[row, seed] for row in range(height)] for seed in whole}
    return whole, alone, len(runs) - len(found)


def _told_apart(lost: Sequence[Sequence[float]], losses: Sequence[Sequence[float]]) -> str:
    """Of how many rows the seeds can tell that they cost anything, in tests of all rows at once."""
    found = {}
    for metric, table in {"accuracy": lost, "test loss": losses}.items():
        tests = [compare(row, [0.0] * len(row)).p for row in zip(*table, strict=True)]
        if any(p is not None for p in tests):
            rows = [p is not None and p < LEVEL for p in corrected(tests)]
            found[metric] = f"of {name_rows(rows)} ({sum(rows)}) in {metric}" if any(rows) else f"of no row in {metric}"
    if not found:
        return ""
    return (
        f"; {len(lost)} seeds can tell {', '.join(found.values())} that it changes anything by itself (paired t-tests,"
        f" p < {LEVEL:g} after correction for the number of rows)"
    )


def describe_atlas(
    lost: Sequence[Sequence[float]], shares: Sequence[Sequence[float]], losses: Sequence[Sequence[float]] = ()
) -> str:
    """What the bars say together: lost accuracy, stopped shares and added test loss, a list of rows for each seed."""
    from scipy import stats

    mean_lost, mean_share = ([statistics.mean(row) for row in zip(*table, strict=True)] for table in (lost, shares))
    words = f"On average, a row costs {100 * statistics.mean(mean_lost):.2f} percentage points"
    if len(lost) > 1:  # an interval needs a spread
        low, high = stats.ttest_1samp([statistics.mean(row) for row in lost], 0).confidence_interval(0.95)
        words += f" (95 % interval over seeds {100 * low:+.2f} to {100 * high:+.2f})"
        words += _told_apart(lost, losses)
    if min(mean_share) == max(mean_share):
        return f"{words}. It stopped the same share of the gradient in every row, so there is no order to compare."
    if min(mean_lost) == max(mean_lost):
        return f"{words}. Every row costs the same, so there is no order to compare."
    rank = float(stats.spearmanr(mean_lost, mean_share).statistic)
    agreement = f"lost accuracy and share agree in rank with ρ = {rank:.2f}"
    # A resample of rows that are all alike has no rank correlation, and then there is no interval.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        low, high = stats.bootstrap(
            (mean_lost, mean_share), lambda a, b: stats.spearmanr(a, b).statistic,
            paired=True, vectorized=False, n_resamples=2000, rng=0,
        ).confidence_interval  # fmt: skip
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{words}; {agreement} (Spearman; no interval, because too few rows differ)."
    return f"{words}; {agreement} ({low:.2f} to {high:.2f}, Spearman, bootstrap over rows)."
