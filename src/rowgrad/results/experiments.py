"""Figures that answer one experiment's question, where the runs are those of that experiment."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import torch

from rowgrad.results import figures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from rowgrad.results.run import Run


def repair_figure(runs: Mapping[str, Run]) -> tuple[str, Figure] | None:
    """The broken cameras, and what the rows have made of them; of runs that differ in their seed, the first one's."""
    cameras, seed = {}, next(iter(runs.values())).seed
    for name, run in runs.items():
        damage = run.damage
        if damage is not None and run.theta is not None and run.seed == seed:
            cameras[name] = (
                damage,
                run.theta.float().mean((0, 2)),
                run.selected,
                run.summary.get("test/acc", float("nan")),
            )
    words = (
        "Grey: what the camera adds to each row. θ is drawn beside it, averaged over the row, and what is left of the"
        f" damage; above it, the test accuracy. Runs with seed {seed}."
    )
    return (words, figures.repairs(cameras)) if cameras else None


def atlas_figure(runs: Sequence[Run]) -> tuple[str, Figure] | None:
    """What each row carries, where every row was cut alone, beside runs in which none was, with the same seeds."""
    done = [run for run in runs if "test/acc" in run.summary]
    whole = {run.seed: run for run in done if not any(run.selected)}
    alone = {(run.selected.index(True), run.seed): run for run in done if sum(run.selected) == 1}
    height = len(runs[0].selected)
    if not whole or alone.keys() != {(row, seed) for row in range(height) for seed in whole}:
        return None
    lost = [[whole[s].summary["test/acc"] - alone[r, s].summary["test/acc"] for r in range(height)] for s in whole]
    shares = [[alone[row, seed].cut_fraction or 0.0 for row in range(height)] for seed in whole]
    words = (
        "Each row alone was cut, with noise in its place: what accuracy that cost against the runs with all rows, and"
        f" which share of the gradient it stopped. Bars end at the mean of {len(whole)} seeds, whiskers are a standard"
        f" deviation. {describe_atlas(lost, shares)}"
    )
    return words, figures.row_atlas(torch.tensor(lost), torch.tensor(shares), runs[0].mean_image())


def describe_atlas(lost: Sequence[Sequence[float]], shares: Sequence[Sequence[float]]) -> str:
    """What the bars say together: lost accuracy and stopped shares, a list of rows for each seed."""
    from scipy import stats

    mean_lost, mean_share = ([statistics.mean(row) for row in zip(*table, strict=True)] for table in (lost, shares))
    words = f"On average, a row costs {100 * statistics.mean(mean_lost):.2f} percentage points"
    if len(lost) > 1:  # an interval needs a spread
        low, high = stats.ttest_1samp([statistics.mean(row) for row in lost], 0).confidence_interval(0.95)
        words += f" (95 % interval over seeds {100 * low:+.2f} to {100 * high:+.2f})"
    if min(mean_share) == max(mean_share):
        return f"{words}."  # nothing to compare: no gradient was stopped, or the same in every row
    rank = float(stats.spearmanr(mean_lost, mean_share).statistic)
    low, high = stats.bootstrap(
        (mean_lost, mean_share), lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True, vectorized=False, n_resamples=2000, rng=0,
    ).confidence_interval  # fmt: skip
    agreement = f"lost accuracy and share agree in rank with ρ = {rank:.2f} ({low:.2f} to {high:.2f},"
    return f"{words}; {agreement} Spearman, bootstrap over rows)."
