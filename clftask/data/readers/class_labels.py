"""Names of integer labels, which the library datasets stores in the metadata of Arrow schemas."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def named(batch: pa.RecordBatch, without: Collection[str]) -> pa.RecordBatch:
    """Replace the integers of `ClassLabel`, also in lists, by their names.

    Args:
        batch: Rows with the metadata of their file.
        without: Columns that keep their integers.
    """
    names = _class_names(batch.schema)
    for place, field in enumerate(batch.schema):
        if field.name in names and field.name not in without:
            column = _take_names(batch.column(place), names[field.name])
            batch = batch.set_column(place, field.name, column)
    return batch


def named_schema(schema: pa.Schema, without: Collection[str]) -> pa.Schema:
    """Return the schema of `named`."""
    if not _class_names(schema):
        return schema
    none = pa.RecordBatch.from_arrays([pa.nulls(0, kind) for kind in schema.types], schema=schema)
    return named(none, without).schema


def _class_names(schema: pa.Schema) -> dict[str, Sequence[str]]:
    """Return the names of each column of ClassLabel, or of lists of it."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        items = dict(features).items()
    except (KeyError, TypeError, ValueError):
        return {}
    inner = {name: _of_items(feature) for name, feature in items}
    return {n: f["names"] for n, f in inner.items() if f.get("_type") == "ClassLabel"}


def _of_items(feature: Any) -> dict[str, Any]:
    """Return the feature of a list's items; older datasets wrote lists as [feature]."""
    found = feature[0] if isinstance(feature, list) and feature else feature
    found = found.get("feature", found) if isinstance(found, dict) else {}
    return found if isinstance(found, dict) and "names" in found else {}


def _take_names(column: pa.Array, names: Sequence[str]) -> pa.Array:
    if pa.types.is_integer(column.type):
        if (most := pc.max(column).as_py() or 0) >= len(names):  # it was recoded since
            stored = f"{len(names)} ClassLabel names in its metadata"
            raise pa.ArrowInvalid(f"the label {most}, but {stored}; save it without them")
        codes = pc.if_else(pc.less(column, 0), None, column)  # datasets: -1 means no label
        return pa.array(names, pa.string()).take(codes)
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not is_list or not pa.types.is_integer(column.type.value_type):
        return column  # it was replaced after datasets had stored the names
    lengths = pc.fill_null(pc.list_value_length(column), 0).cast(pa.int64())
    ends = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths)])
    mask = column.is_null() if column.null_count else None
    return pa.LargeListArray.from_arrays(ends, _take_names(column.flatten(), names), mask=mask)
