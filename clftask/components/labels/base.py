"""The base class of label columns, and the names of their labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from clftask.components.labels.cells import matches, scalar_name, with_items, without_repetitions
from clftask.errors import Problem
from clftask.spec import Spec

Task = Literal["multiclass", "multilabel"]


def _as_name(value: Any) -> str:
    name = scalar_name(value)
    if not name:
        raise ValueError("a label must not be empty")
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
        cells: What the columns contain: names of labels (or lists of them), text with several
            names, flags, or probabilities.
        is_soft: Whether the training targets are probabilities.
        min_count: Labels with fewer rows in the train table are excluded from the label space.
        names: The labels in order, or a mapping of the labels in the data to names, in order; two
            labels can have one name. None collects them from train, sorted.
        missing: What to do with a row whose label is null.
        positive: The positive class of two, for precision, recall and F1: its name, or its label in
            the data.
    """

    task: ClassVar[Task] = "multilabel"
    cells: ClassVar[Literal["names", "text", "flags", "probabilities"]] = "names"
    is_soft: ClassVar[bool] = False
    column_of_lists: ClassVar[str | None] = None  # of probabilities, in the order of the names
    if_missing: ClassVar[str] = "Label the row"  # the remedy for a missing label
    min_count: int = Field(1, ge=1)
    names: _Names = None
    missing: Literal["fail", "drop"] = "fail"
    positive: str | None = None

    @field_validator("positive", mode="before")
    @classmethod
    def _positive_name(cls, value: Any) -> Any:
        return _as_name(value) if isinstance(value, str | int | float) else value

    @field_validator("positive")
    @classmethod
    def _renamed_positive(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Return the class's name if its label in the data is given."""
        names = info.data.get("names")
        if value is None or not names:
            return value
        renamed = names if isinstance(names, dict) else {name: name for name in names}
        label = None if value in renamed.values() else matches([value], list(renamed)).get(value)
        return value if label is None else renamed[label]

    @field_validator("names")
    @classmethod
    def _distinct(cls, value: Any) -> Any:
        if value is None:
            return value
        names = set(value.values()) if isinstance(value, dict) else set(value)
        is_repeated = not isinstance(value, dict) and len(names) < len(value)
        if is_repeated or len(names) < 2:
            raise ValueError(
                "must be two or more distinct label names; List all labels: others are left out"
            )
        return value

    @property
    def fixed_names(self) -> tuple[str, ...] | None:
        """The fixed labels in order, after renaming; None if they are collected from train."""
        if isinstance(self.names, dict):
            return tuple(dict.fromkeys(self.names.values()))
        return self.names

    @property
    def known(self) -> tuple[str, ...] | None:
        """The labels, of which rare ones may be left out; None if the data has to be read."""
        return self.fixed_names

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that the kind is for."""
        return (self.task,)

    @property
    def held_out(self) -> LabelColumns:
        """The label columns of tables other than `data.train`, not yet `resolved`."""
        return self

    def resolved(
        self, task: Task, available: Sequence[str], stored: Sequence[str] | None
    ) -> LabelColumns:
        """Return the kind for one task and one table.

        Args:
            task: The job's task.
            available: The columns of the table.
            stored: The labels that the table's file names, as a score table does.
        """
        return self

    def problems(self, task: Task) -> list[Problem]:
        """Return the fields that do not fit each other or the task; paths begin here."""
        return []

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

    def reads(self, column: str) -> bool:
        """Tell whether a column certainly contains labels, without reading the data."""
        return False

    def targets(self, table: pa.Table) -> pa.FixedSizeListArray | None:
        """Return (rows,) lists of a probability per label; None without soft labels."""
        return None

    def warnings(self, table: pa.Table) -> list[str]:
        """Return what may be wrong with columns that `lists` accepts."""
        return []

    @abstractmethod
    def _read(self, table: pa.Table) -> pa.ListArray:
        """Return `lists` with the labels of the data."""


def _renamed(lists: pa.ListArray, names: Mapping[str, str]) -> pa.ListArray:
    """Replace labels by the names that they map to; a label that is such a name stays."""
    flat = lists.flatten().dictionary_encode()
    found = flat.dictionary.to_pylist()
    same, targets = matches(found, list(names)), set(names.values())
    known = {n: names[key] for n, key in same.items() if n in names or n not in targets}
    renamed = pa.array([known.get(name, name) for name in found], pa.string())
    return without_repetitions(with_items(lists, renamed.take(flat.indices)))
