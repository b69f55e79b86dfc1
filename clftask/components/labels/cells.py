"""Cells of label columns: scalars and lists of any Arrow type become label names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clftask.errors import DataError, Problem

_SHOWN = 80  # characters of a cell in messages
_NO_TEXT = pa.scalar(None, pa.string())


@dataclass(frozen=True)
class LabelCells:
    """The cells of a label column.

    Attributes:
        table: The rows; `_file` and `_row`, if present, name a row in messages.
        name: The column.
    """

    table: pa.Table
    name: str

    @property
    def column(self) -> pa.ChunkedArray:
        """The column, decoded to a plain type."""
        column = self.table.column(self.name)
        kind = column.type
        if isinstance(kind, pa.BaseExtensionType):
            return pa.chunked_array([c.storage for c in column.chunks], kind.storage_type)
        if pa.types.is_run_end_encoded(kind):
            return pc.run_end_decode(column)
        return column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column

    def wrong_type(self, allowed: str, remedy: str) -> DataError:
        """Return the error that refuses the whole column."""
        found = _shown_type(self.column.type)
        return DataError(Problem(f"data.labels: column {self.name}", found, allowed, remedy))

    def wrong(self, row: int, allowed: str, remedy: str) -> DataError:
        """Return the error that refuses a row of the column."""
        value = self.column[row].as_py()
        is_plain = value is None or isinstance(value, str | int) or _is_finite(value)
        found = value if is_plain else str(value)
        found = found if len(str(found)) <= _SHOWN else f"{str(found)[:_SHOWN]}…"
        where = f"data.labels: column {self.name}, row {row}"
        if "_file" in self.table.column_names:
            file, line = self.table["_file"][row].as_py(), self.table["_row"][row].as_py()
            where = f"{file}, row {line}, column {self.name}"
        return DataError(Problem(where, found, allowed, remedy))

    def first(self, value: str) -> int:
        """Return the first row whose text is `value`."""
        return int(pc.index(self.column.cast(pa.string()), value).as_py())


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _shown_type(kind: pa.DataType) -> str:
    """Return a type in words if it contains objects, else as Arrow writes it."""
    inner = kind
    while is_list(inner):
        inner = inner.value_type
    if not pa.types.is_struct(inner):
        return str(kind)
    fields = ", ".join(field.name for field in inner)
    return f"{'objects' if inner is kind else 'lists of objects'} with the fields {fields}"


def is_list(kind: pa.DataType) -> bool:
    """Tell whether a type is one of lists, of any layout."""
    tests = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(is_kind(kind) for is_kind in tests)


# ------------------------------------------------------------------ scalars


def scalar_name(value: Any) -> str:
    """Return a label's name as Arrow casts the value to a string: bools in lower case.

    Floats that are whole numbers are written without a fraction, as columns of floats are.

    Raises:
        ValueError: The value is not a string, number or bool.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, str | int | float):
        raise ValueError("a label must be a string, a number or a bool")
    return str(value)


def scalars_as_names(cells: LabelCells) -> pa.ChunkedArray:
    """Return strings, whole numbers, bools and dates as label names; blank strings as null."""
    return _blank_as_null(scalars_as_text(cells))


def scalars_as_text(cells: LabelCells) -> pa.ChunkedArray:
    """Return strings, whole numbers, bools and dates as strings."""
    remedy = "Convert it to one string per row."
    if is_list(cells.column.type):
        remedy = "Use kind list for lists."
    if pa.types.is_struct(_innermost(cells.column.type)):
        remedy = "Make a column that contains the label only."
    if pa.types.is_nested(cells.column.type):
        raise cells.wrong_type("must contain one label per row", remedy)
    return _as_text(cells.column, cells, None)


def _as_text(
    column: pa.ChunkedArray, cells: LabelCells, row_of: Callable[[int], int] | None
) -> pa.ChunkedArray:
    """Cast scalars to strings; `row_of` gives the row of an item of a flattened column."""
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column).cast(pa.float64())
        whole = pc.and_(pc.is_finite(column), pc.equal(pc.floor(column), column))
        at = pc.index(whole, False).as_py()
        if at >= 0:
            row = at if row_of is None else row_of(at)
            raise cells.wrong(row, "must contain classes, not fractions", "Use whole numbers.")
        column = cast_cells(column, pa.int64(), cells)
    return cast_cells(column, pa.string(), cells)


def cast_cells(column: pa.ChunkedArray, wanted: pa.DataType, cells: LabelCells) -> pa.ChunkedArray:
    """Cast a column; refuse it if that is impossible."""
    try:
        return column.cast(wanted)
    except pa.ArrowException:
        raise cells.wrong_type("must contain classes", "Convert it to strings.") from None


def _blank_as_null(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(text), ""), _NO_TEXT, text)


def _innermost(kind: pa.DataType) -> pa.DataType:
    while is_list(kind):
        kind = kind.value_type
    return kind


# ------------------------------------------------------------------ lists


def lists_of_names(cells: LabelCells) -> pa.ListArray:
    """Return (rows,) list<string>, null items included, of a column of lists of any layout."""
    column = cells.column
    if pa.types.is_struct(_innermost(column.type)):
        remedy = "Make a column of lists that contain the labels only."
        raise cells.wrong_type("must contain lists of labels", remedy)
    if pa.types.is_nested(column.type.value_type):
        remedy = "Flatten them to one list of labels per row."
        raise cells.wrong_type("must contain lists of labels", remedy)
    values = column.combine_chunks()
    rows = rows_of_items(values)
    flat = pa.chunked_array([values.flatten()])
    if pa.types.is_dictionary(flat.type):
        flat = flat.cast(flat.type.value_type)
    names = _blank_as_null(_as_text(flat, cells, lambda at: int(rows[at])))
    return with_items(values, names)


def lengths_of(lists: pa.Array) -> npt.NDArray[np.int64]:
    """Return the (rows,) lengths of lists, 0 where they are null."""
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0), np.int64)


def rows_of_items(lists: pa.Array) -> npt.NDArray[np.int64]:
    """Return the row of each item of `lists.flatten()`."""
    return np.repeat(np.arange(len(lists)), lengths_of(lists))


def with_items(lists: pa.Array, flat: Any) -> pa.ListArray:
    """Return lists with `flat` in place of their items."""
    return list_array(flat, lengths_of(lists), lists.is_null())


def list_array(flat: Any, lengths: Any, missing: pa.Array) -> pa.ListArray:
    """Build a list array from values, lengths (0 where missing) and a null mask."""
    flat, missing = (
        each.combine_chunks() if isinstance(each, pa.ChunkedArray) else each
        for each in (flat, missing)
    )
    ends = np.cumsum(np.asarray(lengths), dtype=np.int32)
    offsets = pa.array(np.concatenate([np.zeros(1, np.int32), ends]))
    return pa.ListArray.from_arrays(offsets, flat, mask=missing)


def without_repetitions(lists: pa.ListArray) -> pa.ListArray:
    """Drop nulls and duplicates in each list, keeping the order of first occurrence."""
    pairs = pa.table({"row": rows_of_items(lists), "value": lists.flatten()})
    pairs = pairs.filter(pairs["value"].is_valid())
    pairs = pairs.append_column("at", pa.array(range(pairs.num_rows), pa.int64()))
    first = pairs.group_by(["row", "value"], use_threads=False).aggregate([("at", "min")])
    kept = pairs.take(pa.array(np.sort(first["at_min"].to_numpy())))
    lengths = np.bincount(kept["row"].to_numpy(), minlength=len(lists))
    return list_array(kept["value"], lengths, lists.is_null())


# ------------------------------------------------------------------ names


def matches(found: Collection[str], known: Sequence[str]) -> dict[str, str]:
    """Return the known name of each found one.

    A column's type, which differs between formats, does not matter: `1.0` is `1` and `True` is
    `true`, unless both are known.
    """
    exact = set(known)
    same = {name: name for name in found if name in exact}
    others = [name for name in found if name not in exact]
    plain: dict[str, list[str]] = {}
    for name in known if others else ():
        plain.setdefault(_plain(name), []).append(name)
    for name in others:
        close = plain.get(_plain(name), [])
        if len(close) == 1:
            same[name] = close[0]
    return same


def _plain(name: str) -> str:
    if name.endswith(".0") and re.fullmatch(r"-?\d+", name[:-2]):
        return name[:-2]
    return name.lower() if name.lower() in ("true", "false") else name
