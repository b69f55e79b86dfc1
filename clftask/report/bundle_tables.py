"""Texts and tables of a bundle's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clftask.components.decision.decision import Decision, Outcome
from clftask.components.labels import LabelSpace, Task
from clftask.components.metrics import with_plain
from clftask.data.summary import DataReport
from clftask.evaluation.diagnostics import Surprise, largest_pairs
from clftask.evaluation.evaluate import Labelled
from clftask.messages import counted
from clftask.models.bundle_meta import BundleMeta
from clftask.report.format import Cell, Row, Table, label, metric, number

METRICS_AID = (
    "Validation is measured out of fold: each row is decided by what others call for. The range "
    "holds a figure with 95 % (bootstrap). Plain is without calibration, and at the threshold 0.5 "
    "or the most probable class."
)
_HEADLINE: dict[Task, tuple[str, ...]] = {
    "multiclass": ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "log_loss", "ece"),
    "multilabel": ("micro_f1", "macro_f1", "samples_f1", "map", "log_loss", "ece"),
}
_IF_THERE = ("coverage", "set_coverage", "set_size")
_MAX_NAMES = 6  # labels that are told of a row


def lead(meta: BundleMeta) -> str:
    """Return in a sentence what was trained."""
    columns = ", ".join(meta.text.columns)
    return f"Fine-tuned from {meta.job['model']['base']}; text: {columns}."


# ------------------------------------------------------------------ the summary


def facts(
    outcome: dict[str, Any], meta: BundleMeta, split: str, metric_name: str
) -> dict[str, str]:
    """Return what stands on top: the first figures, and what they cost."""
    metrics = outcome["metrics"][split]
    names = dict.fromkeys([metric_name, *_HEADLINE[meta.task][:3], "ece"])
    found = {f"{n}, {split}": number(metrics[n]) for n in names if n in metrics}
    rows = meta.data["report"]["rows"]
    found |= {f"{split} rows": f"{n:,}" for split, n in rows.items()}
    if "epochs" in outcome:
        found["epochs"] = f"{outcome['epochs']:g}"
        found["time"] = duration(outcome["seconds"])
        found["workers"] = str(outcome["workers"])
    return found


def duration(seconds: float) -> str:
    """Return `45 s`, `12 min` or `3 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def decision(found: Decision, meta: BundleMeta) -> list[str]:
    """Return in words what the decision is, and where it comes from."""
    kind = found.calibration.kind
    lines = [f"Labels given: {found.rule(meta.task)}. "
             + ("No calibration." if kind == "none" else f"Calibration: {kind}.")]  # fmt: skip
    if found.sets is not None:
        share = f"{found.sets.coverage:.0%}"
        lines.append(f"Prediction sets hold the truth with {share}, on average over new rows.")
    if "decided_on" in meta.data:
        table, rows = meta.data["decided_on"]["table"], meta.data["decided_on"]["rows"]
        lines.append(f"The decision was fitted on {table} ({counted(rows, 'row')}): validation.")
    return lines


def headline_names(task: Task, metric_name: str) -> tuple[str, ...]:
    """Return the metrics that stand on top, that of the job first."""
    return tuple(dict.fromkeys([metric_name, *_HEADLINE[task], *_IF_THERE]))


def metrics(
    by_split: dict[str, dict[str, float]],
    intervals: dict[str, Any],
    own: str,
    names: Sequence[str] = (),
) -> Table:
    """Return metrics of each split: with the decision, their ranges, and plain.

    Args:
        by_split: Metrics by split.
        intervals: Of each split (low, high) by metric.
        own: The job's metric: it stands out.
        names: Which; empty: all.
    """
    pairs = {split: with_plain(found) for split, found in by_split.items()}
    there = dict.fromkeys(name for found in pairs.values() for name in found)
    rows = []
    for name in names or there:
        if name in there:
            cells = [label(name, "name")]
            for split, found in pairs.items():
                value, plain = found.get(name, (None, None))
                cells += [metric(value), _range(intervals.get(split, {}).get(name)), _or_not(plain)]
            rows.append(Row(cells, name == own))
    heads = [head for split in pairs for head in (split, "range", "plain")]
    return Table(["metric", *heads], rows)


def _range(found: Any) -> Cell:
    shown = f"{found[0]:.3f}–{found[1]:.3f}" if found else ""
    return Cell(shown, found[0] if found else "", "number")


def _or_not(value: float | None) -> Cell:
    return Cell("", "", "number") if value is None else metric(value)


# ------------------------------------------------------------------ the data


def splits(report: dict[str, Any]) -> Table:
    """Return rows and token lengths of each split."""
    heads = ["split", "rows", "tokens, median", "95 %", "longest", "truncated"]
    rows = []
    for split, count in report["rows"].items():
        cells = [label(split, "name"), Cell(f"{count:,}", count, "number")]
        tokens = report["tokens"].get(split, {})
        for name in ("median", "p95", "longest"):
            value = tokens.get(name)
            cells.append(Cell(f"{value:,.0f}", value, "number") if tokens else metric(None))
        share = tokens.get("truncated")
        cells.append(Cell(f"{share:.1%}", share, "number") if tokens else metric(None))
        rows.append(Row(cells))
    return Table(heads, rows)


def warnings(data: dict[str, Any]) -> list[str]:
    """Return what was left out, as lines."""
    return [line.removeprefix("warning: ") for line in DataReport(**data["report"]).warnings()]


# ------------------------------------------------------------------ labels


def labels(
    rows: list[dict[str, Any]], averages: list[float | None], train: dict[str, int]
) -> Table:
    """Return the figures of each label, the most frequent first.

    Args:
        rows: As `metrics.per_label` returns them.
        averages: Average precision of each.
        train: Rows of train by label.
    """
    figures = [n for n in ("precision", "recall", "f1", "threshold") if rows and n in rows[0]]
    found = []
    for row, average in zip(rows, averages, strict=True):
        name, support = str(row["label"]), row["support"]
        counts = [Cell(f"{n:,}", n, "number") for n in (train.get(name, 0), support)]
        cells = [label(name, "label"), *counts, *(_share(row[n]) for n in figures)]
        found.append(Row([*cells, _share(average)]))
    found.sort(key=lambda row: -float(row.cells[2].sort))
    return Table(["label", "train", "rows", *figures, "average precision"], found)


def _share(value: float | None) -> Cell:
    return metric(None) if value is None else Cell(f"{value:.3f}", value, "number")


def pairs(counts: Any, misses: Any, names: Sequence[str], most: int) -> Table:
    """Return the most frequent confusions.

    Args:
        counts: (labels, labels) of the second given in place of the first.
        misses: (labels,) rows that lack each of their labels.
        names: The labels.
        most: How many.
    """
    rows = [
        Row([label(names[a], "label"), label(names[b], "label"), Cell(f"{n:,}", n, "number"),
             Cell(f"{n / max(1, misses[a]):.0%}", n / max(1, misses[a]), "number")])
        for a, b, n in largest_pairs(counts, most)
    ]  # fmt: skip
    return Table(["true", "given", "rows", "of the misses"], rows)


# ------------------------------------------------------------------ hardest rows


def hardest(found: list[Surprise], rows: Labelled, outcome: Outcome, space: LabelSpace) -> Table:
    """Return the rows with the highest losses, what was expected and what was given.

    Args:
        found: The rows, and the label of each that surprises.
        rows: The split.
        outcome: What its rows come to.
        space: The labels.
    """
    is_multilabel = space.task == "multilabel"
    table = []
    for row, column, loss in found:
        true, p = rows.targets[row] > 0, outcome.probabilities[row]
        text = rows.texts[row] if rows.texts is not None else f"row {row}"
        sides = [_told(side, p, space.names) for side in (true, outcome.decided[row])]
        if is_multilabel:
            sides.insert(0, _doubt(space.names[column], true[column], p[column]))
        cells = [label(text, "text"), *(label(side, "sides") for side in sides)]
        table.append(Row([*cells, Cell(f"{loss:.2f}", loss, "number")]))
    doubt = ["in doubt"] if is_multilabel else []
    return Table(["text", *doubt, "true", "given", "loss"], table)


def _doubt(name: str, is_true: bool, probability: float) -> str:
    return f"{name}: {'stands' if is_true else 'is missing'} at {_probability(probability)}"


def _told(side: Any, probabilities: Any, names: Sequence[str]) -> str:
    """Return labels of a row with their probabilities, the most probable first."""
    chosen = np.flatnonzero(side)
    chosen = chosen[np.argsort(-probabilities[chosen], kind="stable")]
    told = [f"{names[i]} {_probability(probabilities[i])}" for i in chosen[:_MAX_NAMES]]
    return ", ".join(told) + (" …" if len(chosen) > _MAX_NAMES else "") or "none"


def _probability(value: float) -> str:
    return "<0.001" if value < 0.0005 else f"{value:.3f}"
