"""JSON lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

import pyarrow as pa

from clftask.data.readers.base import Source, Survey
from clftask.data.readers.json_cells import is_deep, parse_each, parse_object, type_of
from clftask.data.readers.text_encoding import MAX_ROW_BYTES, TextFile
from clftask.errors import DataError, Problem

MAX_COLUMNS = 5_000
_NUM_LINES = 1_000


class JsonLines(Source):
    """One JSON object a line; a blank line is no row."""

    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson", ".json", ".jsonl.gz")
    seeks = False
    block_size = 4 << 20

    def file_names(self, file: str) -> list[str]:
        """Parse the file: any line may bring a new name."""
        names: dict[str, None] = {}
        for lines in self._blocks(file):
            for some in _some(lines):
                names |= dict.fromkeys(_names(some))
            if len(names) > MAX_COLUMNS:
                allowed = f"has more than {MAX_COLUMNS:,} names"
                remedy = "Put what varies into one column, or write Parquet."
                raise DataError(Problem(file, None, allowed, remedy))
        return list(names)

    def survey_file(self, file: str, columns: list[str], strings: set[str]) -> Survey:
        """Count lines, and unify the types of what is neither text nor id."""
        kinds: dict[str, pa.DataType] = {}
        num_rows, has_typed = 0, not strings.issuperset(columns)
        for lines in self._blocks(file):
            num_rows += len(lines)
            if has_typed or len(kinds) < len(columns):
                for some in _some(lines):
                    _learn(kinds, file, _typed(some, columns), strings)
        missing = [name for name in columns if name not in kinds]
        if missing and num_rows:
            raise KeyError(missing[0])
        unseen = {name: pa.string() if name in strings else pa.null() for name in columns}
        return Survey(num_rows, pa.schema(unseen | kinds))

    def stream_file(
        self, file: str, schema: pa.Schema, start: int, num_rows: int, texts: frozenset[str]
    ) -> Iterator[pa.RecordBatch]:
        """Parse blocks with Arrow; line by line where it refuses one."""
        for lines in self._blocks(file):
            wanted = lines[start:]
            start = max(0, start - len(lines))
            if not wanted:
                continue
            table = _parse(wanted, schema)
            if table is None:
                yield parse_each(wanted, schema, texts)
            else:
                yield from table.combine_chunks().to_batches()

    def _blocks(self, file: str) -> Iterator[list[bytes]]:
        """Stream the lines that are not blank, those of a block together."""
        text = TextFile.of(file)
        _refuse_array(file, text.head)
        with text.open() as stream:
            rest = b""
            while block := bytes(stream.read(self.block_size)):
                whole, newline, tail = block.rpartition(b"\n")
                if newline:
                    yield _lines(rest + whole)
                rest = tail if newline else rest + tail
                if len(rest) > MAX_ROW_BYTES:
                    allowed = f"has a row longer than {MAX_ROW_BYTES >> 20} MB"
                    raise DataError(Problem(file, None, allowed, "Shorten it, or write Parquet."))
            yield _lines(rest)


def _refuse_array(file: str, head: bytes) -> None:
    """Refuse a file that is a list of all its objects; a line that is one is but a bad row."""
    if not re.match(rb"\s*\[\s*\{", head):
        return
    line, _, rest = head.lstrip().partition(b"\n")
    if not rest.strip() or not line.rstrip().endswith(b"]"):
        remedy = "Write one object a line, without brackets and commas around, or write Parquet."
        raise DataError(Problem(file, None, "is one JSON array, not JSON lines", remedy))


def _lines(block: bytes) -> list[bytes]:
    return [line for line in map(bytes.strip, block.split(b"\n")) if line]


def _parse(lines: Sequence[bytes], schema: pa.Schema | None = None) -> pa.Table | None:
    """Parse lines with Arrow, or return None where it cannot or its rows are not the lines.

    Arrow takes several objects on a line and crashes on a `null` (apache/arrow#47409), hence
    the look at both ends: where each line holds an object at least, the count tells the rest.
    """
    from pyarrow import json

    if not lines or not all(line[:1] == b"{" and line[-1:] == b"}" for line in lines):
        return None
    if any(map(is_deep, lines)):
        return None
    data = b"\n".join(lines)
    others = "infer" if schema is None else "ignore"
    parsing = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=others)
    reading = json.ReadOptions(use_threads=False, block_size=len(data) + 1)
    try:
        table = json.read_json(pa.BufferReader(data), reading, parsing)
        table.validate(full=True)  # else it may hold strings that are not UTF-8
    except pa.ArrowInvalid:
        return None
    return table if table.num_rows == len(lines) else None


def _some(lines: list[bytes]) -> Iterator[list[bytes]]:
    """Yield some lines at a time: Arrow makes a cell of each name for each of them."""
    for start in range(0, len(lines), _NUM_LINES):
        yield lines[start : start + _NUM_LINES]


def _names(lines: Sequence[bytes]) -> list[str]:
    table = _parse(lines)
    if table is not None:
        return list(table.schema.names)
    return [name for found in map(parse_object, lines) if found for name in found]


def _typed(lines: Sequence[bytes], columns: Sequence[str]) -> Iterator[tuple[str, pa.DataType]]:
    """Yield those of `columns` that are there, with each type that they have in these lines."""
    table = _parse(lines)
    if table is not None:
        for name in set(columns) & set(table.schema.names):
            yield name, _without_times(table.schema.field(name).type)
        return
    for found in map(parse_object, lines):
        for name in columns if found else []:
            if found and name in found:
                yield name, type_of(name, found[name])


def _without_times(kind: pa.DataType) -> pa.DataType:
    """Return a type with strings where Arrow sees times: further lines may hold other strings."""
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_without_times(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct({field.name: _without_times(field.type) for field in kind})
    return kind


def _learn(
    kinds: dict[str, pa.DataType],
    file: str,
    found: Iterator[tuple[str, pa.DataType]],
    strings: set[str],
) -> None:
    """Widen the types in `kinds` by those found.

    Raises:
        DataError: Two types of a column cannot be one.
    """
    for name, kind in found:
        known = pa.string() if name in strings else kinds.get(name, kind)
        if name in strings or kind in (known, pa.null()):
            kinds[name] = known
            continue
        schemas = [pa.schema({name: known}), pa.schema({name: kind})]
        try:
            kinds[name] = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        except pa.ArrowException:
            allowed = f"column {name} must be of one type, or left out"
            raise DataError(Problem(file, f"{known} and {kind}", allowed)) from None
