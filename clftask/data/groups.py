"""The columns of a split: their values as text, and the groups of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.splits import SPLITS, group_codes
from clftask.data.readers.csv_types import missing_as_null
from clftask.data.summary import DataReport
from clftask.errors import DataError, Problem

SPLIT_BY, GROUP_BY = "split_by", "group_by"


def as_text(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return the values of a split's column as strings; null where missing or blank.

    Args:
        column: (rows,) the values.
        name: The column's name, for messages.

    Raises:
        DataError: The column contains lists or structs.
    """
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    try:
        text = missing_as_null(column.cast(pa.string()))
    except pa.ArrowException:
        allowed = "must contain one value per row: strings, numbers or dates"
        found = f"{name}: {column.type}"
        raise DataError(Problem("data.split", found, allowed, "Use another column.")) from None
    is_blank = pc.equal(pc.utf8_trim_whitespace(text), "")
    return pc.if_else(is_blank, pa.scalar(None, pa.string()), text)


def with_groups(
    table: pa.Table, split: Any, report: DataReport, names: Sequence[str] = SPLITS
) -> pa.Table:
    """Replace the split's columns by `group` (int64): a number for each row's group.

    A row without a group is a group of its own; the report counts these rows, and the groups
    that are in more than one split.

    Args:
        table: The rows, with `group_by` if the split has groups.
        split: (rows,) the index of each row's split in `names`.
        report: The report.
        names: The splits.
    """
    used = [name for name in (SPLIT_BY, GROUP_BY) if name in table.column_names]
    column = table[GROUP_BY].combine_chunks() if GROUP_BY in used else None
    table = table.drop_columns(used)
    if column is None:
        return table
    missing = split[column.is_null().to_numpy(zero_copy_only=False)]
    counts = np.bincount(missing, minlength=len(names)).tolist()
    report.num_without_group = dict(zip(names, counts, strict=True))
    report.groups_alike = _alike(column)
    codes = group_codes(column)
    pairs = np.unique(codes * len(names) + split)
    report.num_groups_in_several_splits = int((np.bincount(pairs // len(names)) > 1).sum())
    return table.append_column("group", pa.array(codes))


def _alike(column: pa.Array) -> list[str]:
    """Return two groups such as `1` and `1.0`, which may be one: pandas writes both."""
    names = pc.unique(column.drop_null())
    plain = pc.replace_substring_regex(names, r"^(-?[0-9]+)\.0*$", r"\1")
    counts = pc.value_counts(plain)
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    return list(names.filter(pc.is_in(plain, twice.slice(0, 1))).to_pylist())
