"""Where gradient vanishes on its way to the first row, in which networks, and for how long: a table and a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rowgrad.results.figures import PALETTE, label_logarithms, side_by_side, styles
from rowgrad.results.groups import merged, settings_of
from rowgrad.results.names import by_group
from rowgrad.results.sheets import Picture
from rowgrad.results.tables import Table
from rowgrad.results.verdicts import on_equals
from rowgrad.watch.vanishing import (
    FIRST,
    LAST,
    arrived,
    describe_vanishing,
    first_and_last,
    reached_a_tenth,
    share_of_rows,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure
    from torch import Tensor

    from rowgrad.results.run import Run
    from rowgrad.results.sheets import Sheet

    Known = list[tuple[Tensor, Tensor]]  # steps (T,) and norms (T, H) of each run

ENDS = (f"first {FIRST} steps", f"last {LAST} steps")
LEAST = 1e-12  # a share that is drawn; smaller ones are at the edge


def vanishing_table(runs: Sequence[Run]) -> Table | None:
    """Row 0 beside the last row, in each group of runs that differ in their seed alone; None where none vanishes."""
    groups = _groups(runs)
    if groups is None:
        return None
    body = []
    for name, some in groups.items():
        ratios = [[float(share[0] / share[-1]) for share in map(share_of_rows, first_and_last(n))] for _, n in some]
        waits = [reached_a_tenth(*one) for one in some]
        known = [step for step in waits if step is not None]
        wait = f"{np.median(known):g} ({min(known)} … {max(known)})" if known else "never"
        wait += f", {len(known)} of {len(waits)} runs" if 0 < len(known) < len(waits) else ""
        body.append([name, str(len(some)), *map(_range, zip(*ratios, strict=True)), wait])
    caption = (
        f"What row 0 gets of the last row, by mean norms: geometric mean over seeds, with the least and the most."
        f" The step from which on, for {FIRST} steps on average, it gets a tenth: median, with the first and the last."
    )
    header = ["setting", "n", *(f"row 0 ÷ last row, {end}" for end in ENDS), "row 0 has a tenth from step"]
    return Table("Vanishing gradient", header, body, caption)


def vanishing_sentence(runs: Sequence[Run]) -> str:
    """In which setting gradient vanishes most, and for how long; nothing where it does in none."""
    table, groups = vanishing_table(runs), _groups(runs)
    if table is None or groups is None:
        return ""
    early = {name: [_first_ratio(norms) for _, norms in some] for name, some in groups.items()}
    most = min(early, key=lambda name: np.prod(early[name]) ** (1 / len(early[name])))
    wait = next(line[-1] for line in table.body if line[0] == most)
    where = f" most in {most}" if len(groups) > 1 else ""
    return (
        f"Gradient vanishes{where}: at the {ENDS[0]} row 0 gets {_range(early[most])} of what the last row gets, and it"
        f" has a tenth from step {wait}."
    )


def _first_ratio(norms: Tensor) -> float:
    """What row 0 gets at the first steps, as a share of the last row's."""
    share = share_of_rows(first_and_last(norms)[0])
    return float(share[0] / share[-1])


def vanishing_figure(runs: Sequence[Run]) -> Picture | None:
    """Each row's share of the gradient at the first and the last steps, all networks on one logarithmic axis."""
    groups = _groups(runs)
    if groups is None:
        return None
    words = (
        "Each row's share of the gradient at the network's input, on a logarithmic axis; dotted, where all rows have"
        " alike. Lines are geometric means over seeds, bands reach from the least to the most. A line that falls to the"
        " left is a gradient that vanishes on its way up."
    )
    settings = {setting: groups[setting.name] for setting in settings_of(_whole(runs))}
    lines = merged(
        settings, lambda a, b: len(a) == len(b) and all(torch.equal(x, y) for (_, x), (_, y) in zip(a, b, strict=True))
    )
    verdict = f"{vanishing_sentence(runs)} {on_equals(list(lines))}".strip()
    return Picture(verdict, words, lambda above, sheet: _draw(lines, above, sheet))


def _draw(lines: Mapping[str, Known], verdict: str, sheet: Sheet) -> Figure:
    canvas = side_by_side(2, lines, verdict, sheet)
    panels = canvas.panels([f"Share of the gradient, {end}" for end in ENDS], sharey=True)
    height = max(norms.shape[1] for some in lines.values() for _, norms in some)
    for some, style in zip(lines.values(), styles(len(lines)), strict=True):
        for panel, parts in zip(panels, zip(*(first_and_last(n) for _, n in some), strict=True), strict=True):
            shares = torch.stack([share_of_rows(part) for part in parts]).clamp_min(LEAST).numpy()
            rows = np.arange(shares.shape[1])
            look: dict[str, Any] = {"marker": "o", "ms": 0.3 * sheet.text, "lw": 0.13 * sheet.text}
            panel.plot(rows, np.exp(np.log(shares).mean(0)), **look, **style)
            if len(shares) > 1:
                panel.fill_between(rows, shares.min(0), shares.max(0), color=style["color"], alpha=0.2, lw=0)
    for panel in panels:
        panel.axhline(1 / height, color=PALETTE[-1], lw=0.8, ls=":")
        panel.set_xlabel("image row (0 = top, read first)", fontsize=0.92 * sheet.text)
        panel.set_xticks(range(0, height, 7))
        label_logarithms(panel)
        panel.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.2g} %")
        panel.grid(alpha=0.25)
    return canvas.figure


def _whole(runs: Sequence[Run]) -> list[Run]:
    """Those that nothing cuts, of which it is known what arrives."""
    return [run for run in runs if arrived(run.norms) is not None and len(run.steps) and not _is_cut(run)]


def _groups(runs: Sequence[Run]) -> dict[str, Known] | None:
    """Steps (T,) and norms (T, H) of runs that nothing cuts, by their group; None where none of them vanishes."""
    known = _whole(runs)
    if not any(describe_vanishing(arrived(run.norms)) for run in known):
        return None
    return {
        name: [(run.steps, norms) for run in some if (norms := arrived(run.norms)) is not None]
        for name, some in by_group(known).items()
    }


def _is_cut(run: Run) -> bool:
    counts = run.cut_counts
    return counts is not None and bool(counts.any())


def _range(numbers: Sequence[float]) -> str:
    """Geometric mean, least and most."""
    positive = np.maximum(numbers, LEAST)
    mean = float(np.exp(np.log(positive).mean()))
    return f"{mean:.2g} ({min(positive):.2g} … {max(positive):.2g})" if len(positive) > 1 else f"{mean:.2g}"
