"""Label columns and label spaces: encode and decode label names.

Every kind converts its columns to one list of label names per row; all later code is the same
for all kinds. To add a kind: subclass `LabelColumns` and add the class to `Labels`.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from clftask.errors import DataError, Problem
from clftask.messages import counted
from clftask.spec import BareKind, Spec

Task = Literal["multiclass", "multilabel"]


def _name(value: Any) -> str:
    """Return a label's name as Arrow casts the value to a string: bools in lower case."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class LabelColumns(Spec):
    """Base class of the kinds of label columns.

    Attributes:
        min_count: Labels with fewer train rows are excluded from the label space.
        names: The labels in order; None collects them from train, sorted.
        missing: What to do with a row whose label is null.
        positive: The positive class of two, for precision, recall and F1.
    """

    task: ClassVar[Task] = "multilabel"
    min_count: int = Field(1, ge=1)
    names: tuple[str, ...] | None = None
    missing: Literal["fail", "drop"] = "fail"
    positive: str | None = None

    @field_validator("positive", mode="before")
    @classmethod
    def _as_name(cls, value: Any) -> Any:
        return _name(value) if isinstance(value, int | str) else value

    @field_validator("names", mode="before")
    @classmethod
    def _as_names(cls, value: Any) -> Any:
        return [_name(v) for v in value] if isinstance(value, list | tuple) else value

    @field_validator("names")
    @classmethod
    def _distinct(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(set(value)) < max(len(value), 2):
            raise ValueError("must be two or more distinct label names")
        return value

    @property
    def known(self) -> tuple[str, ...] | None:
        """The labels, of which rare ones may be left out; None if the data has to be read."""
        return self.names

    @property
    def keep_empty(self) -> bool:
        """Whether a row without any label of the space is kept, as all negative."""
        return False

    @abstractmethod
    def columns(self, available: Sequence[str]) -> list[str]:
        """Return which of the `available` columns to read."""

    @abstractmethod
    def lists(self, table: pa.Table) -> pa.ListArray:
        """Return (rows,) list<string>: the labels of each row, null where they are missing.

        Raises:
            DataError: The columns do not contain labels of this kind.
        """


class _Multilabel(LabelColumns):
    empty: Literal["keep", "drop"] = "keep"

    @property
    def keep_empty(self) -> bool:
        """Whether a row without any label is kept."""
        return self.empty == "keep"


class ClassColumn(LabelColumns):
    """A column with one label per row: strings, whole numbers or bools."""

    task: ClassVar[Task] = "multiclass"
    kind: Literal["class"] = "class"
    column: str

    def columns(self, available: Sequence[str]) -> list[str]:
        """Return the one column."""
        return [self.column]

    def lists(self, table: pa.Table) -> pa.ListArray:
        """Return a list of one label per row."""
        names = _scalars_as_names(table.column(self.column), self.column)
        lengths = pc.if_else(names.is_valid(), 1, 0)
        return _list_array(names.drop_null(), lengths, names.is_null())


class ListColumn(_Multilabel):
    """A column of lists of labels."""

    kind: Literal["list"] = "list"
    column: str

    def columns(self, available: Sequence[str]) -> list[str]:
        """Return the one column."""
        return [self.column]

    def lists(self, table: pa.Table) -> pa.ListArray:
        """Return the lists with the labels as names."""
        column = table.column(self.column)
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            remedy = "Use kind class for one label per row, delimited for 'a|b'."
            raise _wrong_kind(self.column, str(column.type), "must contain lists", remedy)
        values = column.combine_chunks()
        lengths = pc.fill_null(pc.list_value_length(values), 0).cast(pa.int64())
        flat = _scalars_as_names(pa.chunked_array([values.flatten()]), self.column)
        return _clean(_list_array(flat, lengths, values.is_null()))


class DelimitedColumn(_Multilabel):
    """A column of strings such as `a|b|c`; whitespace around a label is removed."""

    kind: Literal["delimited"] = "delimited"
    column: str
    delimiter: str = Field("|", min_length=1)

    def columns(self, available: Sequence[str]) -> list[str]:
        """Return the one column."""
        return [self.column]

    def lists(self, table: pa.Table) -> pa.ListArray:
        """Split each string."""
        column = table.column(self.column)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            remedy = "Use kind list for lists, class for numbers."
            raise _wrong_kind(self.column, str(column.type), "must contain strings", remedy)
        text = column.combine_chunks().cast(pa.string())
        parts = pc.split_pattern(text, self.delimiter)
        lengths = pc.fill_null(pc.list_value_length(parts), 0).cast(pa.int64())
        flat = pc.utf8_trim_whitespace(parts.flatten())
        flat = pc.if_else(pc.equal(flat, ""), pa.scalar(None, pa.string()), flat)
        return _clean(_list_array(flat, lengths, text.is_null()))


class IndicatorColumns(_Multilabel):
    """One column of 0 and 1 (or bools) per label; the column's name is the label."""

    kind: Literal["indicators"] = "indicators"
    columns_: tuple[str, ...] | None = Field(None, alias="columns", min_length=2)
    pattern: str | None = None

    model_config = {"populate_by_name": True, "serialize_by_alias": True}

    @model_validator(mode="after")
    def _one_of_both(self) -> IndicatorColumns:
        if (self.columns_ is None) == (self.pattern is None):
            raise ValueError("requires either columns or pattern")
        try:
            self._matching([""])
        except pa.ArrowException as error:
            raise ValueError(f"pattern must be an RE2 regular expression: {error}") from None
        return self

    @property
    def known(self) -> tuple[str, ...] | None:
        """The columns, if they are listed."""
        return self.names or self.columns_

    def _matching(self, names: list[str]) -> list[str]:
        """Return the names that match the pattern; RE2 takes linear time for any pattern."""
        if self.pattern is None:
            return []
        column = pa.array(names, pa.string())
        return list(column.filter(pc.match_substring_regex(column, self.pattern)).to_pylist())

    def columns(self, available: Sequence[str]) -> list[str]:
        """Return the named columns, or those that match the pattern."""
        if self.columns_ is not None:
            return list(self.columns_)
        found = self._matching([name for name in available if name[:1] != "_"])
        if len(found) < 2:
            remedy = f"Available columns: {', '.join(available)}."
            where = "data.labels.pattern"
            raise DataError(Problem(where, self.pattern, "must match two or more columns", remedy))
        return found

    def lists(self, table: pa.Table) -> pa.ListArray:
        """Return the names of the columns that are 1; null where a cell is null."""
        names = self.columns(table.column_names)
        flags = [_flags(table.column(n), n) for n in names]
        rows, codes = np.nonzero(np.column_stack([pc.fill_null(f, False) for f in flags]))
        lengths = np.bincount(rows, minlength=table.num_rows)
        missing = np.logical_or.reduce([f.is_null().to_numpy(zero_copy_only=False) for f in flags])
        keep = ~missing[rows]
        lengths[missing] = 0
        flat = pa.array(names, pa.string()).take(pa.array(codes[keep]))
        return _list_array(flat, pa.array(lengths, pa.int64()), pa.array(missing))


Labels = Annotated[
    ClassColumn | ListColumn | DelimitedColumn | IndicatorColumns,
    Field(discriminator="kind"),
    BareKind(),
]


@dataclass(frozen=True)
class LabelSpace:
    """Label names in the order of the logits, and the positive class, if there is one."""

    task: Task
    names: tuple[str, ...]
    positive: str | None = None

    @property
    def positive_index(self) -> int | None:
        """The index of the positive class."""
        return None if self.positive is None else self.names.index(self.positive)

    @classmethod
    def from_lists(cls, spec: LabelColumns, train: pa.ListArray) -> LabelSpace:
        """Build the space from the labels of the train rows only.

        Raises:
            DataError: Fewer than two labels remain.
        """
        counts = {str(c["values"]): c["counts"] for c in pc.value_counts(train.flatten()).tolist()}
        frequent = {name for name, count in counts.items() if count >= spec.min_count}
        names = _sorted(frequent) if spec.names is None else list(spec.names)
        if len(names) < 2 or len(frequent.intersection(names)) < 2:
            found = sorted(counts)[:5]
            remedy = "Check the column" + (", or lower min_count." if spec.min_count > 1 else ".")
            rows = counted(spec.min_count, "row")
            allowed = f"train must have two or more labels with {rows} or more each"
            raise DataError(Problem("data.labels", found, allowed, remedy))
        return cls(spec.task, tuple(names), spec.positive)

    def encode(self, lists: pa.ListArray) -> pa.ListArray:
        """Return (rows,) list<int32>: label indices; labels outside the space are dropped."""
        codes = pc.index_in(lists.flatten(), pa.array(self.names, pa.string()))
        lengths = pc.fill_null(pc.list_value_length(lists), 0).cast(pa.int64())
        return _clean(_list_array(codes, lengths, lists.is_null()))

    def decode(self, codes: Sequence[int]) -> list[str]:
        """Return the names of label indices."""
        return [self.names[code] for code in codes]

    def unknown(self, lists: pa.ListArray) -> dict[str, int]:
        """Count the labels outside the space."""
        flat = lists.flatten()
        strange = flat.filter(pc.invert(pc.is_in(flat, pa.array(self.names, pa.string()))))
        return {str(c["values"]): c["counts"] for c in pc.value_counts(strange).tolist()}


def multi_hot(codes: pa.ListArray, num_labels: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return (rows, labels) float32 of 0 and 1 from lists of label indices."""
    lengths = pc.fill_null(pc.list_value_length(codes), 0).to_numpy()
    matrix = np.zeros((len(codes), num_labels), np.float32)
    matrix[np.repeat(np.arange(len(codes)), lengths), codes.flatten().to_numpy()] = 1.0
    return matrix


def _sorted(names: set[str]) -> list[str]:
    """Sort names; by value if all are whole numbers."""
    is_numeric = all(re.fullmatch(r"-?\d+", name) for name in names)
    return sorted(names, key=lambda n: (int(n), n)) if is_numeric else sorted(names)


def _wrong_kind(column: str, found: str, allowed: str, remedy: str) -> DataError:
    return DataError(Problem(f"data.labels: column {column}", found, allowed, remedy))


def _list_array(flat: Any, lengths: Any, missing: pa.Array) -> pa.ListArray:
    """Build a list array from values, lengths (0 where missing) and a null mask."""
    flat = flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat
    lengths = lengths.combine_chunks() if isinstance(lengths, pa.ChunkedArray) else lengths
    missing = missing.combine_chunks() if isinstance(missing, pa.ChunkedArray) else missing
    ends = np.cumsum(np.asarray(lengths), dtype=np.int32)
    offsets = pa.array(np.concatenate([np.zeros(1, np.int32), ends]))
    return pa.ListArray.from_arrays(offsets, flat, mask=missing)


def _clean(lists: pa.ListArray) -> pa.ListArray:
    """Drop nulls and duplicates in each list, keeping the order of first occurrence."""
    rows = np.repeat(np.arange(len(lists)), pc.fill_null(pc.list_value_length(lists), 0))
    pairs = pa.table({"row": rows, "value": lists.flatten()})
    pairs = pairs.filter(pairs["value"].is_valid())
    pairs = pairs.append_column("at", pa.array(range(pairs.num_rows), pa.int64()))
    first = pairs.group_by(["row", "value"], use_threads=False).aggregate([("at", "min")])
    kept = pairs.take(pa.array(np.sort(first["at_min"].to_numpy())))
    lengths = np.bincount(kept["row"].to_numpy(), minlength=len(lists))
    return _list_array(kept["value"], lengths, lists.is_null())


def _scalars_as_names(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return strings, whole numbers and bools as label names; blank strings as null."""
    kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), None, column)
        column = column.cast(pa.float64())
        whole = pc.and_(pc.is_finite(column), pc.equal(pc.floor(column), column))
        if pc.all(whole).as_py() is False:
            raise _wrong_kind(name, str(kind), "must contain classes", "Use whole numbers.")
        column = _cast(column, pa.int64(), name)
    elif pa.types.is_nested(kind):
        remedy = "Use kind list for lists."
        raise _wrong_kind(name, str(kind), "must contain one label per row", remedy)
    text = _cast(column, pa.string(), name)
    return pc.if_else(
        pc.equal(pc.utf8_trim_whitespace(text), ""), pa.scalar(None, pa.string()), text
    )


def _cast(column: pa.ChunkedArray, wanted: pa.DataType, name: str) -> pa.ChunkedArray:
    try:
        return column.cast(wanted)
    except pa.ArrowException:
        remedy = "Convert it to strings."
        raise _wrong_kind(name, str(column.type), "must contain classes", remedy) from None


def _flags(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return a column of 0 and 1 as bools."""
    kind = column.type
    if pa.types.is_boolean(kind):
        return column
    if pa.types.is_null(kind):
        return column.cast(pa.bool_())
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        remedy = "Fix the column, or exclude it."
        raise _wrong_kind(name, str(kind), "must contain 0 and 1", remedy)
    column = pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(kind) else column
    strange = pc.invert(pc.is_in(column.cast(pa.float64()), pa.array([0.0, 1.0, None])))
    row = pc.index(strange, True).as_py()
    if row >= 0:
        where = f"data.labels: column {name}, row {row}"
        raise DataError(Problem(where, column[row].as_py(), "must be 0 or 1"))
    return column.cast(pa.bool_())
