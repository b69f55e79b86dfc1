"""Type inference for the columns of text formats."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

TRUE, FALSE = ["true", "True", "TRUE"], ["false", "False", "FALSE"]

# Other spellings ("007", "+1", integers that a double would round) stay strings.
_PATTERNS = {
    pa.bool_(): rf"^({'|'.join(TRUE + FALSE)})$",
    pa.int64(): r"^(0|-?[1-9][0-9]{0,18})$",
    pa.float64(): r"^-?((0|[1-9][0-9]{0,14})(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,3})?$"
    r"|^(nan|NaN|-?inf)$",
}


class Narrowing:
    """Finds the narrowest of bool, int64, double and string that fits all values of a column."""

    def __init__(self) -> None:
        self._fitting = list(_PATTERNS)
        self._is_null = True

    def see(self, column: pa.Array) -> None:
        """Add a part of the column: binary, null where empty."""
        values = column.drop_null()
        if len(values):
            self._is_null = False
            self._fitting = [kind for kind in self._fitting if _fits(values, kind)]

    @property
    def kind(self) -> pa.DataType:
        """The type of the values so far; null if all of them are null."""
        if self._is_null:
            return pa.null()
        return self._fitting[0] if self._fitting else pa.string()


def common_kind(columns: Iterable[pa.ChunkedArray]) -> pa.DataType:
    """Return the narrowest type that fits the cells of all columns.

    Unlike `Narrowing`, it ignores cells such as `NA` if all others are numbers, and returns
    string if a value has two spellings: `1` and `1.0`, `true` and `True`.

    Args:
        columns: Strings, null where a cell is empty.
    """
    parts = [chunk.cast(pa.string()) for column in columns for chunk in column.chunks]
    cells = pc.unique(_without_missing(pa.chunked_array(parts, pa.string()))).drop_null()
    narrowing = Narrowing()
    narrowing.see(cells.cast(pa.binary()))
    kind = narrowing.kind
    if pa.types.is_null(kind):
        return kind
    values = cells.cast(kind)
    values = pc.add(values, 0.0) if pa.types.is_floating(kind) else values  # -0.0 is 0.0
    return kind if len(pc.unique(values)) == len(cells) else pa.string()


def convert(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Convert written cells to the type that `common_kind` returned."""
    if kind == pa.string():
        return column
    if pa.types.is_null(kind):
        return pa.chunked_array([pa.nulls(len(column))])
    return _without_missing(column).cast(kind)


def missing_as_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replace cells such as `NaN` and `NA` by null if all other cells are numbers.

    Args:
        column: (rows,) strings.
    """
    filled = _without_missing(column)
    others = pc.unique(filled).drop_null()
    is_number = pc.match_substring_regex(others, r"^\s*[-+]?[0-9.][0-9.eE+-]*\s*$")
    return filled if pc.all(is_number, min_count=0).as_py() else column


def missing_spellings() -> set[str]:
    """Return the spellings of missing numbers in CSV files of pandas, R and Excel."""
    from pyarrow import csv

    return set(csv.ConvertOptions().null_values)


def _without_missing(column: pa.ChunkedArray) -> pa.ChunkedArray:
    is_missing = pc.is_in(column, pa.array(sorted(missing_spellings()), pa.string()))
    return pc.if_else(is_missing, pa.scalar(None, column.type), column)


def _fits(values: pa.Array, kind: pa.DataType) -> bool:
    if not pc.all(pc.match_substring_regex(values, _PATTERNS[kind])).as_py():
        return False
    try:
        values.cast(pa.string()).cast(kind)
    except pa.ArrowInvalid:  # 19 digits may exceed int64
        return False
    return kind != pa.float64() or all(_is_as_written(v) for v in pc.unique(values).to_pylist())


def _is_as_written(cell: bytes) -> bool:
    """Check that a float converts back to the same text: `1.10` may be a version."""
    text = cell.decode()
    again = repr(float(text))
    return again.lower() == text.lower() or again == text + ".0"
