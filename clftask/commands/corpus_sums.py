"""Sums over a score table in one pass: rows, predicted labels and probabilities, by group."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.array_types import Array, Bools, Float32, Float64
from clftask.commands.compare_tables import given_labels, row_keys
from clftask.components.labels import Task
from clftask.data.readers.arrow import Parquet
from clftask.data.readers.base import FILE, ROW, readable
from clftask.errors import DataError, Problem
from clftask.io import filesystems, storage
from clftask.io.parallel import map_in_threads
from clftask.scoring.manifest import Manifest, ScoreTableStore

MAX_GROUPS = 1_000
MAX_HELD = 64  # parts whose sums are in memory
BATCH_VALUES = 500_000  # probabilities in memory per thread
NULL = "(null)"


@dataclass(frozen=True)
class ScoreRows:
    """A complete score table.

    Attributes:
        place: Its absolute path.
        keys: The columns that identify a row.
        layout: wide or list.
        by: The column of the groups.
    """

    place: str
    manifest: Manifest
    keys: list[str]
    layout: str
    by: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """The labels."""
        return self.manifest.label_names

    @property
    def task(self) -> Task:
        """The task: multiclass or multilabel."""
        return "multilabel" if self.manifest.task == "multilabel" else "multiclass"

    @property
    def label(self) -> str:
        """The column of the predicted labels."""
        return "labels" if self.task == "multilabel" else "label"

    @property
    def files(self) -> list[str]:
        """The parts."""
        return [storage.join(self.place, part.name) for part in self.manifest.parts]

    @property
    def scores(self) -> list[str]:
        """The columns of probabilities."""
        return ["p"] if self.layout == "list" else [f"p_{name}" for name in self.names]

    def num_quarantined(self, keys: list[str]) -> int:
        """Count the keys of quarantined rows."""
        store, wanted = ScoreTableStore(self.place), set(keys)
        paths = [store.quarantine(index) for index in sorted(store.stored_quarantines())]
        bad = [json.loads(line) for path in paths for line in storage.read_bytes(path).splitlines()]
        names = ("file", "row") if self.keys == [FILE, ROW] else ("id",)
        return len(wanted & {"#".join(str(row[name]) for name in names) for row in bad})


@dataclass
class Sums:
    """Sums over rows.

    Attributes:
        given: (labels + 1,) rows by predicted label; the last one: without a label.
        probabilities: (labels,) sums of p.
    """

    given: Float64
    probabilities: Float64
    num_rows: int = 0

    @property
    def naive(self) -> Float64:
        """The (labels,) shares of rows that are predicted to have a label."""
        return np.asarray(self.given[:-1] / max(self.num_rows, 1), np.float64)

    @property
    def mean(self) -> Float64:
        """The (labels,) means of p."""
        return np.asarray(self.probabilities / max(self.num_rows, 1), np.float64)

    def add(self, given: Array, probabilities: Array, num_rows: int) -> None:
        """Add the sums of further rows."""
        self.given += given
        self.probabilities += probabilities
        self.num_rows += num_rows


@dataclass(frozen=True)
class Corpus:
    """The sums of a score table, and its audited rows.

    Attributes:
        whole: Of all rows.
        groups: By the value of the column `by`.
        positions: (audited,) their rows in the audit.
        predicted: (audited, labels) float32.
        decided: (audited, labels) bool.
        group_of: (audited,) their groups.
    """

    whole: Sums
    groups: dict[str, Sums] = field(default_factory=dict)
    positions: Array = field(default_factory=lambda: np.array([], np.int64))
    predicted: Float32 = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    decided: Bools = field(default_factory=lambda: np.zeros((0, 0), np.bool_))
    group_of: Array = field(default_factory=lambda: np.array([], object))

    @property
    def num_unlabelled(self) -> int:
        """Rows without a predicted label."""
        return int(self.whole.given[-1])


def open_scores(path: str, by: str | None) -> ScoreRows:
    """Open a score table that has the probabilities of all labels.

    Raises:
        DataError: It is missing or incomplete, has no rows, has the layout top_k, or does not
            have the column `by`.
    """
    place = filesystems.absolute(path)
    store = ScoreTableStore(place)
    plan, manifest = store.plan(), store.manifest()
    if plan is None:
        raise DataError(Problem("SCORES", path, "must be a score table", "Check the path."))
    if manifest is None:
        remedy = "Run its scoring job to the end."
        raise DataError(Problem("SCORES", path, "is incomplete", remedy))
    problems = []
    layout = (plan.settings.get("output.layout") or {}).get("kind")
    if layout not in ("wide", "list"):
        allowed = "must have the layout wide or list: the probabilities of all labels are needed"
        remedy = "Score the corpus with output.layout=list, into another output.path."
        problems.append(Problem("SCORES", layout, allowed, remedy))
    if not manifest.counts.rows_scored:
        problems.append(Problem("SCORES", path, "contains no rows", "Score a corpus with rows."))
    kept = list(plan.settings.get("input.keep") or ())
    if by is not None and by not in kept:
        allowed = f"must be a column that the scoring job kept: {', '.join(kept) or 'none'}"
        remedy = "Name it in input.keep, and score into another output.path."
        problems.append(Problem("--by", by, allowed, remedy))
    if problems:
        raise DataError(*problems)
    own = plan.settings.get("input.id")
    return ScoreRows(place, manifest, [own] if own else [FILE, ROW], str(layout), by)


def add_up(table: ScoreRows, audited: pa.Array) -> Corpus:
    """Read a score table once, its parts in threads, in bounded memory.

    The sums do not depend on the threads: parts are added in order.

    Args:
        table: The table.
        audited: (rows,) the keys of the audit, distinct.

    Raises:
        DataError: A part is damaged, an audited key occurs in several rows, or the column `by`
            has too many values.
    """
    reader, whole = _Reader(table, audited), _Part(len(table.names))
    for start in range(0, len(table.files), MAX_HELD):
        for part in map_in_threads(reader.read, table.files[start : start + MAX_HELD]):
            whole.merge(part)
            if len(whole.groups) > MAX_GROUPS:
                allowed = f"must have at most {MAX_GROUPS:,} different values"
                raise DataError(Problem("--by", table.by, allowed, "Use another column."))
    return _with_audited_rows(whole, audited)


class _Part:
    """The sums of some rows; of those that are audited, position, p, decided labels and group."""

    def __init__(self, num_labels: int) -> None:
        self.num_labels = num_labels
        self.whole, self.groups = self._zeros(), dict[str, Sums]()
        self.rows: list[tuple[Array, Float32, Bools, Array]] = []

    def _zeros(self) -> Sums:
        return Sums(np.zeros(self.num_labels + 1), np.zeros(self.num_labels))

    def add(self, given: Any, scores: Float32, groups: pa.Array | None) -> None:
        """Add rows: their predicted labels as a CSR matrix, their probabilities and groups."""
        from scipy.sparse import csr_matrix

        labels = np.asarray(given.sum(0)).ravel()
        self.whole.add(labels, scores.sum(0, dtype=np.float64), len(scores))
        if groups is None:
            return
        coded = groups.dictionary_encode()
        codes, names = coded.indices.to_numpy(), coded.dictionary.to_pylist()
        places = (codes, np.arange(len(codes)))
        members = csr_matrix((np.ones(len(codes)), places), (len(names), len(codes)))
        labels, sums, counts = (members @ given).toarray(), members @ scores, np.bincount(codes)
        for i, name in enumerate(names):
            self.groups.setdefault(name, self._zeros()).add(labels[i], sums[i], int(counts[i]))

    def merge(self, other: _Part) -> None:
        """Add the rows of another part."""
        self.whole.add(other.whole.given, other.whole.probabilities, other.whole.num_rows)
        for name, sums in other.groups.items():
            own = self.groups.setdefault(name, self._zeros())
            own.add(sums.given, sums.probabilities, sums.num_rows)
        self.rows += other.rows


class _Reader:
    def __init__(self, table: ScoreRows, audited: pa.Array) -> None:
        self.table, self.audited = table, audited
        columns = [*table.keys, table.label, *table.scores, *([table.by] if table.by else [])]
        self.source = Parquet(table.files)
        self.schema = self.source.survey(table.files[0], dict.fromkeys(columns)).schema

    def read(self, file: str) -> _Part:
        """Return the sums of a part."""
        found, names = _Part(len(self.table.names)), list(self.table.names)
        for batch in self._batches(file):
            given = given_labels(file, batch, self.table.label, names)
            scores, groups = self._scores(file, batch), self._groups(batch)
            found.add(given, scores, groups)
            at = pc.index_in(row_keys(batch, self.table.keys), self.audited)
            here = np.flatnonzero(at.is_valid().to_numpy(False))
            if len(here):
                positions = at.drop_null().to_numpy().astype(np.int64)
                decided = given[here].toarray()[:, :-1] > 0
                own = [None] * len(here) if groups is None else groups.take(here).to_pylist()
                found.rows.append((positions, scores[here], decided, np.array(own, object)))
        return found

    def _batches(self, file: str) -> Iterator[pa.Table]:
        num_rows = max(1_000, BATCH_VALUES // len(self.table.names))
        for batch in self.source.batches(file, self.schema, num_rows=num_rows):
            yield pa.Table.from_batches([batch])

    def _scores(self, file: str, batch: pa.Table) -> Float32:
        """Return the (rows, labels) probabilities."""
        shape = (batch.num_rows, len(self.table.names))
        with readable(file):
            if self.table.layout == "list":
                flat = pc.list_flatten(batch["p"]).to_numpy()
                lengths = pc.list_value_length(batch["p"]).to_numpy()
                if (lengths != shape[1]).any():
                    raise ValueError(f"p must be lists of {shape[1]} probabilities")
                found = flat.reshape(shape)
            else:
                found = np.stack([batch[name].to_numpy() for name in self.table.scores], 1)
            if not np.isfinite(found).all():
                raise ValueError("a probability is missing or not finite")
        return np.asarray(found, np.float32)

    def _groups(self, batch: pa.Table) -> pa.Array | None:
        if self.table.by is None:
            return None
        column = batch[self.table.by]
        try:
            return column.cast(pa.string()).fill_null(NULL).combine_chunks()
        except pa.ArrowException:
            allowed = "must be a column of texts, numbers, booleans or dates"
            problem = Problem("--by", f"{self.table.by}: {column.type}", allowed)
            raise DataError(problem) from None


def _with_audited_rows(part: _Part, audited: pa.Array) -> Corpus:
    """Return the sums with the audited rows, in the order of the audit."""
    if not part.rows:
        return Corpus(part.whole, part.groups)
    columns = [np.concatenate([some[i] for some in part.rows]) for i in range(4)]
    several = np.flatnonzero(np.bincount(columns[0]) > 1)
    if len(several):
        keys = audited.take(pa.array(several[:5])).to_pylist()
        allowed = "occurs in several rows of the score table"
        remedy = "Score the corpus with an id column whose values are distinct, or without one."
        raise DataError(*(Problem("AUDIT", key, allowed, remedy) for key in keys))
    order = np.argsort(columns[0])
    return Corpus(part.whole, part.groups, *(column[order] for column in columns))
