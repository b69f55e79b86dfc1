"""Targets and weights of prepared rows, and their statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.array_types import Float32, Float64
from clftask.components.labels import SOFT, LabelColumns, multi_hot
from clftask.components.losses import TrainLabels
from clftask.data.tokenization import one_array
from clftask.errors import DataError, Problem

WEIGHT = "row_weight"  # of train rows; their mean is 1


def soft_targets(table: pa.Table) -> Float32 | None:
    """Return the (rows, labels) probabilities of a table, None without soft labels."""
    if SOFT not in table.column_names:
        return None
    column = one_array(table[SOFT])
    flat = column.flatten().to_numpy()
    return np.asarray(flat.reshape(len(column), column.type.list_size))


def targets_of(table: pa.Table, num_labels: int) -> Float32:
    """Return the (rows, labels) training targets: probabilities, or else 0 and 1."""
    found = soft_targets(table)
    return multi_hot(one_array(table["labels"]), num_labels) if found is None else found


def weights_of(table: pa.Table) -> Float64 | None:
    """Return the (rows,) weights of train rows, None if all are 1."""
    return table[WEIGHT].to_numpy() if WEIGHT in table.column_names else None


def train_labels(table: pa.Table, num_labels: int) -> TrainLabels:
    """Return the label statistics of the train rows: a row counts by its weight, a soft label by
    its probability.
    """
    soft, weights = soft_targets(table), weights_of(table)
    if soft is not None:
        ones = np.ones(len(soft)) if weights is None else weights
        return TrainLabels(ones @ soft, len(soft), is_soft=True)
    codes = one_array(table["labels"])
    lengths = pc.list_value_length(codes).to_numpy()
    each = None if weights is None else np.repeat(weights, lengths)
    counts = np.bincount(codes.flatten().to_numpy(), each, minlength=num_labels)
    return TrainLabels(counts.astype(float), len(codes))


def with_own_columns(
    tables: dict[str, pa.Table], labels: LabelColumns, weight: str | None
) -> dict[str, pa.Table]:
    """Return the splits with the columns of targets and weights that belong to them.

    Splits with hard labels have no soft targets. Only train has weights; their mean becomes 1.

    Args:
        tables: The splits; those that were stacked have each other's columns, full of nulls.
        labels: The label columns of train, `resolved`.
        weight: The column of the weights in the data, for messages.

    Raises:
        DataError: All weights of train are 0.
    """
    found = {}
    for split, table in tables.items():
        is_hard = split != "train" and not labels.held_out.is_soft
        own = {SOFT: not is_hard and _is_filled(table, SOFT), WEIGHT: split == "train"}
        unused = [name for name in own if name in table.column_names and not own[name]]
        found[split] = table.drop_columns(unused)
    if WEIGHT in found["train"].column_names:
        found["train"] = _normalised(found["train"], weight)
    return found


def _is_filled(table: pa.Table, name: str) -> bool:
    return name in table.column_names and not table[name].null_count


def _normalised(train: pa.Table, column: str | None) -> pa.Table:
    weights = train[WEIGHT].to_numpy()
    mean = float(weights.mean())
    if not mean > 0:
        allowed = f"the weights of all {train.num_rows:,} train rows are 0"
        raise DataError(Problem("data.weight", column, allowed, "Use another column, or none."))
    place = train.column_names.index(WEIGHT)
    return train.set_column(place, WEIGHT, pa.array(weights / mean))


def bytes_of(table: pa.Table) -> list[Any]:
    """Return what a fingerprint covers of targets and weights; empty without both."""
    soft, weights = soft_targets(table), weights_of(table)
    named = ((SOFT, soft), (WEIGHT, weights))
    return [name.encode() + array.tobytes() for name, array in named if array is not None]
