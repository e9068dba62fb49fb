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

    def print(self) -> None:
        """On the console."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(*self.header, title=self.title, caption=self.caption, box=box.SIMPLE, caption_justify="left")
        for line in self.body:
            table.add_row(*line)
        Console(markup=False, width=None if sys.stdout.isatty() else 160).print(table)
