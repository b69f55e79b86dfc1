"""Texts and tables of a bundle's report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clftask.components.decision.decision import Decision, Outcome
from clftask.components.labels import LabelSpace
from clftask.components.metrics import LabelFigures, with_plain
from clftask.data.summary import DataReport
from clftask.evaluation.diagnostics import Surprise, largest_pairs
from clftask.evaluation.evaluate import Evaluated, Figures, Labelled
from clftask.messages import counted, range_text
from clftask.models.bundle_meta import BundleMeta
from clftask.report.format import Cell, Row, Table, label, metric, number
from clftask.report.headline import headline_names

_MAX_NAMES = 6  # labels shown per row
_EMPTY = Cell("", "", "number")


def lead(meta: BundleMeta) -> str:
    """Describe the model, the text columns, soft labels and row weights."""
    parts = [f"text: {', '.join(meta.text.columns)}", *meta.targets]
    return f"{meta.origin}; {'; '.join(parts)}."


# ------------------------------------------------------------------ the summary


def facts(
    evaluated: Evaluated, outcome: dict[str, Any], meta: BundleMeta, split: str, metric_name: str
) -> dict[str, str]:
    """Return the headline metrics, row counts and training cost."""
    metrics = evaluated.figures[split].metrics
    names = dict.fromkeys([*headline_names(meta.task, metric_name, metrics)[:4], metric_name])
    found = {f"{n}, {split}": number(metrics[n]) for n in names if n in metrics}
    rows = meta.data["report"]["rows"]
    found |= {f"{split} rows": f"{n:,}" for split, n in rows.items()}
    if meta.is_linear and "seconds" in outcome:
        found["time"] = duration(outcome["seconds"])
    elif "epochs" in outcome:
        shipped = f"epoch {meta.shipped.epoch:g} of " if meta.shipped else ""
        found["epochs"] = f"{shipped}{outcome['epochs']:g}"
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
    """Describe the end of training, the decision and what it was fitted on."""
    kind = found.calibration.kind
    calibration = "No calibration." if kind == "none" else f"Calibration: {kind}."
    lines = [f"Predicted labels: {found.rule(meta.task)}. {calibration}"]
    if meta.positive is not None:
        lines.append(f"Precision, recall and F1 without an average are of class {meta.positive}.")
    if found.sets is not None:
        share = f"{found.sets.coverage:.0%}"
        lines.append(f"Prediction sets have target coverage {share}, on average over new rows.")
    if "decided_on" in meta.data:
        table, rows = meta.data["decided_on"]["table"], meta.data["decided_on"]["rows"]
        lines.append(f"The decision was fitted on {table} ({counted(rows, 'row')}).")
    training = [f"Training: {meta.shipped.line()}."] if meta.shipped else []
    return [*training, *lines, *meta.gains]


def metrics(figures: dict[str, Figures], own: str, names: Sequence[str] = ()) -> Table:
    """Return the metrics of each split: with the decision, its confidence interval, and plain.

    Args:
        figures: By split.
        own: The job's metric; it is highlighted.
        names: The metrics to show; all if empty.
    """
    pairs = {split: with_plain(found.metrics) for split, found in figures.items()}
    there = dict.fromkeys(name for found in pairs.values() for name in found)
    rows = []
    for name in names or there:
        cells = [label(name, "name")]
        for split, found in pairs.items():
            value, plain = found.get(name, (None, None))
            ends = figures[split].intervals.get(name)
            spread = Cell(range_text(*ends), ends[0], "number") if ends else _EMPTY
            cells += [_figure(value), spread, _EMPTY if plain is None else _figure(plain)]
        rows.append(Row(cells, name == own))
    heads = [head for split in pairs for head in (split, "range", "plain")]
    return Table(["metric", *heads], rows)


def _figure(value: float | None) -> Cell:
    """Return a metric's cell; counts, such as labels_absent, have no decimals."""
    return _count(value) if isinstance(value, int) else metric(value)


def _count(value: int) -> Cell:
    return Cell(f"{value:,}", value, "number")


# ------------------------------------------------------------------ the data


def splits(report: dict[str, Any]) -> Table:
    """Return rows and token lengths of each split."""
    heads = ["split", "rows", "tokens, median", "95 %", "longest", "truncated"]
    rows = []
    for split, count in report["rows"].items():
        cells = [label(split, "name"), _count(count)]
        tokens = report["tokens"].get(split, {})
        for name in ("median", "p95", "longest"):
            value = tokens.get(name)
            cells.append(Cell(f"{value:,.0f}", value, "number") if tokens else metric(None))
        share = tokens.get("truncated")
        cells.append(Cell(f"{share:.1%}", share, "number") if tokens else metric(None))
        rows.append(Row(cells))
    return Table(heads, rows)


def warnings(data: dict[str, Any]) -> list[str]:
    """Return the warnings about skipped rows."""
    return [line.removeprefix("warning: ") for line in DataReport(**data["report"]).warnings()]


# ------------------------------------------------------------------ labels


def labels(rows: list[LabelFigures], averages: list[float | None], train: dict[str, int]) -> Table:
    """Return the metrics of each label, the most frequent first.

    Args:
        rows: As `metrics.per_label` returns them.
        averages: Average precision by label.
        train: Training rows by label.
    """
    figures = [n for n in ("precision", "recall", "f1", "threshold") if rows and n in rows[0]]
    found: list[Row] = []
    for row, average in zip(rows, averages, strict=True):
        name, support = str(row["label"]), row["support"]
        counts = [_count(n) for n in (train.get(name, 0), support)]
        cells = [label(name, "label"), *counts, *(_share(row[n]) for n in figures)]
        found.append(Row([*cells, _share(average)]))
    found.sort(key=lambda row: -float(row.cells[2].sort))
    return Table(["label", "train", "rows", *figures, "average precision"], found)


def _share(value: float | None) -> Cell:
    return metric(None) if value is None else Cell(f"{value:.3f}", value, "number")


def pairs(counts: Any, misses: Any, names: Sequence[str], most: int) -> Table:
    """Return the most frequent confusions.

    Args:
        counts: (labels, labels) rows by true and wrongly predicted label.
        misses: (labels,) rows in which a true label was not predicted.
        names: The labels.
        most: The number of pairs.
    """
    rows = []
    for a, b, n in largest_pairs(counts, most):
        share = n / max(1, misses[a])
        cells = [_count(n), Cell(f"{share:.0%}", share, "number")]
        rows.append(Row([label(names[a], "label"), label(names[b], "label"), *cells]))
    return Table(["true", "predicted", "rows", "of all misses"], rows)


# ------------------------------------------------------------------ hardest rows


def hardest(found: list[Surprise], rows: Labelled, outcome: Outcome, space: LabelSpace) -> Table:
    """Return the rows with the highest losses, with their true and predicted labels.

    Args:
        found: The rows, and the label of each with the highest loss.
        rows: The split.
        outcome: Probabilities and decisions of its rows.
        space: The labels.
    """
    is_multilabel = space.task == "multilabel"
    table = []
    for row, column, loss in found:
        true, p = rows.targets[row] > 0, outcome.probabilities[row]
        text = rows.texts[row] if rows.texts is not None else f"row {row}"
        sides = [_listed(side, p, space.names) for side in (true, outcome.decided[row])]
        if is_multilabel:
            sides.insert(0, _doubt(space.names[column], true[column], p[column]))
        cells = [label(text, "text"), *(label(side, "sides") for side in sides)]
        table.append(Row([*cells, Cell(f"{loss:.2f}", loss, "number")]))
    doubt = ["doubtful label"] if is_multilabel else []
    return Table(["text", *doubt, "true", "predicted", "loss"], table)


def _doubt(name: str, is_true: bool, probability: float) -> str:
    return f"{name}: {'present' if is_true else 'absent'}, probability {_probability(probability)}"


def _listed(side: Any, probabilities: Any, names: Sequence[str]) -> str:
    """Return the labels of a row with their probabilities, the most probable first."""
    chosen = np.flatnonzero(side)
    chosen = chosen[np.argsort(-probabilities[chosen], kind="stable")]
    shown = [f"{names[i]} {_probability(probabilities[i])}" for i in chosen[:_MAX_NAMES]]
    return ", ".join(shown) + (" …" if len(chosen) > _MAX_NAMES else "") or "none"


def _probability(value: float) -> str:
    return "<0.001" if value < 0.0005 else f"{value:.3f}"
