"""Audits: the true labels of a random sample of a score table's rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.array_types import Array, Bools
from clftask.commands.compare_tables import row_keys
from clftask.commands.corpus_sums import ScoreRows
from clftask.components.labels import (
    ClassColumn,
    DelimitedColumn,
    IndicatorColumns,
    LabelColumns,
    LabelSpace,
    ListColumn,
    multi_hot,
)
from clftask.components.labels.cells import is_list
from clftask.data.readers.registry import open_split
from clftask.errors import ConfigError, DataError, Problem
from clftask.messages import counted, did_you_mean, shown_label

NUM_NAMED = 5
DELIMITERS = (",", ";", "|", " ")  # that are looked for in unknown labels


@dataclass(frozen=True)
class Audit:
    """The labelled rows.

    Attributes:
        keys: (rows,) strings, distinct.
        flags: (rows, labels) whether a row has a label.
    """

    keys: pa.Array
    flags: Bools
    warnings: list[str]

    def missing(self, found: Array) -> list[str]:
        """Return the keys of the rows that are not among the `found` ones."""
        others = np.setdiff1d(np.arange(len(self.keys)), found)
        return [str(key) for key in self.keys.take(pa.array(others)).to_pylist()]


def read_audit(
    audit: Any,
    table: ScoreRows,
    labels: str | None,
    split: str | None,
    delimiter: str | None,
    say: Callable[[str], None],
) -> Audit:
    """Read an audit; see `prevalence`.

    Raises:
        ConfigError: A split of a table in memory was selected, or a delimiter of what has none.
        DataError: It cannot be read, lacks a column, has no labelled row, repeats a row, or has
            labels with another delimiter between them.
    """
    rows, chosen = (_of_path if isinstance(audit, str) else _of_memory)(
        audit, table, labels, split, say
    )
    columns = _kind(table, chosen, rows, delimiter)
    keys = row_keys(rows, table.keys)
    _refuse_keys(keys, table.keys)
    lists = columns.lists(rows)
    space = LabelSpace(table.task, table.names)
    unknown = space.unknown(lists.drop_null())
    _refuse_joined(unknown, lists, columns, table.names)
    has_label = lists.is_valid()
    warnings = []
    if lists.null_count:
        where = f"{counted(lists.null_count, 'audited row')} without a label left out"
        warnings.append(f"{where}: the rest is a random sample only if they lack it by chance")
    keys, lists = keys.filter(has_label), lists.filter(has_label)
    if not len(keys):
        raise DataError(Problem("AUDIT", 0, "contains no labelled rows", "Label its rows."))
    if unknown:
        warnings.append(_unknown(unknown, table.names))
    return Audit(keys, multi_hot(space.encode(lists), len(table.names)) > 0, warnings)


def _unknown(unknown: dict[str, int], names: Sequence[str]) -> str:
    found = list(unknown.items())[:NUM_NAMED]
    shown = [
        f"{shown_label(name)} ({counted(count, 'row')}) {did_you_mean(name, names)}".strip()
        for name, count in found
    ]
    more = " …" if len(unknown) > NUM_NAMED else ""
    return f"labels that the bundle does not know, counted as none of its: {'; '.join(shown)}{more}"


def _refuse_joined(
    unknown: Iterable[str], lists: pa.ListArray, columns: LabelColumns, names: Sequence[str]
) -> None:
    """Refuse unknown labels that are known ones with another delimiter between them."""
    for name, between in product(unknown, DELIMITERS):
        parts = [part.strip() for part in name.split(between) if part.strip()]
        if len(parts) > 1 and set(parts) <= set(names):
            row = pc.list_parent_indices(lists)[pc.index(lists.flatten(), name).as_py()]
            allowed = f"must be one label; these are labels with {between!r} between them"
            remedy = "Write one label."
            if isinstance(columns, DelimitedColumn):
                remedy = f"Set --delimiter {between!r}."
            elif isinstance(columns, ListColumn):
                remedy = "Make each an item of the list."
            raise DataError(Problem(f"AUDIT, row {row}", name, allowed, remedy))


def _refuse_keys(keys: pa.Array, columns: list[str]) -> None:
    """Refuse rows without a key, and keys of several rows."""
    named = " and ".join(columns)
    if keys.null_count:
        row = pc.index(keys.is_valid(), False).as_py()
        raise DataError(Problem(f"AUDIT, row {row}", None, f"{named} is missing", "Fill it in."))
    counts = pc.value_counts(keys)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        keys_ = repeated.field("values").to_pylist()
        allowed = f"{named} must be distinct; {counted(len(keys_), 'value')} occur several times"
        remedy = "Keep one row of each."
        raise DataError(Problem("AUDIT", ", ".join(keys_[:NUM_NAMED]), allowed, remedy))


# ------------------------------------------------------------------ columns


def _of_memory(
    audit: Any, table: ScoreRows, labels: str | None, split: str | None, _: Any
) -> tuple[pa.Table, list[str]]:
    if split is not None:
        raise ConfigError(Problem("split", split, "is for paths", "Remove it."))
    try:
        rows = pa.table(audit)
    except (TypeError, ValueError, pa.ArrowException):
        allowed = (
            "must be a path, a DataFrame (pandas, Polars), an Arrow table or a dict of columns"
        )
        raise DataError(Problem("AUDIT", type(audit).__name__, allowed)) from None
    chosen = _chosen(table, labels, rows.column_names)
    if not rows.num_rows:
        raise DataError(Problem("AUDIT", 0, "contains no rows", "Label some rows."))
    return rows, chosen


def _of_path(
    audit: str, table: ScoreRows, labels: str | None, split: str | None, say: Callable[[str], None]
) -> tuple[pa.Table, list[str]]:
    source, chosen_split, others = open_split(audit, split)
    if chosen_split is not None:
        choice = f"; --split selects another: {', '.join(others)}" if others else ""
        say(f"reading split {chosen_split} of {audit}{choice}")
    chosen = _chosen(table, labels, source.names())
    columns = [*table.keys, *chosen]
    is_text = table.task == "multilabel" and len(chosen) == 1
    strings = columns if is_text else table.keys
    rows = source.read(columns, strings, [] if is_text else chosen)
    # `read` appends the origin of the rows, by the names of the keys of a table without an id.
    return rows.select(range(len(columns))), chosen


def _chosen(table: ScoreRows, labels: str | None, available: Sequence[str]) -> list[str]:
    """Return the columns of the labels.

    Raises:
        DataError: The audit lacks them, or the columns of the keys.
    """
    problems = []
    shown = f"Available columns: {', '.join(available[:40])}."
    for name in table.keys:
        if name not in available:
            allowed = "must be a column of the audit: it identifies the rows of the score table"
            problems.append(Problem("AUDIT", name, allowed, shown))
    wanted = labels or table.label
    chosen = [wanted]
    if labels is None and wanted not in available and set(table.names) <= set(available):
        chosen = list(table.names)
    elif wanted not in available:
        allowed = "must be a column of the audit: the true labels"
        remedy = did_you_mean(wanted, available) if labels else "Name another with --labels."
        problems.append(Problem("--labels", wanted, allowed, f"{remedy} {shown}".strip()))
    if problems:
        raise DataError(*problems)
    return chosen


def _kind(
    table: ScoreRows, chosen: list[str], rows: pa.Table, delimiter: str | None
) -> LabelColumns:
    """Return how the columns are read.

    Raises:
        ConfigError: A delimiter was given, but the column is not a text with several labels.
    """
    is_text = table.task == "multilabel" and len(chosen) == 1
    if is_text and not is_list(rows[chosen[0]].type):
        document = {"column": chosen[0], "delimiter": "|" if delimiter is None else delimiter}
        return DelimitedColumn.model_validate(document)
    if delimiter is not None:
        allowed = "is for a column of text with several labels in a row"
        raise ConfigError(Problem("--delimiter", delimiter, allowed, "Remove it."))
    if len(chosen) > 1:
        return IndicatorColumns.model_validate({"columns": chosen})
    if table.task == "multiclass":
        return ClassColumn(column=chosen[0])
    return ListColumn(column=chosen[0])
