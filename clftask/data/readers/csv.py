"""CSV and TSV."""

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
    """Comma-separated values with a header; quoted newlines, BOMs and other encodings survive.

    An empty field is an empty string to `read` in columns of strings, and null to `batches`.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".csv.gz")
    has_types = False
    seeks = False
    delimiter = ","
    block_size = 1 << 20

    def file_names(self, file: str) -> list[str]:
        """Read the file's beginning: the same parser for the names and the rows."""
        return self._header(TextFile.of(file))

    def survey_file(self, file: str, columns: list[str], strings: set[str]) -> Survey:
        """Read all rows as bytes, and narrow what is neither text nor id."""
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
        """Parse with Arrow, serially; strings as bytes, which may be anything."""
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
        table = table.rename_columns([str(i) for i in range(len(names))])  # Arrow cannot quote
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
        """Look at the quotes alone."""
        blocks = _CheckedBlocks(stream, self._quotes(file))
        while blocks.read(self.block_size):
            pass

    def _header(self, text: TextFile) -> list[str]:
        """Parse the file's beginning as one block, where the last row may be cut."""
        from pyarrow import csv

        if text.is_blank:
            return []
        # Cut within a character, the last row would fail Arrow's call of the handler.
        head = text.head.decode(errors="replace").encode()
        self._quotes(text.path).follow(head.rstrip(b'"'))  # it may be cut between two
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
        """Stream rows; where one is longer than a block, go on with blocks twice as long."""
        if text.is_whole and not re.search(rb"[\r\n]", text.head.strip(b"\r\n")):
            return  # nothing, or a header alone, which Arrow refuses where no newline ends it
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
                self._check(text.open(), text.path)  # most likely a quote was left open
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
        # Not closing the stream: Arrow reads ahead in a thread of its own.
        stream = pa.PythonFile(blocks, mode="r")
        with csv.open_csv(stream, reading, self._parsing(), converting) as reader:
            yield from reader


_MORE = 4096  # bytes, where a block would end badly


class _CheckedBlocks:
    """Blocks of a stream that end neither between \\r and \\n nor between two quotes.

    Arrow takes such a \\n for the end of a line that was ended already, and drops it even
    within quotes; `Quotes` looks at what follows a quote.
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
    said = ("straddles two block boundaries", "Empty CSV file or block")
    return any(words in str(error) for words in said)


class Tsv(Csv):
    """Tab-separated values."""

    suffixes = (".tsv", ".tsv.gz", ".tab")
    delimiter = "\t"
