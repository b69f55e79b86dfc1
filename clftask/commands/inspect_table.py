"""Describe a table before a job is written for it: columns, values, and what they look like."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.labels.list_text import is_written, parse_written
from clftask.components.splits import SPLIT_NAMES
from clftask.data.readers.base import Source
from clftask.data.readers.cells import BAD

MAX_ROWS = 100_000  # whose values are read
MAX_VALUES = 1000  # distinct values that are counted
MAX_CLASSES = 200
MANY_CLASSES = 20  # above, the values may also be groups of rows
TEXT_CHARS = 25  # mean length of a text; class names and ids are shorter
NUM_EXAMPLES, FEW_EXAMPLES, EXAMPLE_CHARS = 5, 2, 40  # few of texts
DELIMITERS = "|;,"
CLASSES = ("indicator", "class", "class or group")  # the most likely first
LABELS = ("label", "labels", "class", "target", "category")  # usual names of label columns


@dataclass
class ColumnSummary:
    """A column of a table; values are those of the rows that were read.

    Attributes:
        name: Its name.
        type: Its Arrow type.
        missing: Number of null, NaN or blank cells.
        distinct: Number of distinct values (lists: of their items); None above `MAX_VALUES`.
        examples: The most frequent values, or the first ones if all differ.
        looks_like: The part that it could have in a job: text, class, labels …
    """

    name: str
    type: str
    missing: int = 0
    distinct: int | None = 0
    examples: list[str] = field(default_factory=list)
    looks_like: str = ""


@dataclass
class TableSummary:
    """A table.

    Attributes:
        kind: `table`.
        path: Its path.
        files: The number of its files.
        rows: The number of rows by split; a plain table is all train.
        rows_read: How many rows of the first split the figures of the columns are from.
        bad_rows: Rows that cannot be read, among them.
        columns: Its columns.
        job: The section `data` of a job for this table; empty if no labels were recognised.
        warnings: Skipped files, and the first bad row.
    """

    kind: str
    path: str
    files: int
    rows: dict[str, int]
    rows_read: int = 0
    bad_rows: int = 0
    columns: list[ColumnSummary] = field(default_factory=list)
    job: str = ""
    warnings: list[str] = field(default_factory=list)


def inspect_table(path: str, sources: dict[str, Source]) -> TableSummary:
    """Return the summary of a table.

    Args:
        path: Its path, as the user gave it.
        sources: The result of `open_source`.

    Raises:
        DataError: A file is damaged or contains no columns.
    """
    first = next(iter(sources.values()))
    schema = first.survey(first.files[0], first.names()).schema
    names = schema.names
    rows = {split: _count(source, names) for split, source in sources.items()}
    files = [file for source in sources.values() for file in source.files]
    found = TableSummary("table", path, len(files), rows)
    values = {name: _Values(schema.field(name).type) for name in names}
    for batch in _batches(first, names):
        found.rows_read += batch.num_rows
        reasons = batch[BAD].drop_null()
        if len(reasons) and not found.bad_rows:
            found.warnings.append(f"bad row: {reasons[0]}")
        found.bad_rows += len(reasons)
        for name in names:
            values[name].add(batch[name])
    for source in sources.values():
        found.warnings += [f"skipped, of unknown format: {file}" for file in source.left_out[:3]]
    found.columns = [values[name].summary(name) for name in names]
    found.job = _job(path, found.columns)
    return found


def _count(source: Source, names: list[str]) -> int:
    return sum(source.survey(file, names[:1]).num_rows for file in source.files)


def _batches(source: Source, names: list[str]) -> Iterator[pa.RecordBatch]:
    left = MAX_ROWS
    for file in source.files:
        for batch in source.batches(file, source.survey(file, names).schema):
            yield batch.slice(0, left)
            left -= batch.num_rows
            if left <= 0:
                return


class _Values:
    """The values of a column, collected batch by batch."""

    def __init__(self, kind: pa.DataType) -> None:
        self.type = kind
        self.rows = self.missing = self.chars = 0
        self.counts: Counter[str] = Counter()
        self.is_full = False
        self.lengths: set[int] = set()  # of lists

    def add(self, column: pa.Array) -> None:
        """Add a batch of the column."""
        self.type = column.type if pa.types.is_null(self.type) else self.type
        self.rows += len(column)
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        if self._is_list(column.type):
            self.missing += column.null_count
            self.lengths |= set(pc.unique(pc.list_value_length(column).drop_null()).to_pylist())
            text = _as_text(column.flatten()).drop_null()
        else:
            text = _as_text(column)
            text = text.filter(pc.not_equal(pc.utf8_trim_whitespace(text), "")).drop_null()
            self.missing += len(column) - len(text)
        self.chars += pc.sum(pc.utf8_length(text)).as_py() or 0
        if not self.is_full:
            counts = pc.value_counts(text)
            pairs = zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)
            self.counts.update(dict(pairs))
            self.is_full = len(self.counts) > MAX_VALUES

    @staticmethod
    def _is_list(kind: pa.DataType) -> bool:
        tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        return any(test(kind) for test in tests)

    def summary(self, name: str) -> ColumnSummary:
        """Return the summary of the values."""
        looks_like = self.looks_like()  # reads lists that are written as text: first
        distinct = None if self.is_full else len(self.counts)
        figures = str(self.type), self.missing, distinct, self._examples()
        return ColumnSummary(name, *figures, looks_like)

    def _examples(self) -> list[str]:
        is_long = self.chars > TEXT_CHARS * sum(self.counts.values())
        most = self.counts.most_common(FEW_EXAMPLES if is_long else NUM_EXAMPLES)
        return [self._example(value) for value, _ in most]

    def _example(self, value: str) -> str:
        short = " ".join(value[: 2 * EXAMPLE_CHARS].split())[:EXAMPLE_CHARS]
        count = self.counts[value]
        is_cut = len(value) > EXAMPLE_CHARS
        return short + (" …" if is_cut else "") + (f" ({count:,})" if count > 1 else "")

    def looks_like(self) -> str:
        """Return the part that the column could have in a job; empty if unclear."""
        used, names = self.rows - self.missing, {value.strip().lower() for value in self.counts}
        if not used:
            return "empty"
        if pa.types.is_nested(self.type.value_type if self._is_list(self.type) else self.type):
            return ""
        if self._is_string() and all(map(is_written, self.counts)):
            self._read_lists()
            names = set(self.counts)
        is_binary = names <= {"0", "1", "true", "false", "0.0", "1.0"}
        if self.lengths:
            is_vector = is_binary and len(self.lengths) == 1 and max(self.lengths) > 1
            return "0/1 vector" if is_vector else "list of labels"
        if self._is_string() and {"train"} < names | {"training"} and names <= SPLIT_NAMES:
            return "split"
        if is_binary:
            return "indicator"
        if self._is_string() and self.chars / used >= TEXT_CHARS and len(self.counts) > used / 2:
            return "text"
        is_unique = max(self.counts.values()) == 1
        if is_unique and used > 1 and not pa.types.is_floating(self.type):
            return "id"
        if self._is_string() and (delimiter := self._delimiter()):
            return f"labels, delimited by {delimiter}"
        is_few = not self.is_full and 2 <= len(self.counts) <= min(MAX_CLASSES, used / 2)
        if not is_few or (pa.types.is_floating(self.type) and any("." in n for n in names)):
            return ""
        return "class" if len(self.counts) <= MANY_CLASSES else "class or group"

    def _read_lists(self) -> None:
        """Replace lists that are written as text by their items."""
        cells, self.counts = self.counts, Counter()
        for cell, count in cells.items():
            items = [item for item in parse_written(cell) or [] if item is not None]
            self.lengths.add(len(items))
            self.counts.update(dict.fromkeys(items, count))
        self.chars = sum(len(item) * count for item, count in self.counts.items())

    def _is_string(self) -> bool:
        return bool(pa.types.is_string(self.type) or pa.types.is_large_string(self.type))

    def _delimiter(self) -> str:
        """Return what separates labels: parts repeat, and there are fewer of them than values."""
        for delimiter in DELIMITERS:
            with_it = sum(delimiter in value for value in self.counts)
            parts = Counter(
                part.strip() for value in self.counts for part in value.split(delimiter)
            )
            is_often = with_it >= max(2, len(self.counts) / 5)
            if is_often and len(parts) <= min(MAX_CLASSES, len(self.counts)):
                return delimiter
        return ""


def _as_text(column: pa.Array) -> pa.Array:
    """Return any values as strings."""
    try:
        return column.cast(pa.large_string())
    except pa.ArrowException:
        shown = [None if value is None else str(value) for value in column.to_pylist()]
        return pa.array(shown, pa.large_string())


def _job(path: str, columns: list[ColumnSummary]) -> str:
    """Return the section `data` of a job, with the first columns that could be text and labels."""
    by_kind: dict[str, list[str]] = {}
    for column in columns:
        by_kind.setdefault(column.looks_like.split(",")[0], []).append(column.name)
    text, labels = by_kind.get("text"), ""
    if found := by_kind.get("list of labels"):
        labels = f"{{kind: list, column: {_quoted(found[0])}}}"
    elif found := by_kind.get("labels"):
        delimiter = next(c.looks_like for c in columns if c.name == found[0])[-1]
        labels = f'{{kind: delimited, column: {_quoted(found[0])}, delimiter: "{delimiter}"}}'
    elif len(found := by_kind.get("indicator", [])) > 1:
        labels = f"{{kind: indicators, columns: [{', '.join(map(_quoted, found))}]}}"
    elif found := [name for kind in CLASSES for name in by_kind.get(kind, [])]:
        likely = min(found, key=lambda name: name.lower() not in LABELS)
        labels = f"{{kind: class, column: {_quoted(likely)}}}"
    if not text or not labels:
        return ""
    split = (
        f", split: {{kind: column, column: {_quoted(by_kind['split'][0])}}}"
        if "split" in by_kind
        else ""
    )
    return f"data: {{train: {_quoted(path)}, text: {_quoted(text[0])}, labels: {labels}{split}}}"


def _quoted(name: str) -> str:
    return (
        name if re.fullmatch(r"[A-Za-z_/.][\w/.-]*", name) else json.dumps(name, ensure_ascii=False)
    )
