"""Compare two bundles on the same labelled rows. Without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import pyarrow as pa

from clftask.array_types import Array
from clftask.commands.evaluate import Say, opened, read_table, scored
from clftask.commands.gates import GateOutcome, all_passed, check_gates, metric_of, read_gates
from clftask.components.labels import LabelSpace, Task, multi_hot
from clftask.components.metrics import (
    ABSENT,
    LOWER_IS_BETTER,
    compute,
    find,
    names_of,
    per_label,
)
from clftask.config.train import TrainJob
from clftask.data import training_rows
from clftask.data.prepare import read_labelled
from clftask.data.readers.base import FILE, ROW
from clftask.data.summary import DataReport
from clftask.errors import DataError, Problem
from clftask.evaluation.bootstrap import bootstrap, figures_of, interval, label_f1
from clftask.evaluation.evaluate import groups_of
from clftask.io.strict_json import strict
from clftask.io.tempdirs import temporary_folder
from clftask.models.bundle import fetch, read_meta

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


class MetricChange(TypedDict):
    """A metric of both bundles, and B − A; of some its paired 95 % bootstrap interval."""

    a: float | None
    b: float | None
    difference: float | None
    low: NotRequired[float | None]
    high: NotRequired[float | None]


class LabelChange(TypedDict):
    """F1 of a label, and the rows with another prediction of it; rows: those with the label."""

    label: str
    rows: int
    f1_a: float | None
    f1_b: float | None
    difference: float | None
    low: float | None
    high: float | None
    changed: int


class Example(TypedDict):
    """A row that only one bundle predicts correctly: its labels, and those of each bundle."""

    file: str
    row: int
    text: str
    true: list[str]
    a: list[str]
    b: list[str]


@dataclass(frozen=True)
class BundleComparison:
    """The differences between two bundles on a labelled table.

    Attributes:
        a, b, table: The paths.
        rows: Number of rows that both read.
        metric: The metric of B's training job.
        per_label: Largest change of F1 first.
        changed: The share of rows whose prediction changed.
        examples: better, worse: largest change of probability first.
        passed: Whether all gates passed.
    """

    a: str
    b: str
    table: str
    rows: int
    task: Task
    metric: str
    metrics: dict[str, MetricChange]
    per_label: list[LabelChange]
    changed: float
    examples: dict[str, list[Example]]
    gates: list[GateOutcome]
    passed: bool


def compare_bundles(
    a: str, b: str, table: str, gates: list[str], say: Say, split: str | None = None
) -> BundleComparison:
    """Compare two bundles on a labelled table.

    Args:
        a: The baseline bundle.
        b: The new bundle.
        table: Rows with the text and label columns of both training jobs.
        gates: Bounds on B − A: `macro_f1>=-0.005`.
        say: Prints a line for the user.
        split: The split of a dataset that has several; None: test, or else the first one.

    Raises:
        ConfigError: A gate is invalid.
        DataError: A bundle is missing, their tasks differ, or the table does not match them.
    """
    jobs, space = _jobs(a, b), _space(a, b)
    wanted = read_gates(gates, names := _metric_names(space, gates), LOWER_IS_BETTER)
    first, second = _shared_rows((a, b), jobs, space, table, say, split)
    targets = multi_hot(first["labels"].combine_chunks(), len(space.names))
    sides = [_decided(path, part, space, say) for path, part in ((a, first), (b, second))]
    drawn = _differences(sides, targets, groups_of(first), space.positive_index)
    metrics = _metrics(sides, targets, drawn, space, names)
    checked = check_gates(wanted, {name: row["difference"] for name, row in metrics.items()})
    return BundleComparison(
        a=a,
        b=b,
        table=table,
        rows=len(targets),
        task=space.task,
        metric=jobs[1].training.metric,
        metrics=metrics,
        per_label=_per_label(sides, targets, drawn[_LABELS], space),
        changed=float((sides[0].decided != sides[1].decided).any(1).mean()),
        examples=_examples(sides, targets, first, space),
        gates=checked,
        passed=all_passed(checked),
    )


def _jobs(a: str, b: str) -> list[TrainJob]:
    """Return the bundles' jobs; of a soft and a hard one both read the hard labels."""
    jobs = [TrainJob.load(read_meta(path).job) for path in (a, b)]
    labels = [job.data.labels for job in jobs]
    if labels[0].held_out.is_soft == labels[1].held_out.is_soft:
        return jobs
    hard = next(each for each in labels if not each.held_out.is_soft)
    shared = [job.data.model_copy(update={"labels": hard}) for job in jobs]
    return [job.model_copy(update={"data": data}) for job, data in zip(jobs, shared, strict=True)]


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
    paths: tuple[str, str],
    jobs: list[TrainJob],
    space: LabelSpace,
    table: str,
    say: Say,
    split: str | None,
) -> tuple[pa.Table, pa.Table]:
    """Return the rows that both bundles can read, prepared for each bundle."""
    with _named("A", paths[0]):
        first, _ = read_table(jobs[0], space, table, say, split)
    if jobs[0].data.recipe == jobs[1].data.recipe:
        return first, first
    with _named("B", paths[1]):
        second = read_labelled(jobs[1], space, table, DataReport(), split)
    both = _places(first).keys() & _places(second).keys()
    parts = [
        part.take([i for place, i in _places(part).items() if place in both])
        for part in (first, second)
    ]
    return parts[0], parts[1]


@contextmanager
def _named(side: str, bundle: str) -> Iterator[None]:
    """Add the bundle that reads a column to the problems of the table's columns."""
    try:
        yield
    except DataError as error:
        named = (
            replace(p, path=f"{p.path} of bundle {side}, {bundle}")
            if p.path.startswith("table (")
            else p
            for p in error.problems
        )
        raise DataError(*named) from None


def _places(table: pa.Table) -> dict[tuple[str, int], int]:
    pairs = zip(table[FILE].to_pylist(), table[ROW].to_pylist(), strict=True)
    return {place: i for i, place in enumerate(pairs)}


def _decided(path: str, rows: pa.Table, space: LabelSpace, say: Say) -> Decided:
    """Return a bundle's predictions in the order of the shared labels."""
    with temporary_folder() as scratch:
        folder, meta = fetch(path, scratch)
        if known := training_rows.count_known(Path(folder), rows):
            say(f"{path}: {training_rows.warning(known, rows.num_rows)}")
        logits, _ = scored(opened(folder, meta), rows, say)
    own = meta.decision.probabilities(logits, meta.task)
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
    drawn: dict[str, Array],
    space: LabelSpace,
    names: list[str],
) -> dict[str, MetricChange]:
    """Return A, B and B − A of each metric; None where it is undefined."""
    more = space.task, [*names, ABSENT], space.positive_index
    one, other = (strict(compute(s.probabilities, s.decided, targets, *more)) for s in sides)
    found: dict[str, MetricChange] = {}
    for name in one:
        a, b = one[name], other[name]
        found[name] = {"a": a, "b": b, "difference": _minus(b, a)}
        if name in drawn:
            found[name]["low"], found[name]["high"] = strict(interval(drawn[name]))
    return found


def _per_label(
    sides: list[Decided], targets: Array, drawn: Array, space: LabelSpace
) -> list[LabelChange]:
    """Return the labels; `drawn`: (resamples, labels) B − A of F1."""
    one, other = (per_label(side.decided, targets, space.names) for side in sides)
    changed = (sides[0].decided != sides[1].decided).sum(0)
    found: list[LabelChange] = []
    for i, (x, y) in enumerate(zip(one, other, strict=True)):
        low, high = strict(interval(drawn[:, i]))
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
) -> dict[str, list[Example]]:
    right = [(side.decided == (targets > 0)).all(1) for side in sides]
    moved = np.abs(sides[1].probabilities - sides[0].probabilities).max(1)
    found = {}
    for name, chosen in (("better", right[1] & ~right[0]), ("worse", right[0] & ~right[1])):
        order = [i for i in np.argsort(-moved, kind="stable") if chosen[i]][:NUM_EXAMPLES]
        found[name] = [_example(i, sides, targets, rows, space) for i in map(int, order)]
    return found


def _example(
    i: int, sides: list[Decided], targets: Array, rows: pa.Table, space: LabelSpace
) -> Example:
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
