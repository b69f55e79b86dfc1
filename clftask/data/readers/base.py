"""What every format does: whole tables for training, batches of rows for scoring."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from clftask.data.readers.cells import BAD, conform
from clftask.errors import ClftaskError, DataError, Problem
from clftask.io import filesystems, storage

FILE, ROW = "_file", "_row"

__all__ = ["BAD", "FILE", "ROW", "Source", "Survey", "empty", "from_row", "readable", "with_origin"]


@dataclass(frozen=True)
class Survey:
    """What a file holds.

    Attributes:
        num_rows: Rows of the file, bad ones included.
        schema: The wanted columns, in the order asked for, with their types in this file.
    """

    num_rows: int
    schema: pa.Schema


class Source(ABC):
    """Files of one format that together are one table.

    Attributes:
        files: The files.
        left_out: Files that lie among them and are of no known format.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    has_types: ClassVar[bool] = True  # or are columns of several files strings where they differ
    seeks: ClassVar[bool] = True  # or are the rows before `start` read, too

    def __init__(self, files: Sequence[str], left_out: Sequence[str] = ()) -> None:
        self.files, self.left_out = list(files), list(left_out)

    def names(self) -> list[str]:
        """Return the names of the columns of the first file that has any."""
        for file in self.files:
            with readable(file):
                if names := self.file_names(file):
                    return names
        return empty(self.files[0])

    def read(self, columns: Iterable[str], strings: Iterable[str] = ()) -> pa.Table:
        """Read columns of all files: what `batches` yields, with the origin of each row.

        Args:
            columns: What to read.
            strings: Those to be read as strings even where they look like numbers.

        Returns:
            The columns, `_file` (the path) and `_row` (0-based, int64).

        Raises:
            DataError: A file is damaged, lacks a column or contains a bad row.
        """
        wanted, as_text = list(dict.fromkeys(columns)), set(strings)
        tables = [self._read_one(file, wanted, as_text) for file in self.files]
        for file, table in zip(self.files, tables, strict=True):
            with readable(file):
                schemas = [tables[0].schema, table.schema]
                pa.unify_schemas(schemas, promote_options="permissive")
        table = pa.concat_tables(tables, promote_options="permissive")
        return table if table.num_rows else empty(self.files[0])

    def _read_one(self, file: str, columns: list[str], strings: set[str]) -> pa.Table:
        schema = self.survey(file, columns, strings if self.has_types else columns).schema
        batches = list(self.batches(file, schema))
        table = pa.Table.from_batches(batches, schema.append(pa.field(BAD, pa.string())))
        _refuse_bad(file, table[BAD])
        with readable(file):
            table.validate(full=True)  # strings within lists are not checked before
            typed = self.infer_types(table.drop_columns([BAD]), strings)
        return with_origin(typed, file, 0)

    def infer_types(self, table: pa.Table, strings: set[str]) -> pa.Table:
        """Infer types where the format has none; all columns but `strings`."""
        return table

    def survey(self, file: str, columns: Iterable[str], strings: Iterable[str] = ()) -> Survey:
        """Count a file's rows and learn its types, in memory that does not grow with the file.

        Args:
            file: One of `files`.
            columns: What will be read.
            strings: Those that are text or ids; of type string where they are bytes, or
                where the format has no types of its own.

        Raises:
            DataError: The file is damaged, lacks a column, or mixes types within one.
        """
        wanted = list(dict.fromkeys(columns))
        with readable(file):
            found = self.survey_file(file, wanted, set(strings))
            if found.num_rows < 0:
                raise ValueError("it says that it holds less than no row")
            return found

    def batches(
        self,
        file: str,
        schema: pa.Schema,
        start: int = 0,
        num_rows: int = 8192,
        texts: Collection[str] = (),
    ) -> Iterator[pa.RecordBatch]:
        """Stream a file's rows in order, in memory that does not grow with the file.

        Args:
            file: One of `files`.
            schema: Columns and types to return; the surveys' schemas, unified.
            start: The first row, counted from 0.
            num_rows: Rows of a batch, at most.
            texts: Columns in which a number is no text but makes its row bad.

        Yields:
            The columns, and `_bad` (string): why a row cannot be used, null where it can.
            A bad row has null in the cell that is to blame.

        Raises:
            DataError: The file is damaged.
        """
        with readable(file):
            for batch in self.stream_file(file, schema, start, num_rows, frozenset(texts)):
                for first in range(0, batch.num_rows, num_rows):
                    yield conform(batch.slice(first, num_rows), schema)

    def version(self, file: str) -> str:
        """Return what changes whenever one of `files` does.

        Raises:
            StorageError: There is no such file.
        """
        return storage.version(file)

    @abstractmethod
    def file_names(self, file: str) -> list[str]:
        """Return the column names of one file."""

    @abstractmethod
    def survey_file(self, file: str, columns: list[str], strings: set[str]) -> Survey:
        """Count rows and learn types; a `KeyError` names a column that is not there."""

    @abstractmethod
    def stream_file(
        self, file: str, schema: pa.Schema, start: int, num_rows: int, texts: frozenset[str]
    ) -> Iterator[pa.RecordBatch]:
        """Stream rows from `start` on, with at least the columns of `schema`.

        Batches may be of any size and types: `batches` cuts and casts them. A last column
        `_bad` may say which rows the format itself had to give up.
        """


def with_origin(table: pa.Table, file: str, start: int) -> pa.Table:
    """Append `_file` and `_row` to consecutive rows of a file, the first of which is `start`."""
    rows = pa.array(range(start, start + table.num_rows), pa.int64())
    files = pa.nulls(table.num_rows, pa.string()).fill_null(file)
    return table.append_column(FILE, files).append_column(ROW, rows)


def _refuse_bad(file: str, reasons: pa.ChunkedArray) -> None:
    row = pc.index(reasons.is_valid(), True).as_py()
    if row >= 0:
        problem = Problem(f"{file}, row {row}", None, reasons[row].as_py(), "Fix or remove it.")
        raise DataError(problem)


def from_row(batches: Iterable[pa.RecordBatch], start: int) -> Iterator[pa.RecordBatch]:
    """Leave out the first `start` rows."""
    for batch in batches:
        if start < batch.num_rows:
            yield batch.slice(start)
        start = max(0, start - batch.num_rows)


@contextmanager
def readable(file: str) -> Iterator[None]:
    """Turn what Arrow and the disk say of a file into an error that names the file."""
    try:
        yield
    except ClftaskError:
        raise
    except KeyError as error:
        quoted = re.search(r"'.*'", str(error))
        allowed = f"lacks the column {quoted[0] if quoted else error}"
        raise DataError(Problem(file, None, allowed)) from None
    except (pa.ArrowException, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        if "AWS Error" in reason:  # not the file's fault
            with filesystems.translate_storage_errors(file):
                raise
        raise DataError(Problem(file, None, f"cannot be read: {reason}")) from None


def empty(file: str) -> NoReturn:
    """Refuse a file that holds no row."""
    raise DataError(Problem(file, 0, "holds no row", "Check the path and the export."))
