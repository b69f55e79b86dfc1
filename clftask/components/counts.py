"""Counts of true positives, predicted and actual labels, from which precision to F1 derive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from clftask.array_types import Array

Average = Literal["micro", "macro"]


@dataclass(frozen=True)
class Counts:
    """Counts with one entry per label (or per row) along the last axis.

    A ratio with denominator 0 is `undefined`, as with `zero_division` in scikit-learn.

    Attributes:
        true_positives: (…, entries): both predicted and actual.
        predicted: (…, entries).
        actual: (…, entries) or (entries,).
    """

    true_positives: Array
    predicted: Array
    actual: Array

    def precision(self, undefined: float = 0.0) -> Array:
        """Return the precision of each entry."""
        return _ratio(self.true_positives, self.predicted, undefined)

    def recall(self, undefined: float = 0.0) -> Array:
        """Return the recall of each entry."""
        return _ratio(self.true_positives, self.actual, undefined)

    def f(self, beta: float = 1.0, undefined: float = 0.0) -> Array:
        """Return the F-beta of each entry (van Rijsbergen 1979)."""
        whole = self.predicted + beta**2 * self.actual
        return _ratio((1 + beta**2) * self.true_positives, whole, undefined)

    def pooled(self) -> Counts:
        """Return the counts summed over the last axis, for micro averages."""
        parts = self.true_positives, self.predicted, self.actual
        return Counts(*(np.asarray(part.sum(-1)) for part in parts))

    def averaged_f(self, average: Average, beta: float = 1.0) -> Array:
        """Return micro- or macro-averaged F-beta; see `mean_of_defined` for macro."""
        if average == "micro":
            return self.pooled().f(beta)
        return mean_of_defined(self.f(beta, undefined=np.nan))


def count(decided: Array, targets: Array) -> tuple[Counts, Counts]:
    """Return the counts by label and by row.

    Args:
        decided: (rows, labels) of 0 and 1: the labels predicted.
        targets: (rows, labels) of 0 and 1.
    """
    predicted, actual = decided.astype(bool, copy=False), targets.astype(bool)
    parts = predicted & actual, predicted, actual
    by_label, by_row = (Counts(*(np.count_nonzero(p, axis) for p in parts)) for axis in (0, 1))
    return by_label, by_row


def weighted(weights: Array, decided: Array, targets: Array) -> Counts:
    """Return the (resamples, labels) counts by label of weighted rows.

    Args:
        weights: (resamples, rows) float32: how often each row occurs.
        decided: (rows, labels) float32 of 0 and 1: the labels predicted.
        targets: (rows, labels) float32 of 0 and 1.
    """
    return Counts(weights @ (decided * targets), weights @ decided, weights @ targets)


def mean_of_defined(values: Array) -> Array:
    """Return the means over the last axis without NaN; NaN where all values are NaN.

    Macro averages leave out labels whose ratio has denominator 0, as scikit-learn does with
    `zero_division=np.nan`.
    """
    is_defined = ~np.isnan(values)
    total, size = np.where(is_defined, values, 0.0).sum(-1), is_defined.sum(-1)
    return np.asarray(np.where(size > 0, total / np.maximum(size, 1), np.nan))


def _ratio(part: Any, whole: Any, undefined: float) -> Array:
    return np.asarray(np.where(whole > 0, part / np.where(whole > 0, whole, 1), undefined))
