"""Reader of JSON lines and JSON arrays."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

import pyarrow as pa

from clftask.data.readers.base import Source, Survey
from clftask.data.readers.json_array import array_lines, is_array
from clftask.data.readers.json_cells import is_deep, parse_each, parse_object, type_of
from clftask.data.readers.text_encoding import MAX_ROW_BYTES, TextFile, with_compressed
from clftask.errors import DataError, Problem

MAX_COLUMNS = 5_000
_AS_LINES = (
    "Write the rows one object per line: with pandas, to_json(path, orient='records', lines=True)."
)
_NUM_LINES = 1_000


class JsonLines(Source):
    """One JSON object per line, blank lines are skipped; or one array of objects."""

    suffixes: ClassVar[tuple[str, ...]] = with_compressed(".jsonl", ".ndjson", ".json")
    seeks = False
    block_size = 4 << 20

    def file_names(self, file: str) -> list[str]:
        """Parse the whole file: any line may contain a new name."""
        names: dict[str, None] = {}
        for lines in self._blocks(file):
            for some in _some(lines):
                names |= dict.fromkeys(_names(some))
            if len(names) > MAX_COLUMNS:
                allowed = f"has more than {MAX_COLUMNS:,} column names"
                remedy = "Move varying keys into one column, or write Parquet."
                raise DataError(Problem(file, None, allowed, remedy))
        return list(names)

    def survey_file(self, file: str, columns: list[str], strings: set[str]) -> Survey:
        """Count lines, and unify the types of all columns except `strings`."""
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
        """Parse blocks with Arrow; parse line by line if Arrow cannot."""
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

    def advice(self, available: list[str]) -> str:
        """Return what may be wrong with a file of one line: its rows are within one object."""
        head = TextFile.of(self.files[0]).head.strip()
        if b"\n" in head or not re.search(rb'"\s*:\s*[\[{]', head):
            return ""
        inner = re.search(rb'"([^"\\]*)"\s*:\s*(\[\s*)?\{', head)
        rows = f", with rows under {inner[1].decode()!r}" if inner else ""
        return f"The file is one object{rows}. {_AS_LINES}"

    def _blocks(self, file: str) -> Iterator[list[bytes]]:
        """Yield the non-blank lines of each block, or the items of an array."""
        text = TextFile.of(file)
        _refuse_document(file, text.head)
        with text.open() as stream:
            if is_array(text.head):
                yield from array_lines(stream, file, self.block_size)
                return
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


def _refuse_document(file: str, head: bytes) -> None:
    """Refuse a file that is one JSON object over several lines, with the rows inside it."""
    line = head.strip().partition(b"\n")[0].rstrip()
    if not re.fullmatch(rb'\{\s*(?:"(?:[^"\\]|\\.)*"\s*:\s*[\[{]*)?', line):
        return
    keys = re.findall(r'"((?:[^"\\]|\\.)*)"\s*:', head[:10_000].decode(errors="replace"))
    is_wrapped = re.match(rb'\s*\{\s*"[^"]*"\s*:\s*\[\s*\{', head)
    remedy = f"The rows are under {keys[0]!r}. {_AS_LINES}" if is_wrapped else _AS_LINES
    allowed = "is a JSON object over several lines, not JSON lines"
    raise DataError(Problem(file, list(dict.fromkeys(keys))[:5], allowed, remedy))


def _lines(block: bytes) -> list[bytes]:
    return [line for line in map(bytes.strip, block.split(b"\n")) if line]


def _parse(lines: Sequence[bytes], schema: pa.Schema | None = None) -> pa.Table | None:
    """Parse lines with Arrow; return None if it fails or its rows do not match the lines.

    pyarrow.json accepts several objects on one line and crashes on a line `null`
    (apache/arrow#47409). So each line must begin with `{` and end with `}`, and the number of
    rows must equal the number of lines.
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
        table.validate(full=True)  # pyarrow.json does not check UTF-8
    except pa.ArrowInvalid:
        return None
    return table if table.num_rows == len(lines) else None


def _some(lines: list[bytes]) -> Iterator[list[bytes]]:
    """Yield slices of lines: Arrow allocates a cell for each name in each line of a call."""
    for start in range(0, len(lines), _NUM_LINES):
        yield lines[start : start + _NUM_LINES]


def _names(lines: Sequence[bytes]) -> list[str]:
    table = _parse(lines)
    if table is not None:
        return list(table.schema.names)
    return [name for found in map(parse_object, lines) if found for name in found]


def _typed(lines: Sequence[bytes], columns: Sequence[str]) -> Iterator[tuple[str, pa.DataType]]:
    """Yield the present columns among `columns`, with each of their types in these lines."""
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
    """Replace timestamps by strings: Arrow infers them, but later lines may not be timestamps."""
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
    """Unify the types in `kinds` with the found ones.

    Raises:
        DataError: Two types of a column cannot be unified.
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
            allowed = f"column {name} must have one type, or be left out"
            remedy = "Write all its values as strings."
            raise DataError(Problem(file, f"{known} and {kind}", allowed, remedy)) from None
