"""Readers of Parquet, Feather and the Arrow IPC formats."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, ClassVar

import pyarrow as pa

from clftask.components.score_table import LABEL_NAMES
from clftask.data.readers.base import Source, Survey, from_row, readable
from clftask.data.readers.cells import sound
from clftask.io import filesystems


class Parquet(Source):
    """Parquet files; reads only the wanted columns."""

    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".pq")
    buffer_size = 1 << 20

    def __init__(self, files: Sequence[str], left_out: Sequence[str] = ()) -> None:
        super().__init__(files, left_out)
        self.group_starts: dict[str, list[int]] = {}  # of the files that are streamed

    def file_names(self, file: str) -> list[str]:
        """Return the column names from the footer."""
        from pyarrow import parquet

        fs, inner = filesystems.filesystem(file)
        return list(parquet.read_schema(inner, filesystem=fs).names)

    def label_names(self, file: str | None = None) -> list[str] | None:
        """Return the labels from the footer of a score table's part."""
        from pyarrow import parquet

        file = file or self.files[0]
        fs, inner = filesystems.filesystem(file)
        with readable(file):
            found = parquet.read_schema(inner, filesystem=fs).metadata or {}
            names = found.get(LABEL_NAMES.encode())
            return None if names is None else [str(name) for name in json.loads(names)]

    def survey_file(self, file: str, columns: list[str], strings: set[str]) -> Survey:
        """Return row count and types from the footer."""
        with self._opened(file) as opened:
            schema = self.pick(file, opened.schema_arrow, columns, strings)
            return Survey(opened.metadata.num_rows, schema)

    def stream_file(
        self, file: str, schema: pa.Schema, start: int, num_rows: int, texts: frozenset[str]
    ) -> Iterator[pa.RecordBatch]:
        """Read page by page, starting with the row group of row `start`."""
        with self._opened(file) as opened:
            starts = self.group_starts[file] = _group_starts(opened)
            first = bisect_right(starts, start) - 1
            rows = opened.iter_batches(
                num_rows,
                row_groups=list(range(first, opened.num_row_groups)),
                columns=schema.names,
                use_threads=False,
            )
            yield from from_row(rows, start - starts[first])

    def restart(self, file: str, row: int) -> int:
        """Return the first row of the row group: pyarrow does not use the index of its pages."""
        starts = self.group_starts[file]
        return starts[bisect_right(starts, row) - 1]

    @contextmanager
    def _opened(self, file: str) -> Iterator[Any]:
        """Open a file without pyarrow's pre-buffering, which loads whole row groups."""
        from pyarrow import parquet

        fs, inner = filesystems.filesystem(file)
        with (
            fs.open_input_file(inner) as handle,
            parquet.ParquetFile(handle, pre_buffer=False, buffer_size=self.buffer_size) as opened,
        ):
            yield opened


def _group_starts(opened: Any) -> list[int]:
    """Return the first row of each row group, then the number of rows."""
    sizes = (opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups))
    return [0, *accumulate(sizes)]


class Arrow(Source):
    """Feather files and Arrow IPC files in the file or stream format."""

    suffixes = (".feather", ".arrow", ".ipc")

    def file_names(self, file: str) -> list[str]:
        """Return the column names from the schema."""
        with _mapped(file) as handle:
            return list(_reader(handle).schema.names)

    def survey_file(self, file: str, columns: list[str], strings: set[str]) -> Survey:
        """Count the rows of the record batches; the stream format requires reading them."""
        with _mapped(file) as handle:
            reader = _reader(handle)
            schema = self.pick(file, reader.schema, columns, strings)
            if _is_file_format(reader):
                return Survey(sum(_sizes(handle, reader)), schema)
            return Survey(sum(batch.num_rows for batch in reader), schema)

    def stream_file(
        self, file: str, schema: pa.Schema, start: int, num_rows: int, texts: frozenset[str]
    ) -> Iterator[pa.RecordBatch]:
        """Read batch by batch; the file format allows skipping the batches before `start`."""
        with _mapped(file) as handle:
            reader = _reader(handle)
            if not _is_file_format(reader):
                yield from from_row(map(sound, (b.select(schema.names) for b in reader)), start)
                return
            chosen = _with_columns(handle, [reader.schema.get_field_index(n) for n in schema.names])
            for index, size in enumerate(_sizes(handle, reader)):
                if start < size:
                    yield sound(chosen.get_batch(index)).slice(start)
                start = max(0, start - size)


def _mapped(file: str) -> pa.NativeFile:
    """Open a file; a local one is memory-mapped, so only the used parts are read."""
    fs, inner = filesystems.filesystem(file)
    return fs.open_input_file(inner) if filesystems.is_url(file) else pa.memory_map(inner)


def _reader(handle: pa.NativeFile) -> Any:
    """Open a file in the format that its first bytes indicate."""
    from pyarrow import feather, ipc

    magic = bytes(handle.read_at(6, 0))
    if magic == b"ARROW1":
        return ipc.open_file(handle)
    if magic.startswith(b"FEA1"):
        return feather.read_table(handle).to_reader()
    return ipc.open_stream(handle)


def _is_file_format(reader: Any) -> bool:
    from pyarrow import ipc

    return isinstance(reader, ipc.RecordBatchFileReader)


def _sizes(handle: pa.NativeFile, reader: Any) -> Iterator[int]:
    """Return the number of rows of each record batch; reads only the narrowest column."""
    kinds = [field.type for field in reader.schema]  # Arrow allows duplicate column names
    narrow = _with_columns(handle, [min(range(len(kinds)), key=lambda i: _width(kinds[i]))])
    return (narrow.get_batch(index).num_rows for index in range(reader.num_record_batches))


def _width(kind: pa.DataType) -> float:
    return kind.bit_width if pa.types.is_primitive(kind) else math.inf


def _with_columns(handle: pa.NativeFile, fields: list[int]) -> Any:
    from pyarrow import ipc

    options = ipc.IpcReadOptions(included_fields=fields, use_threads=False)
    return ipc.open_file(handle, options=options)
