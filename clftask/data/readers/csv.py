"""Readers of CSV and TSV."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from clftask.data.readers.base import Source, Survey, from_row
from clftask.data.readers.cells import BAD, STRINGS, find_once
from clftask.data.readers.csv_quotes import Quotes
from clftask.data.readers.csv_rows import RepeatedHeaders, ragged_row
from clftask.data.readers.csv_types import Narrowing, common_kind, convert
from clftask.data.readers.text_encoding import MAX_ROW_BYTES, TextFile, with_compressed
from clftask.errors import DataError, Problem

_SAVE_AS = "Save it with commas, or with tabs as .tsv."
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
        """Parse the header, with the parser that also reads the rows."""
        return self._header(TextFile.of(file))

    def survey_file(self, file: str, columns: list[str], strings: set[str]) -> Survey:
        """Read all rows as bytes, and infer the types of all columns except `strings`."""
        text = TextFile.of(file)
        if not text.is_blank:
            find_once(file, self._header(text), columns)
        seen = {name: Narrowing() for name in columns if name not in strings}
        num_rows = 0
        for batch in self._rows(text, columns, 0):
            num_rows += batch.num_rows
            good = batch.filter(batch.column(BAD).is_null())
            for name, narrowing in seen.items():
                narrowing.see(good.column(name))
        kinds = {n: seen[n].kind if n in seen else pa.string() for n in columns}
        return Survey(num_rows, pa.schema(kinds))

    def stream_file(
        self, file: str, schema: pa.Schema, start: int, num_rows: int, texts: frozenset[str]
    ) -> Iterator[pa.RecordBatch]:
        """Parse with Arrow in one thread; string columns as binary, which need not be UTF-8."""
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

    def _parsing(self, **options: Any) -> Any:
        from pyarrow import csv

        return csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True, **options)

    def _quotes(self, file: str) -> Quotes:
        return Quotes(file, self.delimiter)

    def _check(self, stream: pa.NativeFile, file: str) -> None:
        """Check the quotes of a whole file without parsing it."""
        blocks = _CheckedBlocks(stream, self._quotes(file))
        while blocks.read(self.block_size):
            pass

    def _header(self, text: TextFile) -> list[str]:
        """Parse the file's beginning as one block; the last row may be incomplete."""
        from pyarrow import csv

        if text.is_blank:
            return []
        # pyarrow decodes an invalid row for the handler: an incomplete character would fail.
        head = text.head.decode(errors="replace").encode()
        self._quotes(text.path).follow(head.rstrip(b'"'))  # the end may split a doubled quote
        reading = csv.ReadOptions(block_size=len(head) + 1)
        parsing = self._parsing(invalid_row_handler=lambda row: "skip")
        with csv.open_csv(pa.BufferReader(head + b"\n"), reading, parsing) as reader:
            names = list(reader.schema.names)
        if len(names) == 1 and ";" in names[0] and self.delimiter == ",":
            raise DataError(Problem(text.path, names[0], "looks separated by semicolons", _SAVE_AS))
        return names

    def _rows(self, text: TextFile, columns: Sequence[str], start: int) -> Iterator[pa.RecordBatch]:
        """Stream rows as bytes, null where empty, and `_bad`.

        If a row is longer than a block, the block size is doubled.
        """
        if text.is_whole and not re.search(rb"[\r\n]", text.head.strip(b"\r\n")):
            return  # no rows; pyarrow raises on a header that does not end with a newline
        size = self.block_size
        headers = RepeatedHeaders(text, self.delimiter, self._header(text))
        while True:
            try:
                for batch in from_row(self._blocks(text, columns, size), start):
                    yield batch.append_column(BAD, headers.reasons(batch, start))
                    start += batch.num_rows
                return
            except pa.ArrowInvalid as error:
                if "Expected" in str(error) and " columns, got " in str(error):
                    raise DataError(ragged_row(text, self.delimiter, str(error))) from None
                if not _is_longer_than_block(error):
                    raise
            size *= 2
            if size > MAX_ROW_BYTES:
                self._check(text.open(), text.path)  # the usual cause is an unclosed quote
                allowed = f"has a row longer than {MAX_ROW_BYTES >> 20} MB"
                raise DataError(Problem(text.path, None, allowed, "Shorten it, or write Parquet."))

    def _blocks(
        self, text: TextFile, columns: Sequence[str], size: int
    ) -> Iterator[pa.RecordBatch]:
        from pyarrow import csv

        converting = csv.ConvertOptions(
            include_columns=list(columns),
            column_types=dict.fromkeys(columns, pa.binary()),
            null_values=[""],
            strings_can_be_null=True,
        )
        reading = csv.ReadOptions(block_size=size, use_threads=False)
        blocks = _CheckedBlocks(text.open(), self._quotes(text.path))
        # The stream stays open: pyarrow reads ahead in its own thread.
        stream = pa.PythonFile(blocks, mode="r")
        with csv.open_csv(stream, reading, self._parsing(), converting) as reader:
            yield from reader


def _typed(column: pa.Array, is_good: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert bytes to a type that the survey found, null in bad rows."""
    if pa.types.is_null(kind):
        return pa.nulls(len(column))
    cells = pc.if_else(is_good, column, pa.scalar(None, pa.binary()))
    return cells.cast(pa.string()).cast(kind)


def _looks_like_data(name: str) -> bool:
    """Tell whether a column name is a number or a sentence."""
    return bool(re.fullmatch(r"[-+]?[0-9.]*[0-9]", name)) or len(name.split()) >= 5


_MORE = 4096  # bytes to extend a block whose end is unsuitable


class _CheckedBlocks:
    """File object with checked quotes; no block ends between \\r and \\n or within `""`.

    pyarrow.csv drops the \\n of a quoted \\r\\n at a block boundary. `Quotes` needs the byte
    that follows a quote.
    """

    closed = False

    def __init__(self, stream: pa.NativeFile, quotes: Quotes) -> None:
        self._stream, self._quotes = stream, quotes

    def read(self, size: int) -> bytes:
        block = bytearray(self._stream.read(size))
        while block.endswith((b"\r", b'"')) and len(block) < MAX_ROW_BYTES:
            more = self._stream.read(_MORE)
            if not more:
                break
            block += more
        if block:
            self._quotes.follow(bytes(block))
        else:
            self._quotes.end()
        return bytes(block)

    def close(self) -> None:
        self.closed = True


def _is_longer_than_block(error: pa.ArrowInvalid) -> bool:
    # pyarrow.csv raises the second text if the first row does not fit the first block.
    texts = ("straddles two block boundaries", "Empty CSV file or block")
    return any(text in str(error) for text in texts)


class Tsv(Csv):
    """Tab-separated values."""

    suffixes = with_compressed(".tsv", ".tab")
    delimiter = "\t"
