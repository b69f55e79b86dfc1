"""Tables of a page: fields that know what they are sorted by."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


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


NO_VALUE, NOT_SET = "–", "not set"


def text(value: Any) -> str:
    """Return a value as a job file has it, floats shortened."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else NO_VALUE
    return json.dumps(value)


def number(value: Any) -> str:
    """Return a metric for people; a dash for what is no finite number."""
    if not is_number(value):
        return NO_VALUE
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 1e5 else f"{value:.3g}"


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number; true and false are none."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return each name's last part, or more of it where two would be the same."""
    names = list(names)
    return {name: _short(name, names) for name in names}


def _short(name: str, names: list[str]) -> str:
    parts = name.split(".")
    for start in range(len(parts) - 1, 0, -1):
        tail = "." + ".".join(parts[start:])
        if sum(f".{other}".endswith(tail) for other in names) == 1:
            return tail[1:]
    return name
