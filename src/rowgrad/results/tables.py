"""Tables of words: on the console, in Markdown, and in the report's page."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass

WIDTH = 80


def hanging(name: str, words: str) -> str:
    """A name and words beside it, wrapped so that they stay beside it in 80 columns."""
    indent = " " * 16
    return textwrap.fill(
        f"{name:16}{words}", WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


@dataclass(frozen=True)
class Table:
    """Lines of words under a title, with what they mean.

    Attributes:
        title: in a few words.
        header: the columns' names.
        body: a cell for each column, line by line.
        caption: how to read it.
    """

    title: str
    header: list[str]
    body: list[list[str]]
    caption: str = ""

    def markdown(self) -> str:
        """Header and body in Markdown."""
        cells = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in (self.header, *self.body)]
        head, *body = [f"| {line} |" for line in cells]
        return "\n".join([head, "| " + " | ".join("---" for _ in self.header) + " |", *body]) + "\n"

    def section(self) -> str:
        """A section in Markdown, with title and caption."""
        return f"## {self.title}\n\n{self.markdown()}\n{self.caption}\n"

    def condensed(self) -> tuple[Table, str]:
        """The table without columns that say the same in every line, and what those say, in words."""
        cells = dict(zip(self.header, zip(*self.body, strict=True), strict=True))
        alike = {name: column[0] for name, column in list(cells.items())[1:] if len(set(column)) == 1}
        if len(self.body) == 1:  # then there is nothing to compare; what is not there goes without saying
            alike = {name: value for name, value in alike.items() if value in {"", "–"}}
        kept = [place for place, name in enumerate(self.header) if name not in alike]
        body = [[line[place] for place in kept] for line in self.body]
        words = ", ".join(f"{name} {value}" for name, value in alike.items() if value not in {"", "–"})
        return Table(self.title, [self.header[place] for place in kept], body, self.caption), words

    def print(self) -> None:
        """On the console."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(*self.header, title=self.title, caption=self.caption, box=box.SIMPLE, caption_justify="left")
        for line in self.body:
            table.add_row(*line)
        Console(markup=False, width=None if sys.stdout.isatty() else 160).print(table)
