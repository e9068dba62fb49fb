"""Runs -> a page that explains itself, and its figures for a paper."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import jinja2
import matplotlib as mpl
from markupsafe import escape

from rowgrad.files import write_whole
from rowgrad.results.comparison import compare_runs
from rowgrad.results.gallery import draw
from rowgrad.results.names import run_names
from rowgrad.watch import drawing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from rowgrad.results.run import Run
    from rowgrad.results.tables import Table

STYLE: Any = {  # matplotlib's names are no plain text to a type checker
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold a dollar
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"),
        drawing.INK,
    ),
}


def write_report(
    runs: Sequence[Run],
    folder: Path,
    progress: Callable[[str], None] = lambda _: None,
    answers: Sequence[Table] = (),
    sentences: Sequence[str] = (),
) -> Path:
    """Writes `report.html`, and each figure as PNG and SVG in `figures/`.

    Args:
        runs: at least one.
        folder: where to; it is made.
        progress: is told what is being drawn.
        answers: tables that come before the figures.
        sentences: what comes before everything.

    Returns:
        The page.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        sections = [
            {"title": name.replace("_", " ").capitalize(), "words": words, "svg": _save(figure, folder, name, words)}
            for name, (words, figure) in draw(runs, progress).items()
        ]
    templates = jinja2.Environment(loader=jinja2.PackageLoader("rowgrad.results", "."), autoescape=True)
    facts = runs[0].summary
    page = folder / "report.html"
    text = templates.get_template("report.html.jinja").render(
        count=f"{len(runs)} run{'s' if len(runs) > 1 else ''}",
        device=facts.get("device", "?"),
        versions=", ".join(f"{name} {facts[name]}" for name in ("rowgrad", "torch", "lightning") if name in facts),
        runs=compare_runs(runs),
        answers=answers,
        sentences=sentences,
        figures=sections,
        folders=list(zip(run_names(runs), runs, strict=True)),
    )
    write_whole(page, text)
    return page


def _save(figure: Figure, folder: Path, name: str, words: str) -> str:
    """Writes a figure as PNG and SVG, and gives the latter as it stands in a page."""
    (folder / "figures" / f"{name}.png").write_bytes(drawing.png(figure, dpi=150))
    figure.set_layout_engine("none")  # the same places again: finding them takes longer than drawing
    picture = svg(figure, name)
    (folder / "figures" / f"{name}.svg").write_text(picture, encoding="utf-8")
    inline = picture[picture.index("<svg") :].replace(drawing.INK, "currentColor")
    return inline.replace("<svg ", f'<svg role="img" aria-label="{escape(words)}" ', 1)


def svg(figure: Figure, salt: str) -> str:
    """The figure as SVG text; the same figure gives the same text."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()
