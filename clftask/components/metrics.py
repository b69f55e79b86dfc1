"""Metrics: probabilities, decided labels and targets to scores.

All take (rows, labels) arrays: `probabilities` float32, `decided` and `targets` of 0 and 1.
`module(name)` wraps any of them as an `evaluate.Metric` that needs no network. To add one:
write the function and name it in `METRICS`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clftask.array_types import Array
from clftask.components.labels import Task

Metric = Callable[[Array, Array, Array], float]

LOWER_IS_BETTER = frozenset({"loss", "log_loss", "brier", "ece", "classwise_ece", "hamming_loss"})
# How the names of metrics end that are measured without the decision, or its calibration.
PLAIN = ("_at_0.5", "_at_argmax", "_uncalibrated")
# What calibration is there to lower.
CALIBRATED = ("log_loss", "brier", "ece", "classwise_ece")
NUM_ECE_BINS = 15
_TOP_K = re.compile(r"^(precision|ndcg)_at_([1-9][0-9]*)$")


def accuracy(probabilities: Array, decided: Array, targets: Array) -> float:
    """Return the share of rows whose decided labels are exactly the true ones."""
    return float((decided.astype(bool) == targets.astype(bool)).all(1).mean())


def balanced_accuracy(probabilities: Array, decided: Array, targets: Array) -> float:
    """Return the mean recall of the classes that occur."""
    present = targets.sum(0) > 0
    hits = (decided.astype(bool) & targets.astype(bool)).sum(0)[present]
    return float((hits / targets.sum(0)[present]).mean())


def hamming_loss(probabilities: Array, decided: Array, targets: Array) -> float:
    """Return the share of (row, label) pairs that are decided wrongly."""
    return float((decided.astype(bool) != targets.astype(bool)).mean())


def mcc(probabilities: Array, decided: Array, targets: Array) -> float:
    """Return Matthews' correlation coefficient in its multiclass form (Gorodkin 2004)."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(targets.argmax(1), _classes(decided)))


def _prf(part: int, average: str) -> Metric:
    def score(probabilities: Array, decided: Array, targets: Array) -> float:
        from sklearn.metrics import precision_recall_fscore_support

        found = precision_recall_fscore_support(
            targets.astype(bool), decided.astype(bool), average=average, zero_division=0.0
        )
        return float(found[part])

    names = ("precision", "recall", "F1")
    score.__doc__ = f"Return the {average}-averaged {names[part]}; 0 where it is not defined."
    return score


def mean_average_precision(probabilities: Array, decided: Array, targets: Array) -> float:
    """Return the mean over labels with a positive of the average precision."""
    from sklearn.metrics import average_precision_score

    present = targets.sum(0) > 0
    if not present.any():
        return 0.0
    return float(average_precision_score(targets[:, present], probabilities[:, present]))


def roc_auc_macro(probabilities: Array, decided: Array, targets: Array) -> float:
    """Return the mean area under the ROC curve over labels with positives and negatives."""
    from sklearn.metrics import roc_auc_score

    positives = targets.sum(0)
    mixed = np.flatnonzero((positives > 0) & (positives < len(targets)))
    if not len(mixed):
        return 0.0
    return float(np.mean([roc_auc_score(targets[:, i], probabilities[:, i]) for i in mixed]))


def lrap(probabilities: Array, decided: Array, targets: Array) -> float:
    """Return the label ranking average precision."""
    from sklearn.metrics import label_ranking_average_precision_score

    return float(label_ranking_average_precision_score(targets, probabilities))


def precision_at(k: int) -> Metric:
    """Return the metric: share of true labels among the k most probable."""

    def score(probabilities: Array, decided: Array, targets: Array) -> float:
        top = _top(probabilities, k)
        return float(np.take_along_axis(targets, top, 1).mean())

    return score


def ndcg_at(k: int) -> Metric:
    """Return the metric: normalised discounted gain of the k most probable labels.

    Rows without a true label are left out (Järvelin & Kekäläinen 2002, binary gains).
    """

    def score(probabilities: Array, decided: Array, targets: Array) -> float:
        has_label = targets.sum(1) > 0
        if not has_label.any():
            return 0.0
        truth = targets[has_label]
        gains = np.take_along_axis(truth, _top(probabilities[has_label], k), 1)
        discount = 1 / np.log2(np.arange(gains.shape[1]) + 2)
        counts = np.minimum(truth.sum(1).astype(int), gains.shape[1])
        return float(((gains @ discount) / np.cumsum(discount)[counts - 1]).mean())

    return score


def _top(probabilities: Array, k: int) -> Array:
    return np.asarray(np.argsort(-probabilities, axis=1, kind="stable")[:, :k])


def log_loss(task: Task) -> Metric:
    """Return the metric: −log p of the true class, or of (row, label) pairs for multilabel."""

    def score(probabilities: Array, decided: Array, targets: Array) -> float:
        p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
        if task == "multiclass":
            return float(-(targets * np.log(p)).sum(1).mean())
        return float(-(targets * np.log(p) + (1 - targets) * np.log1p(-p)).mean())

    return score


def brier(task: Task) -> Metric:
    """Return the metric: mean squared error of the probabilities (Brier 1950).

    Multiclass: summed over the classes; multilabel: the mean over (row, label) pairs.
    """

    def score(probabilities: Array, decided: Array, targets: Array) -> float:
        squared = (probabilities.astype(np.float64) - targets) ** 2
        return float(squared.sum(1).mean() if task == "multiclass" else squared.mean())

    return score


def ece(task: Task) -> Metric:
    """Return the metric: expected calibration error (Naeini et al. 2015), 15 equal-width bins.

    Multiclass: of the most probable class; multilabel: pooled over (row, label) pairs.
    """

    def score(probabilities: Array, decided: Array, targets: Array) -> float:
        counts, confidence, correct = reliability(probabilities, targets, task)
        return float(np.abs(correct - confidence).sum() / counts.sum())

    return score


def reliability(probabilities: Array, targets: Array, task: Task) -> tuple[Array, Array, Array]:
    """Return what expected calibration error is made of, for each of 15 equal-width bins.

    Args:
        probabilities: (rows, labels).
        targets: (rows, labels) of 0 and 1.
        task: Multiclass: of the most probable class; multilabel: pooled over (row, label) pairs.

    Returns:
        (15,) counts, sums of the probabilities, and how many of them were right.
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


def classwise_ece(probabilities: Array, decided: Array, targets: Array) -> float:
    """Return the mean over labels of each one's expected calibration error (Kull et al. 2019)."""
    size = probabilities.shape[1]
    bins = np.minimum((probabilities * NUM_ECE_BINS).astype(int), NUM_ECE_BINS - 1)
    flat = (bins + NUM_ECE_BINS * np.arange(size)).ravel()
    gaps = np.bincount(flat, (targets - probabilities).ravel(), NUM_ECE_BINS * size)
    return float(np.abs(gaps).sum() / max(probabilities.size, 1))


_PRF: dict[str, Metric] = {
    f"{average}_{name}": _prf(part, average)
    for average in ("micro", "macro", "weighted", "samples")
    for part, name in enumerate(("precision", "recall", "f1"))
}

METRICS: dict[Task, dict[str, Metric]] = {
    "multiclass": {
        "accuracy": accuracy,
        "balanced_accuracy": balanced_accuracy,
        **{name: metric for name, metric in _PRF.items() if not name.startswith("samples")},
        "mcc": mcc,
        "map": mean_average_precision,
        "roc_auc_macro": roc_auc_macro,
        "log_loss": log_loss("multiclass"),
        "brier": brier("multiclass"),
        "ece": ece("multiclass"),
        "classwise_ece": classwise_ece,
    },
    "multilabel": {
        **_PRF,
        "subset_accuracy": accuracy,
        "hamming_loss": hamming_loss,
        "map": mean_average_precision,
        "roc_auc_macro": roc_auc_macro,
        "lrap": lrap,
        **{f"precision_at_{k}": precision_at(k) for k in (1, 3, 5)},
        **{f"ndcg_at_{k}": ndcg_at(k) for k in (3, 5)},
        "log_loss": log_loss("multilabel"),
        "brier": brier("multilabel"),
        "ece": ece("multilabel"),
        "classwise_ece": classwise_ece,
    },
}

# What changes with the decision: the others look at probabilities alone.
DECIDED = frozenset(
    {"accuracy", "balanced_accuracy", "mcc", "hamming_loss", "subset_accuracy", *_PRF}
)


def find(name: str, task: Task) -> Metric | None:
    """Return the metric of this name, None if the task has no such metric."""
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
        task: Which metrics there are.
        names: Which of them; empty for all.
    """
    chosen = {name: find(name, task) for name in names or METRICS[task]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sklearn's, of labels without positives: they count 0
        return {
            name: metric(probabilities, decided, targets)
            for name, metric in chosen.items()
            if metric is not None
        }


def with_plain(figures: dict[str, float]) -> dict[str, tuple[float, float | None]]:
    """Return each metric with its plain value, None where the decision changes nothing.

    Args:
        figures: Metrics by name; the plain ones end in one of `PLAIN`.
    """
    found = {}
    for name, value in figures.items():
        if not name.endswith(PLAIN):
            plain = next((figures[name + s] for s in PLAIN if name + s in figures), None)
            found[name] = value, plain
    return found


def per_label(decided: Array, targets: Array, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and support of each label, in label order."""
    hits = (decided.astype(bool) & targets.astype(bool)).sum(0)
    given, support = decided.sum(0), targets.sum(0)
    precision = hits / np.maximum(given, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(given + support, 1)
    columns = zip(names, precision, recall, f1, support, strict=True)
    return [
        {"label": n, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for n, p, r, f, s in columns
    ]


def confusion_matrix(decided: Array, targets: Array) -> list[list[int]]:
    """Return (true class, decided class) counts; one more column where rows have no class."""
    found, size = _classes(decided), targets.shape[1]
    width = size + int((found == size).any())
    counts = np.bincount(targets.argmax(1) * width + found, minlength=size * width)
    return [[int(n) for n in row] for row in counts.reshape(size, width)]


def _classes(decided: Array) -> Array:
    """Return the (rows,) classes given; one above the last where there is none."""
    return np.asarray(np.where(decided.any(1), decided.argmax(1), decided.shape[1]))


def module(name: str, task: Task = "multilabel") -> Any:
    """Return a metric as an `evaluate.Metric` module that works without a network.

    Its `compute(predictions=probabilities, references=targets)` takes rows of label
    probabilities and of 0 and 1; `threshold` (0.5) decides multilabel rows. Modules add
    batches and combine as those of the hub do.

    Raises:
        KeyError: The task has no metric of this name.
    """
    import datasets
    import evaluate

    from clftask.components.decision.decision import Decision

    metric = find(name, task)
    if metric is None:
        raise KeyError(f"{name} is no {task} metric; there are {sorted(METRICS[task])}")

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
            return {name: score(probabilities, decided, np.asarray(references, np.float32))}

    return Module(config_name=name)
