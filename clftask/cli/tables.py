"""Tables and lines of a command's result on the terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import IO

from rich.console import Console
from rich.table import Table

from clftask.messages import printable


class Page:
    """Prints tables and lines to a stream, as wide as its terminal.

    Text is shown literally: labels may contain `[red]`, `:smile:` or control characters.
    """

    def __init__(self, file: IO[str]) -> None:
        self.console = Console(file=file, highlight=False, markup=False, emoji=False)

    @property
    def width(self) -> int:
        """The columns of the terminal."""
        return self.console.width

    def line(self, text: str = "", style: str | None = None) -> None:
        """Print a line; the terminal wraps it, so that paths can be copied."""
        self.console.print(printable(text), style=style, soft_wrap=True)

    def warnings(self, lines: Iterable[str]) -> None:
        """Print lines as warnings."""
        for line in lines:
            self.line(f"warning: {line}")

    def pairs(self, rows: Iterable[Sequence[str]], title: str | None = None) -> None:
        """Print a table of names and values."""
        table = Table(title=title, show_header=False)
        for row in rows:
            table.add_row(*map(printable, row))
        self.console.print(table)

    def table(
        self,
        heads: Sequence[str],
        rows: Iterable[Sequence[str]],
        title: str | None = None,
        caption: str | None = None,
        texts: Collection[str] | None = None,
    ) -> None:
        """Print a table; see `table_of`."""
        self.console.print(table_of(heads, rows, title, caption, texts))


def table_of(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str | None = None,
    caption: str | None = None,
    texts: Collection[str] | None = None,
) -> Table:
    """Return a table.

    Args:
        heads: The column names.
        rows: The cells.
        title: Above the table.
        caption: Below the table.
        texts: The columns of texts, which may be folded; the first one if None. The others are
            numbers, which are never cut or folded.
    """
    table = Table(title=title, caption=caption)
    for head in heads:
        if head in (heads[:1] if texts is None else texts):
            table.add_column(printable(head), overflow="fold")
        else:
            table.add_column(printable(head), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(printable, row))
    return table


def shown(value: float | None) -> str:
    """Return a figure with four decimals, a count without; empty for None."""
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
