"""Figures as files for a paper, and as SVG text in a page."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import matplotlib as mpl

from rowgrad.files import write_whole
from rowgrad.results.plots import SIZES
from rowgrad.watch import figures

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.figure import Figure

    from rowgrad.results.plots import Plot


def write_figures(drawn: Mapping[str, Plot], folder: Path) -> int:
    """Writes each figure as PNG and SVG, for a page and for a column, and returns the number of files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, plot in drawn.items():
        for size in SIZES:
            figure, stem = plot.on(size), f"{name}{size.suffix}"
            plot.titled(figure, size)
            (folder / f"{stem}.png").write_bytes(figures.png(figure, dpi=size.dpi))
            write_whole(folder / f"{stem}.svg", svg(figure, stem))
    return 2 * len(SIZES) * len(drawn)


def svg(figure: Figure, salt: str) -> str:
    """The figure as SVG text; the same figure gives the same text."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"(\.\d\d)\d+", r"\1", text)  # hundredths of a point are enough, and half of the file
    # matplotlib makes names of clip paths from their coordinates, of which the layout leaves the last bit open.
    for number, clip in enumerate(dict.fromkeys(re.findall(r'id="(p[0-9a-f]{10})"', text))):
        text = text.replace(clip, f"{salt}_clip_{number}")
    return text
