"""How much accuracy and how much gradient does each row carry? Each row is cut alone, beside runs without a cut."""

from __future__ import annotations

import math
import statistics
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from rowgrad.data.settings import DATA_SETS
from rowgrad.data.sources import SOURCES
from rowgrad.errors import UserError
from rowgrad.results.paired import compare, corrected
from rowgrad.results.plots import Plot
from rowgrad.results.runs import RunSet
from rowgrad.scenario.rows import name_rows
from rowgrad.watch.figures import INK, OTHER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from rowgrad.results.plots import Size
    from rowgrad.results.run import Run
    from rowgrad.results.runs import RunGroup

    BySeed = Sequence[Sequence[float]]  # a number for each row, for each seed

LEVEL = 0.05


def figures(runs: RunSet) -> dict[str, Plot]:
    """What each row carries. Of several complete atlases (of networks, of cameras) the first is drawn."""
    atlases = {group.name: atlas for group in _candidates(runs) if (atlas := _atlas(group.runs))}
    if not atlases:
        return {}
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
    numbers = (torch.tensor(lost), torch.tensor(shares), mean_image(next(iter(whole.values()))))
    return {"row_atlas": Plot(describe_atlas(lost, shares, losses), words, lambda size: _draw(*numbers, size))}


def mean_image(run: Run) -> Tensor | None:
    """The mean image (H, W) of a run's data set, from 0 to 1; None if its files are not on this machine."""
    name, root = run.config.data.name, Path(run.config.data.root)
    if name not in DATA_SETS or (name != "digits" and not root.is_dir()):
        return None
    try:
        return SOURCES[name](root, download=False).test.pixels.double().mean(0) / 255
    except UserError:
        return None


def sentences(runs: RunSet) -> list[str]:
    """The atlas in a sentence."""
    return [f"Each row alone without its image: {plot.verdict}" for plot in figures(runs).values()]


def describe_atlas(lost: BySeed, shares: BySeed, losses: BySeed = ()) -> str:
    """What the bars show together: lost accuracy, stopped shares and added test loss, a list of rows for each seed."""
    from scipy import stats

    mean_lost, mean_share = ([statistics.mean(row) for row in zip(*table, strict=True)] for table in (lost, shares))
    words = f"On average, a row costs {100 * statistics.mean(mean_lost):.2f} percentage points"
    if len(lost) > 1:  # an interval needs a spread
        low, high = stats.ttest_1samp([statistics.mean(row) for row in lost], 0).confidence_interval(0.95)
        words += f" (95 % interval over seeds {100 * low:+.2f} to {100 * high:+.2f})"
        words += _significant_rows(lost, losses)
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


def _significant_rows(lost: BySeed, losses: BySeed) -> str:
    """Which rows cost anything by themselves, in tests of all rows at once."""
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


def _candidates(runs: RunSet) -> list[RunGroup]:
    """Runs with a test accuracy and at most one selected row, by what they differ in beside that row."""
    fit = [run for run in runs.runs if math.isfinite(run.summary.get("test/acc", math.nan)) and sum(run.selected) <= 1]
    return RunSet(fit).groups("scenario.rows")


def _atlas(runs: Sequence[Run]) -> tuple[dict[int, Run], dict[int, list[Run]], int] | None:
    """Runs with all rows by seed, those without row 0, 1, …, and the number of repetitions; None if one is missing."""
    found: dict[tuple[int | None, int], Run] = {}
    for run in runs:
        found.setdefault((run.selected.index(True) if any(run.selected) else None, run.seed), run)
    whole = {seed: run for (row, seed), run in found.items() if row is None}
    height = len(runs[0].selected)
    if not whole or found.keys() != {(row, seed) for row in (None, *range(height)) for seed in whole}:
        return None
    alone = {seed: [found[row, seed] for row in range(height)] for seed in whole}
    return whole, alone, len(runs) - len(found)


def _draw(losses: Tensor, shares: Tensor, digit: Tensor | None, size: Size) -> Figure:
    """Bars of lost accuracy and stopped shares, (N, H) for N seeds, beside the data set's mean image (H, W)."""
    figure = Figure((size.width, 2.8 if size.narrow else 4.0), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True, width_ratios=[0.7, 1.3, 1.3])
    titles = ["mean digit", "accuracy lost, percentage points", "share of the squared input gradient, %"]
    for panel, title, room in zip(panels, titles, (0.18, 0.35, 0.35), strict=True):
        panel.set_title(size.lines(title, room * size.width), loc="left")
    if digit is not None:
        panels[0].imshow(digit.numpy(), cmap="gray", aspect="auto")
    panels[0].set_xticks([])
    panels[0].set_ylabel("image row (0 = top)")
    rows = np.arange(losses.shape[1])
    for panel, values in zip(panels[1:], (losses, shares), strict=True):
        whiskers = 100 * values.std(0).numpy() if len(values) > 1 else None
        look: dict[str, Any] = {"height": 0.8, "color": OTHER, "ecolor": INK, "error_kw": {"lw": 0.8}}
        panel.barh(rows, 100 * values.mean(0).numpy(), xerr=whiskers, **look)
        panel.grid(axis="x", alpha=0.25)
        panel.locator_params(axis="x", nbins=3 if size.narrow else 5)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    panels[0].set_yticks(range(0, len(rows), 7))
    return figure
