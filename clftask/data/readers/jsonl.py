"""Reader of JSON lines and JSON arrays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import ClassVar

import pyarrow as pa

from clftask.data.readers.base import Source, Survey
from clftask.data.readers.cells import permissive_type
from clftask.data.readers.json_array import array_lines, is_array
from clftask.data.readers.json_cells import parse_each, parse_object, types_of, without_decimals
from clftask.data.readers.text_encoding import MAX_ROW_BYTES, TextFile, with_compressed
from clftask.errors import DataError, Problem

MAX_COLUMNS = 5_000
_AS_LINES = (
    "Write the rows one object per line: with pandas, to_json(path, orient='records', lines=True)."
)


class JsonLines(Source):
    """One JSON object per line, blank lines are skipped; or one array of objects."""

    suffixes: ClassVar[tuple[str, ...]] = with_compressed(".jsonl", ".ndjson", ".json")
    seeks = False
    block_size = 4 << 20

    def file_names(self, file: str) -> list[str]:
        """Parse the whole file: any line may contain a new name."""
        names: dict[str, None] = {}
        for lines in self._blocks(file):
            for line in lines:
                names |= dict.fromkeys(parse_object(line) or ())
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
                objects = [parse_object(line) or {} for line in lines]
                for name in columns:
                    values = [found[name] for found in objects if name in found]
                    if values and name in strings:
                        kinds[name] = pa.string()
                    elif values:
                        _learn(kinds, file, name, types_of(name, values))
        missing = [name for name in columns if name not in kinds]
        if missing and num_rows:
            raise KeyError(missing[0])
        unseen = {name: pa.string() if name in strings else pa.null() for name in columns}
        kinds = {name: without_decimals(kind) for name, kind in kinds.items()}
        return Survey(num_rows, pa.schema(unseen | kinds))

    def stream_file(
        self, file: str, schema: pa.Schema, start: int, num_rows: int, texts: frozenset[str]
    ) -> Iterator[pa.RecordBatch]:
        """Parse the lines from `start` on."""
        for lines in self._blocks(file):
            if wanted := lines[start:]:
                yield parse_each(wanted, schema, texts)
            start = max(0, start - len(lines))

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


def _learn(
    kinds: dict[str, pa.DataType], file: str, name: str, found: Iterable[pa.DataType]
) -> None:
    """Unify the type of a column in `kinds` with the found ones.

    Raises:
        DataError: Two types of a column cannot be unified.
    """
    for kind in found:
        known = kinds.get(name, kind)
        try:
            kinds[name] = permissive_type(known, kind)
        except pa.ArrowException:
            allowed = f"column {name} must have one type, or be left out"
            remedy = "Write all its values as strings."
            raise DataError(Problem(file, f"{known} and {kind}", allowed, remedy)) from None
