"""Data of diagnostic plots: curves, confusions, high-loss rows, metrics by length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypedDict

import numpy as np

from clftask.array_types import Array
from clftask.components.counts import count
from clftask.components.decision.calibration import probabilities_of
from clftask.components.decision.decision import Outcome
from clftask.components.decision.thresholds import GRID
from clftask.components.labels import Task

MAX_PAIRS = 5_000_000
NUM_POINTS = 200
MIN_LENGTH_ROWS = 30
_BLOCK = 10_000_000
_LEAST = 1e-7  # lower bound of probabilities, so that losses stay finite


@dataclass(frozen=True)
class Sample:
    """Rows of a split for curves: all rows, or a deterministic sample of a large split.

    Attributes:
        plain: (rows, labels) float32 probabilities without calibration.
        probabilities: (rows, labels) float32, calibrated.
        decided: (rows, labels) bool: the labels predicted.
        targets: (rows, labels) bool.
        num_rows: Number of rows of the whole split.
    """

    plain: Array
    probabilities: Array
    decided: Array
    targets: Array
    num_rows: int

    @classmethod
    def of(cls, logits: Array, outcome: Outcome, targets: Array, task: Task) -> Self:
        """Sample a split.

        Args:
            logits: (rows, labels), uncalibrated.
            outcome: The outcome of the rows.
            targets: (rows, labels) of 0 and 1.
            task: multiclass or multilabel.
        """
        rows, labels = targets.shape
        most = max(1, MAX_PAIRS // max(1, labels))
        some: Any = slice(None)
        if rows > most:
            some = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
        plain = probabilities_of(logits[some], task)
        parts = outcome.probabilities[some], outcome.decided[some], targets[some] > 0
        return cls(plain, *parts, rows)


# ------------------------------------------------------------------ curves


class PrecisionRecall(NamedTuple):
    """Precision-recall curve, from the highest threshold to the lowest.

    Attributes:
        recall: (points,).
        precision: (points,).
        average: The average precision: the mean precision, weighted by the gain in recall.
    """

    recall: Array
    precision: Array
    average: float


def precision_recall(scores: Array, targets: Array, points: int = NUM_POINTS) -> PrecisionRecall:
    """Return the curve of (row, label) pairs.

    Args:
        scores: (pairs,).
        targets: (pairs,) of 0 and 1.
        points: Number of points to return, evenly spread over recall; the average precision
            uses the whole curve.
    """
    from sklearn.metrics import precision_recall_curve

    if not targets.any():
        return PrecisionRecall(np.empty(0), np.empty(0), 0.0)
    # From the lowest threshold on; the last point, (0, 1), has no threshold.
    precision, recall, _ = precision_recall_curve(targets > 0, scores)
    precision, recall = precision[-2::-1], recall[-2::-1]
    average = float(np.diff(recall, prepend=0.0) @ precision)
    some = np.unique(np.searchsorted(recall, np.linspace(recall[0], 1, points) - 1e-12))
    return PrecisionRecall(recall[some], precision[some], average)


def average_precisions(sample: Sample) -> list[float | None]:
    """Return the average precision of each label, None for labels without positives."""
    by_label = (np.ascontiguousarray(x.T) for x in (sample.probabilities, sample.targets))
    return [
        precision_recall(p, y).average if y.any() else None for p, y in zip(*by_label, strict=True)
    ]


def abstention(probabilities: Array, targets: Array) -> tuple[Array, Array]:
    """Return coverage and accuracy if multiclass rows below a minimum confidence get no label.

    Args:
        probabilities: (rows, labels).
        targets: (rows, labels) of 0 and 1.

    Returns:
        (99,) coverage and (99,) accuracy of the covered rows, at the minima 0.01 … 0.99;
        NaN where no row is covered.
    """
    confidence = probabilities.max(1)
    right = targets[np.arange(len(targets)), probabilities.argmax(1)] > 0
    order = np.argsort(confidence, kind="stable")
    below = np.searchsorted(confidence[order], GRID.astype(np.float32), "left")
    left = len(targets) - below
    hits = right.sum() - np.concatenate([[0], right[order].cumsum()])[below]
    accuracy = np.where(left > 0, hits / np.maximum(left, 1), np.nan)
    return left / max(1, len(targets)), accuracy


# ------------------------------------------------------------------ confusions


def replacements(decided: Array, targets: Array) -> Array:
    """Return (labels, labels) float32: how often the second replaces the first.

    A row counts for each pair of a false negative and a false positive label.

    Args:
        decided: (rows, labels) bool.
        targets: (rows, labels) of 0 and 1.
    """
    true = targets > 0
    missed, surplus = (true & ~decided).astype(np.float32), (decided & ~true).astype(np.float32)
    return np.asarray(missed.T @ surplus)


def largest_pairs(counts: Array, most: int) -> list[tuple[int, int, int]]:
    """Return (first label, second label, count) of the largest counts, without zeros."""
    flat = counts.ravel()
    order = np.argsort(-flat, kind="stable")[:most]
    places = [divmod(int(i), counts.shape[1]) for i in order if flat[i] > 0]
    return [(a, b, int(counts[a, b])) for a, b in places]


def most_confused(counts: Array, most: int) -> Array:
    """Return the labels with the most replacements, in bundle order."""
    both = counts.sum(0) + counts.sum(1)
    found = np.argsort(-both, kind="stable")[:most]
    return np.sort(found[both[found] > 0])


# ------------------------------------------------------------------ single rows


class Surprise(NamedTuple):
    """The label of a row with the highest loss.

    Attributes:
        row: The row's index in the split.
        label: The label; for multiclass the true class.
        loss: −log of the predicted probability of the truth.
    """

    row: int
    label: int
    loss: float


def surprises(probabilities: Array, targets: Array, task: Task, most: int) -> list[Surprise]:
    """Return the rows with the highest losses, highest first.

    The loss of a multilabel row is that of its worst label: the sum over labels would rank
    rows with many labels first, not those that are likely mislabelled.

    Args:
        probabilities: (rows, labels), calibrated.
        targets: (rows, labels) of 0 and 1.
        task: multiclass or multilabel.
        most: Maximum number of rows.
    """
    step = max(1, _BLOCK // max(1, targets.shape[1]))
    starts = range(0, len(targets), step)
    parts = [_worst(probabilities[i : i + step], targets[i : i + step], task) for i in starts]
    labels, of_truth = (np.concatenate(part) for part in zip(*parts, strict=True))
    rows = np.argsort(of_truth, kind="stable")[:most]
    return [
        Surprise(int(i), int(labels[i]), float(-np.log(np.maximum(of_truth[i], _LEAST))))
        for i in rows
    ]


def _worst(probabilities: Array, targets: Array, task: Task) -> tuple[Array, Array]:
    """Return for each row the label with the highest loss, and the probability of the truth."""
    if task == "multiclass":
        labels = targets.argmax(1)
        return labels, np.take_along_axis(probabilities, labels[:, None], 1)[:, 0]
    of_truth = np.where(targets > 0, probabilities, 1 - probabilities)
    return of_truth.argmin(1), of_truth.min(1)


# ------------------------------------------------------------------ lengths


# Metrics of the rows whose length in tokens is from … to, both inclusive; truncated: their share
# that is longer than `num_whole`; None where F1 is undefined. `from` is no name of a field.
LengthBin = TypedDict(
    "LengthBin",
    {
        "from": int,
        "to": int,
        "rows": int,
        "truncated": float,
        "micro_f1": float | None,
        "macro_f1": float | None,
    },
)


def by_length(num_tokens: Array, decided: Array, targets: Array, num_whole: int) -> list[LengthBin]:
    """Return F1 by bins of length, shortest first.

    Bins end at `num_whole` times powers of two, so that the rows of a bin are either all whole
    or all truncated. Bins with too few rows are merged.

    Args:
        num_tokens: (rows,) number of tokens, including truncated ones.
        decided: (rows, labels) bool: the labels predicted.
        targets: (rows, labels) of 0 and 1.
        num_whole: Length in tokens of the longest text that is read whole.

    Returns:
        The bins; the last one ends at the longest row. Macro-F1 is over the labels that occur or
        are predicted in the bin; NaN if there are none.
    """
    found, low = list[LengthBin](), 1
    for high in _ends(num_tokens, num_whole):
        own = (num_tokens >= low) & (num_tokens <= high)
        counts, _ = count(decided[own], targets[own] > 0)
        found.append(
            {
                "from": low,
                "to": high,
                "rows": int(own.sum()),
                "truncated": float((num_tokens[own] > num_whole).mean()),
                "micro_f1": float(counts.averaged_f("micro")),
                "macro_f1": float(counts.averaged_f("macro")),
            }
        )
        low = high + 1
    return found


def _ends(num_tokens: Array, num_whole: int) -> list[int]:
    """Return the ends of bins with enough rows; remaining rows go to the last bin."""
    longest, ends, done = int(num_tokens.max()), list[int](), 0
    all_ends = [num_whole]
    while all_ends[0] > 1:
        all_ends.insert(0, all_ends[0] // 2)
    while all_ends[-1] < longest:
        all_ends.append(2 * all_ends[-1])
    counts = np.searchsorted(np.sort(num_tokens), all_ends, "right")
    for end, below in zip(all_ends, counts.tolist(), strict=True):
        if below - done >= MIN_LENGTH_ROWS:
            ends.append(end)
            done = below
        if below == len(num_tokens):
            return [*ends[:-1], longest]
    raise AssertionError("the last end is not below the longest")
