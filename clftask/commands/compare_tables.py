"""Compare two score tables without true labels: churn and drift. Without Ray."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.array_types import Array
from clftask.commands.gates import GateOutcome, all_passed, check_gates, read_gates
from clftask.data.readers.base import FILE, ROW, readable
from clftask.errors import DataError, Problem
from clftask.io import filesystems, storage
from clftask.io.parallel import map_in_threads
from clftask.scoring.manifest import Manifest, ScoreTableStore

NUM_EXAMPLES = 10
NO_LABEL = "(no label)"
GATED = ("changed", "label_drift", "confidence_drift")
_Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class Scored:
    """A score table.

    Attributes:
        keys: (rows,) strings: the id, or file and row.
        given: (rows, labels + 1) scipy CSR of 0 and 1: predicted labels; last column: no label.
        confidence: (rows,) float32.
        task: multiclass or multilabel.
    """

    keys: pa.Array
    given: Any
    confidence: Array
    task: str

    def take(self, rows: Array) -> Scored:
        """Return some of the rows."""
        keys = self.keys.take(pa.array(rows))
        return Scored(keys, self.given[rows], self.confidence[rows], self.task)


class LabelShift(TypedDict):
    """Shares of rows with a label, B − A with its 95 % interval; rows that gained or lost it."""

    label: str
    share_a: float
    share_b: float
    difference: float
    low: float
    high: float
    gained: int
    lost: int


class Predicted(TypedDict):
    """The labels of a row in one table."""

    labels: list[str]
    confidence: float


class ChangedRow(TypedDict):
    """A row whose labels differ."""

    key: str
    a: Predicted
    b: Predicted


@dataclass(frozen=True)
class TableComparison:
    """The differences between two score tables.

    Attributes:
        a, b: Their paths.
        rows_a, rows_b: Their numbers of rows.
        rows: Number of rows whose key is in both tables and unique in each.
        changed: The share of these whose labels differ (churn: Milani Fard et al. 2016); None
            if there are none.
        label_drift: The Jensen-Shannon distance (0 to 1) of the distributions of predicted
            labels (Lin 1991).
        confidence_drift: The Kolmogorov-Smirnov distance (0 to 1) of the confidences.
        per_label: Largest change of share first.
        examples: Rows that changed, most confident in both tables first.
        passed: Whether all gates passed.
    """

    a: str
    b: str
    task: str
    rows_a: int
    rows_b: int
    rows: int
    changed: float | None
    label_drift: float
    confidence_drift: float
    per_label: list[LabelShift]
    examples: list[ChangedRow]
    gates: list[GateOutcome]
    passed: bool


def compare_tables(a: str, b: str, gates: list[str]) -> TableComparison:
    """Compare two score tables: one corpus scored by two bundles, or two corpora.

    Args:
        a: The baseline table.
        b: The new table.
        gates: Bounds: `changed<=0.05`, `label_drift<=0.1`, `confidence_drift<=0.1`.

    Raises:
        ConfigError: A gate is invalid.
        DataError: A table is missing or incomplete, or their tasks differ.
    """
    wanted = read_gates(gates, GATED, GATED)
    manifests = [_manifest(name, path) for name, path in (("A", a), ("B", b))]
    _check(manifests, (a, b))
    names = list(dict.fromkeys(n for m in manifests for n in m.label_names))
    one, other = (_read(path, m, names) for path, m in zip((a, b), manifests, strict=True))
    rows = _shared(one, other)
    same = one.take(rows[0]), other.take(rows[1])
    figures = _figures(one, other, same)
    if "changed" not in figures and any(gate.metric == "changed" for gate in wanted):
        remedy = "Gate label_drift or confidence_drift."
        raise DataError(Problem("TABLE_B", b, "has no rows in common with TABLE_A", remedy))
    return TableComparison(
        a=a,
        b=b,
        task=one.task,
        rows_a=len(one.keys),
        rows_b=len(other.keys),
        rows=len(rows[0]),
        changed=figures.get("changed"),
        label_drift=figures["label_drift"],
        confidence_drift=figures["confidence_drift"],
        per_label=_per_label(one, other, same, [*names, NO_LABEL]),
        examples=_examples(*same, [*names, NO_LABEL]),
        gates=(checked := check_gates(wanted, figures)),
        passed=all_passed(checked),
    )


# ------------------------------------------------------------------ reading


def _manifest(name: str, path: str) -> Manifest:
    store = ScoreTableStore(filesystems.absolute(path))
    manifest = store.manifest()
    if manifest is not None:
        return manifest
    if store.plan() is not None:
        remedy = "Run its scoring job to the end."
        raise DataError(Problem(f"TABLE_{name}", path, "is incomplete", remedy))
    remedy = "To compare two bundles, add a labelled table: clftask compare A B TABLE."
    raise DataError(Problem(f"TABLE_{name}", path, "must be a score table", remedy))


def _check(manifests: list[Manifest], places: tuple[str, str]) -> None:
    one, other = manifests
    for name, place, manifest in zip("AB", places, manifests, strict=True):
        if not manifest.counts.rows_scored or not any(part.num_rows for part in manifest.parts):
            remedy = "Score a corpus with rows."
            raise DataError(Problem(f"TABLE_{name}", place, "contains no rows", remedy))
    if one.task != other.task:
        allowed = f"is {other.task}, and TABLE_A is {one.task}"
        raise DataError(Problem("TABLE_B", places[1], allowed, "Compare tables of one task."))


def _read(path: str, manifest: Manifest, names: list[str]) -> Scored:
    """Read a table's keys, labels and confidences; label columns in the order of `names`."""
    place = filesystems.absolute(path)
    plan = ScoreTableStore(place).plan()
    own = plan.settings.get("input.id") if plan is not None else None
    if not isinstance(own, str | None):
        remedy = "Restore its _plan.json."
        raise DataError(Problem(place, None, "has a plan with an invalid input.id", remedy))
    keys = [own] if own else [FILE, ROW]
    label = "labels" if manifest.task == "multilabel" else "label"
    read = partial(_columns, [*keys, label, "confidence"])
    parts = map_in_threads(read, [storage.join(place, part.name) for part in manifest.parts])
    with readable(place):
        table = pa.concat_tables(parts)
    return Scored(
        row_keys(table, keys),
        given_labels(place, table, label, names),
        table["confidence"].to_numpy(),
        manifest.task,
    )


def _columns(columns: list[str], place: str) -> pa.Table:
    from pyarrow import parquet

    with readable(place):
        table = parquet.read_table(pa.BufferReader(storage.read_bytes(place)), columns=columns)
        table = table.select(columns)
        table.validate(full=True)
        place_of = table.column_names.index("confidence")
        confidence = table["confidence"].cast(pa.float32())
        if confidence.null_count or not pc.all(pc.is_finite(confidence), min_count=0).as_py():
            raise ValueError("a confidence is missing or not finite")
        return table.set_column(place_of, "confidence", confidence)


def row_keys(table: pa.Table, columns: list[str]) -> pa.Array:
    """Return (rows,) strings: the id, or file and row."""
    parts = [table[name].cast(pa.large_string()) for name in columns]
    # The last argument of Arrow's join is the separator, not a part.
    mark = pa.scalar("#", pa.large_string())
    whole = pc.binary_join_element_wise(*parts, mark)
    return pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], pa.large_string())


def given_labels(place: str, table: pa.Table, label: str, names: list[str]) -> Any:
    """Return the predicted labels as a CSR matrix; the last column means no label.

    Raises:
        DataError: A label is not in the table's manifest.
    """
    from scipy.sparse import csr_matrix

    known, column = pa.array(names, pa.string()), table[label]
    if pa.types.is_list(column.type):
        lists = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        counts, codes = pc.list_value_length(lists).to_numpy(), pc.index_in(lists.flatten(), known)
    else:
        counts = column.is_valid().to_numpy().astype(np.int64)
        codes = pc.index_in(column.drop_null(), known).combine_chunks()
    if codes.null_count:
        remedy = "Score the corpus again."
        raise DataError(Problem(place, label, "contains labels not in its manifest", remedy))
    flat = np.full(int(np.maximum(counts, 1).sum()), len(names))
    width = np.maximum(counts, 1)
    flat[np.repeat(counts > 0, width)] = codes.to_numpy()
    ends = np.concatenate([[0], np.cumsum(width)])
    return csr_matrix((np.ones(len(flat), np.int8), flat, ends), (len(counts), len(names) + 1))


# ------------------------------------------------------------------ figures


def _shared(one: Scored, other: Scored) -> tuple[Array, Array]:
    """Return the row numbers, in each table, of the keys that occur once in each."""
    single = [np.flatnonzero(_is_single(side.keys)) for side in (one, other)]
    keys = [side.keys.take(pa.array(p)) for side, p in zip((one, other), single, strict=True)]
    found = pc.index_in(keys[1], keys[0])
    there = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
    return single[0][found.drop_null().to_numpy()], single[1][there]


def _is_single(keys: pa.Array) -> Array:
    """Return (rows,) bool: whether a key is unique."""
    codes = keys.dictionary_encode().indices
    places = codes.fill_null(0).to_numpy()
    return np.asarray((np.bincount(places)[places] == 1) & codes.is_valid().to_numpy(False))


def _changed(one: Scored, other: Scored) -> Array:
    """Return (rows,) bool: whether the labels of a row differ."""
    return np.asarray((one.given != other.given).sum(1)).ravel() > 0


def _figures(one: Scored, other: Scored, same: tuple[Scored, Scored]) -> dict[str, float]:
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import ks_2samp

    counts = [np.asarray(side.given.sum(0), np.float64).ravel() for side in (one, other)]
    distance = ks_2samp(one.confidence, other.confidence, method="asymp").statistic
    drift = {
        "label_drift": float(jensenshannon(*counts, base=2)),
        "confidence_drift": float(distance),
    }
    return drift | ({"changed": float(_changed(*same).mean())} if len(same[0].keys) else {})


def _per_label(
    one: Scored, other: Scored, same: tuple[Scored, Scored], names: list[str]
) -> list[LabelShift]:
    shares = [np.asarray(side.given.mean(0)).ravel() for side in (one, other)]
    gained, lost = (np.asarray((x.given > y.given).sum(0)).ravel() for x, y in (same[::-1], same))
    is_paired = len(same[0].keys) == len(one.keys) == len(other.keys)
    if is_paired:  # paired rows: the variance depends on changed rows only (McNemar 1947)
        moved = (gained + lost) / len(one.keys)
        variance = (moved - (shares[1] - shares[0]) ** 2) / len(one.keys)
    else:
        parts = zip(shares, (len(one.keys), len(other.keys)), strict=True)
        variance = sum(share * (1 - share) / n for share, n in parts)
    margin = _Z * np.sqrt(np.maximum(variance, 0))
    found: list[LabelShift] = [
        {"label": name, "share_a": float(x), "share_b": float(y), "difference": float(y - x),
         "low": float(y - x - m), "high": float(y - x + m), "gained": int(g), "lost": int(n)}
        for name, x, y, m, g, n in zip(names, *shares, margin, gained, lost, strict=True)
        if x or y
    ]  # fmt: skip
    return sorted(found, key=lambda row: (-abs(row["difference"]), row["label"]))


def _examples(one: Scored, other: Scored, names: list[str]) -> list[ChangedRow]:
    changed = np.flatnonzero(_changed(one, other))
    surest = np.minimum(one.confidence, other.confidence)[changed]
    rows = changed[np.argsort(-surest, kind="stable")][:NUM_EXAMPLES]

    def side(table: Scored, row: int) -> Predicted:
        labels = [names[i] for i in table.given[row].indices if i < len(names) - 1]
        return {"labels": labels, "confidence": float(table.confidence[row])}

    return [
        {"key": one.keys[int(row)].as_py(), "a": side(one, row), "b": side(other, row)}
        for row in rows
    ]
