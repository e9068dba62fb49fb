"""Runs -> a page that explains itself, and its figures for a paper."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import jinja2
import matplotlib as mpl
from markupsafe import escape

from rowgrad.files import write_whole
from rowgrad.results.answers import answer_runs
from rowgrad.results.comparison import compare_runs, compare_settings
from rowgrad.results.gallery import draw
from rowgrad.results.groups import settings_of
from rowgrad.results.names import run_names
from rowgrad.results.sheets import COLUMN, INCH, PAGE, SLIDE, VERDICT, verdict_height
from rowgrad.watch import drawing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from rowgrad.results.run import Run
    from rowgrad.results.sheets import Picture, Sheet
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


SAID = ("rowgrad", "torch", "lightning")  # whose versions the page says


def write_report(
    runs: Sequence[Run],
    folder: Path,
    progress: Callable[[str], None] = lambda _: None,
    answers: Sequence[Table] = (),
    sentences: Sequence[str] | None = None,
    sheets: Sequence[Sheet] = (COLUMN, SLIDE),
) -> Path:
    """Writes `report.html`, and each figure as PNG and SVG in `figures/`.

    Args:
        runs: at least one.
        folder: where to; it is made.
        progress: is told what is being drawn.
        answers: tables that come before the figures.
        sentences: what comes before everything; without it, what the runs themselves answer.
        sheets: further sizes in which each figure is written.

    Returns:
        The page.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        sections = [_section(folder, name, picture, sheets) for name, picture in draw(runs, progress).items()]
    templates = jinja2.Environment(loader=jinja2.PackageLoader("rowgrad.results", "."), autoescape=True)
    facts, settings = runs[0].summary, settings_of(runs)
    text = templates.get_template("report.html.jinja").render(
        count=f"{len(runs)} run{'s' if len(runs) > 1 else ''}",
        device=facts.get("device", "?"),
        versions=", ".join(f"{name} {facts[name]}" for name in SAID if name in facts),
        settings=compare_settings(settings).condensed(),
        runs=compare_runs(runs).condensed() if len(settings) < len(runs) else None,
        answers=answers,
        sentences=answer_runs(runs) if sentences is None else sentences,
        figures=sections,
        folders=list(zip(run_names(runs), runs, strict=True)),
    )
    write_whole(folder / "report.html", text)
    return folder / "report.html"


def _section(folder: Path, name: str, picture: Picture, sheets: Sequence[Sheet]) -> dict[str, Any]:
    """Writes a figure in all sizes; what the page says of it, with the two that it shows on wide and narrow screens."""
    drawn = {sheet: _save(picture.on(sheet), folder, f"{name}{sheet.suffix}", sheet) for sheet in (PAGE, *sheets)}
    inline = {
        one.suffix or "_page": _inline(drawn[one], one, picture.caption) for one in (PAGE, COLUMN) if one in drawn
    }
    return {"title": name.replace("_", " ").capitalize(), "picture": picture, "svgs": inline}


def _save(figure: Figure, folder: Path, name: str, sheet: Sheet) -> str:
    """Writes a figure as PNG and SVG, and gives the latter."""
    (folder / "figures" / f"{name}.png").write_bytes(drawing.png(figure, dpi=sheet.dpi))
    picture = svg(figure, name)
    (folder / "figures" / f"{name}.svg").write_text(picture, encoding="utf-8")
    return picture


def _inline(picture: str, sheet: Sheet, words: str) -> str:
    """An SVG as it stands in a page: its colours are the page's, and the verdict above it is left to the caption."""
    inline = picture[picture.index("<svg") :].replace(drawing.INK, "currentColor")
    inline, count = re.subn(rf'<g id="{VERDICT}_\d+">.*?</g>', "", inline, flags=re.DOTALL)
    if count:
        width, height = (float(number) for number in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', inline)[0])
        top = verdict_height(count, sheet) * INCH
        inline = re.sub(r'viewBox="[^"]*"', f'viewBox="0 {top:g} {width:g} {height - top:g}"', inline, count=1)
        inline = re.sub(r'height="[\d.]+pt"', f'height="{height - top:g}pt"', inline, count=1)
    return inline.replace("<svg ", f'<svg role="img" aria-label="{escape(words)}" ', 1)


def svg(figure: Figure, salt: str) -> str:
    """The figure as SVG text; the same figure gives the same text."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()
