"""Metrics of probabilities, predicted labels and targets.

A metric is a function of `Rows`; it is NaN where it is undefined on them. `module(name)` wraps any
of them as an `evaluate.Metric` that works offline. To add one: write the function and add it to
`_OF_DECISIONS` if it depends on the predicted labels, else to `_of_probabilities`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np

from clftask.array_types import Array
from clftask.components.counts import Counts, count, mean_of_defined
from clftask.components.labels import Task
from clftask.components.metrics.probabilities import (
    average_precision,
    brier,
    classwise_ece,
    ece,
    log_loss,
    lrap,
    mean_average_precision,
    ndcg_at,
    precision_at,
    roc_auc,
    roc_auc_macro,
)
from clftask.components.metrics.rows import Metric, Rows
from clftask.errors import Problem
from clftask.messages import did_you_mean

LOWER_IS_BETTER = frozenset({"loss", "log_loss", "brier", "ece", "classwise_ece", "hamming_loss"})
# Suffixes of metrics that are computed without the decision, or without its calibration.
PLAIN = ("_at_0.5", "_at_argmax", "_uncalibrated")
# The metrics that calibration improves.
CALIBRATED = ("log_loss", "brier", "ece", "classwise_ece")
# The suffix of metrics of always predicting the most frequent label.
MAJORITY = "_majority"
# The suffix of metrics of a linear model on the same rows.
LINEAR = "_linear"
ABSENT = "labels_absent"  # stands beside macro averages; nothing can be optimised for it
_TITLES = {"precision": "precision", "recall": "recall", "f": "F1"}
_TOP_K = re.compile(r"^(precision|ndcg)_at_([1-9][0-9]*)$")


def accuracy(rows: Rows) -> float:
    """Return the share of rows whose predicted labels match the true ones exactly."""
    _, by_row = rows.counts
    right = (by_row.true_positives == by_row.predicted) & (by_row.predicted == by_row.actual)
    return float(right.mean())


def balanced_accuracy(rows: Rows) -> float:
    """Return the mean recall of the classes that occur."""
    return float(mean_of_defined(rows.counts[0].recall(undefined=np.nan)))


def labels_absent(rows: Rows) -> int:
    """Return the number of labels that neither occur nor are predicted."""
    by_label, _ = rows.counts
    return int((by_label.predicted + by_label.actual == 0).sum())


def hamming_loss(rows: Rows) -> float:
    """Return the share of (row, label) pairs that are predicted wrongly."""
    pooled = rows.counts[0].pooled()
    wrong = pooled.predicted + pooled.actual - 2 * pooled.true_positives
    return float(wrong / rows.targets.size)


def mcc(rows: Rows) -> float:
    """Return Matthews' correlation coefficient in its multiclass form (Gorodkin 2004)."""
    by_label, size = rows.counts[0], float(len(rows.targets))
    # Rows without a predicted class count as an additional class, which is never the true one.
    predicted = np.append(by_label.predicted, size - by_label.predicted.sum())
    actual = np.append(by_label.actual, 0.0)
    spread = (size**2 - predicted @ predicted) * (size**2 - actual @ actual)
    covariance = by_label.true_positives.sum() * size - predicted @ actual
    return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0


def _of_counts(name: str, average: str) -> Metric:
    """Return the metric: averaged precision, recall or F1."""
    measure: Callable[..., Array] = getattr(Counts, name)

    def score(rows: Rows) -> float:
        by_label, by_row = rows.counts
        if average == "micro":
            return float(measure(by_label.pooled()))
        if average == "weighted":
            return float(measure(by_label) @ by_label.actual / max(1, by_label.actual.sum()))
        if average == "samples":
            return float(measure(by_row).mean())
        return float(mean_of_defined(measure(by_label, undefined=np.nan)))

    rule = "labels where it is undefined are left out" if average == "macro" else "0 if undefined"
    score.__doc__ = f"Return the {average}-averaged {_TITLES[name]}; {rule}."
    return score


def _of_positive(name: str) -> Metric:
    """Return the metric: precision, recall or F1 of the positive class."""
    measure: Callable[[Counts], Array] = getattr(Counts, name)

    def score(rows: Rows) -> float:
        return float(measure(rows.counts[0])[rows.positive])

    score.__doc__ = f"Return the {_TITLES[name]} of the positive class; 0 if undefined."
    return score


_AVERAGED = {
    f"{average}_{'f1' if name == 'f' else name}": _of_counts(name, average)
    for average in ("micro", "macro", "weighted", "samples")
    for name in ("precision", "recall", "f")
}

_OF_DECISIONS: dict[Task, dict[str, Metric]] = {
    "multiclass": {
        "accuracy": accuracy,
        "balanced_accuracy": balanced_accuracy,
        **{name: metric for name, metric in _AVERAGED.items() if not name.startswith("samples")},
        "mcc": mcc,
    },
    "multilabel": {**_AVERAGED, "subset_accuracy": accuracy, "hamming_loss": hamming_loss},
}


# Of the positive class, if data.labels.positive names one of two classes.
_OF_POSITIVE: dict[str, Metric] = {
    "precision": _of_positive("precision"),
    "recall": _of_positive("recall"),
    "f1": _of_positive("f"),
    "average_precision": average_precision,
    "roc_auc": roc_auc,
}


def _of_probabilities(task: Task, ranking: dict[str, Metric]) -> dict[str, Metric]:
    return {
        "map": mean_average_precision,
        "roc_auc_macro": roc_auc_macro,
        **ranking,
        **{"log_loss": log_loss(task), "brier": brier(task), "ece": ece(task)},
        "classwise_ece": classwise_ece,
    }


_RANKING: dict[str, Metric] = {
    "lrap": lrap,
    **{f"precision_at_{k}": precision_at(k) for k in (1, 3, 5)},
    **{f"ndcg_at_{k}": ndcg_at(k) for k in (3, 5)},
}
METRICS: dict[Task, dict[str, Metric]] = {
    "multiclass": _OF_DECISIONS["multiclass"] | _of_probabilities("multiclass", {}),
    "multilabel": _OF_DECISIONS["multilabel"] | _of_probabilities("multilabel", _RANKING),
}
# The metrics that depend on the decision; the others depend on probabilities only.
DECIDED = frozenset({ABSENT, "precision", "recall", "f1"}).union(*_OF_DECISIONS.values())


def find(
    name: str, task: Task, num_labels: int | None = None, has_positive: bool = False
) -> Metric | None:
    """Return the metric with this name, None if there is none.

    Args:
        name: Its name.
        task: multiclass or multilabel.
        num_labels: The highest k of `precision_at_k` and `ndcg_at_k`; None if it is unknown.
        has_positive: Whether there is a positive class.
    """
    top_k = _TOP_K.match(name)
    if top_k and task == "multilabel":
        k = int(top_k[2])
        is_met = num_labels is None or k <= num_labels
        return (precision_at if top_k[1] == "precision" else ndcg_at)(k) if is_met else None
    return (METRICS[task] | (_OF_POSITIVE if has_positive else {})).get(name)


def names_of(task: Task, num_labels: int | None = None, has_positive: bool = False) -> list[str]:
    """Return the names of the metrics; arguments as for `find`."""
    known = (*(_OF_POSITIVE if has_positive else ()), *METRICS[task])
    return [name for name in known if find(name, task, num_labels, has_positive) is not None]


def unknown_metric(
    path: str, name: str, task: Task, num_labels: int | None = None, has_positive: bool = False
) -> Problem | None:
    """Return the problem of a field that names no metric; None if it names one, or `loss`.

    Args:
        path: The field.
        name: Its value.
        task: Further arguments as for `find`.
    """
    if name == "loss" or find(name, task, num_labels, has_positive) is not None:
        return None
    remedy = ""
    if name.lower() in _OF_POSITIVE and task == "multiclass":
        remedy = "Set data.labels.positive to one of the two classes."
    elif task == "multilabel" and _TOP_K.match(name):
        remedy = f"k must not exceed the number of labels, {num_labels}."
    known = sorted(names_of(task, num_labels, has_positive))
    allowed = f"must be one of loss, {', '.join(known)}"
    return Problem(path, name, allowed, remedy or did_you_mean(name, known))


def compute(
    probabilities: Array,
    decided: Array,
    targets: Array,
    task: Task,
    names: Sequence[str] = (),
    positive: int | None = None,
) -> dict[str, float]:
    """Return the named metrics, or all of the task; NaN where one is undefined.

    Args:
        probabilities: (rows, labels) float32.
        decided: (rows, labels) bool.
        targets: (rows, labels) of 0 and 1.
        task: multiclass or multilabel.
        names: The metrics to compute; empty for all of the task, and `labels_absent`.
        positive: The index of the positive class, if there is one.
    """
    known = task, targets.shape[1], positive is not None
    chosen = {name: find(name, *known) for name in names or [*names_of(*known), ABSENT]}
    if ABSENT in chosen:
        chosen[ABSENT] = labels_absent
    rows = Rows(probabilities, decided, targets, positive)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of labels without positives
        return {name: metric(rows) for name, metric in chosen.items() if metric is not None}


def with_plain(
    figures: Mapping[str, float | None],
) -> dict[str, tuple[float | None, float | None]]:
    """Return each metric with its plain value, None where there is none.

    Args:
        figures: Metrics by name; plain values end in a suffix of `PLAIN`.
    """
    found = {}
    for name, value in figures.items():
        if not name.endswith(PLAIN):
            plain = next((figures[name + s] for s in PLAIN if name + s in figures), None)
            found[name] = value, plain
    return found


class LabelFigures(TypedDict):
    """Metrics of one label; None where they are undefined. Support: rows with the label."""

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    threshold: NotRequired[float]


def per_label(decided: Array, targets: Array, names: Sequence[str]) -> list[LabelFigures]:
    """Return precision, recall, F1 and support of each label, in label order."""
    counts, _ = count(decided, targets)
    shares = (counts.precision(np.nan), counts.recall(np.nan), counts.f(undefined=np.nan))
    each = zip(names, *map(_defined, shares), counts.actual, strict=True)
    return [
        {"label": name, "precision": p, "recall": r, "f1": f1, "support": int(support)}
        for name, p, r, f1, support in each
    ]


def _defined(values: Array) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def confusion_matrix(decided: Array, targets: Array) -> list[list[int]]:
    """Return (true, predicted) class counts; a last column counts rows without prediction."""
    found, size = _classes(decided), targets.shape[1]
    width = size + int((found == size).any())
    counts = np.bincount(targets.argmax(1) * width + found, minlength=size * width)
    return [[int(n) for n in row] for row in counts.reshape(size, width)]


def _classes(decided: Array) -> Array:
    """Return the (rows,) predicted classes; the number of classes where there is none."""
    return np.asarray(np.where(decided.any(1), decided.argmax(1), decided.shape[1]))


def module(name: str, task: Task = "multilabel") -> Any:
    """Return a metric as an `evaluate.Metric` module that works offline.

    `evaluate.load` requires the hub. `compute(predictions=probabilities, references=targets)`
    takes rows of label probabilities and of 0 and 1; `threshold` (0.5) decides multilabel rows.
    `add_batch` and `evaluate.combine` work as for modules of the hub.

    Raises:
        KeyError: The task has no metric of this name.
    """
    import datasets
    import evaluate

    from clftask.components.decision.decision import Decision

    metric = find(name, task)
    if metric is None:
        raise KeyError(f"{name} is not a {task} metric; available: {sorted(METRICS[task])}")

    score: Metric = metric

    class Module(evaluate.Metric):  # type: ignore[misc]
        def _info(self) -> Any:
            row = datasets.Sequence(datasets.Value("float32"))
            return evaluate.MetricInfo(
                description=(metric.__doc__ or name).strip(),
                citation="",
                inputs_description="predictions: probabilities; references: 0 and 1",
                features=datasets.Features({"predictions": row, "references": row}),
            )

        def _compute(
            self, predictions: Any, references: Any, threshold: float = 0.5
        ) -> dict[str, float]:
            probabilities = np.asarray(predictions, np.float32)
            decided = Decision(threshold=threshold).decide(probabilities, task)
            rows = Rows(probabilities, decided, np.asarray(references, np.float32))
            return {name: score(rows)}

    return Module(config_name=name)
