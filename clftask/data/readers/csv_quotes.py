"""Check of quotes in CSV according to RFC 4180."""

from __future__ import annotations

import re
from typing import NoReturn

from clftask.errors import DataError, Problem

# The rest of a quoted cell, with doubled quotes, up to the closing quote.
_CLOSING = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')
_SHOWN_BYTES = 40


class Quotes:
    """Checks the quotes of a file block by block.

    A quote must open at the beginning of a cell and close at its end. pyarrow.csv does not
    check this: for a text that begins with a single quote, it reads all rows up to the next
    quote as one cell.

    Args:
        file: The file's path, for messages.
        delimiter: The delimiter of cells.
    """

    def __init__(self, file: str, delimiter: str) -> None:
        edge = b"[\r\n%s]" % delimiter.encode()
        self._ends = re.compile(rb"%s|\Z" % edge)
        # Valid content: bytes other than quotes, quoted cells, and quotes within a cell.
        self._sound = re.compile(
            rb'(?:[^"]++|(?<=%s)"[^"]*+(?:""[^"]*+)*+"(?=%s|\Z)|(?<!%s)")*+' % (edge, edge, edge)
        )
        self._file, self._before, self._num_lines = file, b"\n", 0
        self._opened, self._shown = 0, b""  # line of the open quote, and the start of its cell

    def follow(self, block: bytes) -> None:
        """Check the next block; only the last block of a file may end with a quote.

        Raises:
            DataError: A quote closes within a cell; names the line of the opening quote.
        """
        data, at = self._before + block, 1
        self._shown += block[: _SHOWN_BYTES - len(self._shown)]
        while at < len(data):
            if not self._opened:
                found = self._sound.match(data, at)
                assert found is not None
                at = found.end()
                if at == len(data):
                    break
                self._opened, self._shown = self._line(data, at), data[at : at + _SHOWN_BYTES]
                at += 1
            closing = _CLOSING.match(data, at)
            if closing is None:
                break
            at = closing.end()
            if not self._ends.match(data, at):
                line = self._line(data, at)
                self._refuse(f"opens a quote that closes within a cell of line {line}")
            self._opened = 0
        self._before = block[-1:] or self._before
        self._num_lines += _count_lines(block)

    def end(self) -> None:
        """Check the end of the file.

        Raises:
            DataError: A quote is not closed; names its line.
        """
        if self._opened:
            self._refuse("opens a quote that is never closed")

    def _line(self, data: bytes, at: int) -> int:
        return self._num_lines + _count_lines(data[1:at]) + 1

    def _refuse(self, allowed: str) -> NoReturn:
        shown = self._shown.decode(errors="replace").splitlines()[0]
        remedy = (
            "Double the quotes within a text and enclose it in quotes, "
            "or write Parquet or JSON lines."
        )
        raise DataError(Problem(f"{self._file}, line {self._opened}", shown, allowed, remedy))


def _count_lines(data: bytes) -> int:
    return max(data.count(b"\n"), data.count(b"\r"))
