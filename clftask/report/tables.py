"""Tables of a page: fields that know what they are sorted by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clftask.report.axes import is_number, number


@dataclass(frozen=True)
class Cell:
    """A field of a table: what it shows, what it is sorted by, and its class on the page."""

    text: str
    sort: float | str
    kind: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table; that of the winner stands out."""

    cells: list[Cell]
    is_winner: bool = False


@dataclass(frozen=True)
class Table:
    """A table: the heads of its columns, and its rows."""

    heads: list[str]
    rows: list[Row]

    def holds_numbers(self, column: int) -> bool:
        """Tell whether a column, and so its head, is aligned to the right."""
        return all("number" in row.cells[column].kind.split() for row in self.rows)


def label(value: str, kind: str = "value") -> Cell:
    """Return a field that is text."""
    return Cell(value, value, kind)


def metric(value: Any) -> Cell:
    """Return a field that is a number; a dash, sorted last, for what is none."""
    return Cell(number(value), value if is_number(value) else "", "number")
