"""What a figure is drawn on: a page, a column of a paper, a slide; and where things stand there.

Everything is placed by hand, in inches from the upper left corner and in ems, the height of the text: matplotlib's
automatic layouts draw a figure several times over, and do not see that labels lie upon each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes

LINE = 1.4  # ems from one line of text to the next
VERDICT = "verdict"  # what the lines above a figure are called in its SVG
INCH = 72  # points
HINTED = 1.03  # letters that are drawn in pixels are so much wider than their outlines


@dataclass(frozen=True)
class Sheet:
    """A size to draw for.

    Attributes:
        suffix: of the files' names.
        width: inches.
        highest: inches, without the verdict.
        text: size of the text, points.
        dpi: of the PNG.
        fixed: whether a figure has always that height, the verdict included.
    """

    suffix: str
    width: float
    highest: float
    text: float
    dpi: int
    fixed: bool = False

    @property
    def em(self) -> float:
        """The height of the text, inches."""
        return self.text / INCH

    @property
    def narrow(self) -> bool:
        """Whether panels stand below each other, not side by side."""
        return self.width < 5  # noqa: PLR2004


PAGE = Sheet("", 10, 8.2, 9, 150)  # at 96 pixels an inch it fills the report's page, and no screen of 900 pixels
COLUMN = Sheet("_column", 8.5 / 2.54, 9.2, 8, 300)
SLIDE = Sheet("_slide", 13.333, 7.5, 14, 144, fixed=True)


@lru_cache(4096)
def _letters(text: str, weight: str) -> float:
    """How wide a text is, ems."""
    font = FontProperties(size=100, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 100


def wrapped(text: str, width: float, size: float, most: int = 99, weight: str = "normal") -> list[str]:
    """A text in lines that are not wider than so many inches, at a size in points; what is left over becomes `…`."""
    room = width * INCH / size / HINTED
    lines, line = [], ""
    for word in text.split():
        rest = word
        while rest:
            longer = f"{line} {rest}".strip()
            if _letters(longer, weight) <= room:
                line, rest = longer, ""
            elif line:
                lines.append(line)
                line = ""
            else:  # one word that is too long by itself
                fitting = next((i for i in range(len(rest), 1, -1) if _letters(rest[:i], weight) <= room), 1)
                lines.append(rest[:fitting])
                rest = rest[fitting:]
    lines += [line] if line else []
    if len(lines) > most:
        last = lines[most - 1]
        while last and _letters(f"{last}…", weight) > room:
            last = last[:-1]
        lines = [*lines[: most - 1], f"{last}…"]
    return lines


@dataclass(frozen=True)
class Key:
    """What lines and colours mean, below a figure.

    Args:
        sheet: that it stands on.
        entries: what each is called, and how its sample is drawn, as `Line2D` takes it.
    """

    sheet: Sheet
    entries: Sequence[tuple[str, Mapping[str, Any]]]

    @property
    def size(self) -> float:
        """Of its text, points."""
        return self.sheet.text * 0.92

    @cached_property
    def columns(self) -> int:
        """As many as leave each name in one line, but for long ones."""
        longest = max((_letters(name, "normal") for name, _ in self.entries), default=0) * self.size / INCH
        least = 1 if self.sheet.narrow else 2
        fitting = (n for n in (5, 4, 3, 2) if n <= len(self.entries) and self._room(n) >= longest * HINTED)
        return min(next(fitting, least), max(len(self.entries), 1))

    def _room(self, columns: int) -> float:
        """For a name, inches."""
        return (self.sheet.width - 2 * self.sheet.em) / columns - 3.5 * self.sheet.em

    @cached_property
    def lines(self) -> list[list[str]]:
        """The names in lines, as many as there is room for on the sheet."""
        for most in (4, 2, 1):
            names = [wrapped(name, self._room(self.columns), self.size, most) for name, _ in self.entries]
            if self._height(names) <= self.sheet.highest * 0.4:
                break
        return names

    def _rows(self, names: Sequence[list[str]]) -> list[int]:
        """How many lines of text each row of entries has."""
        return [max(map(len, names[i : i + self.columns])) for i in range(0, len(names), self.columns)]

    def _height(self, names: Sequence[list[str]]) -> float:
        return sum(rows * LINE + 0.2 for rows in self._rows(names)) * self.size / INCH

    @property
    def height(self) -> float:
        """Inches."""
        return self._height(self.lines) if self.entries else 0.0

    def draw(self, canvas: Canvas, y: float) -> None:
        """Draws it at so many inches from the top."""
        em, step = self.sheet.em, (self.sheet.width - 2 * self.sheet.em) / self.columns
        rows = self._rows(self.lines)
        for place, ((_, style), lines) in enumerate(zip(self.entries, self.lines, strict=True)):
            x = em + place % self.columns * step
            if place and not place % self.columns:
                y += (rows[place // self.columns - 1] * LINE + 0.2) * self.size / INCH
            canvas.sample(x, y + 0.6 * em, 2.2 * em, style)
            canvas.words(x + 2.8 * em, y, lines, self.size)


def verdict_height(lines: int, sheet: Sheet) -> float:
    """What so many lines of verdict take at the top of a sheet, inches."""
    return (lines * LINE + 0.9) * sheet.em if lines else 0.0


class Canvas:
    """A figure on a sheet: the verdict on top, panels below it, and a key at the bottom.

    Args:
        sheet: what it is drawn for.
        verdict: what is seen, above it.
        body: height of the panels, inches; a sheet of a fixed height gives them what is left.
        key: what stands below them.
        foot: further room between them, inches.
    """

    def __init__(self, sheet: Sheet, verdict: str, body: float, key: Key | None = None, foot: float = 0.0) -> None:
        self.sheet, self.em = sheet, sheet.em
        lines = wrapped(verdict, sheet.width - 2 * self.em, sheet.text, 3 if sheet.fixed else 12, "bold")
        self.top = verdict_height(len(lines), sheet)
        below = foot + (key.height + 0.6 * self.em if key else 0.0)
        limit = sheet.highest - (self.top if sheet.fixed else 0)
        self.body = limit - below if sheet.fixed else min(body, limit - below)
        self.height = self.top + self.body + below
        self.figure = Figure(figsize=(sheet.width, self.height))
        for number, line in enumerate(lines):
            y = (0.5 + number * LINE) * self.em
            self.words(self.em, y, [line], weight="bold", gid=f"{VERDICT}_{number}")
        if key:
            key.draw(self, self.height - key.height - 0.3 * self.em)

    @property
    def bottom(self) -> float:
        """Where the panels end, inches from the top."""
        return self.top + self.body

    def axes(self, x: float, y: float, width: float, height: float, **others: Any) -> Axes:
        """A panel at a place from the upper left corner, inches."""
        tall, wide = self.height, self.sheet.width
        axes = self.figure.add_axes((x / wide, 1 - (y + height) / tall, width / wide, height / tall), **others)
        axes.tick_params(labelsize=self.sheet.text * 0.88, length=0.3 * self.sheet.text, pad=0.25 * self.sheet.text)
        return axes

    def words(self, x: float, y: float, lines: Sequence[str], size: float | None = None, **look: Any) -> None:
        """Lines of text, of which the first has its upper end at a place from the upper left corner, inches."""
        size = size or self.sheet.text
        for number, line in enumerate(lines):
            middle = y + (number + 0.5) * LINE * size / INCH
            where = (x / self.sheet.width, 1 - middle / self.height)
            self.figure.text(*where, line, fontsize=size, va="center_baseline", **look)

    def sample(self, x: float, y: float, width: float, style: Mapping[str, Any]) -> None:
        """A sample of a line, at a place from the upper left corner, inches."""
        ends = [x / self.sheet.width, (x + width) / self.sheet.width]
        high = 1 - y / self.height
        look: Any = {"lw": 0.2 * self.sheet.text, **style}
        self.figure.add_artist(Line2D(ends, [high, high], **look))

    def panels(self, titles: Sequence[str], widths: Sequence[float] = (), **others: Any) -> list[Axes]:
        """Panels with axes, each below its title; side by side, or on a narrow sheet below each other.

        Args:
            titles: theirs.
            widths: relative; equal ones without it. Panels with widths of their own are side by side on any sheet, and
                only the first one's y axis has labels.
            others: what `add_axes` takes.
        """
        stacked = self.sheet.narrow and not widths
        tall = self.body / (len(titles) if stacked else 1)
        margins = [5.4 if stacked or not widths or not place else 1.6 for place in range(len(titles))]
        room = self.sheet.width - (1.3 + (margins[0] if stacked else sum(margins) + len(titles) - 1)) * self.em
        shares = list(widths) or [1.0] * len(titles)
        parts = [share if stacked else share / sum(shares) for share in shares]
        lines = [wrapped(title, part * room, self.sheet.text, 6) for title, part in zip(titles, parts, strict=True)]
        head = (max(map(len, lines)) * LINE + 0.3) * self.em
        x, y, found = 0.3 * self.em, self.top, []
        for part, margin, title in zip(parts, margins, lines, strict=True):
            left = x + margin * self.em
            self.words(left, y, title)
            share = {name: found[0] for name in others if others[name] and found}
            found.append(self.axes(left, y + head, part * room, tall - head - 3.2 * self.em, **share))
            x, y = (x, y + tall) if stacked else (left + part * room + self.em, y)
        return found


def logarithms(low: float, high: float) -> list[float]:
    """Round numbers in a range, seven at most, for a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for marks in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), [1 + n / 10 for n in range(90)]):
        inside = [tick for power in decades for mark in marks if low <= (tick := mark * 10.0**power) <= high]
        if len(inside) > 2:  # noqa: PLR2004
            break
    return inside[:: len(inside) // 7 + 1] or sorted({low, high})


def count_steps(axes: Axes, canvas: Canvas, label: str = "optimizer step") -> None:
    """An x axis of whole numbers, as many as have room."""
    inches = axes.get_position().width * canvas.sheet.width
    bins = max(1, min(6, int(inches / canvas.em / 5)))
    axes.xaxis.set_major_locator(MaxNLocator(bins, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if abs(value) < 1e5 else f"{value / 1000:g}k")  # noqa: PLR2004
    axes.set_xlabel(label, fontsize=canvas.sheet.text * 0.92, labelpad=0.2 * canvas.sheet.text)


@dataclass(frozen=True)
class Picture:
    """A figure that can be drawn for any sheet.

    Attributes:
        verdict: what is seen in it.
        words: how to read it.
        draw: draws it with a verdict above, for a sheet.
    """

    verdict: str
    words: str
    draw: Callable[[str, Sheet], Figure]

    def on(self, sheet: Sheet = PAGE) -> Figure:
        """The figure, with its verdict above it."""
        return self.draw(self.verdict, sheet)

    @property
    def caption(self) -> str:
        """What stands below it in the page."""
        return f"{self.verdict} {self.words}".strip()
