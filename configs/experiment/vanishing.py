"""Where does gradient vanish on its way to the first row, in which networks, and for how long? A table and a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from rowgrad.results.plots import PALETTE, Plot, label_logarithms, label_rows, side_by_side
from rowgrad.results.report import equal_settings, merge_equal
from rowgrad.results.runs import RunSet
from rowgrad.results.table import Table
from rowgrad.watch.norms import FIRST, LAST, first_and_last
from rowgrad.watch.quantities import arriving
from rowgrad.watch.wording import describe_vanishing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure
    from torch import Tensor

    from rowgrad.results.plots import Size
    from rowgrad.results.run import Run
    from rowgrad.results.runs import RunGroup

    Known = list[tuple[Tensor, Tensor]]  # steps (T,) and norms (T, H) of each run

ENDS = (f"first {FIRST} steps", f"last {LAST} steps")
LEAST = 1e-12  # smaller shares are drawn at the edge
TENTH = 0.1


def tables(runs: RunSet) -> list[Table]:
    """Row 0 beside the last row, a line for each setting without a cut; no table if gradient vanishes in none."""
    groups = _groups(runs)
    if not groups:
        return []
    body = []
    for group, known in groups.items():
        ratios = [[float(share[0] / share[-1]) for share in map(share_of_rows, first_and_last(n))] for _, n in known]
        body.append([group.name, str(len(known)), *map(_range, zip(*ratios, strict=True)), _wait(known)])
    caption = (
        f"What row 0 gets of the last row, by mean norms: geometric mean over seeds, with the least and the most."
        f" The step from which on, for {FIRST} steps on average, it gets a tenth: median, with the first and the last."
    )
    header = ["setting", "n", *(f"row 0 ÷ last row, {end}" for end in ENDS), "row 0 has a tenth from step"]
    return [Table("Vanishing gradient", header, body, caption)]


def sentences(runs: RunSet) -> list[str]:
    """In which setting gradient vanishes most, and for how long."""
    groups = _groups(runs)
    if not groups:
        return []
    early = {group: [_first_ratio(norms) for _, norms in known] for group, known in groups.items()}
    most = min(early, key=lambda group: np.prod(early[group]) ** (1 / len(early[group])))
    where = f" most in {most.name}" if len(groups) > 1 else ""
    words = f"at the {ENDS[0]} row 0 gets {_range(early[most])} of what the last row gets"
    return [f"Gradient vanishes{where}: {words}, and it has a tenth from step {_wait(groups[most])}."]


def figures(runs: RunSet) -> dict[str, Plot]:
    """Each row's share of the gradient at the first and the last steps, all networks on one logarithmic axis."""
    groups = _groups(runs)
    if not groups:
        return {}
    words = (
        "Each row's share of the gradient at the network's input, on a logarithmic axis; dotted, where all rows have"
        " alike. Lines are geometric means over seeds, bands reach from the least to the most. A line that falls to the"
        " left is a gradient that vanishes on its way up."
    )
    lines = merge_equal(groups)
    verdict = " ".join([*sentences(runs), equal_settings(lines)]).strip()
    return {"vanishing": Plot(verdict, words, lambda size: _draw(lines, size))}


def _draw(lines: Mapping[str, Known], size: Size) -> Figure:
    titles = [f"Share of the gradient, {end}" for end in ENDS]
    figure, panels, looks = side_by_side(titles, list(lines), size, sharey=True)
    height = max(norms.shape[1] for some in lines.values() for _, norms in some)
    for some, look in zip(lines.values(), looks, strict=True):
        for panel, parts in zip(panels, zip(*(first_and_last(n) for _, n in some), strict=True), strict=True):
            shares = torch.stack([share_of_rows(part) for part in parts]).clamp_min(LEAST).numpy()
            rows = np.arange(shares.shape[1])
            panel.plot(rows, np.exp(np.log(shares).mean(0)), marker="o", **look)
            if len(shares) > 1:
                panel.fill_between(rows, shares.min(0), shares.max(0), color=look["color"], alpha=0.2, lw=0)
    for panel in panels:
        panel.axhline(1 / height, color=PALETTE[-1], lw=0.8, ls=":")
        label_rows(panel, height, "image row (0 = top, read first)")
        label_logarithms(panel)
        panel.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.2g} %")
    return figure


def _groups(runs: RunSet) -> dict[RunGroup, Known]:
    """Steps (T,) and norms (T, H) of runs without a cut, by their setting; empty if gradient vanishes in none."""
    whole = RunSet(
        [run for run in runs.runs if arriving(run.norms) is not None and len(run.steps) and not _is_cut(run)]
    )
    if not any(describe_vanishing(arriving(run.norms)) for run in whole.runs):
        return {}
    return {
        group: [(run.steps, norms) for run in group.runs if (norms := arriving(run.norms)) is not None]
        for group in whole.groups()
    }


def _is_cut(run: Run) -> bool:
    return run.cut_counts is not None and bool(run.cut_counts.any())


def _first_ratio(norms: Tensor) -> float:
    """What row 0 gets at the first steps, as a share of what the last row gets."""
    share = share_of_rows(first_and_last(norms)[0])
    return float(share[0] / share[-1])


def _wait(known: Known) -> str:
    """From which step row 0 has a tenth: the median over runs, with the first and the last."""
    waits = [reached_a_tenth(*one) for one in known]
    steps = [step for step in waits if step is not None]
    words = f"{np.median(steps):g} ({min(steps)} … {max(steps)})" if steps else "never"
    return words + (f", {len(steps)} of {len(waits)} runs" if 0 < len(steps) < len(waits) else "")


def _range(numbers: Sequence[float]) -> str:
    """Geometric mean, least and most."""
    positive = np.maximum(numbers, LEAST)
    mean = float(np.exp(np.log(positive).mean()))
    return f"{mean:.2g} ({min(positive):.2g} … {max(positive):.2g})" if len(positive) > 1 else f"{mean:.2g}"


def share_of_rows(norms: Tensor) -> Tensor:
    """Each row's share of the gradient, (H,): its mean norm over T steps (T, H) ÷ the sum of all rows' means."""
    means = norms.double().nanmean(0)
    return means / means.sum()


def reached_a_tenth(steps: Tensor, norms: Tensor) -> int | None:
    """The first of T steps from which row 0 gets a tenth of what the last row gets, by means over `FIRST` steps."""
    if len(norms) < FIRST:
        return None
    top, bottom = (norms[:, row].double().unfold(0, FIRST, 1).mean(1) for row in (0, -1))
    enough = (top >= TENTH * bottom) & (bottom > 0)
    return int(steps[int(enough.int().argmax())]) if enough.any() else None
