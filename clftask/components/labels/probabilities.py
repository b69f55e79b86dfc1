"""Cells of numbers: the probabilities of soft labels, and row weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.array_types import Bools, Float64
from clftask.components.labels.base import Task
from clftask.components.labels.cells import (
    LabelCells,
    is_list,
    lengths_of,
    list_array,
    rows_of_items,
)
from clftask.errors import DataError, Problem

SOFT = "targets"  # the column of soft targets in prepared tables
SUM_TOLERANCE = 1e-3  # of the probabilities of a multiclass row
PROBABILITY = "must be a probability, from 0 to 1"
_ROUNDING = 1e-6  # by which a probability may be outside 0 to 1


@dataclass(frozen=True)
class Probabilities:
    """The probabilities of some rows.

    Attributes:
        values: (rows, labels), 0 where missing; those of a multiclass row sum to 1.
        missing: (rows,) whether a cell of the row is null.
    """

    values: Float64
    missing: Bools

    def targets(self) -> pa.FixedSizeListArray:
        """Return (rows,) lists of float32, one number per label."""
        flat = pa.array(self.values.ravel(), pa.float32())
        return pa.FixedSizeListArray.from_arrays(flat, self.values.shape[1])

    def decided(self, names: Sequence[str], task: Task) -> pa.ListArray:
        """Return (rows,) list<string>, null where missing.

        Multiclass: the most probable label, of several the first. Multilabel: those above 0.5.
        """
        flags = self.values > 0.5
        if task == "multiclass":
            best = self.values.argmax(1)
            flags = np.arange(self.values.shape[1])[None, :] == best[:, None]
        flags[self.missing] = False
        labels = pa.array(names, pa.string()).take(pa.array(np.nonzero(flags)[1]))
        return list_array(labels, flags.sum(1), pa.array(self.missing))


def read_probabilities(
    columns: Sequence[LabelCells], task: Task, width: int | None = None
) -> Probabilities:
    """Read one column per label, or one of lists; a row that lacks a probability is missing.

    Args:
        columns: One column per label, or the one of lists.
        task: multiclass or multilabel.
        width: The number of labels of each list; None: the columns have no lists.

    Raises:
        DataError: A cell is not a probability, or those of a multiclass row do not sum to 1.
    """
    if width is None:
        values = np.column_stack([numbers(cells, PROBABILITY) for cells in columns])
    else:
        values = _of_lists(columns[0], width)
    is_wrong = (values < -_ROUNDING) | (values > 1 + _ROUNDING)
    if is_wrong.any():
        row, label = np.unravel_index(is_wrong.argmax(), is_wrong.shape)
        cells = columns[0 if width is not None else int(label)]
        raise cells.wrong(int(row), PROBABILITY, "Fix or remove the row.")
    missing = np.asarray(np.isnan(values).any(1))
    values = np.clip(values, 0, 1)
    values[missing] = 0
    if task == "multiclass":
        sums = values.sum(1)
        is_off = ~missing & (np.abs(sums - 1) > SUM_TOLERANCE)
        if is_off.any():
            raise _not_one(columns, int(is_off.argmax()), sums)
        values[~missing] /= sums[~missing, None]
    return Probabilities(values, missing)


def _of_lists(cells: LabelCells, width: int) -> Float64:
    """Return (rows, width) numbers of lists, NaN in the rows that are null."""
    column = cells.column.combine_chunks()
    if not is_list(column.type):
        raise cells.wrong_type("must contain lists of probabilities", "Use prefix for columns.")
    is_other = (lengths_of(column) != width) & np.asarray(column.is_valid())
    if is_other.any():
        remedy = "Check data.labels.names: they are in the order of the lists."
        raise cells.wrong(int(is_other.argmax()), f"must be a list of {width} numbers", remedy)
    rows = rows_of_items(column)
    items = pa.table({cells.name: pc.list_flatten(column)})
    for origin in {"_file", "_row"} & set(cells.table.column_names):
        items = items.append_column(origin, cells.table[origin].take(pa.array(rows)))
    values = np.full((len(column), width), np.nan)
    values[np.asarray(column.is_valid())] = numbers(
        LabelCells(items, cells.name), PROBABILITY
    ).reshape(-1, width)
    return values


def _not_one(columns: Sequence[LabelCells], row: int, sums: Float64) -> DataError:
    where = columns[0].wrong(row, "", "").problems[0].path
    if len(columns) > 1:
        where = where.replace(columns[0].name, f"{columns[0].name} and {len(columns) - 1} more")
    allowed = "must sum to 1, up to 0.001, in a multiclass task"
    remedy = "Include the columns of all labels, or use task: multilabel."
    return DataError(Problem(where, round(float(sums[row]), 6), allowed, remedy))


def read_weights(cells: LabelCells) -> Float64:
    """Read (rows,) row weights.

    Raises:
        DataError: A weight is missing, negative, infinite or not a number.
    """
    allowed = "must be a row weight, a finite number of 0 or more"
    values = numbers(cells, allowed)
    is_wrong = ~np.isfinite(values) | (values < 0)
    if is_wrong.any():
        remedy = "Use weight 0 for a row without influence, 1 for a usual one."
        raise cells.wrong(int(is_wrong.argmax()), allowed, remedy)
    return values


def numbers(cells: LabelCells, allowed: str) -> Float64:
    """Return a (rows,) column as numbers, NaN where it is null.

    Raises:
        DataError: A cell is text or NaN; the message says what is allowed.
    """
    column = cells.column
    if pa.types.is_nested(column.type) or pa.types.is_temporal(column.type):
        raise cells.wrong_type(allowed, "Use another column.")
    try:
        values = column.cast(pa.float64())
    except pa.ArrowException:
        row = _first(column.to_pylist(), lambda cell: not _is_number(cell))
        raise cells.wrong(row, allowed, "Fix or remove the row.") from None
    row = pc.index(pc.is_nan(values), True).as_py()
    if row >= 0:
        raise cells.wrong(row, allowed, "Fix or remove the row.")
    return np.asarray(values.to_numpy(), np.float64)


def _first(cells: Sequence[Any], is_wanted: Callable[[Any], bool]) -> int:
    return next((row for row, cell in enumerate(cells) if is_wanted(cell)), 0)


def _is_number(cell: Any) -> bool:
    try:
        return cell is None or isinstance(float(cell), float)
    except (TypeError, ValueError):
        return False
