"""Tables of words: on the console, in Markdown, and in the report's page."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of words under a title, with what they mean.

    Attributes:
        title: in a few words.
        header: the columns' names.
        rows: a cell for each column.
        caption: how to read it.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    caption: str = ""

    def lines(self) -> str:
        """Header and rows in Markdown."""
        cells = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (self.header, *self.rows)]
        head, *body = [f"| {row} |" for row in cells]
        return "\n".join([head, "| " + " | ".join("---" for _ in self.header) + " |", *body]) + "\n"

    def section(self) -> str:
        """A section in Markdown, with title and caption."""
        return f"## {self.title}\n\n{self.lines()}\n{self.caption}\n"

    def print(self) -> None:
        """On the console."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(*self.header, title=self.title, caption=self.caption, box=box.SIMPLE, caption_justify="left")
        for row in self.rows:
            table.add_row(*row)
        Console(markup=False, width=None if sys.stdout.isatty() else 160).print(table)
