"""Bootstrap confidence intervals of metrics, over rows or over whole groups."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clftask.array_types import Array
from clftask.components.counts import Counts, count, weighted

Figure = Callable[[Array], Array]

LEVEL = 0.95
_MAX_RESAMPLES, _MIN_RESAMPLES = 1000, 100
_MAX_WORK, _BLOCK = 1e11, 20_000_000


def bootstrap(
    figures: dict[str, Figure], shape: tuple[int, int], groups: Array | None = None, seed: int = 0
) -> dict[str, Array]:
    """Return the values of metrics on resampled rows (Efron 1979).

    Rows of one group are similar, so whole groups are drawn if there are any (cluster
    bootstrap: Davison & Hinkley 1997, section 3.8).

    Args:
        figures: Functions of (resamples, rows) weights: how often each row is drawn.
        shape: (rows, labels): very large tables get fewer than 1000 resamples.
        groups: (rows,) the group of each row.
        seed: Seed of the draws; metrics with the same seed are paired.
    """
    rows = shape[0]
    places = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(places.max()) + 1
    random = np.random.default_rng(seed)
    total = int(np.clip(_MAX_WORK / (rows * shape[1]), _MIN_RESAMPLES, _MAX_RESAMPLES))
    found: dict[str, list[Array]] = {name: [] for name in figures}
    for start in range(0, total, step := max(1, _BLOCK // rows)):
        size = min(step, total - start)
        drawn = random.multinomial(count, np.full(count, 1 / count), size)
        weights = drawn[:, places].astype(np.float32)
        for name, figure in figures.items():
            found[name].append(figure(weights))
    return {name: np.concatenate(values) for name, values in found.items()}


def interval(values: Array) -> tuple[float, float]:
    """Return the percentile interval of a metric's values over the resamples."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def figures_of(decided: Array, targets: Array) -> dict[str, Figure]:
    """Return the headline metrics as functions of row weights.

    Args:
        decided: (rows, labels) bool: the labels predicted.
        targets: (rows, labels) of 0 and 1.

    Returns:
        For each metric a function from (resamples, rows) weights to (resamples,) values.
    """
    by_label, by_row = count(decided, targets)
    predicted, actual = decided.astype(np.float32), (targets > 0).astype(np.float32)
    right = (by_row.true_positives == by_row.predicted) & (by_row.predicted == by_row.actual)

    def accuracy(weights: Array) -> Array:
        return np.asarray(weights @ right.astype(np.float32) / np.maximum(weights.sum(1), 1))

    def micro(weights: Array) -> Array:
        parts = by_row.true_positives, by_row.predicted, by_row.actual
        return Counts(*(weights @ part.astype(np.float32) for part in parts)).f()

    def macro(weights: Array) -> Array:
        """Return the means over the labels that occur in the resample.

        With missing labels as 0, the interval would be biased below the metric.
        """
        counts = weighted(weights, predicted, actual)
        never = by_label.predicted + by_label.actual == 0
        is_there = (counts.predicted + counts.actual > 0) | never
        return np.asarray(counts.f().sum(1) / np.maximum(is_there.sum(1), 1))

    return {
        "accuracy": accuracy,
        "subset_accuracy": accuracy,  # its name for multilabel
        "micro_f1": micro,
        "macro_f1": macro,
    }


def label_f1(weights: Array, decided: Array, targets: Array) -> Array:
    """Return the (resamples, labels) F1 of each label under (resamples, rows) weights."""
    return weighted(weights, decided, targets).f()


def covered(sets: Array, targets: Array) -> Array:
    """Return the (rows,) share of each row's labels in its set; 1 for rows without labels."""
    held = (sets & (targets > 0)).sum(1) / np.maximum(targets.sum(1), 1)
    return np.asarray(np.where(targets.sum(1) > 0, held, 1.0), np.float32)


def headline(
    decided: Array, targets: Array, groups: Array | None = None, sets: Array | None = None
) -> dict[str, tuple[float, float]]:
    """Return the 95 % bootstrap interval of each headline metric.

    Args:
        decided: (rows, labels) bool: the labels predicted.
        targets: (rows, labels) of 0 and 1.
        groups: (rows,) the group of each row, if the split is grouped.
        sets: (rows, labels) bool: the prediction sets, if any.
    """
    figures = figures_of(decided, targets)
    if sets is not None:
        held = covered(sets, targets)
        figures["set_coverage"] = lambda weights: np.asarray(weights @ held / weights.sum(1))
    found = bootstrap(figures, decided.shape, groups)
    return {name: interval(values) for name, values in found.items()}
