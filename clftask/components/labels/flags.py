"""Cells of 0 and 1: indicator columns, and multi-hot vectors in lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.labels.cells import (
    LabelCells,
    cast_cells,
    lengths_of,
    list_array,
    rows_of_items,
    without_repetitions,
)

_FLAGS = {
    **dict.fromkeys(("1", "1.0", "true", "yes", "y", "t"), True),
    **dict.fromkeys(("0", "0.0", "false", "no", "n", "f"), False),
}
_BLANK = {"", "nan", "null", "none", "na", "n/a", "<na>"}
_MARKS = ("x", "✓", "✔", "☑")
_VECTOR_FLAGS = ("0", "1", "0.0", "1.0", "true", "false", "True", "False")
_MOSTLY = 0.9  # a list of one length whose items are 0 or 1 in this share is a vector


def read_vectors(
    lists: pa.ListArray, names: Sequence[str] | None, cells: LabelCells
) -> pa.ListArray:
    """Replace multi-hot vectors by lists of names; return other lists unchanged.

    Args:
        lists: (rows,) list<string>, null items included.
        names: The name of each position, if known.
        cells: For messages.

    Raises:
        DataError: The rows are multi-hot, and `names` has not as many entries.
    """
    lengths = lengths_of(lists)
    length = _vector_length(lists, lengths, names)
    if length is None:
        return lists
    if names is None or len(names) != length:
        allowed = f"the lists are multi-hot ({length} zeros and ones each)"
        allowed += "; use indicators, or lists of names"
        given = "" if names is None else f", not {len(names)}"
        remedy = f"Or set data.labels.names: {length} names in the vectors' order{given}."
        raise cells.wrong(int(np.argmax(lengths > 0)), allowed, remedy)
    wrong = np.flatnonzero((lengths != length) & (lengths > 0))
    if len(wrong):
        allowed = f"must have {length} entries of 0 and 1, as other rows have"
        raise cells.wrong(int(wrong[0]), allowed, "Fix or remove the row.")
    return _named_positions(lists, names, cells)


def _vector_length(lists: pa.ListArray, lengths: Any, names: Sequence[str] | None) -> int | None:
    """Return the length of multi-hot vectors, or None if the lists are lists of labels.

    Most lists of 0 and 1 with three items or more are vectors: as labels, they would repeat. So
    are lists of two if nearly all have two: both labels would be on every row. Lists of one
    length are vectors, too, if nearly all of their items are 0 or 1.
    """
    used, counts = np.unique(lengths[lengths > 0], return_counts=True)
    if not len(used) or used[-1] < 2:
        return None
    flat = lists.flatten().drop_null()
    is_flag = pc.is_in(flat, pa.array([*_VECTOR_FLAGS, "-1"]))  # -1: not labelled, or no
    share = pc.mean(is_flag.cast(pa.int8())).as_py() or 0.0
    usual, is_regular = int(used[counts.argmax()]), counts.max() > _MOSTLY * counts.sum()
    if usual > 2:
        return usual if share == 1 or (is_regular and share > _MOSTLY) else None
    is_repeated = len(without_repetitions(lists).flatten()) < len(flat)
    is_other = names is not None and len(names) != usual and not is_repeated
    return usual if usual == 2 and share == 1 and is_regular and not is_other else None


def _named_positions(lists: pa.ListArray, names: Sequence[str], cells: LabelCells) -> pa.ListArray:
    flat = lists.flatten()
    rows = rows_of_items(lists)
    strange = pc.and_(flat.is_valid(), pc.invert(pc.is_in(flat, pa.array(_VECTOR_FLAGS))))
    if pc.any(strange).as_py():
        allowed = f"must have {len(names)} entries of 0 and 1, as other rows have"
        row = int(rows[pc.index(strange, True).as_py()])
        raise cells.wrong(row, allowed, "Fix or remove the row.")
    positions = np.arange(len(flat)) % len(names)
    is_one = pc.is_in(flat, pa.array([f for f in _VECTOR_FLAGS if _FLAGS[f.lower()]]))
    missing = np.asarray(lists.is_null())
    missing[rows[np.asarray(flat.is_null())]] = True  # as for indicators
    chosen = np.asarray(is_one) & ~missing[rows]
    labels = pa.array(names, pa.string()).take(pa.array(positions[chosen]))
    return list_array(labels, np.bincount(rows[chosen], minlength=len(lists)), pa.array(missing))


def warn_of_counts(lists: pa.ListArray, column: str) -> list[str]:
    """Return a warning if all lists are vectors of counts, such as of votes or of words.

    As labels, the numbers would not be repeated in a row, and rarely as many on each row.

    Args:
        lists: (rows,) list<string>, null items included.
        column: Their column.
    """
    lengths = np.unique(lengths_of(lists))
    lengths = lengths[lengths > 0]
    flat = lists.flatten().drop_null()
    is_one_length = len(lengths) == 1 and lengths[0] > 2
    if not is_one_length or not pc.all(pc.match_substring_regex(flat, "^[0-9]+$")).as_py():
        return []
    repeated = len(without_repetitions(lists).flatten()) < len(flat)
    if not repeated or pc.all(pc.is_in(flat, pa.array(_VECTOR_FLAGS))).as_py():
        return []
    example = ", ".join(
        map(str, lists.filter(pc.greater(pc.list_value_length(lists), 0))[0].as_py())
    )
    what = f"column {column}: all lists have {lengths[0]} numbers, some of them twice"
    remedy = "if they are counts, write lists of the labels, or use columns of kind indicators"
    return [f"{what}, such as [{example}]; {remedy}"]


def read_flags(columns: Sequence[LabelCells]) -> list[pa.Array]:
    """Return each column as bools, null where a cell is blank.

    If x or a check mark is the only value of all columns, blank means no.

    Raises:
        DataError: A cell is neither yes nor no; names it.
    """
    encoded = [_encoded(cells) for cells in columns]
    values = [array.dictionary.to_pylist() for array in encoded]
    words = {_word(value) for found in values for value in found} - {""}
    is_marked = bool(words) and words <= set(_MARKS)
    known = dict.fromkeys((*_MARKS,), True) if is_marked else _FLAGS
    blank = False if is_marked else None
    flags = []
    for cells, array, found in zip(columns, encoded, values, strict=True):
        for place, value in enumerate(found):
            if _word(value) and _word(value) not in known:
                row = int(pc.index(array.indices, place).as_py())
                remedy = "Also allowed: true/false, yes/no, y/n; or x and blank in all columns."
                raise cells.wrong(row, "must be 0 or 1", remedy)
        read = pa.array([known.get(_word(value), blank) for value in found], pa.bool_())
        flag = read.take(array.indices)
        flags.append(flag if blank is None else flag.fill_null(blank))
    return flags


def _encoded(cells: LabelCells) -> Any:
    column = cells.column
    if pa.types.is_nested(column.type):
        raise cells.wrong_type("must contain 0 and 1", "Fix the column, or exclude it.")
    if pa.types.is_null(column.type) or pa.types.is_binary(column.type):
        column = cast_cells(column, pa.string(), cells)
    if pa.types.is_decimal(column.type):
        column = cast_cells(column, pa.float64(), cells)
    return column.combine_chunks().dictionary_encode()


def _word(value: Any) -> str:
    """Return a cell in lower case; `""` if it is missing."""
    word = str(value).strip().lower()
    return "" if word in _BLANK else word
