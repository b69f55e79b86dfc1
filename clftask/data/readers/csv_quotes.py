"""The quotes of CSV, as RFC 4180 has them."""

from __future__ import annotations

import re
from typing import NoReturn

from clftask.errors import DataError, Problem

# From within quotes: up to the one that closes them, over those that are doubled.
_CLOSING = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')
_SHOWN_BYTES = 40


class Quotes:
    """Follows the quotes of a file block by block; refuses those that cannot be meant.

    A quote opens only where a cell begins, and closes only where one ends. Arrow is lenient:
    a text that happens to begin with a quote swallows all rows up to the next quote, wherever
    that stands.

    Args:
        file: Its path, for messages.
        delimiter: What stands between cells.
    """

    def __init__(self, file: str, delimiter: str) -> None:
        edge = b"[\r\n%s]" % delimiter.encode()
        self._ends = re.compile(rb"%s|\Z" % edge)
        # All that is whole: other bytes, quoted cells, and quotes that open nothing.
        self._sound = re.compile(
            rb'(?:[^"]++|(?<=%s)"[^"]*+(?:""[^"]*+)*+"(?=%s|\Z)|(?<!%s)")*+' % (edge, edge, edge)
        )
        self._file, self._before, self._num_lines = file, b"\n", 0
        self._opened, self._shown = 0, b""  # the line of the quote that is open, and its cell

    def follow(self, block: bytes) -> None:
        """Take the next block; only the last one of a file may end with a quote.

        Raises:
            DataError: A quote closes within a cell; names the line where it opens.
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
        """Take note that the file ends.

        Raises:
            DataError: It ends within quotes; names the line where they open.
        """
        if self._opened:
            self._refuse("opens a quote that is never closed")

    def _line(self, data: bytes, at: int) -> int:
        return self._num_lines + _count_lines(data[1:at]) + 1

    def _refuse(self, allowed: str) -> NoReturn:
        shown = self._shown.decode(errors="replace").splitlines()[0]
        remedy = (
            "Double the quotes that belong to a text and put it in quotes, "
            "or write Parquet or JSON lines."
        )
        raise DataError(Problem(f"{self._file}, line {self._opened}", shown, allowed, remedy))


def _count_lines(data: bytes) -> int:
    return max(data.count(b"\n"), data.count(b"\r"))
