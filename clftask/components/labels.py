"""Label columns and label spaces: encode and decode label names.

Every kind converts its columns to one list of label names per row; all later code is the same
for all kinds. To add a kind: subclass `LabelColumns` and add the class to `Labels`.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field, field_validator, model_validator

from clftask.components.label_cells import (
    LabelCells,
    is_list_column,
    list_array,
    lists_of_names,
    matches,
    scalar_name,
    scalars_as_names,
    scalars_as_text,
    without_repetitions,
)
from clftask.components.label_flags import read_flags, read_vectors
from clftask.components.written_lists import (
    distinct,
    is_bits,
    is_bracketed,
    is_written,
    lists_of_cells,
    parse_written,
)
from clftask.errors import DataError, Problem
from clftask.messages import counted
from clftask.spec import BareKind, Spec

Task = Literal["multiclass", "multilabel"]


def _as_name(value: Any) -> str:
    name = scalar_name(value)
    if not name.strip():
        raise ValueError("a label must not be blank")
    return name


def _as_names(value: Any) -> Any:
    """Return label names as strings: YAML reads `0` and `true` as a number and a bool."""
    if isinstance(value, Mapping):
        found = {_as_name(key): _as_name(name) for key, name in value.items()}
        if len(found) < len(value):
            raise ValueError("has two keys for one label")
        return found
    if value is not None and not isinstance(value, list | tuple):
        raise ValueError("must be a list of labels, or a mapping of labels to names")
    return value and tuple(map(_as_name, value))


_Scalar = str | bool | int | float
_Names = Annotated[
    tuple[str, ...] | dict[str, str] | None,
    BeforeValidator(_as_names, json_schema_input_type=list[_Scalar] | dict[str, _Scalar] | None),
]


class LabelColumns(Spec):
    """Base class of the kinds of label columns.

    Attributes:
        min_count: Labels with fewer rows in the train table are excluded from the label space.
        names: The labels in order, or a mapping of the labels in the data to names, in order; two
            labels can have one name. None collects them from train, sorted.
        missing: What to do with a row whose label is null.
    """

    task: ClassVar[Task] = "multilabel"
    if_missing: ClassVar[str] = "Label the row"  # the remedy for a missing label
    min_count: int = Field(1, ge=1)
    names: _Names = None
    missing: Literal["fail", "drop"] = "fail"

    @field_validator("names")
    @classmethod
    def _distinct(cls, value: Any) -> Any:
        if value is None:
            return value
        names = set(value.values()) if isinstance(value, dict) else set(value)
        is_repeated = not isinstance(value, dict) and len(names) < len(value)
        if is_repeated or len(names) < 2:
            raise ValueError("must be two or more distinct label names")
        return value

    @property
    def fixed_names(self) -> tuple[str, ...] | None:
        """The fixed labels in order, after renaming; None if they are collected from train."""
        if isinstance(self.names, dict):
            return tuple(dict.fromkeys(self.names.values()))
        return self.names

    @property
    def position_names(self) -> tuple[str, ...] | None:
        """The name of each position of a multi-hot vector, if names are fixed."""
        if isinstance(self.names, dict):
            numbers = [str(i) for i in range(len(self.names))]
            keys = numbers if set(self.names) == set(numbers) else list(self.names)
            return tuple(self.names[key] for key in keys)
        return self.names

    @property
    def keep_empty(self) -> bool:
        """Whether a row without any label of the space is kept, as all negative."""
        return False

    @abstractmethod
    def columns(self, available: Sequence[str]) -> list[str]:
        """Return which of the `available` columns to read."""

    def lists(self, table: pa.Table) -> pa.ListArray:
        """Return (rows,) list<string>: the labels of each row, null where they are missing.

        Labels that `names` maps have their new name. A message names a row by its columns
        `_file` and `_row`, if the table has them.

        Raises:
            DataError: The columns do not contain labels of this kind.
        """
        found = self._read(table)
        return _renamed(found, self.names) if isinstance(self.names, dict) else found

    @abstractmethod
    def _read(self, table: pa.Table) -> pa.ListArray:
        """Return `lists` with the labels of the data."""


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

    def _read(self, table: pa.Table) -> pa.ListArray:
        """Return a list of one label per row."""
        cells = LabelCells(table, self.column)
        names = scalars_as_names(cells)
        _refuse_lists(cells, distinct(names))
        lengths = pc.if_else(names.is_valid(), 1, 0)
        return list_array(names.drop_null(), lengths, names.is_null())


def _refuse_lists(cells: LabelCells, found: Sequence[str]) -> None:
    """Refuse a column of classes if all of its cells are lists, written as text."""
    remedy = "Use kind list in a multilabel task, or write one label without brackets."
    allowed = "must contain one label per row; all cells look like "
    if found and all(map(is_bits, found)):
        raise cells.wrong(cells.first(found[0]), f"{allowed}multi-hot vectors", remedy)
    is_list = all(map(is_bracketed, found)) and (
        any(map(is_written, found)) or all("," in cell for cell in found)
    )
    if found and is_list:
        raise cells.wrong(cells.first(found[0]), f"{allowed}lists", remedy)


class ListColumn(_Multilabel):
    """A column of lists of labels, or of lists written as text: JSON, Python, `<a><b>`."""

    if_missing: ClassVar[str] = "Write [] where no label applies"
    kind: Literal["list"] = "list"
    column: str

    def columns(self, available: Sequence[str]) -> list[str]:
        """Return the one column."""
        return [self.column]

    def _read(self, table: pa.Table) -> pa.ListArray:
        """Return the lists with the labels as names."""
        cells = LabelCells(table, self.column)
        found = lists_of_names(cells) if is_list_column(cells) else _written_lists(cells)
        return without_repetitions(read_vectors(found, self.position_names, cells))


_WRITE_JSON = """Write it as JSON, such as ["a", "b"], or use a Parquet column of lists."""


def _written_lists(cells: LabelCells) -> pa.ListArray:
    """Parse a column of lists that are written as text; blank is missing."""
    kind = cells.column.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    remedy = "Use kind class for one label per row, delimited for 'a|b'."
    if not is_text and not pa.types.is_null(kind):
        is_other = pa.types.is_nested(kind)
        raise cells.wrong_type("must contain lists", "Write lists." if is_other else remedy)
    text = cells.column.cast(pa.string())
    parsed = {}
    for cell in distinct(text):
        labels = parse_written(cell)
        if labels is None and is_bracketed(cell):
            allowed = "must contain lists, and cannot be read as one without doubt"
            raise cells.wrong(cells.first(cell), allowed, _WRITE_JSON)
        if labels is None:
            raise cells.wrong(cells.first(cell), "must contain lists", remedy)
        parsed[cell] = labels
    return lists_of_cells(text, parsed)


class DelimitedColumn(_Multilabel):
    """A column of strings such as `a|b|c`; whitespace around a label is removed."""

    if_missing: ClassVar[str] = "Write an empty text where no label applies"
    kind: Literal["delimited"] = "delimited"
    column: str
    delimiter: str = Field("|", min_length=1)

    def columns(self, available: Sequence[str]) -> list[str]:
        """Return the one column."""
        return [self.column]

    def _read(self, table: pa.Table) -> pa.ListArray:
        """Split each string; if all of them are written lists, parse these."""
        cells = LabelCells(table, self.column)
        text = scalars_as_text(cells)
        found = distinct(text)
        read = {cell: labels for cell in found if (labels := parse_written(cell)) is not None}
        if found and len(read) == len(found):
            lists = lists_of_cells(text, read, blank=[])
        else:
            self._refuse_written(cells, found)
            lists = self._split(text.combine_chunks())
        return without_repetitions(read_vectors(lists, self.position_names, cells))

    def _refuse_written(self, cells: LabelCells, found: Sequence[str]) -> None:
        written = [cell for cell in found if is_written(cell)]
        if not written and all(map(is_bracketed, found)):
            written = [cell for cell in found if parse_written(cell) is None]
        if written:
            allowed = f"must contain labels separated by {self.delimiter!r}; this looks like a list"
            remedy = f"{_WRITE_JSON[:-1]}, in all rows."
            raise cells.wrong(cells.first(written[0]), allowed, remedy)

    def _split(self, text: pa.Array) -> pa.ListArray:
        parts = pc.split_pattern(text, self.delimiter)
        lengths = pc.fill_null(pc.list_value_length(parts), 0).cast(pa.int64())
        flat = pc.utf8_trim_whitespace(parts.flatten())
        flat = pc.if_else(pc.equal(flat, ""), pa.scalar(None, pa.string()), flat)
        return list_array(flat, lengths, text.is_null())


class IndicatorColumns(_Multilabel):
    """One column of 0 and 1 (or bools) per label; the column's name is the label."""

    if_missing: ClassVar[str] = "Write 0 where a label does not apply"
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

    def _read(self, table: pa.Table) -> pa.ListArray:
        """Return the names of the columns that are 1; null where a cell is null."""
        names = self.columns(table.column_names)
        flags = read_flags([LabelCells(table, name) for name in names])
        rows, codes = np.nonzero(np.column_stack([pc.fill_null(f, False) for f in flags]))
        lengths = np.bincount(rows, minlength=table.num_rows)
        missing = np.logical_or.reduce([f.is_null().to_numpy(zero_copy_only=False) for f in flags])
        keep = ~missing[rows]
        lengths[missing] = 0
        flat = pa.array(names, pa.string()).take(pa.array(codes[keep]))
        return list_array(flat, pa.array(lengths, pa.int64()), pa.array(missing))


Labels = Annotated[
    ClassColumn | ListColumn | DelimitedColumn | IndicatorColumns,
    Field(discriminator="kind"),
    BareKind(),
]


@dataclass(frozen=True)
class LabelSpace:
    """Label names in the order of the logits."""

    task: Task
    names: tuple[str, ...]

    @classmethod
    def from_lists(cls, spec: LabelColumns, train: pa.ListArray) -> LabelSpace:
        """Build the space from the labels of the train rows only.

        Fixed names stay without rows, too, unless `min_count` is above 1.

        Raises:
            DataError: Fewer than two labels remain.
        """
        fixed = spec.fixed_names
        counts: Counter[str] = Counter()
        found = _counts(train.flatten())
        same = matches(found, fixed or list(found))
        for name, count in found.items():
            counts[same.get(name, name)] += count
        frequent = {name for name, count in counts.items() if count >= spec.min_count}
        names = _sorted(frequent) if fixed is None else list(fixed)
        if spec.min_count > 1:
            names = [name for name in names if name in frequent]
        if len(frequent.intersection(names)) < 2:
            rows = counted(spec.min_count, "row")
            allowed = f"train must have two or more labels with {rows} or more each"
            allowed += "" if fixed is None else f", of {', '.join(fixed[:5])}"
            remedy = "Check the column" + ("" if fixed is None else " and names")
            remedy += ", or lower min_count." if spec.min_count > 1 else "."
            raise DataError(Problem("data.labels", sorted(counts)[:5], allowed, remedy))
        return cls(spec.task, tuple(names))

    def encode(self, lists: pa.ListArray) -> pa.ListArray:
        """Return (rows,) list<int32>: label indices; labels outside the space are dropped."""
        flat = lists.flatten().dictionary_encode()
        found = flat.dictionary.to_pylist()
        same, places = matches(found, self.names), {n: i for i, n in enumerate(self.names)}
        codes = pa.array([places[same[n]] if n in same else None for n in found], pa.int32())
        lengths = pc.fill_null(pc.list_value_length(lists), 0).cast(pa.int64())
        taken = list_array(codes.take(flat.indices), lengths, lists.is_null())
        return without_repetitions(taken)

    def known(self, lists: pa.ListArray) -> pa.ListArray:
        """Return (rows,) list<string>: the labels of the space only."""
        codes = self.encode(lists)
        names = pa.array(self.names, pa.string()).take(codes.flatten())
        return list_array(names, pc.fill_null(pc.list_value_length(codes), 0), codes.is_null())

    def decode(self, codes: Sequence[int]) -> list[str]:
        """Return the names of label indices."""
        return [self.names[code] for code in codes]

    def unknown(self, lists: pa.ListArray) -> dict[str, int]:
        """Count the labels outside the space."""
        counts = _counts(lists.flatten())
        same = matches(counts, self.names)
        return {name: count for name, count in counts.items() if name not in same}


def multi_hot(codes: pa.ListArray, num_labels: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return (rows, labels) float32 of 0 and 1 from lists of label indices."""
    lengths = pc.fill_null(pc.list_value_length(codes), 0).to_numpy()
    matrix = np.zeros((len(codes), num_labels), np.float32)
    matrix[np.repeat(np.arange(len(codes)), lengths), codes.flatten().to_numpy()] = 1.0
    return matrix


def _counts(flat: pa.Array) -> dict[str, int]:
    return {str(c["values"]): c["counts"] for c in pc.value_counts(flat).tolist()}


def _renamed(lists: pa.ListArray, names: Mapping[str, str]) -> pa.ListArray:
    """Replace labels by the names that they map to; a label that is such a name stays."""
    flat = lists.flatten().dictionary_encode()
    found = flat.dictionary.to_pylist()
    same, targets = matches(found, list(names)), set(names.values())
    known = {n: names[key] for n, key in same.items() if n in names or n not in targets}
    renamed = pa.array([known.get(name, name) for name in found], pa.string())
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    taken = list_array(renamed.take(flat.indices), lengths, lists.is_null())
    return without_repetitions(taken)


def _sorted(names: set[str]) -> list[str]:
    """Sort names; by value if all are numbers."""
    is_numeric = all(re.fullmatch(r"-?\d+(\.\d+)?", name) for name in names)
    return sorted(names, key=lambda n: (Decimal(n), n)) if is_numeric else sorted(names)
