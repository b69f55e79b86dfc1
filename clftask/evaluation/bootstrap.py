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
    """Return the percentile interval of a metric's values over the resamples.

    Resamples in which it is undefined (NaN) are left out; NaN if it is undefined in all.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def figures_of(decided: Array, targets: Array, positive: int | None = None) -> dict[str, Figure]:
    """Return the headline metrics as functions of row weights.

    Args:
        decided: (rows, labels) bool: the labels predicted.
        targets: (rows, labels) of 0 and 1.
        positive: The index of the positive class, if there is one.

    Returns:
        For each metric a function from (resamples, rows) weights to (resamples,) values.
    """
    _, by_row = count(decided, targets)
    predicted, actual = decided.astype(np.float32), (targets > 0).astype(np.float32)
    right = (by_row.true_positives == by_row.predicted) & (by_row.predicted == by_row.actual)

    def accuracy(weights: Array) -> Array:
        return np.asarray(weights @ right.astype(np.float32) / np.maximum(weights.sum(1), 1))

    def micro(weights: Array) -> Array:
        parts = by_row.true_positives, by_row.predicted, by_row.actual
        return Counts(*(weights @ part.astype(np.float32) for part in parts)).f()

    def macro(weights: Array) -> Array:
        """Return the means over the labels that occur or are predicted in the resample."""
        return weighted(weights, predicted, actual).averaged_f("macro")

    figures: dict[str, Figure] = {
        "accuracy": accuracy,
        "subset_accuracy": accuracy,  # its name for multilabel
        "micro_f1": micro,
        "macro_f1": macro,
    }
    return figures if positive is None else figures | _of_positive(predicted, actual, positive)


def _of_positive(predicted: Array, actual: Array, positive: int) -> dict[str, Figure]:
    """Return precision, recall and F1 of the positive class."""
    at = predicted[:, positive, None], actual[:, positive, None]
    return {
        "precision": lambda weights: weighted(weights, *at).precision()[:, 0],
        "recall": lambda weights: weighted(weights, *at).recall()[:, 0],
        "f1": lambda weights: weighted(weights, *at).f()[:, 0],
    }


def label_f1(weights: Array, decided: Array, targets: Array) -> Array:
    """Return the (resamples, labels) F1 of each label under (resamples, rows) weights.

    NaN in resamples in which the label neither occurs nor is predicted.
    """
    return weighted(weights, decided, targets).f(undefined=np.nan)


def covered(sets: Array, targets: Array) -> Array:
    """Return the (rows,) share of each row's labels in its set; 1 for rows without labels."""
    held = (sets & (targets > 0)).sum(1) / np.maximum(targets.sum(1), 1)
    return np.asarray(np.where(targets.sum(1) > 0, held, 1.0), np.float32)


def headline(
    decided: Array,
    targets: Array,
    groups: Array | None = None,
    sets: Array | None = None,
    positive: int | None = None,
) -> dict[str, tuple[float, float]]:
    """Return the 95 % bootstrap interval of each headline metric.

    Args:
        decided: (rows, labels) bool: the labels predicted.
        targets: (rows, labels) of 0 and 1.
        groups: (rows,) the group of each row, if the split is grouped.
        sets: (rows, labels) bool: the prediction sets, if any.
        positive: The index of the positive class, if there is one.

    Returns:
        (low, high) by metric, without metrics that are undefined.
    """
    figures = figures_of(decided, targets, positive)
    if sets is not None:
        held = covered(sets, targets)
        figures["set_coverage"] = lambda weights: np.asarray(weights @ held / weights.sum(1))
    found = bootstrap(figures, decided.shape, groups)
    ends = {name: interval(values) for name, values in found.items()}
    return {name: pair for name, pair in ends.items() if not np.isnan(pair[0])}
