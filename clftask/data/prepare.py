"""Prepares the data on one machine, without Ray: read, encode labels, split, tokenise."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.labels import SOFT, LabelColumns, LabelSpace
from clftask.components.metrics import unknown_metric
from clftask.components.splits import SPLITS, GroupedSplit, RandomSplit, Rows
from clftask.config.sections import ModelSpec
from clftask.config.train import TrainJob, problem_of_positive
from clftask.data import tokenization, training_rows
from clftask.data.groups import SPLIT_BY, with_groups
from clftask.data.label_warnings import label_warnings
from clftask.data.labelled_tables import open_tables, read_rows, read_tables, resolved
from clftask.data.readers.base import FILE, ROW, Source
from clftask.data.readers.registry import open_split
from clftask.data.summary import DataReport, token_figures
from clftask.data.targets import WEIGHT, bytes_of, with_own_columns
from clftask.errors import ConfigError, DataError, Problem
from clftask.messages import shown_label

NUM_SHOWN = 300  # characters of a validation or test text that are kept for display
PAIR_MARK = " ⏎ "


@dataclass(frozen=True)
class Prepared:
    """Splits that are ready for tokenisation, and the report on them.

    Attributes:
        tables: For each split: text, text_pair (optional), labels (list of codes), and the columns
            of `data.targets`, if the job has soft labels or row weights.
        space: The label space, from the train split only.
        report: Counts and warnings for the user.
        rows: file, row, id, text_hash and split of every used row.
        fingerprint: Hash of texts, labels, soft targets, weights and split of all rows.
    """

    tables: dict[str, pa.Table]
    space: LabelSpace
    report: DataReport
    rows: pa.Table
    fingerprint: str


def prepare(job: TrainJob) -> Prepared:
    """Read a job's tables, build the label space and split the rows.

    Raises:
        DataError: The tables do not match the job; lists all problems of a table.
        ConfigError: The labels do not have the job's metric.
    """
    report = DataReport()
    sources = open_tables(job.data, report)
    data = resolved(job, sources["train"])
    held_out = job.data.labels.held_out
    held_out = data.labels if held_out.is_soft else held_out
    tables = read_tables(data, held_out, sources, report)
    report.label_warnings += label_warnings(data.labels, _stack(tables)[0])
    _require(tables, "train")
    tables["train"], labels = _restricted(data.labels, tables["train"], report)
    table, given = _stack(tables)
    split = _assign(job, table, given, set(tables), report)
    table = with_groups(table, split, report)
    by_split = {n: table.filter(pa.array(split == i)) for i, n in enumerate(SPLITS)}
    by_split = {name: part for name, part in by_split.items() if part.num_rows}
    _require(by_split, "train", "validation")
    by_split = with_own_columns(by_split, data.labels, data.weight)
    space = LabelSpace.from_lists(labels, by_split["train"]["labels"].combine_chunks())
    if problems := problem_of_positive(space.positive, space.names):
        raise DataError(*problems)
    check_metric("training.metric", job.training.metric, space)
    own = {n: held_out if n in tables and n != "train" else labels for n in by_split}
    by_split = {n: _keep_known(own[n], space, n, p, report) for n, p in by_split.items()}
    by_split = _without_unknown(by_split, tables, space, report)
    report.describe(by_split, space)
    rows = _row_origins(by_split)
    return Prepared(by_split, space, report, rows, _fingerprint(by_split, space))


def check_metric(path: str, name: str, space: LabelSpace) -> None:
    """Refuse a metric that the labels do not have.

    Raises:
        ConfigError: Lists the metrics.
    """
    has_positive = space.positive is not None
    problem = unknown_metric(path, name, space.task, len(space.names), has_positive)
    if problem is not None:
        raise ConfigError(problem)


# ------------------------------------------------------------------ labels


def _restricted(
    labels: LabelColumns, train: pa.Table, report: DataReport
) -> tuple[pa.Table, LabelColumns]:
    """Leave out the labels that `min_count` and `names` exclude, before validation is cut.

    Returns:
        The rows with the labels that are left, and how to build the label space from a part of
        these rows.
    """
    lists = train["labels"].combine_chunks()
    space = LabelSpace.from_lists(labels, lists)
    report.unknown_labels["train"] = space.unknown(lists)
    known = space.known(lists)
    least = 0 if labels.keep_empty else 1
    restricted = train.set_column(train.column_names.index("labels"), "labels", known)
    restricted = restricted.filter(pc.greater_equal(pc.list_value_length(known), least))
    report.num_without_known_label["train"] = train.num_rows - restricted.num_rows
    names = None if labels.names is None else space.names
    return restricted, labels.model_copy(update={"min_count": 1, "names": names})


def _stack(tables: dict[str, pa.Table]) -> tuple[pa.Table, np.ndarray[Any, Any]]:
    """Return all rows, train first, and (rows,) the index of each row's split in `SPLITS`."""
    ordered = [name for name in SPLITS if name in tables]
    table = pa.concat_tables([tables[n] for n in ordered], promote_options="permissive")
    given = np.repeat([SPLITS.index(n) for n in ordered], [tables[n].num_rows for n in ordered])
    return table.combine_chunks(), given.astype(np.int8)


# ------------------------------------------------------------------ splitting


def _assign(job: TrainJob, table: pa.Table, given: Any, own: set[str], report: DataReport) -> Any:
    """Return (rows,) split indices; splits without a table of their own come from train."""
    spec = job.data.split.without("validation" in own, "test" in own)
    found = given.copy()
    if {"validation", "test"} <= own or not table.num_rows:
        return found
    train = table.filter(pa.array(given == 0))
    found[given == 0] = spec.assign(_rows(job, train))
    if spec.groups is not None:
        report.describe_shares(found[given == 0], spec.shares)
    return found


def _rows(job: TrainJob, train: pa.Table) -> Rows:
    from scipy.sparse import csr_array

    lists = train["labels"].combine_chunks()
    names = sorted(pc.unique(lists.flatten()).to_pylist())
    codes = LabelSpace(job.task, tuple(names)).encode(lists)
    ends = np.concatenate([[0], np.cumsum(pc.list_value_length(codes).to_numpy())])
    ones = np.ones(len(codes.flatten()), np.int8)
    labels = csr_array((ones, codes.flatten().to_numpy(), ends), (len(lists), len(names)))
    column = train[SPLIT_BY].combine_chunks() if SPLIT_BY in train.column_names else None

    def where(row: int) -> str:
        return f"{train[FILE][row].as_py()}, row {train[ROW][row].as_py()}"

    return Rows(labels, names, column, job.task == "multilabel", where)


def _require(tables: dict[str, pa.Table], *splits: str) -> None:
    for split in splits:
        if split not in tables or not tables[split].num_rows:
            remedy = "Provide more rows, a larger share, or a separate table."
            raise DataError(Problem(f"data.{split}", 0, "contains no usable rows", remedy))


def _without_unknown(
    by_split: dict[str, pa.Table], own: Collection[str], space: LabelSpace, report: DataReport
) -> dict[str, pa.Table]:
    """Leave out a test part without known labels; refuse validation, and an own table.

    Raises:
        DataError: Names the labels that were found, and those of train.
    """
    for split in [n for n, part in by_split.items() if not part.num_rows]:
        if split == "validation" or split in own:
            remedy = _no_rows_remedy(space, report.unknown_labels[split], "train")
            raise DataError(Problem(f"data.{split}", 0, "contains no usable rows", remedy))
    return {split: part for split, part in by_split.items() if part.num_rows}


def _keep_known(
    labels: LabelColumns, space: LabelSpace, split: str, table: pa.Table, report: DataReport
) -> pa.Table:
    """Encode labels, count labels that train lacks, and drop rows without a known label."""
    lists = table["labels"].combine_chunks()
    unknown = report.unknown_labels.setdefault(split, {})
    unknown.update(space.unknown(lists))  # those of train are already left out
    codes = space.encode(lists)
    coded = table.drop_columns(["labels"]).append_column("labels", codes)
    least = 0 if labels.keep_empty else 1
    known = coded.filter(pc.greater_equal(pc.list_value_length(codes), least))
    before = report.num_without_known_label.get(split, 0)
    report.num_without_known_label[split] = before + coded.num_rows - known.num_rows
    return known


def _row_origins(tables: dict[str, pa.Table]) -> pa.Table:
    """Return file, row, id, text_hash and split of every row."""
    parts = []
    for split, table in tables.items():
        columns = {"file": table[FILE].cast(pa.string()), "row": table[ROW], "id": table["id"]}
        columns[training_rows.HASH] = training_rows.text_hashes(table)
        columns["split"] = pa.array([split] * table.num_rows, pa.string())
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def _fingerprint(tables: dict[str, pa.Table], space: LabelSpace) -> str:
    """Hash texts, labels, soft targets, weights and their order for each split."""
    digest = hashlib.sha256(repr((space.task, space.names)).encode())
    for split, table in tables.items():
        digest.update(split.encode())
        for name in sorted(set(table.column_names) & {"text", "text_pair", "labels"}):
            column = tokenization.one_array(table[name])
            flat = column.flatten() if name == "labels" else column.cast(pa.large_string())
            lengths = pc.list_value_length(column) if name == "labels" else pc.binary_length(flat)
            for array in (lengths, flat):
                digest.update(_bytes_of(array))
        for part in bytes_of(table):
            digest.update(part)
    return digest.hexdigest()[:16]


def _bytes_of(array: pa.Array) -> bytes:
    """Return an array's values as bytes, without Arrow's slice offset and buffer padding."""
    if pa.types.is_large_string(array.type):
        return "".join(array.to_pylist()).encode()
    found: bytes = array.to_numpy(zero_copy_only=False).tobytes()
    return found


def read_labelled(
    job: TrainJob, space: LabelSpace, path: str, report: DataReport, split: str | None = None
) -> pa.Table:
    """Read a labelled table as one set of rows, with an existing label space.

    Args:
        job: Names the text and label columns.
        space: The label space.
        path: The table.
        report: Receives the counts of dropped rows, and the split that was read.
        split: See `open_split`.

    Returns:
        The usable rows: text, text_pair (optional), labels (list<int32> codes), and group if
        the job's split has groups and the table has that column.

    Raises:
        DataError: The table does not match the job, or has no such split or no usable rows.
    """
    source, report.split_read, report.other_splits = open_split(path, split)
    own = _of_table(job, source)
    labels = own.data.labels
    try:
        table = read_rows(own, source, (*space.names, *(labels.names or ())), report)
        table = with_groups(table, np.zeros(table.num_rows, np.int64), report, ("table",))
    except DataError as error:
        raise DataError(*(replace(p, path=_table_path(p.path)) for p in error.problems)) from None
    if table.num_rows:
        report.label_warnings += label_warnings(labels, table, space.names)
        table = _keep_known(labels, space, "table", table, report)
    if not table.num_rows:
        remedy = _no_rows_remedy(space, report.unknown_labels.get("table", {}), "the bundle")
        raise DataError(Problem("table", path, "contains no usable rows", remedy))
    return table


def _of_table(job: TrainJob, source: Source) -> TrainJob:
    """Return a job with the columns of a table that is neither split nor trained on."""
    group = job.data.split.groups
    split = GroupedSplit(group=group) if group in source.names() else RandomSplit()
    missing = {"missing": "drop"}  # the report counts them
    known = {"labels": job.data.labels.held_out.model_copy(update=missing), "split": split}
    unused = dict.fromkeys(("validation", "test", "id", "weight"))
    data = job.data.model_copy(update={**known, **unused})
    return job.model_copy(update={"data": data})


def _no_rows_remedy(space: LabelSpace, unknown: Collection[str], of: str) -> str:
    if not unknown:
        return "Provide rows with text and label."
    known = ", ".join(space.names[:5]) + (" …" if space.names[5:] else "")
    shown = ", ".join(map(shown_label, list(unknown)[:5])) + (" …" if len(unknown) > 5 else "")
    return f"Its labels ({shown}) are not labels of {of} ({known})."


def _table_path(path: str) -> str:
    """Return the path of a problem, with `table` in place of the job's section `data`."""
    return f"table ({path.removeprefix('data.')})" if path.startswith("data.") else path


# ------------------------------------------------------------------ tokenising


def tokenise(
    prepared: Prepared, tokenizer: Any, model: ModelSpec, chunk: int = 10_000
) -> dict[str, pa.Table]:
    """Tokenise every split once; the tokenizer runs its own threads.

    The report receives the token lengths and the truncated share.

    Returns:
        For each split: the columns of `LongTextSpec.encoded`, num_tokens (before truncation),
        labels (list<int32>), group (int64) if the split has groups, the columns of
        `data.targets`, and, except for train, text (the beginning of each text).
    """
    tables = {}
    for split, table in prepared.tables.items():
        parts, full = [], []
        for start in range(0, table.num_rows, chunk):
            part = table.slice(start, chunk)
            texts = part["text"], part["text_pair"] if "text_pair" in part.column_names else None
            parts.append(
                tokenization.tokenise(*texts, tokenizer, model.max_length, model.long_text)
            )
            full.append(tokenization.full_lengths(*texts, parts[-1], tokenizer).to_numpy())
        whole = pa.concat_tables(parts).append_column("labels", table["labels"]).combine_chunks()
        num_tokens = np.concatenate(full)
        place = whole.column_names.index("num_tokens")
        whole = whole.set_column(place, "num_tokens", pa.array(num_tokens, pa.int32()))
        for name in {"group", SOFT, WEIGHT} & set(table.column_names):
            whole = whole.append_column(name, table[name])
        if split != "train":
            whole = whole.append_column("text", beginnings(table))
        prepared.report.tokens[split] = token_figures(num_tokens, whole)
        tables[split] = whole.drop_columns(["is_truncated"])
    return tables


def beginnings(table: pa.Table) -> Any:
    """Return the (rows,) beginnings of texts for display; a pair is joined by `PAIR_MARK`."""
    names = [name for name in ("text", "text_pair") if name in table.column_names]
    texts = [table[name].cast(pa.large_string()) for name in names]
    parts = [pc.utf8_slice_codeunits(text, 0, NUM_SHOWN) for text in texts]
    mark = pa.scalar(PAIR_MARK, pa.large_string())
    return pc.binary_join_element_wise(*parts, mark)
