"""The base class of all readers: whole tables for training, row batches for scoring."""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from clftask.data.readers.cells import BAD, common_type, conform, pick
from clftask.data.readers.class_labels import named, named_schema
from clftask.errors import ClftaskError, DataError, Problem
from clftask.io import storage
from clftask.messages import did_you_mean

FILE, ROW = "_file", "_row"


@dataclass(frozen=True)
class Survey:
    """Row count and column types of a file.

    Attributes:
        num_rows: Rows of the file, including bad rows.
        schema: The requested columns, in the requested order, with their types in this file.
    """

    num_rows: int
    schema: pa.Schema


class Source(ABC):
    """Files of one format that form one table.

    Attributes:
        files: The files.
        left_out: Files of unknown format in the same place, which are skipped.
        without_labels: Columns that have their values instead of their value labels.
        has_types: Whether the format stores types. If not, columns whose inferred types differ
            between files become strings.
        has_empty_text: Whether an empty text and a missing one differ.
        seeks: Whether reading can start at any row. If not, the rows before `start` are read.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    has_types: ClassVar[bool] = True
    has_empty_text: ClassVar[bool] = True
    seeks: ClassVar[bool] = True

    def __init__(self, files: Sequence[str], left_out: Sequence[str] = ()) -> None:
        self.files, self.left_out = list(files), list(left_out)
        self.without_labels: frozenset[str] = frozenset()

    def names(self) -> list[str]:
        """Return the column names of the first file with columns."""
        for file in self.files:
            with readable(file):
                if names := self.file_names(file):
                    return names
        return empty(self.files[0])

    def label_names(self, file: str | None = None) -> list[str] | None:
        """Return the labels that a file names, as a score table does; None if none.

        Args:
            file: One of the files; by default the first one.
        """
        return None

    def missing(self, named: Iterable[tuple[str, str]], available: list[str]) -> list[Problem]:
        """Return a problem for each column that the source lacks.

        Args:
            named: Fields of the job file, each with the column that it names.
            available: The result of `names`.
        """
        allowed = f"must be a column of {self.files[0]}: {', '.join(available[:40])}"
        missing = [(field, column) for field, column in named if column not in available]
        if not missing:
            return []
        advice = self.advice(available)
        problems = []
        for field, column in missing:
            close = did_you_mean(column, available)
            # A single name is close to a column that it contains with the separator.
            remedy = advice or close if len(available) == 1 else close or advice
            problems.append(Problem(field, column, allowed, remedy))
        return problems

    def restart(self, file: str, row: int) -> int:
        """Return where reading starts to reach `row` of a file that is being streamed."""
        return row if self.seeks else 0

    def unlabelled(self, columns: Iterable[str]) -> Source:
        """Return the source with the values of `columns` instead of their value labels."""
        found = copy.copy(self)
        found.without_labels = frozenset(columns)
        return found

    def advice(self, available: list[str]) -> str:
        """Return what may be wrong with a file whose columns are not the expected ones."""
        return ""

    def read(
        self, columns: Iterable[str], strings: Iterable[str] = (), codes: Iterable[str] = ()
    ) -> pa.Table:
        """Read columns of all files, with the origin of each row.

        Args:
            columns: The columns to read.
            strings: Columns to read as strings even if they look like numbers.
            codes: Columns of codes. If the format stores no types, they are strings that
                contain what is written, and empty cells are null.

        Returns:
            The columns, `_file` (the path) and `_row` (0-based, int64).

        Raises:
            DataError: A file is damaged, lacks a column or contains a bad row.
        """
        wanted, as_text = list(dict.fromkeys(columns)), set(strings)
        surveyed = as_text if self.has_types else wanted
        schemas = [(file, self.survey(file, wanted, surveyed).schema) for file in self.files]
        schema = unified(schemas, self.has_types, "Write it with one type in all files.")
        table = pa.concat_tables([self._read_one(file, schema) for file in self.files])
        if not table.num_rows:
            empty(self.files[0])
        return table if self.has_types else self.infer_types(table, as_text, {*codes, FILE, ROW})

    def _read_one(self, file: str, schema: pa.Schema) -> pa.Table:
        batches = list(self.batches(file, schema))
        table = pa.Table.from_batches(batches, schema.append(pa.field(BAD, pa.string())))
        self._refuse_bad(file, table[BAD])
        with readable(file):
            table.validate(full=True)  # `conform` does not check strings within lists
        return with_origin(table.drop_columns([BAD]), file, 0)

    def _refuse_bad(self, file: str, reasons: pa.ChunkedArray) -> None:
        row = pc.index(reasons.is_valid(), True).as_py()
        if row >= 0:
            advice = self.advice(self.names()) if len(reasons) == 1 else ""
            remedy = advice or "Fix or remove it."
            raise DataError(Problem(f"{file}, row {row}", None, reasons[row].as_py(), remedy))

    def infer_types(self, table: pa.Table, strings: set[str], codes: set[str]) -> pa.Table:
        """Infer the types of all columns except `strings` and `codes` from all rows."""
        return table

    def survey(self, file: str, columns: Iterable[str], strings: Iterable[str] = ()) -> Survey:
        """Count a file's rows and determine its types, in constant memory.

        Args:
            file: One of `files`.
            columns: The columns to read.
            strings: Text and id columns; they get type string if they contain bytes, or if
                the format stores no types.

        Raises:
            DataError: The file is damaged, lacks a column, or mixes types within a column.
        """
        wanted = list(dict.fromkeys(columns))
        with readable(file):
            found = self.survey_file(file, wanted, set(strings))
            if found.num_rows < 0:
                raise ValueError("its row count is negative")
            return found

    def batches(
        self,
        file: str,
        schema: pa.Schema,
        start: int = 0,
        num_rows: int = 8192,
        texts: Collection[str] = (),
    ) -> Iterator[pa.RecordBatch]:
        """Stream a file's rows in order, in constant memory.

        Args:
            file: One of `files`.
            schema: Columns and types to return: the unified schemas of the surveys.
            start: The first row, 0-based.
            num_rows: Maximum rows per batch.
            texts: Text columns; a number in one of them makes the row bad.

        Yields:
            The columns, and `_bad` (string): the reason why a row is unusable, else null.
            The offending cell of a bad row is null.

        Raises:
            DataError: The file is damaged.
        """
        with readable(file):
            for batch in self.stream_file(file, schema, start, num_rows, frozenset(texts)):
                plain = named(batch, self.without_labels)
                for first in range(0, batch.num_rows, num_rows):
                    yield conform(plain.slice(first, num_rows), schema)

    def pick(
        self, file: str, stored: pa.Schema, columns: list[str], strings: set[str]
    ) -> pa.Schema:
        """Return the columns of a file's schema, with plain types.

        Raises:
            DataError: A column is missing, or occurs several times.
        """
        return pick(file, named_schema(stored, self.without_labels), columns, strings)

    def version(self, file: str) -> str:
        """Return a version of a file that changes with its content.

        Raises:
            StorageError: The file does not exist.
        """
        return storage.version(file)

    @abstractmethod
    def file_names(self, file: str) -> list[str]:
        """Return the column names of one file."""

    @abstractmethod
    def survey_file(self, file: str, columns: list[str], strings: set[str]) -> Survey:
        """Count rows and determine types; raise `KeyError` with the name of a missing column."""

    @abstractmethod
    def stream_file(
        self, file: str, schema: pa.Schema, start: int, num_rows: int, texts: frozenset[str]
    ) -> Iterator[pa.RecordBatch]:
        """Stream rows from `start` on, with at least the columns of `schema`.

        Batches may have any size and types: `batches` slices and casts them. A last column
        `_bad` may contain the reasons for rows that cannot be parsed.
        """


def unified(
    surveyed: Sequence[tuple[str, pa.Schema]], has_types: bool, remedy: str = ""
) -> pa.Schema:
    """Return the common schema of files.

    Args:
        surveyed: Each file with its schema.
        has_types: Whether the format stores types. If not, columns whose inferred types differ
            become strings, so that they keep what is written.
        remedy: What to do if the types have nothing in common.

    Raises:
        DataError: The types of a column have nothing in common; names the file.
    """
    first, schema = surveyed[0]
    kinds = {field.name: field.type for field in schema}
    for file, other in surveyed[1:]:
        for field in other:
            known = kinds[field.name]
            is_typed = has_types or pa.types.is_null(known) or pa.types.is_null(field.type)
            try:
                common = common_type(known, field.type) if is_typed else pa.string()
            except pa.ArrowException:
                found = f"{known} and {field.type}"
                allowed = f"column {field.name} has another type than in {first}"
                raise DataError(Problem(file, found, allowed, remedy)) from None
            kinds[field.name] = known if known == field.type else common
    return pa.schema(kinds)


def with_origin(table: pa.Table, file: str, start: int) -> pa.Table:
    """Append `_file` and `_row` to consecutive rows of a file, starting with row `start`."""
    rows = pa.array(range(start, start + table.num_rows), pa.int64())
    files = pa.nulls(table.num_rows, pa.string()).fill_null(file)
    return table.append_column(FILE, files).append_column(ROW, rows)


def from_row(batches: Iterable[pa.RecordBatch], start: int) -> Iterator[pa.RecordBatch]:
    """Skip the first `start` rows."""
    for batch in batches:
        if start < batch.num_rows:
            yield batch.slice(start)
        start = max(0, start - batch.num_rows)


@contextmanager
def readable(file: str) -> Iterator[None]:
    """Translate errors of Arrow and the file system into a `DataError` that names the file."""
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
        raise DataError(Problem(file, None, f"cannot be read: {reason}")) from None


def empty(file: str) -> NoReturn:
    """Raise the error for a file without rows."""
    raise DataError(Problem(file, 0, "contains no rows", "Check the path and the export."))
