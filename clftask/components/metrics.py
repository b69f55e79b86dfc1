"""Metrics of probabilities, predicted labels and targets.

A metric is a function of `Rows`. `module(name)` wraps any of them as an `evaluate.Metric` that
works offline. To add one: write the function and add it to `_OF_DECISIONS` if it depends on the
predicted labels, else to `_of_probabilities`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from clftask.array_types import Array
from clftask.components.counts import Counts, count
from clftask.components.labels import Task

LOWER_IS_BETTER = frozenset({"loss", "log_loss", "brier", "ece", "classwise_ece", "hamming_loss"})
# Suffixes of metrics that are computed without the decision, or without its calibration.
PLAIN = ("_at_0.5", "_at_argmax", "_uncalibrated")
# The metrics that calibration improves.
CALIBRATED = ("log_loss", "brier", "ece", "classwise_ece")
NUM_ECE_BINS = 15
_TOP_K = re.compile(r"^(precision|ndcg)_at_([1-9][0-9]*)$")


@dataclass(frozen=True)
class Rows:
    """Labelled rows with the predictions of a classifier.

    Attributes:
        probabilities: (rows, labels) float32.
        decided: (rows, labels) bool: the labels predicted.
        targets: (rows, labels) of 0 and 1.
    """

    probabilities: Array
    decided: Array
    targets: Array

    @cached_property
    def counts(self) -> tuple[Counts, Counts]:
        """The counts by label and by row, computed once for all metrics."""
        return count(self.decided, self.targets)


Metric = Callable[[Rows], float]


def accuracy(rows: Rows) -> float:
    """Return the share of rows whose predicted labels match the true ones exactly."""
    _, by_row = rows.counts
    right = (by_row.true_positives == by_row.predicted) & (by_row.predicted == by_row.actual)
    return float(right.mean())


def balanced_accuracy(rows: Rows) -> float:
    """Return the mean recall of the classes that occur."""
    by_label, _ = rows.counts
    return float(by_label.recall()[by_label.actual > 0].mean())


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
    measure: Callable[[Counts], Array] = getattr(Counts, name)

    def score(rows: Rows) -> float:
        by_label, by_row = rows.counts
        if average == "micro":
            return float(measure(by_label.pooled()))
        if average == "weighted":
            return float(measure(by_label) @ by_label.actual / max(1, by_label.actual.sum()))
        return float(measure(by_row if average == "samples" else by_label).mean())

    title = "F1" if name == "f" else name
    score.__doc__ = f"Return the {average}-averaged {title}; 0 where it is not defined."
    return score


def mean_average_precision(rows: Rows) -> float:
    """Return the mean average precision over labels with positives."""
    from sklearn.metrics import average_precision_score

    present = rows.targets.sum(0) > 0
    if not present.any():
        return 0.0
    return float(average_precision_score(rows.targets[:, present], rows.probabilities[:, present]))


def roc_auc_macro(rows: Rows) -> float:
    """Return the mean area under the ROC curve over labels with positives and negatives."""
    from sklearn.metrics import roc_auc_score

    positives = rows.targets.sum(0)
    mixed = np.flatnonzero((positives > 0) & (positives < len(rows.targets)))
    if not len(mixed):
        return 0.0
    pairs = ((rows.targets[:, i], rows.probabilities[:, i]) for i in mixed)
    return float(np.mean([roc_auc_score(*pair) for pair in pairs]))


def lrap(rows: Rows) -> float:
    """Return the label ranking average precision."""
    from sklearn.metrics import label_ranking_average_precision_score

    return float(label_ranking_average_precision_score(rows.targets, rows.probabilities))


def precision_at(k: int) -> Metric:
    """Return the metric: share of true labels among the k most probable."""

    def score(rows: Rows) -> float:
        top = _top(rows.probabilities, k)
        return float(np.take_along_axis(rows.targets, top, 1).mean())

    return score


def ndcg_at(k: int) -> Metric:
    """Return the metric: normalised discounted cumulative gain of the k most probable labels.

    Rows without a true label are excluded (Järvelin & Kekäläinen 2002, binary gains).
    """

    def score(rows: Rows) -> float:
        has_label = rows.targets.sum(1) > 0
        if not has_label.any():
            return 0.0
        truth = rows.targets[has_label]
        gains = np.take_along_axis(truth, _top(rows.probabilities[has_label], k), 1)
        discount = 1 / np.log2(np.arange(gains.shape[1]) + 2)
        counts = np.minimum(truth.sum(1).astype(int), gains.shape[1])
        return float(((gains @ discount) / np.cumsum(discount)[counts - 1]).mean())

    return score


def _top(probabilities: Array, k: int) -> Array:
    return np.asarray(np.argsort(-probabilities, axis=1, kind="stable")[:, :k])


def log_loss(task: Task) -> Metric:
    """Return the metric: −log p of the true class, or of (row, label) pairs for multilabel."""

    def score(rows: Rows) -> float:
        p = np.clip(rows.probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
        if task == "multiclass":
            return float(-(rows.targets * np.log(p)).sum(1).mean())
        return float(-(rows.targets * np.log(p) + (1 - rows.targets) * np.log1p(-p)).mean())

    return score


def brier(task: Task) -> Metric:
    """Return the metric: mean squared error of the probabilities (Brier 1950).

    Multiclass: summed over the classes; multilabel: the mean over (row, label) pairs.
    """

    def score(rows: Rows) -> float:
        squared = (rows.probabilities.astype(np.float64) - rows.targets) ** 2
        return float(squared.sum(1).mean() if task == "multiclass" else squared.mean())

    return score


def ece(task: Task) -> Metric:
    """Return the metric: expected calibration error (Naeini et al. 2015), 15 equal-width bins.

    Multiclass: of the most probable class; multilabel: pooled over (row, label) pairs.
    """

    def score(rows: Rows) -> float:
        counts, confidence, correct = reliability(rows.probabilities, rows.targets, task)
        return float(np.abs(correct - confidence).sum() / counts.sum())

    return score


def reliability(probabilities: Array, targets: Array, task: Task) -> tuple[Array, Array, Array]:
    """Return the parts of the expected calibration error, for each of 15 equal-width bins.

    Args:
        probabilities: (rows, labels).
        targets: (rows, labels) of 0 and 1.
        task: Multiclass: of the most probable class; multilabel: pooled over (row, label) pairs.

    Returns:
        (15,) counts, sums of the probabilities, and numbers of correct predictions.
    """
    confidence, correct = probabilities.ravel(), targets.ravel()
    if task == "multiclass":
        best = probabilities.argmax(1)
        confidence = probabilities.max(1)
        correct = targets[np.arange(len(targets)), best]
    bins = np.minimum((confidence * NUM_ECE_BINS).astype(int), NUM_ECE_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_ECE_BINS)
    means, hits = (np.bincount(bins, each, NUM_ECE_BINS) for each in (confidence, correct))
    return counts, means, hits


def classwise_ece(rows: Rows) -> float:
    """Return the mean expected calibration error over labels (Kull et al. 2019)."""
    size = rows.probabilities.shape[1]
    bins = np.minimum((rows.probabilities * NUM_ECE_BINS).astype(int), NUM_ECE_BINS - 1)
    flat = (bins + NUM_ECE_BINS * np.arange(size)).ravel()
    gaps = np.bincount(flat, (rows.targets - rows.probabilities).ravel(), NUM_ECE_BINS * size)
    return float(np.abs(gaps).sum() / max(rows.probabilities.size, 1))


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
DECIDED = frozenset(name for named in _OF_DECISIONS.values() for name in named)


def find(name: str, task: Task) -> Metric | None:
    """Return the metric with this name, None if the task has none."""
    top_k = _TOP_K.match(name)
    if top_k and task == "multilabel":
        return (precision_at if top_k[1] == "precision" else ndcg_at)(int(top_k[2]))
    return METRICS[task].get(name)


def compute(
    probabilities: Array, decided: Array, targets: Array, task: Task, names: Sequence[str] = ()
) -> dict[str, float]:
    """Return the named metrics, or all of the task.

    Args:
        probabilities: (rows, labels) float32.
        decided: (rows, labels) bool.
        targets: (rows, labels) of 0 and 1.
        task: multiclass or multilabel.
        names: The metrics to compute; empty for all of the task.
    """
    chosen = {name: find(name, task) for name in names or METRICS[task]}
    rows = Rows(probabilities, decided, targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of labels without positives
        return {name: metric(rows) for name, metric in chosen.items() if metric is not None}


def with_plain(figures: dict[str, float]) -> dict[str, tuple[float, float | None]]:
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


def per_label(decided: Array, targets: Array, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and support of each label, in label order."""
    counts, _ = count(decided, targets)
    each = counts.precision(), counts.recall(), counts.f(), counts.actual
    return [
        {"label": n, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for n, p, r, f, s in zip(names, *each, strict=True)
    ]


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
