"""Readers of CSV and TSV."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from clftask.data.readers.base import Source, Survey
from clftask.data.readers.cells import BAD, STRINGS, find_once
from clftask.data.readers.csv_rows import numbered_rows
from clftask.data.readers.csv_types import Narrowing, common_kind, convert
from clftask.data.readers.text_encoding import MAX_ROW_BYTES, TextFile, with_compressed
from clftask.errors import DataError, Problem
from clftask.messages import counted

_SAVE_AS = "Save it with commas, or with tabs as .tsv."
_REPEATED = "repeats the header, as in files that were joined"
_BLOCK_ROWS = 8192
_SEPARATORS = {
    "|": ("|", _SAVE_AS),
    ";": ("semicolons", _SAVE_AS),
    "\t": ("tabs", "Let its name end with .tsv."),
    ",": ("commas", "Let its name end with .csv."),
}


class Csv(Source):
    """CSV with a header; supports quoted newlines, byte order marks and other encodings.

    In string columns, `read` returns an empty field as an empty string, `batches` as null.
    A row that repeats the header is bad.
    """

    suffixes: ClassVar[tuple[str, ...]] = with_compressed(".csv")
    has_types = False
    seeks = False
    delimiter = ","
    block_size = 1 << 20

    def file_names(self, file: str) -> list[str]:
        """Parse the header."""
        return self._header(TextFile.of(file))

    def survey_file(self, file: str, columns: list[str], strings: set[str]) -> Survey:
        """Count and check all rows, and infer the types of all columns except `strings`."""
        text = TextFile.of(file)
        if header := self._header(text):
            find_once(file, header, columns)
        seen = {name: Narrowing() for name in columns if name not in strings}
        num_rows = 0
        for batch in self._rows(text, list(seen), 0):
            num_rows += batch.num_rows
            good = batch.filter(batch.column(BAD).is_null())
            for name, narrowing in seen.items():
                narrowing.see(good.column(name))
        kinds = {n: seen[n].kind if n in seen else pa.string() for n in columns}
        return Survey(num_rows, pa.schema(kinds))

    def stream_file(
        self, file: str, schema: pa.Schema, start: int, num_rows: int, texts: frozenset[str]
    ) -> Iterator[pa.RecordBatch]:
        """Parse rows; string columns as binary, which need not be UTF-8."""
        for batch in self._rows(TextFile.of(file), schema.names, start):
            is_good = batch.column(BAD).is_null()
            columns = [
                batch.column(field.name)
                if field.type in STRINGS
                else _typed(batch.column(field.name), is_good, field.type)
                for field in schema
            ]
            yield pa.RecordBatch.from_arrays([*columns, batch.column(BAD)], [*schema.names, BAD])

    def infer_types(self, table: pa.Table, strings: set[str], codes: set[str]) -> pa.Table:
        """Infer types from the rows of all files; an empty string is null only in `codes`."""
        for place, name in enumerate(table.column_names):
            if name in codes:
                continue
            column = table[name]
            typed = column if name in strings else convert(column, common_kind([column]))
            filled = typed.fill_null("") if pa.types.is_string(typed.type) else typed
            table = table.set_column(place, name, filled)
        return table

    def advice(self, available: list[str]) -> str:
        """Return what may be wrong: the separator, or the header."""
        if available[0].lower().startswith(("sep=", "#")):
            return "The first line is not the header: remove it."
        for mark, (name, remedy) in _SEPARATORS.items():
            if len(available) == 1 and mark in available[0] and mark != self.delimiter:
                return f"The cells look separated by {name}. {remedy}"
        if any(_looks_like_data(name) for name in available):
            return "The first line looks like data: add a header line with the column names."
        return ""

    def _numbered_rows(self, text: TextFile) -> Iterator[tuple[int, list[str]]]:
        return numbered_rows(text, self.delimiter, MAX_ROW_BYTES)

    def _header(self, text: TextFile) -> list[str]:
        _, header = next(self._numbered_rows(text), (0, []))
        return self._names(text.path, header)

    def _names(self, file: str, header: list[str]) -> list[str]:
        names = [name.encode(errors="surrogateescape").decode(errors="replace") for name in header]
        if len(names) == 1 and ";" in names[0] and self.delimiter == ",":
            raise DataError(Problem(file, names[0], "looks separated by semicolons", _SAVE_AS))
        return names if any(map(str.strip, names)) else []  # of a file of blanks

    def _rows(self, text: TextFile, columns: Sequence[str], start: int) -> Iterator[pa.RecordBatch]:
        """Stream rows as bytes, null where empty, and `_bad`.

        Raises:
            DataError: A row has more or fewer cells than the header.
        """
        numbered = self._numbered_rows(text)
        _, header = next(numbered, (0, []))
        names = self._names(text.path, header)
        places = [names.index(name) for name in columns] if names else []
        rows, reasons, num_chars = list[list[str]](), list[str | None](), 0
        for line, cells in itertools.islice(numbered, start, None):
            if len(cells) != len(header):
                raise DataError(self._ragged(text.path, line, cells, len(header)))
            rows.append(cells)
            reasons.append(f"line {line} {_REPEATED}" if _is_header(cells, header) else None)
            num_chars += sum(map(len, cells)) + len(cells)  # empty cells need memory, too
            if num_chars >= self.block_size or len(rows) == _BLOCK_ROWS:
                yield _batch(rows, reasons, places, columns)
                rows, reasons, num_chars = [], [], 0
        if rows:
            yield _batch(rows, reasons, places, columns)

    def _ragged(self, file: str, line: int, cells: list[str], num_columns: int) -> Problem:
        shown = self.delimiter.join(cells)[:300]
        number = f"line {line} has {counted(len(cells), 'cell')}, the header has {num_columns}"
        cell = "a tab" if self.delimiter == "\t" else "a comma"
        quote = f"Enclose cells that contain {cell} or a line break in quotes"
        allowed = f"cannot be read: {number}: {shown}"
        return Problem(file, None, allowed, f"{quote}, or fix the separator.")


def _is_header(cells: list[str], header: list[str]) -> bool:
    """Tell whether a row repeats the header; a file with one column may contain it as a text."""
    if cells[-1] != header[-1] or len(cells) == 1:
        return False
    # Files that were joined may each begin with a byte order mark.
    return [cells[0].removeprefix("\ufeff"), *cells[1:]] == header


def _batch(
    rows: list[list[str]], reasons: list[str | None], places: list[int], columns: Sequence[str]
) -> pa.RecordBatch:
    cells = list(zip(*rows, strict=True))
    chosen = [[c.encode(errors="surrogateescape") or None for c in cells[at]] for at in places]
    arrays = [*(pa.array(column, pa.binary()) for column in chosen), pa.array(reasons, pa.string())]
    return pa.RecordBatch.from_arrays(arrays, [*columns, BAD])


def _typed(column: pa.Array, is_good: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert bytes to a type that the survey found, null in bad rows."""
    if pa.types.is_null(kind):
        return pa.nulls(len(column))
    cells = pc.if_else(is_good, column, pa.scalar(None, pa.binary()))
    return cells.cast(pa.string()).cast(kind)


def _looks_like_data(name: str) -> bool:
    """Tell whether a column name is a number or a sentence."""
    return bool(re.fullmatch(r"[-+]?[0-9.]*[0-9]", name)) or len(name.split()) >= 5


class Tsv(Csv):
    """Tab-separated values."""

    suffixes = with_compressed(".tsv", ".tab")
    delimiter = "\t"
