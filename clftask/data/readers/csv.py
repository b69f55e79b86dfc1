"""Readers of CSV and TSV."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

import pyarrow as pa

from clftask.data.readers.base import Source, Survey, from_row
from clftask.data.readers.cells import STRINGS, find_once
from clftask.data.readers.csv_quotes import Quotes
from clftask.data.readers.csv_types import FALSE, TRUE, Narrowing
from clftask.data.readers.text_encoding import MAX_ROW_BYTES, TextFile
from clftask.errors import DataError, Problem


class Csv(Source):
    """CSV with a header; supports quoted newlines, byte order marks and other encodings.

    In string columns, `read` returns an empty field as an empty string, `batches` as null.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".csv.gz")
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
        for batch in self._rows(text, dict.fromkeys(columns, pa.binary()), 0):
            num_rows += batch.num_rows
            for name, narrowing in seen.items():
                narrowing.see(batch.column(name))
        kinds = {n: seen[n].kind if n in seen else pa.string() for n in columns}
        return Survey(num_rows, pa.schema(kinds))

    def stream_file(
        self, file: str, schema: pa.Schema, start: int, num_rows: int, texts: frozenset[str]
    ) -> Iterator[pa.RecordBatch]:
        """Parse with Arrow in one thread; string columns as binary, which need not be UTF-8."""
        kinds = {f.name: pa.binary() if f.type in STRINGS else f.type for f in schema}
        return self._rows(TextFile.of(file), kinds, start)

    def infer_types(self, table: pa.Table, strings: set[str]) -> pa.Table:
        """Infer types as Arrow's CSV reader does, from all rows; an empty string is not null."""
        from pyarrow import csv

        names = table.column_names
        table = pa.table({name: table[name].fill_null("") for name in names})
        numbers = [str(i) for i, name in enumerate(names) if name not in strings]
        if not numbers:
            return table
        # Numbers as names: older pyarrow.csv cannot quote header names.
        table = table.rename_columns([str(i) for i in range(len(names))])
        sink = pa.BufferOutputStream()
        csv.write_csv(table.select(numbers), sink)
        data = sink.getvalue()
        inferred = csv.read_csv(
            pa.BufferReader(data),
            csv.ReadOptions(block_size=data.size + 1),
            csv.ParseOptions(newlines_in_values=True),
        )
        columns = [inferred[n] if n in numbers else table[n] for n in table.column_names]
        return pa.table(columns, names)

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
            remedy = "Save it with commas, or with tabs as .tsv."
            raise DataError(Problem(text.path, names[0], "looks separated by semicolons", remedy))
        return names

    def _rows(
        self, text: TextFile, kinds: dict[str, pa.DataType], start: int
    ) -> Iterator[pa.RecordBatch]:
        """Stream rows; double the block size if a row is longer than a block."""
        if text.is_whole and not re.search(rb"[\r\n]", text.head.strip(b"\r\n")):
            return  # no rows; pyarrow raises on a header that does not end with a newline
        size = self.block_size
        while True:
            try:
                for batch in from_row(self._blocks(text, kinds, size), start):
                    start += batch.num_rows
                    yield batch
                return
            except pa.ArrowInvalid as error:
                if not _is_longer_than_block(error):
                    raise
            size *= 2
            if size > MAX_ROW_BYTES:
                self._check(text.open(), text.path)  # the usual cause is an unclosed quote
                allowed = f"has a row longer than {MAX_ROW_BYTES >> 20} MB"
                raise DataError(Problem(text.path, None, allowed, "Shorten it, or write Parquet."))

    def _blocks(
        self, text: TextFile, kinds: dict[str, pa.DataType], size: int
    ) -> Iterator[pa.RecordBatch]:
        from pyarrow import csv

        converting = csv.ConvertOptions(
            include_columns=list(kinds),
            column_types=kinds,
            null_values=[""],
            true_values=TRUE,
            false_values=FALSE,
            strings_can_be_null=True,
        )
        reading = csv.ReadOptions(block_size=size, use_threads=False)
        blocks = _CheckedBlocks(text.open(), self._quotes(text.path))
        # The stream stays open: pyarrow reads ahead in its own thread.
        stream = pa.PythonFile(blocks, mode="r")
        with csv.open_csv(stream, reading, self._parsing(), converting) as reader:
            yield from reader


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

    suffixes = (".tsv", ".tsv.gz", ".tab")
    delimiter = "\t"
