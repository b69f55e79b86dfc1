"""Fit a decision on validation rows, and evaluate every split with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from clftask.array_types import Array
from clftask.components.decision.calibration import probabilities_of
from clftask.components.decision.decision import Decision, Outcome, cross_fitted
from clftask.components.labels import SOFT, LabelSpace
from clftask.components.metrics import (
    CALIBRATED,
    DECIDED,
    LabelFigures,
    compute,
    confusion_matrix,
    per_label,
)
from clftask.config.results import Metrics
from clftask.config.train import TrainJob
from clftask.evaluation.baseline import (
    majority_label,
    weaknesses,
    with_linear,
    with_majority,
    worse_than_linear,
)
from clftask.evaluation.bootstrap import covered, headline
from clftask.evaluation.diagnostics import LengthBin, by_length
from clftask.evaluation.fitting import HeldOut, fit_decision
from clftask.io.strict_json import strict

MAX_CONFUSION_LABELS = 200
LINEAR_METRICS = "linear"  # of `data`: metrics of the linear baseline by split


@dataclass(frozen=True)
class Labelled:
    """Labelled rows of a split.

    Attributes:
        logits: (rows, labels) float32, uncalibrated.
        targets: (rows, labels) float32 of 0 and 1.
        groups: (rows,) codes of the groups, if the split is grouped.
        num_tokens: (rows,) number of tokens, including truncated ones; if known.
        texts: (rows,) beginnings of the texts; if known.
        is_soft: Whether the targets are the labels that soft labels give.
    """

    logits: Array
    targets: Array
    groups: Array | None = None
    num_tokens: Array | None = None
    texts: Sequence[str] | None = None
    is_soft: bool = False


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How good a classifier is on some labelled rows; None where a metric is undefined.

    Attributes:
        metrics: By name.
        intervals: 95 % bootstrap interval (low, high) by metric.
        per_label: The metrics of each label, and its threshold for multilabel.
        by_length: F1 by text length; None if the lengths are unknown.
        confusion_matrix: Counts by true and predicted class; None for multilabel, and for more
            than `MAX_CONFUSION_LABELS` classes.
    """

    metrics: dict[str, float | None]
    intervals: dict[str, tuple[float, float]]
    per_label: list[LabelFigures]
    by_length: list[LengthBin] | None = None
    confusion_matrix: list[list[int]] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields, without optional ones that are None."""
        values = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}
        return {name: value for name, (value, default) in values.items() if value is not default}


@dataclass(frozen=True)
class Evaluated:
    """A decision, and its results on each split.

    Attributes:
        decision: Fitted on all validation rows.
        figures: By split.
        outcomes: The outcome of the rows of each split; cross-fitted for validation.
        rows: The rows of each split.
        warnings: Warnings about the decision, and about a model that is not better than the
            majority class.
    """

    decision: Decision
    figures: dict[str, Figures]
    outcomes: dict[str, Outcome]
    rows: dict[str, Labelled]
    warnings: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> Metrics:
        """Metrics by split and name."""
        return {split: figures.metrics for split, figures in self.figures.items()}

    @property
    def content(self) -> dict[str, Any]:
        """The content of `metrics.json`: the figures by name and split."""
        found: dict[str, Any] = {}
        for split, figures in self.figures.items():
            for name, value in figures.as_json().items():
                found.setdefault(name, {})[split] = value
        return found | {"warnings": self.warnings}


def decide(
    job: TrainJob,
    space: LabelSpace,
    splits: dict[str, Labelled],
    data: Mapping[str, Any] | None = None,
    num_special: int = 2,
) -> Evaluated:
    """Fit a job's decision on validation, and evaluate all splits with it.

    The figures of validation are cross-fitted: each fold's decision is fitted on the others.

    Args:
        job: The training job.
        space: The labels.
        splits: Validation, and test if there is one.
        data: Fingerprint and report of the training data, and the metrics of the linear baseline.
        num_special: Special tokens of one model input.
    """
    held_out, last = splits["validation"], "test" if "test" in splits else "validation"
    num_whole = job.model.num_whole(num_special)
    rows_of_fit = HeldOut(held_out.logits, held_out.targets, job.task, job.average, held_out.groups)
    spec = job.decision.of_soft() if held_out.is_soft else job.decision
    first = cross_fitted(spec, *rows_of_fit)
    decision, own, warnings = fit_decision(spec, rows_of_fit, first)
    majority = majority_label(data or {}, space.names, held_out.targets)
    outcomes = {
        split: own if split == "validation" else decision.apply(rows.logits, job.task)
        for split, rows in splits.items()
    }
    of_job = decision, space, num_whole, majority, job.training.metric
    figures = {split: measured(rows, outcomes[split], *of_job) for split, rows in splits.items()}
    linear = (data or {}).get(LINEAR_METRICS, {})
    figures = {
        split: replace(found, metrics=with_linear(found.metrics, linear.get(split, {})))
        for split, found in figures.items()
    }
    warnings += worse_than_linear(figures[last].metrics, job.training.metric, last)
    of_last = figures[last].metrics, outcomes[last], space, majority, last
    warnings += weaknesses(*of_last, None if job.is_linear else str(job.training.optimizer))
    return Evaluated(decision, figures, outcomes, splits, warnings)


def measured(
    rows: Labelled,
    found: Outcome,
    decision: Decision,
    space: LabelSpace,
    num_whole: int,
    majority: int,
    metric: str,
) -> Figures:
    """Return the figures of labelled rows.

    Args:
        rows: The rows.
        found: Their outcome.
        decision: The decision of the bundle: its thresholds are listed with the labels.
        space: The label space.
        num_whole: Length in tokens of the longest text that is read whole.
        majority: The index of the most frequent label of the train rows.
        metric: The job's metric; it may have another k than those of the task: `precision_at_7`.
    """
    metrics = with_majority(_metrics(rows, found, decision, space), rows.targets, majority, space)
    if metric not in metrics:
        metrics |= compute(found.probabilities, found.decided, rows.targets, space.task, [metric])
    sides = found.decided, rows.targets, rows.groups, found.sets
    intervals = headline(*sides, space.positive_index)
    lengths, by_lengths = rows.num_tokens, None
    if lengths is not None:
        by_lengths = strict(by_length(lengths, found.decided, rows.targets, num_whole))
    has_matrix = space.task == "multiclass" and len(space.names) <= MAX_CONFUSION_LABELS
    return Figures(
        metrics=strict(metrics),
        intervals={name: ends for name, ends in intervals.items() if name in metrics},
        per_label=_labels(found.decided, rows.targets, decision, space),
        by_length=by_lengths,
        confusion_matrix=confusion_matrix(found.decided, rows.targets) if has_matrix else None,
    )


def _metrics(
    rows: Labelled, outcome: Outcome, decision: Decision, space: LabelSpace
) -> dict[str, float]:
    """Return all metrics with the decision, and those without it that can differ."""
    task, targets, positive = space.task, rows.targets, space.positive_index
    probabilities, decided, sets = outcome
    found = compute(probabilities, decided, targets, task, positive=positive)
    plain = probabilities_of(rows.logits, task)
    if decision.abstain_below is not None:
        found["coverage"] = float(decided.any(1).mean())
    if sets is not None:
        found["set_coverage"] = float(covered(sets, targets).mean())
        found["set_size"] = float(sets.sum(1).mean())
    if decision.calibration.kind != "none":
        found |= _named("uncalibrated", compute(plain, decided, targets, task, CALIBRATED))
    if decision.model_copy(update={"sets": None}) != Decision():
        names = [name for name in found if name in DECIDED]
        of_plain = plain, Decision().decide(plain, task), targets
        at_plain = compute(*of_plain, task, names, positive)
        found |= _named("at_0.5" if task == "multilabel" else "at_argmax", at_plain)
    return found


def _named(suffix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{name}_{suffix}": value for name, value in metrics.items()}


def _labels(
    decided: Array, targets: Array, decision: Decision, space: LabelSpace
) -> list[LabelFigures]:
    found = per_label(decided, targets, space.names)
    if space.task == "multilabel":
        for row, threshold in zip(found, decision.thresholds(len(space.names)), strict=True):
            row["threshold"] = threshold
    return found


def labelled(table: Any, logits: Array, targets: Array) -> Labelled:
    """Return labelled rows with the groups, lengths and texts of their table.

    Args:
        table: The columns group, num_tokens, text and those of soft labels, as far as it has them.
        logits: (rows, labels) float32, uncalibrated.
        targets: (rows, labels) of 0 and 1.
    """
    known = {name: table[name] for name in table.column_names}
    return Labelled(
        logits,
        targets,
        groups_of(table),
        known["num_tokens"].to_numpy() if "num_tokens" in known else None,
        known["text"].to_pylist() if "text" in known else None,
        SOFT in known,
    )


def groups_of(table: Any) -> Array | None:
    """Return the (rows,) groups of a table's rows, None if it has no groups."""
    return np.asarray(table["group"].to_numpy()) if "group" in table.column_names else None
