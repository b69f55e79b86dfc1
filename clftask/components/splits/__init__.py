"""Train/validation/test splitting.

A split depends on the seed and the data only: NumPy's PCG64 gives the same rows on any
machine. To add one: subclass `SplitSpec` and add the class to `Split`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from clftask.array_types import Float64
from clftask.components.splits.stratification import Indices, by_class, iterative
from clftask.errors import DataError, Problem
from clftask.messages import counted
from clftask.spec import BareKind, Spec

SPLITS = ("train", "validation", "test")
Assignment = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Rows:
    """The data that a split depends on.

    Attributes:
        labels: (rows, labels) scipy.sparse.csr_array of 0 and 1, without explicit zeros.
        label_names: Names of the label columns.
        column: (rows,) string: the column that the split reads, null where missing.
        is_multilabel: Whether a row can have any number of labels.
        where: Returns the file and number of a row, for messages.
    """

    labels: Any
    label_names: Sequence[str]
    column: pa.Array | None
    is_multilabel: bool
    where: Callable[[int], str] = "row {}".format

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return int(self.labels.shape[0])


def group_codes(column: pa.Array) -> Indices:
    """Return (rows,) a number for each row's group, in the order of the groups' names.

    A row without a group is a group of its own.

    Args:
        column: (rows,) string.
    """
    groups = column.dictionary_encode()
    order = pc.sort_indices(groups.dictionary).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    missing = column.is_null().to_numpy(zero_copy_only=False)
    codes = np.empty(len(column), np.int64)
    codes[~missing] = rank[groups.indices.drop_null().to_numpy()]
    codes[missing] = len(order) + np.arange(missing.sum())
    return codes


class SplitSpec(Spec):
    """Base class: the shares of validation and test; the remaining rows are train."""

    validation: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.1, ge=0, lt=1)
    seed: int = Field(42, ge=0, lt=2**32)

    @field_validator("validation", "test", mode="before")
    @classmethod
    def _is_share(cls, value: Any) -> Any:
        try:
            is_share = 0 <= float(value) < 1
        except (TypeError, ValueError):
            is_share = False
        if not is_share:
            allowed = "must be a share of the rows, from 0 to below 1"
            raise ValueError(f"{allowed}; Use 0.1 for a tenth of them.")
        return value

    @model_validator(mode="after")
    def _leaves_train(self) -> SplitSpec:
        if self.validation + self.test >= 1:
            total = f"{self.validation} + {self.test}"
            raise ValueError(
                f"validation + test must be below 1 ({total}); Leave rows for training."
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

    @property
    def shares(self) -> dict[str, float]:
        """The shares of the rows that are asked for, by split."""
        return {"validation": self.validation, "test": self.test}

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

    def sizes(self, num_rows: int) -> tuple[int, int]:
        """Return the numbers of validation and test rows.

        Raises:
            DataError: A part that has a share would get no row.
        """
        rows = counted(num_rows, "row")
        for name, share in self.shares.items():
            if share and not round(share * num_rows):
                least = math.ceil(100 / max(num_rows, 2)) / 100
                remedy = f"Provide more rows, or set a share of {least:g} or more."
                allowed = f"this share of {rows} is less than one row"
                raise DataError(Problem(f"data.split.{name}", share, allowed, remedy))
        validation, test = round(self.validation * num_rows), round(self.test * num_rows)
        if validation + test >= num_rows:
            remedy = "Provide more rows, or smaller shares."
            found = f"validation {self.validation:g}, test {self.test:g}"
            allowed = f"these shares leave none of {rows} for training"
            raise DataError(Problem("data.split", found, allowed, remedy))
        return validation, test


class RandomSplit(SplitSpec):
    """Random rows."""

    kind: Literal["random"] = "random"

    def assign(self, rows: Rows) -> Assignment:
        """Shuffle and cut; the sizes are exact."""
        num_validation, num_test = self.sizes(rows.num_rows)
        order = np.random.default_rng(self.seed).permutation(rows.num_rows)
        found = np.zeros(rows.num_rows, np.int8)
        found[order[:num_validation]] = 1
        found[order[num_validation : num_validation + num_test]] = 2
        return found


class StratifiedSplit(SplitSpec):
    """The same label distribution in every part.

    Multilabel: iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011).
    """

    kind: Literal["stratified"] = "stratified"

    def assign(self, rows: Rows) -> Assignment:
        """Select test first, then validation from the remaining rows."""
        num_validation, num_test = self.sizes(rows.num_rows)
        if not rows.is_multilabel:
            self._refuse_rare_classes(rows)
        found = np.zeros(rows.num_rows, np.int8)
        rest = np.arange(rows.num_rows)
        for part, count in ((2, num_test), (1, num_validation)):
            if count:
                labels = rows.labels[rest]
                take = iterative if rows.is_multilabel else by_class
                chosen = take(labels, count, self.seed)
                found[rest[chosen]] = part
                rest = np.delete(rest, chosen)
        return found

    def _refuse_rare_classes(self, rows: Rows) -> None:
        parts = 1 + (self.validation > 0) + (self.test > 0)
        counts = np.bincount(rows.labels.indices, minlength=len(rows.label_names))
        pairs = zip(rows.label_names, counts.tolist(), strict=True)
        rare = [f"{name} ({count})" for name, count in pairs if 0 < count < parts]
        if rare:
            more = f" and {len(rare) - 10} more" if len(rare) > 10 else ""
            allowed = f"a stratified split needs {parts} rows of every class"
            remedy = "Set data.split=random to keep these classes"
            if (counts >= parts).sum() > 1:
                remedy += f", or data.labels.min_count={parts} to leave them out"
            raise DataError(
                Problem("data.split", ", ".join(rare[:10]) + more, allowed, f"{remedy}.")
            )


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
        """Assign whole groups to the part that lacks the most.

        Raises:
            DataError: A row has no group, or there are fewer groups than parts.
        """
        assert rows.column is not None
        self._refuse_missing(rows, rows.column.is_null())
        groups = group_codes(rows.column)
        num_groups = int(groups.max()) + 1
        parts = 1 + (self.validation > 0) + (self.test > 0)
        if num_groups < parts:
            names = ", ".join(pc.unique(rows.column).to_pylist())
            remedy = f"Column {self.group} contains only {names}. Use another column."
            allowed = f"requires {parts} groups or more, one for each part"
            raise DataError(Problem("data.split.group", num_groups, allowed, remedy))
        return self._fill(self._weights(rows, groups, num_groups))[groups]

    def _refuse_missing(self, rows: Rows, missing: pa.Array) -> None:
        """Refuse rows without a group: each could belong to a group of another part."""
        row = pc.index(missing, True).as_py()
        if row >= 0:
            count = counted(pc.sum(missing).as_py(), "row")
            remedy = (
                f"Fill it in, or remove such rows ({count} of {rows.num_rows:,}). If they belong "
                "to no other rows, give each a value of its own."
            )
            where = f"data.split.group {self.group}: {rows.where(row)}"
            raise DataError(Problem(where, None, "the group is missing", remedy))

    def _weights(self, rows: Rows, groups: Indices, num_groups: int) -> Any:
        """Return (groups, measures) csr_array: row count and, with `stratify`, label counts."""
        from scipy.sparse import csr_array, hstack

        ones = np.ones(rows.num_rows)
        of_group = csr_array((ones, (groups, np.arange(rows.num_rows))), (num_groups, len(ones)))
        sizes = csr_array(of_group.sum(1)[:, None])
        if not self.stratify:
            return sizes
        return hstack([sizes, of_group @ rows.labels.astype(float)], format="csr")

    def _fill(self, weights: Any) -> Assignment:
        """Assign each group, largest first, to the part that lacks most of its rows and labels."""
        shares = np.array([1 - self.validation - self.test, self.validation, self.test])
        totals: Float64 = np.maximum(weights.sum(0), 1e-9)
        lacking = shares[:, None] * totals
        importance = np.ones(len(totals))
        importance[0] = max(1, len(totals) - 1)  # rows weigh as much as all labels together
        num_groups = weights.shape[0]
        order = np.random.default_rng(self.seed).permutation(num_groups)
        order = order[np.argsort(-weights[:, [0]].toarray()[order, 0], kind="stable")]
        found = np.zeros(num_groups, np.int8)
        parts = np.flatnonzero(shares > 0).tolist()
        empty = set(parts)
        own = np.zeros(len(totals))  # of one group: a dense matrix of all may not fit the memory
        for place, group in enumerate(order.tolist()):
            entries = slice(weights.indptr[group], weights.indptr[group + 1])
            measures = weights.indices[entries]
            own[measures] = weights.data[entries]
            is_last_chance = num_groups - place <= len(empty)
            need = (lacking / totals * importance) @ (own / totals)
            part = max(sorted(empty) if is_last_chance else parts, key=need.__getitem__)
            found[group] = part
            empty.discard(part)
            lacking[part] -= own
            own[measures] = 0
        return found


_VALUES = {
    **dict.fromkeys(("train", "training"), 0),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), 1),
    **dict.fromkeys(("test", "testing"), 2),
}
SPLIT_NAMES = frozenset(_VALUES)


class ColumnSplit(Spec):
    """A column contains the split: train, validation (valid, val, dev) or test, in any case.

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
            DataError: A value is missing or not the name of a split; or no row is train, or
                none validation.
        """
        assert rows.column is not None
        values = rows.column.dictionary_encode()
        names = values.dictionary.to_pylist()
        known = [_VALUES.get(name.strip().lower()) for name in names]
        codes = pa.array(known, pa.int8()).take(values.indices)
        if codes.null_count:
            raise self._unknown(rows, codes)
        if missing := [name for part, name in enumerate(SPLITS[:2]) if part not in known]:
            where = f"data.split.column {self.column}"
            allowed = f"must contain train and validation, but lacks {' and '.join(missing)}"
            remedy = "Mark rows for it, or use another kind of split."
            raise DataError(Problem(where, names[:5], allowed, remedy))
        found: Assignment = codes.to_numpy()
        return found

    def _unknown(self, rows: Rows, codes: pa.Array) -> DataError:
        assert rows.column is not None
        row = pc.index(codes.is_null(), True).as_py()
        strange = pc.unique(rows.column.filter(codes.is_null()).drop_null()).to_pylist()
        unknown = f" (unknown: {', '.join(strange[:10])})" if len(strange) > 1 else ""
        count = f"{counted(codes.null_count, 'row')} of {rows.num_rows:,}"
        remedy = f"Fix {count}{unknown}, or use another column or kind of split."
        where, value = (
            f"data.split.column {self.column}: {rows.where(row)}",
            rows.column[row].as_py(),
        )
        what = "the split is missing; it must be" if value is None else "must be"
        allowed = f"{what} train, validation (or valid, val, dev) or test"
        return DataError(Problem(where, value, allowed, remedy))

    @property
    def shares(self) -> dict[str, float]:
        """Empty: the column decides."""
        return {}

    def without(self, validation: bool, test: bool) -> ColumnSplit:
        """Return itself: a job cannot combine a split column with separate tables."""
        return self


Split = Annotated[
    RandomSplit | StratifiedSplit | GroupedSplit | ColumnSplit,
    Field(discriminator="kind"),
    BareKind(),
]
