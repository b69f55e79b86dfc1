"""Finds rows of CSV files by line: for messages, since Arrow does not know lines."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from clftask.data.readers.text_encoding import BOM, MAX_ROW_BYTES, TextFile
from clftask.errors import Problem
from clftask.messages import counted


def numbered_rows(text: TextFile, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line and cells of each row, the header first; blank lines are skipped.

    It ends where the parser fails: at a quote that is not closed.
    """
    csv.field_size_limit(MAX_ROW_BYTES)
    with text.open() as stream, contextlib.suppress(csv.Error):
        lines = io.TextIOWrapper(stream, "utf-8", errors="replace", newline="")
        reader, line = csv.reader(lines, delimiter=delimiter), 1
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1


def ragged_row(text: TextFile, delimiter: str, reason: str) -> Problem:
    """Return the problem for the first row whose number of cells is not that of the header.

    Args:
        text: The file.
        delimiter: Its delimiter.
        reason: Arrow's message.
    """
    rows = numbered_rows(text, delimiter)
    wanted = len(next(rows)[1])
    found = ((line, len(cells)) for line, cells in rows if len(cells) != wanted)
    line, number = next(found, (0, 0))
    shown = " ".join(re.sub(r"^CSV parse error: ", "", reason).split())[:300]
    where = f"line {line} has {counted(number, 'cell')}, the header has {wanted}: " if line else ""
    cell = "a tab" if delimiter == "\t" else "a comma"
    remedy = f"Enclose cells that contain {cell} or a line break in quotes, or fix the separator."
    return Problem(text.path, None, f"cannot be read: {where}{shown}", remedy)


class RepeatedHeaders:
    """Finds rows that repeat the header in all columns, as in files that were joined.

    Args:
        text: The file.
        delimiter: Its delimiter.
        header: Its column names. A file with one column may contain its name as a text.
    """

    def __init__(self, text: TextFile, delimiter: str, header: Sequence[str]) -> None:
        self._text, self._delimiter, self._header = text, delimiter, list(header)

    def reasons(self, batch: pa.RecordBatch, start: int) -> pa.Array:
        """Return (rows,) string: why a row is bad, else null.

        Args:
            batch: Some of the columns, as bytes.
            start: The number of the batch's first row in the file.
        """
        reasons: list[str | None] = [None] * batch.num_rows
        for row in self._candidates(batch):
            if start + row in self._lines:
                line = self._lines[start + row]
                reasons[row] = f"line {line} repeats the header, as in files that were joined"
        return pa.array(reasons, pa.string())

    def _candidates(self, batch: pa.RecordBatch) -> list[int]:
        if len(self._header) < 2 or not batch.num_columns:
            return []
        # Files that were joined may each begin with a byte order mark.
        names = {
            name: pa.array([name.encode(), BOM + name.encode()]) for name in batch.schema.names
        }
        same = [pc.is_in(batch.column(name), spellings) for name, spellings in names.items()]
        found: list[int] = pc.indices_nonzero(functools.reduce(pc.and_, same)).to_pylist()
        return found

    @functools.cached_property
    def _lines(self) -> dict[int, int]:
        """The line of each repeated header, by its row number."""
        rows = numbered_rows(self._text, self._delimiter)
        next(rows)
        plain = ((line, [cells[0].removeprefix("\ufeff"), *cells[1:]]) for line, cells in rows)
        return {row: line for row, (line, cells) in enumerate(plain) if cells == self._header}
