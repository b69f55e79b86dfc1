"""Reads labelled tables: the columns that a job names, as texts and label names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.labels import SOFT, LabelColumns
from clftask.components.labels.cells import LabelCells
from clftask.components.labels.probabilities import read_weights
from clftask.components.score_table import MANIFEST, PLAN, PLANS
from clftask.components.splits import SPLITS
from clftask.config.sections import DataSpec
from clftask.config.train import TrainJob
from clftask.data.groups import GROUP_BY, SPLIT_BY, as_text
from clftask.data.readers.base import FILE, ROW, Source
from clftask.data.readers.csv_types import common_kind, convert, missing_spellings
from clftask.data.readers.registry import open_source
from clftask.data.summary import DataReport
from clftask.data.targets import WEIGHT
from clftask.errors import DataError, Problem
from clftask.io import listing, storage
from clftask.messages import counted


def open_tables(data: DataSpec, report: DataReport) -> dict[str, Source]:
    """Open a job's tables by split, train at least.

    Args:
        data: The paths.
        report: Receives the files that are left out.

    Raises:
        DataError: A table cannot be opened, or a dataset has no split named train.
    """
    paths = {name: getattr(data, name) for name in SPLITS}
    for name, path in paths.items():
        _refuse_unfinished(path, f"data.{name}")
    available = open_source(data.train, "data.train")
    sources = {split: available[split] for split in SPLITS if split in available}
    if "train" not in sources:
        raise DataError(Problem("data.train", sorted(available), "has no split named train"))
    for split in ("validation", "test"):
        path = paths[split]
        if path is not None:
            own = open_source(path, f"data.{split}")
            sources[split] = own.get(split) or own.get("train") or next(iter(own.values()))
    report.files_left_out = [file for source in sources.values() for file in source.left_out]
    return sources


def _refuse_unfinished(path: str | None, field: str) -> None:
    """Refuse a score table of which parts are missing: the readers would not notice."""
    if path is None or path.startswith("hub:") or not storage.is_folder(path):
        return
    names = {f.path.rpartition("/")[2] for f in listing.list_files(path, recursive=False)}
    if PLAN in names and _num_complete(path, names) < sum(map(bool, map(PLANS.fullmatch, names))):
        remedy = "Run its scoring job again, to the end."
        raise DataError(Problem(field, path, "is a score table that is not complete", remedy))


def _num_complete(path: str, names: Collection[str]) -> int:
    """Return the number of complete generations of a score table; `names`: its files."""
    if MANIFEST not in names:
        return 0
    manifest = storage.read_json(storage.join(path, MANIFEST), "Delete it, run its job again.")
    found = manifest.get("generations")
    return max(1, len(found)) if isinstance(found, list) else 1  # older versions list none


def resolved(job: TrainJob, source: Source) -> DataSpec:
    """Return a job's columns, with labels for its task and for the columns of a source."""
    labels = job.data.labels.resolved(job.task, source.names(), source.label_names())
    return job.data.model_copy(update={"labels": labels})


def read_tables(
    data: DataSpec, held_out: LabelColumns, sources: dict[str, Source], report: DataReport
) -> dict[str, pa.Table]:
    """Return the usable rows of a job's tables by split, train at least.

    Args:
        data: The columns of train, `resolved`.
        held_out: The label columns of other tables.
        sources: The tables.
        report: Receives the counts of the rows that are left out.

    Returns:
        Tables of text, text_pair (optional), labels (list of names), `_file`, `_row` and id, the
        columns of the split, and those of `data.targets`.

    Raises:
        DataError: A table does not match the job; lists all columns that it lacks.
    """
    other = data.model_copy(update={"labels": held_out, "weight": None})
    specs = {split: data if split == "train" else other for split in sources}
    tables = {split: _read(specs[split], source, split) for split, source in sources.items()}
    for labels in {id(spec.labels): spec.labels for spec in specs.values()}.values():
        own = [split for split, spec in specs.items() if spec.labels is labels]
        written = {split: tables[split] for split in own if not sources[split].has_types}
        tables |= _typed_labels(labels, written, labels.names or ())
    return {split: _usable(specs[split], table, report, split) for split, table in tables.items()}


def read_rows(
    job: TrainJob, source: Source, names: Collection[str], report: DataReport
) -> pa.Table:
    """Return the usable rows of one table, as `read_tables` does.

    Args:
        job: Names the columns.
        source: The table.
        names: The known label names, see `_typed_labels`.
        report: Receives the counts of the rows that are left out.

    Raises:
        DataError: The table does not match the job.
    """
    data = resolved(job, source)
    table = _read(data, source, "train")
    if not source.has_types:
        table = _typed_labels(data.labels, {"table": table}, names)["table"]
    return _usable(data, table, report, "train")


def _read(data: DataSpec, source: Source, split: str) -> pa.Table:
    """Read the columns that the job names.

    Raises:
        DataError: The table lacks columns; lists all of them.
    """
    available = source.names()
    named: list[tuple[str, str | None]] = [("data.text", column) for column in data.text]
    named += [("data.text_pair", data.text_pair), ("data.id", data.id)]
    named += [("data.weight", data.weight)]
    named += [("data.labels", c) for c in data.labels.columns(available)]
    reads_split = split == "train" and None in (data.validation, data.test)
    by, group = data.split.reads, data.split.groups
    named += [("data.split.group", group)] if reads_split or group in available else []
    named += [("data.split.column", by)] if reads_split and by != group else []
    columns = [(field, column) for field, column in named if column is not None]
    if missing := source.missing(columns, available):
        raise DataError(*missing)
    _check_order(data.labels, source)
    strings = [*data.recipe.columns, *([data.id] if data.id else [])]
    labels = data.labels.columns(available)
    if data.labels.cells == "text":
        strings, labels = [*strings, *labels], []
    labels = [] if data.labels.cells == "probabilities" else labels
    codes = [column for column in (*labels, by, group) if column is not None]
    flags = labels if data.labels.cells == "flags" else []
    table = source.unlabelled(flags).read([column for _, column in columns], strings, codes)
    is_filled = data.labels.cells == "text" and not source.has_empty_text
    return _with_empty_texts(table, data.labels.columns(available)) if is_filled else table


def _check_order(labels: LabelColumns, source: Source) -> None:
    """Refuse lists of probabilities of other labels, or in another order, than the job's.

    Raises:
        DataError: Names the file.
    """
    if labels.column_of_lists is None:
        return
    wanted = list(labels.names or ())
    for file in source.files:
        stored = source.label_names(file)
        if stored not in (None, wanted):
            allowed = f"has lists of other labels, or in another order, than {', '.join(wanted)}"
            remedy = "Use data.labels.prefix, or tables of one bundle."
            where = f"{file}, column {labels.column_of_lists}"
            raise DataError(Problem(where, ", ".join(stored or ()), allowed, remedy))


def _with_empty_texts(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Replace missing cells by empty texts, as in CSV: no label applies."""
    for name in columns:
        column = table[name]
        if not pa.types.is_floating(column.type):  # fractions are refused as they are
            place = table.column_names.index(name)
            table = table.set_column(place, name, column.cast(pa.string()).fill_null(""))
    return table


def _usable(data: DataSpec, table: pa.Table, report: DataReport, split: str) -> pa.Table:
    """Build texts and label lists; drop rows without text or label."""
    text, pair = data.recipe.apply(table)
    labels = data.labels.lists(table)
    found = data.labels.warnings(table)
    report.label_warnings += [line for line in found if line not in report.label_warnings]
    columns = {"text": text, **({"text_pair": pair} if pair is not None else {})}
    columns |= {"labels": labels, FILE: table[FILE], ROW: table[ROW]}
    if (targets := data.labels.targets(table)) is not None:
        columns[SOFT] = targets
    columns["id"] = _ids(table, data.id)
    for name, column in ((SPLIT_BY, data.split.reads), (GROUP_BY, data.split.groups)):
        if column is not None and column in table.column_names:
            columns[name] = as_text(table[column], column)
    has_text = text.is_valid() if pair is None else pc.and_(text.is_valid(), pair.is_valid())
    has_label = labels.is_valid()
    _refuse_missing(data, table, has_text, has_label, split)
    report.num_without_text += pc.sum(pc.invert(has_text)).as_py() or 0
    report.num_without_label += pc.sum(pc.invert(has_label)).as_py() or 0
    is_usable = pc.and_(has_text, has_label)
    usable = pa.table(columns).filter(is_usable)
    if data.weight is not None:
        weights = read_weights(LabelCells(table.filter(is_usable), data.weight))
        usable = usable.append_column(WEIGHT, pa.array(weights))
    return usable if data.labels.keep_empty else _without_empty(usable, report)


def _ids(table: pa.Table, column: str | None) -> Any:
    if column is None:
        return pa.nulls(table.num_rows, pa.string())
    try:
        return table[column].cast(pa.string())
    except pa.ArrowException:
        found = f"{column}: {table[column].type}"
        raise DataError(Problem("data.id", found, "must be strings or numbers")) from None


def _without_empty(table: pa.Table, report: DataReport) -> pa.Table:
    has_any = pc.greater(pc.list_value_length(table["labels"]), 0)
    report.num_empty += table.num_rows - (pc.sum(has_any).as_py() or 0)
    return table.filter(has_any)


def _refuse_missing(
    data: DataSpec, table: pa.Table, has_text: Any, has_label: Any, split: str
) -> None:
    if not pc.any(has_text).as_py():
        columns = ", ".join(data.recipe.columns)
        raise DataError(Problem("data.text", columns, "every row's text is null or blank"))
    if data.labels.missing == "fail" and not pc.all(has_label).as_py():
        row = pc.index(has_label, False).as_py()
        names = data.labels.columns(table.column_names)
        cells = {column: table[column][row].as_py() for column in names}
        name = next((column for column in names if _is_blank(cells[column])), names[0])
        where = f"{table[FILE][row].as_py()}, row {table[ROW][row].as_py()}, column {name}"
        num_missing = pc.sum(pc.invert(has_label)).as_py()
        allowed = "the label is missing here"
        allowed += f"; {counted(num_missing, 'row')} of {table.num_rows:,} have none"
        remedy = f"{data.labels.if_missing}."
        if num_missing < table.num_rows or split == "test":  # tests may have no labels
            remedy = f"{remedy[:-1]}, or set data.labels.missing: drop to leave such rows out."
        raise DataError(Problem(where, cells[name], allowed, remedy))


def _is_blank(value: Any) -> bool:
    is_nan = isinstance(value, float) and np.isnan(value)
    return value is None or is_nan or not str(value).strip()


# ------------------------------------------------------------------ labels of CSV and TSV


def _typed_labels(
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
    if labels.cells in ("text", "probabilities"):
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
