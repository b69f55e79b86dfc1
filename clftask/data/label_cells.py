"""Types of the label columns of formats that store none: CSV and TSV."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.labels import LabelColumns
from clftask.data.readers.csv_types import common_kind, convert, missing_spellings
from clftask.errors import DataError, Problem


def typed_labels(
    labels: LabelColumns, tables: dict[str, pa.Table], names: Collection[str]
) -> dict[str, pa.Table]:
    """Convert the label columns of tables without types: to numbers if all cells are numbers.

    Args:
        labels: Names the label columns.
        tables: Tables in which these columns contain what is written.
        names: The known label names; a column that contains one of them stays as it is written.

    Raises:
        DataError: A column of label names contains fractions.
    """
    if labels.cells == "text":
        return tables
    found = dict(tables)
    columns = [c for t in tables.values() for c in labels.columns(t.column_names)]
    for column in dict.fromkeys(columns):
        cells = {n: t[column] for n, t in tables.items() if column in t.column_names}
        kind = _kind(labels, column, list(cells.values()), names)
        for split, written in cells.items():
            place = found[split].column_names.index(column)
            found[split] = found[split].set_column(place, column, convert(written, kind))
    return found


def _kind(
    labels: LabelColumns, column: str, cells: list[pa.ChunkedArray], names: Collection[str]
) -> pa.DataType:
    """Return the type of a label column in all tables."""
    kind = common_kind(cells)
    if pa.types.is_integer(kind) and missing_spellings() & set(names):
        return pa.string()  # NA is a class
    if labels.cells == "flags" or not (pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        return kind  # other types keep what is written
    known = pa.array(list(names), pa.string())
    if any(pc.any(pc.is_in(written, known)).as_py() for written in cells):
        return pa.string()
    if not pa.types.is_floating(kind):
        return kind
    values = pa.chunked_array([c for written in cells for c in convert(written, kind).chunks], kind)
    is_fraction = pc.and_(pc.is_finite(values), pc.not_equal(pc.floor(values), values))
    if not pc.any(is_fraction).as_py():
        return kind
    if names:
        return pa.string()
    remedy = (
        "If the values are codes, list them in data.labels.names: they are then read as written. "
        "Otherwise group them into classes."
    )
    where, allowed = f"data.labels: column {column}", "must contain classes, not fractions"
    example = values.filter(is_fraction)[0].as_py()
    raise DataError(Problem(where, example, allowed, remedy))
