"""Metrics of probabilities: ranking, proper scores and calibration errors."""

from __future__ import annotations

import numpy as np

from clftask.array_types import Array
from clftask.components.labels import Task
from clftask.components.metrics.rows import Metric, Rows

NUM_ECE_BINS = 15


def mean_average_precision(rows: Rows) -> float:
    """Return the mean average precision over labels with positives."""
    from sklearn.metrics import average_precision_score

    present = rows.targets.sum(0) > 0
    if not present.any():
        return np.nan
    return float(average_precision_score(rows.targets[:, present], rows.probabilities[:, present]))


def roc_auc_macro(rows: Rows) -> float:
    """Return the mean area under the ROC curve over labels with positives and negatives."""
    from sklearn.metrics import roc_auc_score

    positives = rows.targets.sum(0)
    mixed = np.flatnonzero((positives > 0) & (positives < len(rows.targets)))
    if not len(mixed):
        return np.nan
    pairs = ((rows.targets[:, i], rows.probabilities[:, i]) for i in mixed)
    return float(np.mean([roc_auc_score(*pair) for pair in pairs]))


def lrap(rows: Rows) -> float:
    """Return the label ranking average precision."""
    from sklearn.metrics import label_ranking_average_precision_score

    return float(label_ranking_average_precision_score(rows.targets, rows.probabilities))


def precision_at(k: int) -> Metric:
    """Return the metric: share of true labels among the k most probable, k ≤ labels."""

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
            return np.nan
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


def average_precision(rows: Rows) -> float:
    """Return the average precision of the positive class."""
    return mean_average_precision(_only_positive(rows))


def roc_auc(rows: Rows) -> float:
    """Return the area under the ROC curve of the positive class."""
    return roc_auc_macro(_only_positive(rows))


def _only_positive(rows: Rows) -> Rows:
    at = np.array([rows.positive])
    return Rows(rows.probabilities[:, at], rows.decided[:, at], rows.targets[:, at])
