"""Tables of words: in Markdown and on the console."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Table:
    """Rows of words under a title, with what they mean."""

    title: str
    header: list[str]
    rows: list[list[str]]
    caption: str

    def markdown(self) -> str:
        """With title and caption, as a section."""
        return f"## {self.title}\n\n{markdown([self.header, *self.rows])}\n{self.caption}\n"

    def show(self) -> None:
        """On the console."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(*self.header, title=self.title, caption=self.caption, box=box.SIMPLE, caption_justify="left")
        for row in self.rows:
            table.add_row(*row)
        Console(markup=False, width=None if sys.stdout.isatty() else 160).print(table)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words in Markdown, the columns' names first."""
    head, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([head, "| " + " | ".join("---" for _ in rows[0]) + " |", *body]) + "\n"
