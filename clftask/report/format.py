"""Tables of a page: cells with a sort key, numbers and names formatted for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, its sort key, its CSS class."""

    text: str
    sort: float | str
    kind: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table; a winner's row is highlighted."""

    cells: list[Cell]
    is_winner: bool = False


@dataclass(frozen=True)
class Table:
    """A table: column heads and rows."""

    heads: list[str]
    rows: list[Row]

    def holds_numbers(self, column: int) -> bool:
        """Return whether a column contains only numbers and is right-aligned."""
        return all("number" in row.cells[column].kind.split() for row in self.rows)


def label(value: str, kind: str = "value") -> Cell:
    """Return a text cell."""
    return Cell(value, value, kind)


def metric(value: Any) -> Cell:
    """Return a cell with a number, or with a dash that sorts last if the value is missing."""
    return Cell(number(value), value if is_number(value) else "", "number")


NO_VALUE, NOT_SET = "–", "not set"


def text(value: Any) -> str:
    """Return a value as in a job file, floats rounded to 4 digits."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else NO_VALUE
    return json.dumps(value)


def number(value: Any) -> str:
    """Format a metric; a dash if it is not a finite number."""
    if not is_number(value):
        return NO_VALUE
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 1e5 else f"{value:.3g}"


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number; booleans are not."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return each dotted name's shortest suffix that is unique among the names."""
    names = list(names)
    return {name: _short(name, names) for name in names}


def _short(name: str, names: list[str]) -> str:
    parts = name.split(".")
    for start in range(len(parts) - 1, 0, -1):
        tail = "." + ".".join(parts[start:])
        if sum(f".{other}".endswith(tail) for other in names) == 1:
            return tail[1:]
    return name
