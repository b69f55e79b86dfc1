"""Reads one JSON array of objects, as pandas' `to_json(orient="records")` writes, as JSON lines."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator

import pyarrow as pa

from clftask.data.readers.text_encoding import MAX_ROW_BYTES
from clftask.errors import DataError, Problem
from clftask.messages import counted

_VISIBLE = re.compile(r"\S")
_END = re.compile(r"\s*([,\]])")  # what follows an item
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)


def is_array(head: bytes) -> bool:
    """Tell whether a file is one JSON array; a single line with an array is just a bad row.

    Args:
        head: The beginning of the file.
    """
    if not re.match(rb"\s*\[\s*\{", head):
        return False
    line, _, rest = head.lstrip().partition(b"\n")
    return not rest.strip() or not line.rstrip().endswith(b"]")


def array_lines(stream: pa.NativeFile, file: str, block_size: int) -> Iterator[list[bytes]]:
    """Yield the items of an array as they are written, one per line, block by block.

    Raises:
        DataError: An item is damaged or too long, or the array does not end.
    """
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    rest, count, has_begun, is_open = "", 0, False, True
    while block := bytes(stream.read(block_size)):
        rest += decode(block)
        if not has_begun and "[" in rest:
            rest, has_begun = rest.partition("[")[2], True
        if has_begun and is_open:
            items, rest, is_open = _items(rest)
            count += len(items)
            yield [_line(item) for item in items]
        if len(rest) > MAX_ROW_BYTES:
            break
    if is_open or rest.strip():
        allowed = f"is a JSON array that is damaged after {counted(count, 'item')}"
        remedy = "Export it again, or write one object per line."
        raise DataError(Problem(file, rest.strip()[:80] or None, allowed, remedy))


def _items(text: str) -> tuple[list[str], str, bool]:
    """Return the complete items of a text, what follows them, and whether the array goes on."""
    items: list[str] = []
    place = 0
    while True:
        begin = _VISIBLE.search(text, place)
        start = begin.start() if begin else len(text)
        try:
            _, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            return items, text[place:], True
        mark = _END.match(text, end)
        if mark is None:
            return items, text[place:], True
        items.append(text[start:end])
        place = mark.end()
        if mark[1] == "]":
            return items, text[place:], False


def _line(item: str) -> bytes:
    # A line break is white space: JSON strings contain it only as \n.
    return item.replace("\n", " ").replace("\r", " ").encode("utf-8", "surrogateescape")
