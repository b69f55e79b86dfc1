"""Readers of formats that are read as a whole: Excel, and the statistics packages.

They need the extra `files`.
"""

from __future__ import annotations

import functools
import io
import math
import pickle
import re
import subprocess
import sys
import tempfile
from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from clftask.data.readers.base import Source, Survey
from clftask.errors import DataError, Problem
from clftask.io import filesystems, storage


class WholeFile(Source):
    """Base class: a file is loaded once per process, and its rows are sliced."""

    has_empty_text = False

    def file_names(self, file: str) -> list[str]:
        """Return the column names."""
        return list(self._table(file).column_names)

    def survey_file(self, file: str, columns: list[str], strings: set[str]) -> Survey:
        """Return row count and types of the loaded file."""
        table = self._table(file)
        return Survey(table.num_rows, self.pick(file, table.schema, columns, strings))

    def stream_file(
        self, file: str, schema: pa.Schema, start: int, num_rows: int, texts: frozenset[str]
    ) -> Iterator[pa.RecordBatch]:
        """Slice the loaded file."""
        rows = self._table(file).slice(start).select(schema.names)
        yield from rows.combine_chunks().to_batches(max_chunksize=num_rows)

    def _table(self, file: str) -> pa.Table:
        return _load(type(self), file, self.version(file), self.without_labels)

    @classmethod
    @abstractmethod
    def load(cls, file: str, without_labels: Collection[str]) -> pa.Table:
        """Read a whole file."""


@functools.lru_cache(maxsize=2)
def _load(
    kind: type[WholeFile], file: str, version: str, without_labels: frozenset[str]
) -> pa.Table:
    """Load a file once per version: it is opened for each range of rows."""
    try:
        return kind.load(file, without_labels)
    except ModuleNotFoundError as error:
        allowed, remedy = f"requires the package {error.name}", "pip install 'clftask[files]'"
        raise DataError(Problem(file, None, allowed, remedy)) from None


# ------------------------------------------------------------------ Excel

_EXCEL = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
_SHEET = re.compile(rf"(?i)(.+(?:{'|'.join(map(re.escape, _EXCEL))}))(#[^/]+)")


def split_sheet(path: str) -> tuple[str, str]:
    """Split `book.xlsx#sheet` into the path and `#sheet`, which is empty for the first sheet."""
    found = _SHEET.fullmatch(path)
    return (found[1], found[2]) if found else (path, "")


class Excel(WholeFile):
    """The first sheet of an Excel or OpenDocument file, or the sheet of `book.xlsx#sheet`.

    The first row with a value is the header. Rows without any value are skipped.
    """

    suffixes: ClassVar[tuple[str, ...]] = _EXCEL

    def version(self, file: str) -> str:
        """Return the version of the file, without the sheet."""
        return super().version(split_sheet(file)[0])

    def advice(self, available: list[str]) -> str:
        """Name the other sheets."""
        sheets = _workbook(self.files[0]).sheet_names
        if len(sheets) < 2:
            return "The header must be the first row."
        path, _ = split_sheet(self.files[0])
        return f"Sheets: {', '.join(sheets)}. Select one with {path}#{sheets[1]}."

    @classmethod
    def load(cls, file: str, without_labels: Collection[str]) -> pa.Table:
        """Read one sheet; text stays text, and whole numbers are integers."""
        rows = _read_sheet(file)
        filled = [row for row in rows if any(cell != "" for cell in row)]
        if not filled:
            return pa.table({})
        header, *body = filled
        cells = [[row[place] for row in body] for place in range(len(header))]
        used = [place for place, name in enumerate(header) if name != "" or any(
            cell != "" for cell in cells[place])]  # fmt: skip
        names = ["" if header[place] == "" else _written(header[place]) for place in used]
        return pa.Table.from_arrays([column_of(cells[place]) for place in used], names)


def _read_sheet(file: str) -> list[list[Any]]:
    book, sheet = _workbook(file), split_sheet(file)[1].removeprefix("#")
    if sheet and sheet not in book.sheet_names:
        allowed = f"has no such sheet: {', '.join(book.sheet_names)}"
        raise DataError(Problem(file, sheet, allowed, "Check the name after #."))
    with _readable(file):
        rows: list[list[Any]] = book.get_sheet_by_name(sheet or book.sheet_names[0]).to_python()
        return rows


def _workbook(file: str) -> Any:
    import python_calamine

    data = storage.read_bytes(split_sheet(file)[0])
    with _readable(file):
        return python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(data))


@contextmanager
def _readable(file: str) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of calamine, for a damaged file, is no Exception
        reason = " ".join(str(error).split())[:300]
        remedy = "Open it in a spreadsheet program and save it as .xlsx, or as .csv."
        raise DataError(Problem(file, None, f"cannot be read: {reason}", remedy)) from None


# ------------------------------------------------------------------ statistics packages


class _Statistics(WholeFile):
    """A file that pyreadstat reads; labels replace the values that have them.

    Attributes:
        readers: The function of pyreadstat for each suffix.
    """

    readers: ClassVar[dict[str, str]]

    @classmethod
    def load(cls, file: str, without_labels: Collection[str]) -> pa.Table:
        """Read the file; user-defined missing values are null."""
        with tempfile.TemporaryDirectory() as folder:
            reader = cls.readers[Path(file).suffix.lower()]
            columns, labels = _read(reader, file, _local(file, folder), Path(folder, "rows.pickle"))
        labels = {name: found for name, found in labels.items() if name not in without_labels}
        cells = {name: [labels.get(name, {}).get(cell, cell) for cell in column]
                 for name, column in columns.items()}  # fmt: skip
        return pa.table({name: column_of(column) for name, column in cells.items()})


_READ = """
import pickle, sys
import pyreadstat
_, reader, path, out = sys.argv
columns, about = getattr(pyreadstat, reader)(path, output_format="dict")
with open(out, "wb") as file:
    pickle.dump((columns, about.variable_value_labels), file)
"""


def _read(
    reader: str, file: str, path: str, out: Path
) -> tuple[dict[str, list[Any]], dict[str, dict[Any, str]]]:
    """Read columns and value labels in a process of its own: ReadStat crashes on damaged files."""
    import pyreadstat  # noqa: F401  # the error for a missing extra

    command = [sys.executable, "-c", _READ, reader, path, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        # The last line of a traceback: the class of the error, and its message.
        reason = done.stderr.strip().rpartition("\n")[2].partition(": ")[2][:300]
        crash = "it is damaged, and crashes the library pyreadstat"
        allowed = f"cannot be read: {crash if done.returncode < 0 else reason}"
        raise DataError(Problem(file, None, allowed))
    found: tuple[dict[str, list[Any]], dict[str, dict[Any, str]]]
    found = pickle.loads(out.read_bytes())  # noqa: S301  # our own process wrote it
    return found


def _local(file: str, folder: str) -> str:
    """Return a local path of a file; pyreadstat opens nothing else."""
    if not filesystems.is_url(file):
        return file
    path = Path(folder, Path(file).name)
    path.write_bytes(storage.read_bytes(file))
    return str(path)


class Stata(_Statistics):
    """Stata files of any version."""

    readers: ClassVar[dict[str, str]] = {".dta": "read_dta"}
    suffixes: ClassVar[tuple[str, ...]] = tuple(readers)


class Spss(_Statistics):
    """SPSS files, also compressed and portable ones."""

    readers = {".sav": "read_sav", ".zsav": "read_sav", ".por": "read_por"}
    suffixes = tuple(readers)


class Sas(_Statistics):
    """SAS files, and SAS transport files."""

    readers = {".sas7bdat": "read_sas7bdat", ".xpt": "read_xport"}
    suffixes = tuple(readers)


# ------------------------------------------------------------------ cells


def column_of(cells: Sequence[Any]) -> pa.Array:
    """Return cells as an array: empty ones are null, whole numbers are integers.

    Cells of several types become strings.
    """
    values = [None if _is_empty(cell) else cell for cell in cells]
    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {int, float} and all(_is_whole(v) for v in values):
        return pa.array([None if value is None else int(value) for value in values], pa.int64())
    if kinds <= {int, float}:
        return pa.array(values, pa.float64() if kinds else pa.null())
    if len(kinds) == 1:
        return pa.array(values)
    return pa.array([None if value is None else _written(value) for value in values], pa.string())


def _is_empty(cell: Any) -> bool:
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


def _is_whole(value: float | None) -> bool:
    """Tell whether a number is an integer that a double represents exactly, or null."""
    return value is None or (abs(value) <= 2**53 and value == int(value))


def _written(cell: Any) -> str:
    """Return a cell as text: bools in lower case, as Arrow writes them."""
    if isinstance(cell, bool):
        return str(cell).lower()
    return str(int(cell)) if isinstance(cell, float) and _is_whole(cell) else str(cell)
