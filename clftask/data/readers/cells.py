"""Conversion of cells to plain Arrow types and valid UTF-8 strings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from clftask.errors import DataError, Problem
from clftask.messages import did_you_mean

BAD = "_bad"
UNDECODABLE = "bytes that are not UTF-8"

STRINGS = {pa.string(), pa.large_string()}
_BYTES = {*STRINGS, pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()}


def find_once(file: str, names: Sequence[str], columns: Iterable[str]) -> None:
    """Check that each of `columns` occurs exactly once in a file's `names`.

    Raises:
        DataError: A column is missing, or occurs several times.
    """
    counts = Counter(names)
    for name in columns:
        if not counts[name]:
            raise DataError(
                Problem(file, None, f"lacks the column {name!r}", did_you_mean(name, names))
            )
    duplicates = [name for name in columns if counts[name] > 1]
    if duplicates:
        remedy = "Rename all but one, or remove them."
        raise DataError(*(Problem(file, n, "contains several columns of this name", remedy)
                          for n in duplicates))  # fmt: skip


def common_type(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """Return the type of a column that has two types: numbers and text are strings.

    Raises:
        pa.ArrowException: The types have no common type.
    """
    if {a, b} & STRINGS and any(_is_number(kind) for kind in (a, b)):
        return pa.string()
    if all(pa.types.is_list(kind) or pa.types.is_large_list(kind) for kind in (a, b)):
        is_large = pa.types.is_large_list(a) or pa.types.is_large_list(b)
        return (pa.large_list if is_large else pa.list_)(common_type(a.value_type, b.value_type))
    return permissive_type(a, b)


def permissive_type(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """Return the common type of two types, as of integers and doubles.

    Raises:
        pa.ArrowException: They have none.
    """
    if b in (a, pa.null()):
        return a
    schemas = [pa.schema({"column": kind}) for kind in (a, b)]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    return any(test(kind) for test in tests)


def pick(file: str, stored: pa.Schema, columns: list[str], strings: set[str]) -> pa.Schema:
    """Return the plain types of columns; `strings` with bytes or only nulls become strings.

    Raises:
        DataError: A column is missing, or occurs several times.
    """
    find_once(file, stored.names, columns)
    kinds = {name: _plain_type(stored.field(name).type) for name in columns}
    is_string = {n: n in strings and (k in _BYTES or k == pa.null()) for n, k in kinds.items()}
    return pa.schema({n: pa.string() if is_string[n] else k for n, k in kinds.items()})


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Replace extension, dictionary and view types, also nested ones, by plain types."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(field) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_plain_field(kind.key_field), _plain_field(kind.item_field))
    if pa.types.is_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain_field(kind.value_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_plain_type(field.type))


def sound(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Validate a batch and return it unchanged.

    pyarrow reads offsets from IPC files without checking them; those of a damaged file may
    point outside the buffers. Strings may contain any bytes.

    Raises:
        pa.ArrowInvalid: A length or an offset is invalid.
    """
    batch.validate()
    for column in batch.columns:
        _raw(column).validate(full=True)
    return batch


def _raw(column: pa.Array) -> pa.Array:
    """View strings as bytes, so that `validate(full=True)` does not check them for UTF-8."""
    if isinstance(column, pa.ExtensionArray):
        return _raw(column.storage)
    if pa.types.is_dictionary(column.type):
        return pa.DictionaryArray.from_arrays(column.indices, _raw(column.dictionary))
    raw = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(column.type)
    return column if raw is None else column.view(raw)


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch with the columns and types of `schema`, and `_bad` as last column.

    A string that is not UTF-8 becomes null and its row bad. Existing reasons in `_bad` are kept.
    """
    known = BAD in batch.schema.names
    reasons = batch.column(BAD).to_pylist() if known else [None] * batch.num_rows
    columns = []
    for field in schema:
        column, undecodable = _fit(batch.column(field.name), field.type)
        columns.append(column)
        for row in undecodable:
            reasons[row] = reasons[row] or f"column {field.name}: {UNDECODABLE}"
    names = [*schema.names, BAD]
    return pa.RecordBatch.from_arrays([*columns, pa.array(reasons, pa.string())], names)


def _fit(column: pa.Array, kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    """Cast a column; also return the rows of strings that are not UTF-8."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if kind not in STRINGS or column.type not in _BYTES:
        return column.cast(kind), []
    # pyarrow checks UTF-8 only in a cast from binary to string, not when it reads a file.
    raw = column.cast(pa.binary() if kind == pa.string() else pa.large_binary())
    try:
        return raw.cast(kind), []
    except pa.ArrowInvalid:
        return _decode_each(raw.to_pylist(), kind)


def _decode_each(cells: list[bytes | None], kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    found: list[Any] = []
    undecodable: list[int] = []
    for row, cell in enumerate(cells):
        try:
            found.append(None if cell is None else cell.decode())
        except UnicodeDecodeError:
            found.append(None)
            undecodable.append(row)
    return pa.array(found, kind), undecodable
