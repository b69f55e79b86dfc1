"""Label columns and label spaces: encode and decode label names.

Every kind converts its columns to one list of label names per row; all later code is the same
for all kinds. To add a kind: subclass `LabelColumns` and add the class to `Labels`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from clftask.components.labels.base import LabelColumns, Task
from clftask.components.labels.cells import (
    LabelCells,
    is_list,
    list_array,
    lists_of_names,
    scalars_as_names,
    scalars_as_text,
    with_items,
    without_repetitions,
)
from clftask.components.labels.flags import read_flags, read_vectors, warn_of_counts
from clftask.components.labels.list_text import (
    WRITE_JSON,
    distinct,
    is_bracketed,
    is_written,
    lists_of_cells,
    parse_written,
    refuse_lists,
    written_lists,
)
from clftask.components.labels.probabilities import (
    SOFT,
    Probabilities,
    read_probabilities,
)
from clftask.components.labels.space import LabelSpace, multi_hot
from clftask.errors import DataError, Problem
from clftask.spec import BareKind

__all__ = [
    "SOFT",
    "ClassColumn",
    "DelimitedColumn",
    "IndicatorColumns",
    "LabelColumns",
    "LabelSpace",
    "Labels",
    "ListColumn",
    "ProbabilityColumns",
    "Task",
    "multi_hot",
]


class _Multilabel(LabelColumns):
    empty: Literal["keep", "drop"] = "keep"

    @property
    def keep_empty(self) -> bool:
        """Whether a row without any label is kept."""
        return self.empty == "keep"


class _OneColumn(LabelColumns):
    column: str

    def columns(self, available: Sequence[str]) -> list[str]:
        """Return the one column."""
        return [self.column]

    def reads(self, column: str) -> bool:
        """Tell whether it is the column."""
        return column == self.column


class ClassColumn(_OneColumn):
    """A column with one label per row: strings, whole numbers or bools."""

    task: ClassVar[Task] = "multiclass"
    kind: Literal["class"] = "class"

    def _read(self, table: pa.Table) -> pa.ListArray:
        """Return a list of one label per row."""
        cells = LabelCells(table, self.column)
        names = scalars_as_names(cells)
        refuse_lists(cells, distinct(names))
        lengths = pc.if_else(names.is_valid(), 1, 0)
        return list_array(names.drop_null(), lengths, names.is_null())


class _Lists(_OneColumn, _Multilabel):
    """Base class: a column of which each cell has a list of labels, or a multi-hot vector."""

    @abstractmethod
    def _items(self, cells: LabelCells) -> pa.ListArray:
        """Return (rows,) list<string>: the items of each cell, null items included."""

    def _read(self, table: pa.Table) -> pa.ListArray:
        """Return the lists without repetitions; vectors as the names of their ones."""
        cells = LabelCells(table, self.column)
        return without_repetitions(read_vectors(self._items(cells), self.position_names, cells))

    def warnings(self, table: pa.Table) -> list[str]:
        """Return a warning if the lists look like vectors of counts."""
        return warn_of_counts(self._items(LabelCells(table, self.column)), self.column)


class ListColumn(_Lists):
    """A column of lists of labels, or of lists written as text: JSON, Python, `<a><b>`."""

    if_missing: ClassVar[str] = "Write [] where no label applies"
    kind: Literal["list"] = "list"

    def _items(self, cells: LabelCells) -> pa.ListArray:
        return lists_of_names(cells) if is_list(cells.column.type) else written_lists(cells)


class DelimitedColumn(_Lists):
    """A column of strings such as `a|b|c`; whitespace around a label is removed."""

    cells = "text"
    if_missing: ClassVar[str] = "Write an empty text where no label applies"
    kind: Literal["delimited"] = "delimited"
    delimiter: str = Field("|", min_length=1)

    def _items(self, cells: LabelCells) -> pa.ListArray:
        """Split each string; if all of them are written lists, parse these."""
        text = scalars_as_text(cells)
        found = distinct(text)
        read = {cell: labels for cell in found if (labels := parse_written(cell)) is not None}
        if found and len(read) == len(found):
            return lists_of_cells(text, read, blank=[])
        self._refuse_written(cells, found)
        return self._split(text.combine_chunks())

    def _refuse_written(self, cells: LabelCells, found: Sequence[str]) -> None:
        written = [cell for cell in found if is_written(cell)]
        if not written and all(map(is_bracketed, found)):
            written = [cell for cell in found if parse_written(cell) is None]
        if written:
            allowed = f"must contain labels separated by {self.delimiter!r}; this looks like a list"
            remedy = f"{WRITE_JSON[:-1]}, in all rows."
            raise cells.wrong(cells.first(written[0]), allowed, remedy)

    def _split(self, text: pa.Array) -> pa.ListArray:
        parts = pc.split_pattern(text, self.delimiter)
        flat = pc.utf8_trim_whitespace(parts.flatten())
        flat = pc.if_else(pc.equal(flat, ""), pa.scalar(None, pa.string()), flat)
        return with_items(parts, flat)


class IndicatorColumns(_Multilabel):
    """One column of 0 and 1 (or bools) per label; the column's name is the label."""

    cells = "flags"
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

    @property
    def known(self) -> tuple[str, ...] | None:
        """The columns, if they are listed and have no other names."""
        return self.fixed_names or self.columns_

    def reads(self, column: str) -> bool:
        """Tell whether it is one of the listed columns."""
        return column in (self.columns_ or ())

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


HardLabels = Annotated[
    ClassColumn | ListColumn | DelimitedColumn | IndicatorColumns,
    Field(discriminator="kind"),
    BareKind(),
]


class ProbabilityColumns(_Multilabel):
    """Soft labels: a probability of each label, as in a score table.

    Attributes:
        prefix: Begins the name of each label's column; the rest is the label. The layout `wide`.
        column: One column of lists in its place, in the order of the labels. The layout `list`.
        hard: The columns of the true labels, of validation and test tables, of those of
            `evaluate`, `decide` and `compare`, and of train if it has them. None: the labels are
            those that the probabilities give.
    """

    cells = "probabilities"
    is_soft = True
    if_missing: ClassVar[str] = "Write a probability of each label"
    kind: Literal["probabilities"] = "probabilities"
    prefix: str | None = Field(None, min_length=1)
    column: str | None = None
    hard: HardLabels | None = None

    @model_validator(mode="after")
    def _one_layout(self) -> ProbabilityColumns:
        if (self.prefix is None) == (self.column is None):
            raise ValueError("requires either prefix or column")
        return self

    @field_validator("names")
    @classmethod
    def _one_column_each(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(set(value.values())) < len(value):
            raise ValueError("must not merge labels; Add up their columns in the table.")
        return value

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Both tasks."""
        return ("multiclass", "multilabel")

    @property
    def column_of_lists(self) -> str | None:  # type: ignore[override]
        """The column of lists of probabilities, in the order of the names."""
        return self.column

    @property
    def held_out(self) -> LabelColumns:
        """The hard label columns, if there are any."""
        return self.hard or self

    @property
    def keep_empty(self) -> bool:
        """Whether a row without any label is kept."""
        return self.hard.keep_empty if self.hard is not None else self.empty == "keep"

    def resolved(
        self, task: Task, available: Sequence[str], stored: Sequence[str] | None
    ) -> LabelColumns:
        """Return the kind for a task, with fixed names: the targets are in their order.

        It has `hard` only if the table has these columns.

        Raises:
            DataError: The labels of the columns are unknown.
        """
        names = tuple(self._found(available, stored))
        kind = _ClassProbabilities if task == "multiclass" else ProbabilityColumns
        hard = self._hard_in(available)
        missing = "drop" if hard is not None and hard.missing == "drop" else self.missing
        known = dict(self) | {"names": self.names or names, "hard": hard, "missing": missing}
        return kind.model_construct(**known)

    def _hard_in(self, available: Sequence[str]) -> LabelColumns | None:
        """Return `hard` if a table has its columns."""
        try:
            columns = self.hard.columns(available) if self.hard is not None else []
        except DataError:  # none matches the pattern
            return None
        return self.hard if columns and set(columns) <= set(available) else None

    def _found(self, available: Sequence[str], stored: Sequence[str] | None) -> Sequence[str]:
        """Return the labels, in the order of their columns or of the list."""
        if self.prefix is not None:
            return [name.removeprefix(self.prefix) for name in self._soft_columns(available)]
        if stored is not None and self.names and list(self.names) != list(stored):
            allowed = f"must be the labels of the lists, in their order: {', '.join(stored)}"
            raise DataError(Problem("data.labels.names", list(self.names), allowed, "Remove it."))
        if self.names:
            return list(self.names)
        if stored is None:
            allowed = "the file does not name the labels of the lists"
            remedy = "List them in data.labels.names, in the order of the lists."
            raise DataError(Problem("data.labels.column", self.column, allowed, remedy))
        return stored

    def problems(self, task: Task) -> list[Problem]:
        """Return settings that have no effect on probabilities, and mistakes of `hard`."""
        found = []
        if self.min_count > 1:
            allowed = "has no effect: each row has a probability of each label"
            found.append(Problem("min_count", self.min_count, allowed, "Select labels by names."))
        if task == "multiclass" and self.empty == "drop":
            allowed = "is for multilabel: each row has a most probable class"
            found.append(Problem("empty", self.empty, allowed, "Remove it."))
        if self.hard is None:
            return found
        if self.hard.task != task:
            found.append(Problem("hard.kind", self.hard.kind, f"must be for a {task} task"))
        for name, default in (("min_count", 1), ("positive", None)):
            value = getattr(self.hard, name)
            if value != default:
                allowed = "has no effect: the labels are those of the probabilities"
                found.append(Problem(f"hard.{name}", value, allowed, "Remove it."))
        return found

    def columns(self, available: Sequence[str]) -> list[str]:
        """Return the columns of probabilities, and those of the hard labels of a table."""
        hard = self._hard_in(available)
        return [*self._soft_columns(available), *(hard.columns(available) if hard else [])]

    def _soft_columns(self, available: Sequence[str]) -> list[str]:
        """Return the column, or those of `names`, or all that begin with the prefix."""
        prefix = self.prefix
        if prefix is None:
            return [str(self.column)]
        if self.names is not None:
            return [prefix + name for name in self.names]
        found = [name for name in available if name.startswith(prefix) and name != prefix]
        if len(found) < 2:
            remedy = f"Available columns: {', '.join(available)}."
            allowed = "must be the beginning of two or more columns"
            raise DataError(Problem("data.labels.prefix", prefix, allowed, remedy))
        return found

    def reads(self, column: str) -> bool:
        """Tell whether it is the column, or begins with the prefix."""
        if self.prefix is None or self.names is not None:
            return column in self._soft_columns(())
        return column.startswith(self.prefix)

    def lists(self, table: pa.Table) -> pa.ListArray:
        """Return the hard labels, or those that the probabilities give.

        They are null in a row that lacks a probability, or its hard label.
        """
        soft = super().lists(table)
        if self.hard is None:
            return soft
        hard = self.hard.lists(table)
        places = pc.if_else(soft.is_valid(), pa.array(range(len(hard))), None)
        return hard.take(places)

    def targets(self, table: pa.Table) -> pa.FixedSizeListArray | None:
        """Return the probabilities in the order of `names`."""
        return self._probabilities(table).targets()

    def _read(self, table: pa.Table) -> pa.ListArray:
        """Return the labels that the probabilities give, by their names in the data."""
        return self._probabilities(table).decided(list(self.names or ()), self.task)

    def _probabilities(self, table: pa.Table) -> Probabilities:
        cells = [LabelCells(table, name) for name in self._soft_columns(table.column_names)]
        width = None if self.prefix is not None else len(self.names or ())
        return read_probabilities(cells, self.task, width)


class _ClassProbabilities(ProbabilityColumns):
    task: ClassVar[Task] = "multiclass"


Labels = Annotated[
    ClassColumn | ListColumn | DelimitedColumn | IndicatorColumns | ProbabilityColumns,
    Field(discriminator="kind"),
    BareKind(),
]
