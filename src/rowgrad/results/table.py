"""A table of texts: on the console, in Markdown, and in the report's page."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of texts.

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
        """The table without columns that are equal in every line, and the values of these columns in words."""
        cells = dict(zip(self.header, zip(*self.body, strict=True), strict=True))
        alike = {name: column[0] for name, column in list(cells.items())[1:] if len(set(column)) == 1}
        if len(self.body) == 1:  # a single line keeps its columns, but for empty ones
            alike = {name: value for name, value in alike.items() if value in {"", "–"}}
        kept = [place for place, name in enumerate(self.header) if name not in alike]
        body = [[line[place] for place in kept] for line in self.body]
        words = ", ".join(f"{name} {value}" for name, value in alike.items() if value not in {"", "–"})
        return Table(self.title, [self.header[place] for place in kept], body, self.caption), words

    def print(self) -> None:
        """Prints it on the console."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(*self.header, title=self.title, caption=self.caption, box=box.SIMPLE, caption_justify="left")
        for line in self.body:
            table.add_row(*line)
        Console(markup=False, width=None if sys.stdout.isatty() else 160).print(table)
