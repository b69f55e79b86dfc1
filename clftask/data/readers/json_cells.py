"""Parses JSON lines one by one, so that only bad lines fail; pyarrow.json fails for a block.

It also crashes on a line `null` (apache/arrow#47409), and accepts several objects on one line.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from clftask.data.readers.cells import BAD, STRINGS, UNDECODABLE

_UNFIT = (pa.ArrowException, TypeError, ValueError, OverflowError)
_WORDS = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}


def parse_object(line: bytes) -> dict[str, Any] | None:
    """Return a line's JSON object, or None; bytes that are not UTF-8 become lone surrogates."""
    try:
        value = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def types_of(name: str, values: Sequence[Any]) -> list[pa.DataType]:
    """Return the types of a column's values: one that fits all of them, or that of each.

    Raises:
        ValueError: A value is a list of mixed types; names the column.
    """
    try:
        return [pa.array(values).type]
    except _UNFIT:
        return [_type_of(name, value) for value in values]


def _type_of(name: str, value: Any) -> pa.DataType:
    if isinstance(value, str):
        return pa.string()  # also if it is not UTF-8
    try:
        return pa.array([value]).type
    except OverflowError:  # of an integer beyond int64
        some = json.loads(json.dumps(value), parse_int=_decimal, parse_float=_decimal)
        return pa.array([some]).type
    except UnicodeEncodeError:
        return pa.null()  # a bad row does not affect the column's type
    except pa.ArrowException:
        shown = json.dumps(value)
        shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
        reason = f"column {name}: a list mixes types: {shown}; make a column of plain values"
        raise ValueError(reason) from None


def _decimal(_: str) -> Decimal:
    return Decimal(0)


def without_decimals(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column that has integers beyond int64: text, as in CSV.

    Doubles would merge such labels, groups and ids, e.g. hashes of 64 bits.
    """
    if pa.types.is_list(kind):
        return pa.list_(without_decimals(kind.value_type))
    return pa.string() if pa.types.is_decimal(kind) else kind


def _rounded(value: Any) -> Any:
    """Return a value with doubles in place of integers."""
    return json.loads(json.dumps(value), parse_int=float)


def parse_each(lines: Sequence[bytes], schema: pa.Schema, texts: Collection[str]) -> pa.RecordBatch:
    """Parse lines one by one.

    Returns:
        The columns of `schema`, and `_bad` with the reason why a line is unusable.
    """
    objects = [parse_object(line) for line in lines]
    reasons = [None if found is not None else "is not a JSON object" for found in objects]
    columns = []
    for field in schema:
        values = [None if found is None else found.get(field.name) for found in objects]
        column, wrong = _column(values, field.type, field.name in texts)
        columns.append(column)
        for row, reason in wrong.items():
            reasons[row] = reasons[row] or f"column {field.name}: {reason}"
    return pa.RecordBatch.from_arrays(
        [*columns, pa.array(reasons, pa.string())], [*schema.names, BAD]
    )


def _column(values: list[Any], kind: pa.DataType, is_text: bool) -> tuple[pa.Array, dict[int, str]]:
    """Return values as an array, null where the type does not match, and the reasons by row."""
    try:
        return pa.array(values, kind), {}
    except _UNFIT:
        pass
    if not is_text:
        values = [_as_written(value, kind) for value in values]
    cells = [_cell(value, kind) for value in values]
    wrong = {row: reason for row, (_, reason) in enumerate(cells) if reason}
    return pa.array([value for value, _ in cells], kind), wrong


def _as_written(value: Any, kind: pa.DataType) -> Any:
    """Return numbers as text where the type is string, also within lists."""
    if kind in STRINGS and isinstance(value, bool | int | float):
        return json.dumps(value)
    if pa.types.is_list(kind) and isinstance(value, list):
        return [_as_written(inner, kind.value_type) for inner in value]
    return value


def _cell(value: Any, kind: pa.DataType) -> tuple[Any, str | None]:
    """Return a value that Arrow accepts for this type, or None and the reason."""
    try:
        if "double" in str(kind) and type(value) in (int, list, dict):
            value = _rounded(value)  # pyarrow rejects ints that a double would round
        pa.array([value], kind)
    except UnicodeEncodeError:
        return None, UNDECODABLE
    except _UNFIT:
        wanted = "a string" if kind in STRINGS else kind
        return None, f"{_WORDS.get(type(value), 'a string')}, not {wanted}"
    return value, None
