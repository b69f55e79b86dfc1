"""Lists of labels that are written as text: JSON, Python, NumPy, `<a><b>`.

Only distinct cells are parsed in Python.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.labels.cells import LabelCells, cast_cells, scalar_name

_NUMBER = r"-?\d+(?:\.\d*)?"
_BARE = rf"{_NUMBER}|True|False|true|false|None|null|nan"
_TEXT = r"""(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")"""
_ITEM = rf"(?:{_TEXT}|(?:{_BARE})(?![\w.]))"
_ITEMS = re.compile(_ITEM, re.DOTALL)
_LISTED = rf"{_ITEM}\s*+(?:,\s*+{_ITEM}\s*+)*+,?\s*+"
# A list, or a set; a tuple has a comma: ('a') is not a tuple in Python.
_PYTHON = re.compile(
    rf"\[\s*+(?:{_LISTED})?\]|\{{\s*+{_LISTED}\}}"
    rf"|\(\s*+(?:{_ITEM}\s*+,\s*+)++(?:{_ITEM}\s*+)?\)|\(\s*+\)",
    re.DOTALL,
)
_NUMPY = re.compile(rf"\[\s*+(?:{_BARE})(?:\s++(?:{_BARE}))*+\s*+\]")
_QUOTED_ITEMS = re.compile(rf"{_TEXT}(?:\s*+,\s*+{_TEXT})*+", re.DOTALL)
_TAGS = re.compile(r"(?:<[^<>]++>)++")
_BITS = re.compile(r"[01](?:\.0?)?(?:[\s,;|]++[01](?:\.0?)?)++")
_PRINTED = r"(?:array|tensor|frozenset|set|Index)"  # as Python prints other lists
_BRACKETED = re.compile(rf"\[.*\]|\{{.*\}}|{_PRINTED}?\(.*\)|<.*>", re.DOTALL)
_QUOTED = re.compile(r"""[\[({]\s*+['"].*[\])}]""", re.DOTALL)


def parse_written(cell: str) -> list[str | None] | None:
    """Return the labels of a list that is written as text, or None if it is ambiguous or no list.

    Read are JSON lists, Python lists, tuples and sets, `'a', 'b'`, numbers as NumPy prints them
    (`[0 1]`), `<a><b>`, and zeros and ones with separators (`0 1 0`).
    """
    cell = cell.strip()
    if cell[:1] not in {*"[({<01'\""}:
        return None
    try:
        if _TAGS.fullmatch(cell):
            return re.findall(r"<([^<>]+)>", cell)
        if _BITS.fullmatch(cell):
            return re.findall("[01]", re.sub(r"\.0?", "", cell))
        return _items_as_names(_items(cell))
    except (ValueError, SyntaxError, RecursionError):
        return None


def _items(cell: str) -> list[Any]:
    if cell.startswith("["):
        with contextlib.suppress(ValueError):
            return list(json.loads(cell))
    if any(form.fullmatch(cell) for form in (_PYTHON, _NUMPY, _QUOTED_ITEMS)):
        return [_literal(item[0]) for item in _ITEMS.finditer(cell)]
    raise ValueError("not a list")


def _literal(text: str) -> Any:
    if text[0] in "'\"" and "\\" not in text:
        return text[1:-1]  # ast.literal_eval takes ten times as long
    words = {"true": True, "false": False, "null": None, "nan": None}
    return words[text] if text in words else ast.literal_eval(text)


def _items_as_names(items: list[Any]) -> list[str | None]:
    found: list[str | None] = []
    for item in items:
        if isinstance(item, float) and not item.is_integer():
            if not math.isnan(item):
                raise ValueError("a fraction is no label")
            found.append(None)
        else:
            found.append(None if item is None or item == "" else scalar_name(item))
    return found


def is_written(cell: str) -> bool:
    """Tell whether a text is a list beyond doubt: with quotes, or with more than one tag."""
    cell = cell.strip()
    if cell[:1] not in {*"[({<"}:
        return False
    if _QUOTED.fullmatch(cell) or re.fullmatch(r"\[\s*\]", cell):
        return True
    labels = parse_written(cell)
    return labels is not None and (cell[0] == "[" or len(labels) > 1)


def is_bracketed(cell: str) -> bool:
    """Tell whether brackets enclose a text."""
    return _BRACKETED.fullmatch(cell.strip()) is not None


def is_bits(cell: str) -> bool:
    """Tell whether a text is zeros and ones with separators."""
    return _BITS.fullmatch(cell.strip()) is not None


def distinct(text: pa.ChunkedArray) -> list[str]:
    """Return the distinct texts that are not blank, in order of first occurrence."""
    return [cell for cell in pc.unique(text).to_pylist() if cell is not None and cell.strip()]


def lists_of_cells(
    text: pa.ChunkedArray,
    parsed: Mapping[str, Sequence[str | None]],
    blank: Sequence[str] | None = None,
) -> pa.ListArray:
    """Return (rows,) list<string>: the parsed labels of each cell; `blank` where it is blank."""
    encoded = text.combine_chunks().dictionary_encode()
    cells = [parsed.get(cell, blank) for cell in encoded.dictionary.to_pylist()]
    return pa.array(cells, pa.list_(pa.string())).take(encoded.indices)


# ------------------------------------------------------------------ columns of text

_TEXTS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
)
WRITE_JSON = """Write it as JSON, such as ["a", "b"], or use a Parquet column of lists."""


def written_lists(cells: LabelCells) -> pa.ListArray:
    """Parse a column of lists that are written as text; blank is missing."""
    kind = cells.column.type
    is_text = any(is_kind(kind) for is_kind in _TEXTS)
    remedy = "Use kind class for one label per row, delimited for 'a|b'."
    if not is_text and not pa.types.is_null(kind):
        is_other = pa.types.is_nested(kind)
        raise cells.wrong_type("must contain lists", "Write lists." if is_other else remedy)
    text = cast_cells(cells.column, pa.string(), cells)
    parsed = {}
    for cell in distinct(text):
        labels = parse_written(cell)
        if labels is None and is_bracketed(cell):
            allowed = "must contain lists, and cannot be read as one without doubt"
            raise cells.wrong(cells.first(cell), allowed, WRITE_JSON)
        if labels is None:
            raise cells.wrong(cells.first(cell), "must contain lists", remedy)
        parsed[cell] = labels
    return lists_of_cells(text, parsed)


def refuse_lists(cells: LabelCells, found: Sequence[str]) -> None:
    """Refuse a column of classes if all of its cells are lists, written as text."""
    remedy = "Use kind list in a multilabel task, or write one label per row."
    allowed = "must contain one label per row; all cells look like "
    if found and all(map(is_bits, found)):
        raise cells.wrong(cells.first(found[0]), f"{allowed}multi-hot vectors", remedy)
    is_list = all(map(is_bracketed, found)) and (
        any(map(is_written, found)) or all("," in cell for cell in found)
    )
    if found and is_list:
        raise cells.wrong(cells.first(found[0]), f"{allowed}lists", remedy)
