"""Compare two bundles on the same labelled rows. Without Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clftask.array_types import Array
from clftask.commands.evaluate import Say, read_table, score_rows
from clftask.commands.gates import check_gates, metric_of, read_gates
from clftask.components.labels import LabelSpace, multi_hot
from clftask.components.metrics import (
    ABSENT,
    LOWER_IS_BETTER,
    compute,
    find,
    names_of,
    per_label,
)
from clftask.config.train import TrainJob
from clftask.data.prepare import read_labelled
from clftask.data.readers.base import FILE, ROW
from clftask.data.summary import DataReport
from clftask.errors import DataError, Problem
from clftask.evaluation.bootstrap import bootstrap, figures_of, interval, label_f1
from clftask.evaluation.evaluate import groups_of
from clftask.io.strict_json import strict
from clftask.models.bundle import read_meta

NUM_EXAMPLES = 10
_LABELS = "of labels"


@dataclass(frozen=True)
class Decided:
    """The predictions of a bundle.

    Attributes:
        probabilities: (rows, labels) float32, in the order of the shared labels.
        decided: (rows, labels) bool.
    """

    probabilities: Array
    decided: Array


def compare_bundles(
    a: str, b: str, table: str, gates: list[str], say: Say, split: str | None = None
) -> dict[str, Any]:
    """Compare two bundles on a labelled table.

    Args:
        a: The baseline bundle.
        b: The new bundle.
        table: Rows with the text and label columns of both training jobs.
        gates: Bounds on B − A: `macro_f1>=-0.005`.
        say: Prints a line for the user.
        split: The split of a dataset that has several; None: test, or else the first one.

    Returns:
        a, b, table, task, metric (B's training job's), rows, metrics (a, b, difference and, for
        some, its paired bootstrap interval), per_label, changed (share of rows whose prediction
        changed), examples (better, worse: rows that only one bundle predicts correctly), gates,
        passed.

    Raises:
        ConfigError: A gate is invalid.
        DataError: A bundle is missing, their tasks differ, or the table does not match them.
    """
    jobs, space = [TrainJob.load(read_meta(path).job) for path in (a, b)], _space(a, b)
    wanted = read_gates(gates, names := _metric_names(space, gates), LOWER_IS_BETTER)
    rows, second = _shared_rows(jobs, space, table, say, split)
    targets = multi_hot(rows["labels"].combine_chunks(), len(space.names))
    sides = [_decided(path, part, space, say) for path, part in ((a, rows), (b, second))]
    differences = _differences(sides, targets, groups_of(rows), space.positive_index)
    metrics = _metrics(sides, targets, differences, space, names)
    found = {
        **{"a": a, "b": b, "table": table, "rows": len(targets), "task": space.task},
        "metric": jobs[1].training.metric,
        "metrics": metrics,
        "per_label": _per_label(sides, targets, differences, space),
        "changed": float((sides[0].decided != sides[1].decided).any(1).mean()),
        "examples": _examples(sides, targets, rows, space),
        **check_gates(wanted, {name: row["difference"] for name, row in metrics.items()}),
    }
    return dict(strict(found))


def _metric_names(space: LabelSpace, gates: list[str]) -> list[str]:
    """Return the names of all metrics, and of those with another k that gates name."""
    known = space.task, len(space.names), space.positive is not None
    named = [name for name in map(metric_of, gates) if find(name, *known) is not None]
    return list(dict.fromkeys([*names_of(*known), *named]))


def _space(a: str, b: str) -> LabelSpace:
    """Return the union of both label sets; a bundle never predicts a label that it lacks.

    The positive class is that of both bundles, or of the one that has one.
    """
    one, other = read_meta(a), read_meta(b)
    if one.task != other.task:
        allowed = f"is {other.task}, and {a} is {one.task}"
        raise DataError(Problem("BUNDLE_B", b, allowed, "Compare bundles of one task."))
    names = tuple(dict.fromkeys((*one.label_names, *other.label_names)))
    positive = {one.positive, other.positive} - {None}
    return LabelSpace(one.task, names, positive.pop() if len(positive) == 1 else None)


def _shared_rows(
    jobs: list[TrainJob], space: LabelSpace, table: str, say: Say, split: str | None
) -> tuple[pa.Table, pa.Table]:
    """Return the rows that both bundles can read, prepared for each bundle."""
    first, _ = read_table(jobs[0], space, table, say, split)
    if jobs[0].data.recipe == jobs[1].data.recipe:
        return first, first
    second = read_labelled(jobs[1], space, table, DataReport(), split)
    both = _places(first).keys() & _places(second).keys()
    parts = [
        part.take([i for place, i in _places(part).items() if place in both])
        for part in (first, second)
    ]
    return parts[0], parts[1]


def _places(table: pa.Table) -> dict[tuple[str, int], int]:
    pairs = zip(table[FILE].to_pylist(), table[ROW].to_pylist(), strict=True)
    return {place: i for i, place in enumerate(pairs)}


def _decided(path: str, rows: pa.Table, space: LabelSpace, say: Say) -> Decided:
    """Return a bundle's predictions in the order of the shared labels."""
    meta, own = score_rows(path, rows, say)
    places = [space.names.index(name) for name in meta.label_names]
    probabilities = np.zeros((len(own), len(space.names)), np.float32)
    decided = np.zeros(probabilities.shape, np.bool_)
    probabilities[:, places] = own
    decided[:, places] = meta.decision.decide(own, meta.task)
    return Decided(probabilities, decided)


def _differences(
    sides: list[Decided], targets: Array, groups: Array | None, positive: int | None
) -> dict[str, Array]:
    """Bootstrap B − A of the headline metrics and of each label's F1."""
    one, other = (figures_of(side.decided, targets, positive) for side in sides)
    true = (targets > 0).astype(np.float32)
    given = [side.decided.astype(np.float32) for side in sides]
    paired: dict[str, Any] = {
        name: lambda weights, n=name: other[n](weights) - one[n](weights) for name in one
    }
    paired[_LABELS] = lambda weights: (
        label_f1(weights, given[1], true) - label_f1(weights, given[0], true)
    )
    return bootstrap(paired, targets.shape, groups)


def _metrics(
    sides: list[Decided],
    targets: Array,
    differences: dict[str, Array],
    space: LabelSpace,
    names: list[str],
) -> dict[str, dict[str, float]]:
    """Return A, B and B − A of each metric; NaN where it is undefined."""
    more = space.task, [*names, ABSENT], space.positive_index
    one, other = (compute(s.probabilities, s.decided, targets, *more) for s in sides)
    found = {
        name: {"a": one[name], "b": other[name], "difference": other[name] - one[name]}
        for name in one
    }
    for name in differences.keys() & found.keys():
        low, high = interval(differences[name])
        found[name] |= {"low": low, "high": high}
    return found


def _per_label(
    sides: list[Decided], targets: Array, differences: dict[str, Array], space: LabelSpace
) -> list[dict[str, Any]]:
    """Return the labels, largest change of F1 first."""
    one, other = (per_label(side.decided, targets, space.names) for side in sides)
    changed = (sides[0].decided != sides[1].decided).sum(0)
    found: list[dict[str, Any]] = []
    for i, (x, y) in enumerate(zip(one, other, strict=True)):
        low, high = interval(differences[_LABELS][:, i])
        found.append(
            {"label": x["label"], "rows": x["support"], "f1_a": x["f1"], "f1_b": y["f1"],
             "difference": _minus(y["f1"], x["f1"]), "low": low, "high": high,
             "changed": int(changed[i])}
        )  # fmt: skip
    return sorted(found, key=lambda row: (-abs(row["difference"] or 0.0), row["label"]))


def _minus(b: float | None, a: float | None) -> float | None:
    """Return B − A; None if either is undefined."""
    return None if a is None or b is None else b - a


def _examples(
    sides: list[Decided], targets: Array, rows: pa.Table, space: LabelSpace
) -> dict[str, list[dict[str, Any]]]:
    """Return rows that only one bundle predicts correctly, largest change of probability first."""
    right = [(side.decided == (targets > 0)).all(1) for side in sides]
    moved = np.abs(sides[1].probabilities - sides[0].probabilities).max(1)
    found = {}
    for name, chosen in (("better", right[1] & ~right[0]), ("worse", right[0] & ~right[1])):
        order = [i for i in np.argsort(-moved, kind="stable") if chosen[i]][:NUM_EXAMPLES]
        found[name] = [_example(i, sides, targets, rows, space) for i in map(int, order)]
    return found


def _example(
    i: int, sides: list[Decided], targets: Array, rows: pa.Table, space: LabelSpace
) -> dict[str, Any]:
    def names(flags: Array) -> list[str]:
        return [space.names[k] for k in np.flatnonzero(flags)]

    return {
        "file": rows[FILE][i].as_py(),
        "row": rows[ROW][i].as_py(),
        "text": rows["text"][i].as_py()[:300],
        "true": names(targets[i]),
        "a": names(sides[0].decided[i]),
        "b": names(sides[1].decided[i]),
    }
