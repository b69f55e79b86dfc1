"""Rows of CSV files with their lines, parsed strictly: quotes as in RFC 4180."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator

from clftask.data.readers.text_encoding import TextFile
from clftask.errors import DataError, Problem

# The rest of a quoted cell, with doubled quotes, up to the closing quote.
_CLOSING = re.compile(r'[^"]*+(?:""[^"]*+)*+"')
_SHOWN = 40  # characters
_FIX_QUOTES = (
    "Double the quotes within a text and enclose it in quotes, or write Parquet or JSON lines."
)


def numbered_rows(
    text: TextFile, delimiter: str, max_chars: int
) -> Iterator[tuple[int, list[str]]]:
    """Yield line and cells of each row, the header first; blank lines are skipped.

    Bytes that are not UTF-8 are lone surrogates in the cells.

    Raises:
        DataError: A quote is not closed or closes within a cell, or a row is too long.
    """
    csv.field_size_limit(max_chars)
    with text.open() as stream:
        file = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="")
        of_row: list[str] = []
        reader = csv.reader(_lines(file, of_row, max_chars), delimiter=delimiter, strict=True)
        line = 1
        try:
            for cells in reader:
                if cells:
                    yield line, cells
                line = reader.line_num + 1
                of_row.clear()
        except csv.Error:
            at_fault = itertools.chain(of_row, file)
            raise DataError(_problem(text.path, at_fault, line, delimiter, max_chars)) from None


def _lines(file: io.TextIOWrapper, of_row: list[str], max_chars: int) -> Iterator[str]:
    """Yield the lines of a file, and append them to `of_row`, which the caller clears."""
    while line := file.readline(max_chars):
        of_row.append(line)
        if len(line) == max_chars:
            raise csv.Error("the line is too long")
        yield line


def _problem(
    file: str, lines: Iterable[str], first: int, delimiter: str, max_chars: int
) -> Problem:
    """Return what is wrong with a row that the parser refuses: its quotes, or its length.

    Args:
        file: The file.
        lines: The lines of the row, and those that follow.
        first: The number of the first one.
        delimiter: The delimiter of cells.
        max_chars: The longest row.
    """
    quote = _faulty_quote(lines, first, delimiter)
    if quote is None:
        allowed = f"has a row longer than {max_chars >> 20} MB"
        return Problem(file, None, allowed, "Shorten it, or write Parquet.")
    line, shown, allowed = quote
    return Problem(f"{file}, line {line}", shown, allowed, _FIX_QUOTES)


def _faulty_quote(lines: Iterable[str], first: int, delimiter: str) -> tuple[int, str, str] | None:
    """Return the line and the text of a quote that does not close, and why; None if all do.

    The csv module does not tell where the quote opens.
    """
    edge = rf"[\r\n{delimiter}]"
    # Characters other than quotes, quoted cells, and quotes within a cell.
    sound = re.compile(rf'(?:[^"]++|(?<={edge})"[^"]*+(?:""[^"]*+)*+"(?={edge}|\Z)|(?<!{edge})")*+')
    opened, shown = 0, ""
    for number, line in enumerate(lines, first):
        data, at = f"\n{line}", 1
        while True:
            if not opened:
                at = sound.match(data, at).end()  # type: ignore[union-attr]  # it may be empty
                if at == len(data):
                    return None  # the end of the row
                opened, shown, at = number, data[at:][:_SHOWN].splitlines()[0], at + 1
            closing = _CLOSING.match(data, at)
            if closing is None:
                break
            at, opened_at, opened = closing.end(), opened, 0
            if not re.match(rf"{edge}|\Z", data[at:][:1]):
                allowed = f"opens a quote that closes within a cell of line {number}"
                return opened_at, shown, allowed
    return opened, shown, "opens a quote that is never closed"
