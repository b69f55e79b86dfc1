"""Train/validation/test splitting.

A split depends on the seed and the data only: NumPy's PCG64 gives the same rows on any
machine. To add one: subclass `SplitSpec` and add the class to `Split`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from clftask.array_types import Array, Float32, Float64
from clftask.errors import DataError, Problem
from clftask.spec import BareKind, Spec

SPLITS = ("train", "validation", "test")
Assignment = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Rows:
    """The data that a split depends on.

    Attributes:
        labels: (rows, labels) float32 of 0 and 1.
        label_names: Names of the label columns.
        column: (rows,) values of the column that the split reads, if any.
        is_multilabel: Whether a row can have any number of labels.
    """

    labels: Float32
    label_names: Sequence[str]
    column: Array | None
    is_multilabel: bool


class SplitSpec(Spec):
    """Base class: the shares of validation and test; the remaining rows are train."""

    validation: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.1, ge=0, lt=1)
    seed: int = Field(42, ge=0)

    @model_validator(mode="after")
    def _leaves_train(self) -> SplitSpec:
        if self.validation + self.test >= 1:
            total = f"{self.validation} + {self.test}"
            raise ValueError(
                f"validation + test must be below 1 ({total}); Leave rows for training"
            )
        return self

    @property
    def reads(self) -> str | None:
        """The column that the split reads, if any."""
        return None

    @property
    def groups(self) -> str | None:
        """The column of groups of similar rows, if any."""
        return None

    @abstractmethod
    def assign(self, rows: Rows) -> Assignment:
        """Return (rows,) int8: the index of each row's split in `SPLITS`.

        Raises:
            DataError: This split is impossible for the data.
        """

    def without(self, validation: bool, test: bool) -> SplitSpec:
        """Return the split with share 0 for the parts that have their own table."""
        given = {"validation": validation, "test": test}
        return self.model_copy(update={name: 0.0 for name, own in given.items() if own})


class RandomSplit(SplitSpec):
    """Random rows."""

    kind: Literal["random"] = "random"

    def assign(self, rows: Rows) -> Assignment:
        """Shuffle and cut; the sizes are exact."""
        order = np.random.default_rng(self.seed).permutation(len(rows.labels))
        return _cut(order, self.validation, self.test)


class StratifiedSplit(SplitSpec):
    """The same label distribution in every part.

    Multilabel: iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011), by the package
    iterative-stratification.
    """

    kind: Literal["stratified"] = "stratified"

    def assign(self, rows: Rows) -> Assignment:
        """Select test first, then validation from the remaining rows."""
        if not rows.is_multilabel:
            self._refuse_single_rows(rows)
        found = np.zeros(len(rows.labels), np.int8)
        rest = np.arange(len(rows.labels))
        for part, share in ((2, self.test), (1, self.validation)):
            count = round(share * len(rows.labels))
            if 0 < count < len(rest):
                chosen = self._take(rows, rest, count)
                found[rest[chosen]] = part
                rest = np.delete(rest, chosen)
        return found

    def _take(self, rows: Rows, rest: npt.NDArray[np.int64], count: int) -> Any:
        """Return the positions in `rest` of `count` stratified rows."""
        labels = rows.labels[rest]
        if rows.is_multilabel:
            from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

            cutter = MultilabelStratifiedShuffleSplit(
                n_splits=1, test_size=count / len(rest), random_state=self.seed
            )
            return next(cutter.split(np.zeros(len(rest)), labels))[1]
        # Sort the rows by class and take every k-th: each class gets its share ± 1 row.
        random = np.random.default_rng(self.seed)
        order = np.lexsort((random.random(len(rest)), labels.argmax(1)))
        marks = np.floor(np.arange(len(rest) + 1) * (count / len(rest)) + random.random())
        return order[np.diff(marks) > 0]

    def _refuse_single_rows(self, rows: Rows) -> None:
        parts = 1 + (self.validation > 0) + (self.test > 0)
        counts = rows.labels.sum(0)
        pairs = zip(rows.label_names, counts, strict=True)
        rare = [f"{name} ({int(count)})" for name, count in pairs if count < parts]
        if rare:
            allowed = f"a stratified split needs {parts} rows of every class"
            remedy = "Set data.labels.min_count, or use kind random."
            raise DataError(Problem("data.split", ", ".join(rare[:10]), allowed, remedy))


class GroupedSplit(SplitSpec):
    """No group is in two parts; `stratify` also keeps the label distribution."""

    kind: Literal["grouped"] = "grouped"
    group: str
    stratify: bool = False

    @property
    def reads(self) -> str | None:
        """The column of groups."""
        return self.group

    @property
    def groups(self) -> str | None:
        """The column of groups."""
        return self.group

    def assign(self, rows: Rows) -> Assignment:
        """Assign whole groups to the part that lacks the most."""
        assert rows.column is not None
        _, groups = np.unique(rows.column.astype(str), return_inverse=True)
        num_groups = int(groups.max()) + 1
        parts = 1 + (self.validation > 0) + (self.test > 0)
        if num_groups < parts:
            allowed = f"requires {parts} groups or more, one for each part"
            raise DataError(Problem("data.split.group", num_groups, allowed, "Use another column."))
        weights = self._weights(rows, groups, num_groups)
        return self._fill(weights)[groups]

    def _weights(self, rows: Rows, groups: Any, num_groups: int) -> Float64:
        """Return (groups, measures): row count and, with `stratify`, label counts per group."""
        sizes = np.bincount(groups, minlength=num_groups).astype(float)[:, None]
        if not self.stratify:
            return sizes
        labels = np.zeros((num_groups, rows.labels.shape[1]))
        np.add.at(labels, groups, rows.labels)
        return np.hstack([sizes, labels])

    def _fill(self, weights: Float64) -> Assignment:
        """Assign each group, largest first, to the part that lacks most of its rows and labels."""
        shares = np.array([1 - self.validation - self.test, self.validation, self.test])
        totals = np.maximum(weights.sum(0), 1e-9)
        lacking = shares[:, None] * totals
        importance = np.ones(weights.shape[1])
        importance[0] = max(1, weights.shape[1] - 1)  # rows weigh as much as all labels together
        order = np.random.default_rng(self.seed).permutation(len(weights))
        order = order[np.argsort(-weights[order, 0], kind="stable")]
        found = np.zeros(len(weights), np.int8)
        empty = set(np.flatnonzero(shares > 0).tolist())
        for place, group in enumerate(order):
            is_last_chance = len(order) - place <= len(empty)
            open_parts = sorted(empty) if is_last_chance else np.flatnonzero(shares > 0).tolist()
            need = (lacking / totals * importance) @ (weights[group] / totals)
            part = max(open_parts, key=need.__getitem__)
            found[group] = part
            empty.discard(part)
            lacking[part] -= weights[group]
        return found


_VALUES = {"train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "dev": 1, "test": 2}


class ColumnSplit(Spec):
    """A column contains the split: train, validation (valid, val, dev) or test.

    Attributes:
        column: The column.
        group: The column of groups that this split keeps together. Cross-fitting and bootstrap
            then keep them together as well.
    """

    kind: Literal["column"] = "column"
    column: str
    group: str | None = None

    @property
    def reads(self) -> str | None:
        """The column of the split."""
        return self.column

    @property
    def groups(self) -> str | None:
        """The column of groups."""
        return self.group

    def assign(self, rows: Rows) -> Assignment:
        """Read each row's part.

        Raises:
            DataError: A value is not the name of a split, or no row is train.
        """
        assert rows.column is not None
        values, inverse = np.unique(rows.column.astype(str), return_inverse=True)
        strange = [v for v in values if v.lower() not in _VALUES]
        if strange or not any(_VALUES.get(v.lower()) == 0 for v in values):
            where = f"data.split.column {self.column}"
            allowed = f"must contain only {', '.join(_VALUES)}, and at least one train"
            raise DataError(Problem(where, [str(v) for v in strange or values][:5], allowed))
        codes = np.array([_VALUES[v.lower()] for v in values], np.int8)
        found: Assignment = codes[inverse]
        return found

    def without(self, validation: bool, test: bool) -> ColumnSplit:
        """Return itself: a job cannot combine a split column with separate tables."""
        return self


Split = Annotated[
    RandomSplit | StratifiedSplit | GroupedSplit | ColumnSplit,
    Field(discriminator="kind"),
    BareKind(),
]


def _cut(order: npt.NDArray[np.int64], validation: float, test: float) -> Assignment:
    total = len(order)
    num_validation, num_test = round(validation * total), round(test * total)
    found = np.zeros(total, np.int8)
    found[order[:num_validation]] = 1
    found[order[num_validation : num_validation + num_test]] = 2
    return found
