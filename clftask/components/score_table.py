"""The score table: columns, layouts, and Parquet parts.

To add a layout: subclass `_Layout`, define its columns and their values, and add the class to
`Layout`.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from clftask.array_types import Bools, Float32
from clftask.components.labels import Task
from clftask.errors import ConfigError, Problem
from clftask.spec import BareKind, Spec

SCHEMA_VERSION = 1
ROW_GROUP_ROWS = 50_000
MAX_DECIMAL_DIGITS = 38
COUNTS, SECONDS = "clftask.counts", "clftask.seconds"
LABEL_NAMES = "clftask.label_names"
PLAN, MANIFEST = "_plan.json", "_manifest.json"  # first and last file of a table
DELTA_LOG = "_delta_log"
BUNDLES = ("large", "small")  # of a cascade


class _Layout(Spec):
    @abstractmethod
    def fields(self, names: Sequence[str]) -> list[pa.Field]:
        """Return the columns of probabilities."""

    @abstractmethod
    def columns(self, probabilities: Float32, names: Sequence[str]) -> list[pa.Array]:
        """Return the values of those columns; probabilities: (rows, labels)."""


class Wide(_Layout):
    """One column per label: `p_<label>`."""

    kind: Literal["wide"] = "wide"

    def fields(self, names: Sequence[str]) -> list[pa.Field]:
        """Return a float32 column per label, in bundle order."""
        return [pa.field(f"p_{name}", pa.float32()) for name in names]

    def columns(self, probabilities: Float32, names: Sequence[str]) -> list[pa.Array]:
        """Return each label's probabilities."""
        return [pa.array(column) for column in np.ascontiguousarray(probabilities.T)]


class Lists(_Layout):
    """One list column `p`: all probabilities of a row, in bundle order."""

    kind: Literal["list"] = "list"

    def fields(self, names: Sequence[str]) -> list[pa.Field]:
        """Return the one column."""
        return [pa.field("p", pa.list_(pa.float32()))]

    def columns(self, probabilities: Float32, names: Sequence[str]) -> list[pa.Array]:
        """Return one list per row."""
        return [
            _lists(pa.array(probabilities.ravel()), [probabilities.shape[1]] * len(probabilities))
        ]


class TopK(_Layout):
    """The `k` most probable labels of a row and their probabilities, best first."""

    kind: Literal["top_k"] = "top_k"
    k: int = Field(5, ge=1)

    def fields(self, names: Sequence[str]) -> list[pa.Field]:
        """Return two list columns."""
        return [
            pa.field("top_labels", pa.list_(pa.string())),
            pa.field("top_p", pa.list_(pa.float32())),
        ]

    def columns(self, probabilities: Float32, names: Sequence[str]) -> list[pa.Array]:
        """Return the labels and their probabilities; ties in bundle order."""
        k = min(self.k, len(names))
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
        labels = pa.array(names, pa.string()).take(pa.array(best.ravel()))
        values = np.take_along_axis(probabilities, best, 1)
        counts = [k] * len(probabilities)
        return [_lists(labels, counts), _lists(pa.array(values.ravel()), counts)]


Layout = Annotated[Wide | Lists | TopK, BareKind(), Field(discriminator="kind")]


@dataclass(frozen=True)
class ScoreColumns:
    """The columns of a score table.

    Attributes:
        task: multiclass (`label`) or multilabel (`labels`).
        label_names: The labels, in bundle order.
        layout: The layout of the probabilities.
        has_sets: Whether the table has a column of prediction sets.
        is_cascade: Whether it has a column of the bundle that answered.
    """

    task: Task
    label_names: tuple[str, ...]
    layout: Layout
    has_sets: bool = False
    is_cascade: bool = False

    def schema(self, origin: Sequence[pa.Field]) -> pa.Schema:
        """Return all columns; `origin`: the id columns and the kept columns.

        Raises:
            ConfigError: Two column names would be equal, or differ only by case.
        """
        label = ("labels", pa.list_(pa.string())) if self._is_multilabel else ("label", pa.string())
        scores = self.layout.fields(self.label_names)
        own = [pa.field(*label), pa.field("confidence", pa.float32())]
        own += [pa.field("label_set", pa.list_(pa.string()))] if self.has_sets else []
        own += [pa.field("answered_by", pa.string())] if self.is_cascade else []
        own += scores
        _reject_duplicates(scores, "output.layout", "Use list or top_k.")
        _reject_duplicates([*origin, *own], "input.keep", "Rename it.")
        return pa.schema([*origin, *own])

    @property
    def _is_multilabel(self) -> bool:
        return self.task == "multilabel"

    def table(
        self,
        origin: pa.Table,
        probabilities: Float32,
        decided: Bools,
        sets: Bools | None = None,
        by_small: Bools | None = None,
    ) -> pa.Table:
        """Return the score table of some rows.

        Args:
            origin: (rows,) id and kept columns.
            probabilities: (rows, labels).
            decided: (rows, labels): the predicted labels.
            sets: (rows, labels): the prediction sets, if the table has a column of them.
            by_small: (rows,) whether the small bundle of a cascade answered; None: it never did.
        """
        names = pa.array(self.label_names, pa.string())
        if self._is_multilabel:
            labels = _names_of(decided, names)
        else:
            best = pa.array(decided.argmax(1), mask=~decided.any(1))  # null: the bundle abstains
            labels = names.take(best)
        width = probabilities.shape[1]
        confidence = probabilities.max(1) if width else np.zeros(len(probabilities), np.float32)
        scores = self.layout.columns(probabilities, self.label_names)
        own = [labels, pa.array(confidence, pa.float32())]
        own += [_names_of(sets, names)] if sets is not None else []
        if self.is_cascade:
            small = np.zeros(len(probabilities), np.int64) if by_small is None else by_small
            own.append(pa.array(BUNDLES).take(pa.array(small.astype(np.int64))))
        columns = [*origin.columns, *own, *scores]
        return pa.Table.from_arrays(columns, schema=self.schema(list(origin.schema)))


def _names_of(flags: Bools, names: pa.Array) -> pa.ListArray:
    rows, codes = np.nonzero(flags)
    return _lists(names.take(pa.array(codes)), np.bincount(rows, minlength=len(flags)))


def _lists(values: pa.Array, counts: Any) -> pa.ListArray:
    """Return lists of the given lengths."""
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _reject_duplicates(columns: Sequence[pa.Field], field: str, remedy: str) -> None:
    """Reject names that are equal, or differ only by case, which SQL engines ignore."""
    counts = Counter(column.name.lower() for column in columns)
    duplicates = [column.name for column in columns if counts[column.name.lower()] > 1]
    if duplicates:
        allowed = "the score table would have column names that are equal or differ only by case"
        raise ConfigError(Problem(field, duplicates[:10], allowed, remedy))


def write_part(table: pa.Table, metadata: dict[str, Any]) -> bytes:
    """Return a table as Parquet, zstd-compressed, with metadata (JSON) in the footer."""
    from pyarrow import parquet

    encoded = {name: json.dumps(value, ensure_ascii=False) for name, value in metadata.items()}
    encoded["clftask.schema_version"] = str(SCHEMA_VERSION)
    sink = pa.BufferOutputStream()
    parquet.write_table(
        table.replace_schema_metadata(encoded),
        sink,
        compression="zstd",
        row_group_size=ROW_GROUP_ROWS,
        use_dictionary=[_leaf(f) for f in table.schema if not re.match("p$|p_", f.name)],
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def why_unfit(field: pa.Field) -> str | None:
    """Return why a score table cannot contain a column, None if it can.

    Parquet must support its type, and Polars and DuckDB must read the same values.
    """
    for kind in _kinds_within(field.type):
        if pa.types.is_decimal(kind) and kind.precision > MAX_DECIMAL_DIGITS:
            return f"decimals of more than {MAX_DECIMAL_DIGITS} digits, which DuckDB rounds"
        if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
            return "list views, which Polars does not read"
        if pa.types.is_fixed_size_list(kind) and kind.list_size == 0:
            return "lists of the fixed size 0, which no reader supports"
    try:
        write_part(pa.schema([field]).empty_table(), {})
    except (pa.ArrowException, OSError) as error:
        return f"a type that Parquet does not support: {error}"
    return None


def _kinds_within(kind: pa.DataType) -> Iterator[pa.DataType]:
    """Yield a type and all types nested in it."""
    yield kind
    for i in range(kind.num_fields):
        yield from _kinds_within(kind.field(i).type)


def _leaf(field: pa.Field) -> str:
    """Return the path of a column's values in the Parquet schema."""
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else str(field.name)


def read_footer(data: bytes) -> dict[str, Any]:
    """Return the metadata of a part that `write_part` wrote."""
    from pyarrow import parquet

    found = parquet.read_metadata(pa.BufferReader(data)).metadata or {}
    wanted = {k.decode(): v for k, v in found.items() if k.startswith(b"clftask.")}
    return {name: json.loads(value) for name, value in wanted.items()}


def count_rows(data: bytes) -> int:
    """Return the number of rows of a part; all of them are read.

    Raises:
        pa.ArrowException, OSError: The part is damaged.
    """
    from pyarrow import parquet

    with parquet.ParquetFile(pa.BufferReader(data)) as opened:
        return sum(batch.num_rows for batch in opened.iter_batches())


def checksum(data: bytes) -> str:
    """Return the SHA-256 of a part's bytes."""
    return hashlib.sha256(data).hexdigest()
