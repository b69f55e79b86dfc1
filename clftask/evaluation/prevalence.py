"""Shares of labels in a corpus, from predictions of all rows and labels of a random sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clftask.array_types import Array, Bools, Float64, Floats

Z = 1.959964  # of a 95 % interval
MIN_COUNT = 5  # of audited rows with and without a label: with fewer, errors are rarely seen


@dataclass(frozen=True)
class Interval:
    """Shares with the ends of their 95 % intervals, (labels,) each, from 0 to 1."""

    share: Float64
    low: Float64
    high: Float64


@dataclass(frozen=True)
class Shares:
    """The shares of labels in a corpus.

    Attributes:
        sample: From the audit alone.
        powered: From predictions and audit; where `is_powered` is false, those of `sample`.
        is_powered: (labels,) whether the audit has enough rows with and without the label.
        worth: (labels,) the number of audited rows with which the audit alone would have
            intervals of the width of `powered`.
    """

    sample: Interval
    powered: Interval
    is_powered: Bools
    worth: Float64


def shares(labels: Array, predicted: Floats, mean: Floats, num_rows: int) -> Shares:
    """Estimate the shares of labels by prediction-powered inference.

    The mean of λp over the corpus plus the mean of y − λp over the audit (Angelopoulos et al.
    2023, Science 382), where λ from 0 to 1 minimises the variance (power tuning: Angelopoulos,
    Duchi and Zrnic 2023, PPI++, arXiv:2311.01453). The corpus is the population: its mean of p
    is known, and an audit of all rows leaves no variance (Cochran 1977, section 7). Few missed
    rows or false alarms are not normally distributed: the margin to either side recovers their
    rates' variances from Wilson's intervals (Zou and Donner 2008, Statistics in Medicine 27).

    Args:
        labels: (audited rows, labels) 0 and 1; at least one row.
        predicted: (audited rows, labels) p, their probabilities.
        mean: (labels,) mean of p over the corpus.
        num_rows: Rows of the corpus.
    """
    y, p, num = labels.astype(np.float64), predicted.astype(np.float64), len(labels)
    unseen = 1 - num / num_rows
    sample = wilson(y.mean(0), unseen / num)
    spread = ((p - p.mean(0)) ** 2).sum(0)
    together = ((y - y.mean(0)) * (p - p.mean(0))).sum(0)
    power = np.clip(np.divide(together, spread, np.zeros_like(spread), where=spread > 0), 0, 1)
    errors = y - power * p
    share = power * mean + errors.mean(0)
    below, above = _margins(errors, power, unseen / num)
    count = y.sum(0)
    is_powered = np.minimum(count, num - count) >= MIN_COUNT
    found = (share, share - below, share + above)
    alone = (sample.share, sample.low, sample.high)
    powered = [
        np.clip(np.where(is_powered, *pair), 0, 1) for pair in zip(found, alone, strict=True)
    ]
    width = below + above
    narrower = (sample.high - sample.low) / np.where(width > 0, width, 1)
    worth = np.where(is_powered & (width > 0), num * narrower**2, num)
    return Shares(sample, Interval(*powered), is_powered, worth)


def _margins(errors: Float64, power: Float64, per_row: float) -> tuple[Float64, Float64]:
    """Return the margins below and above the mean of (audited rows, labels) errors y − λp.

    Those of the normal distribution, where the variances of the rates of missed rows (errors
    above 0.5) and of false alarms (below −0.5) are replaced by the squared distances to the ends
    of their Wilson intervals: wider to the side of few errors. Rates count by the mean size of
    these errors; where the audit has none, by the largest possible, 1 and λ.
    """
    variance = Z**2 * per_row * errors.var(0)
    below, above = variance, variance
    for is_missed, largest in ((True, np.ones_like(power)), (False, power)):
        far = (
            np.where(errors > 0.5, errors, 0) if is_missed else np.where(errors < -0.5, -errors, 0)
        )
        rate = (far > 0).mean(0)
        size = np.divide(far.mean(0), rate, largest.copy(), where=rate > 0)
        ends, own = wilson(rate, per_row), Z**2 * per_row * rate * (1 - rate)
        more = size**2 * ((ends.high - rate) ** 2 - own)
        less = size**2 * ((rate - ends.low) ** 2 - own)
        above, below = (above + more, below + less) if is_missed else (above + less, below + more)
    return np.sqrt(np.maximum(below, 0)), np.sqrt(np.maximum(above, 0))


def wilson(share: Float64, per_row: float) -> Interval:
    """Return Wilson's (1927) score intervals of shares; `per_row`: 1 / the number of rows."""
    scale = 1 + Z**2 * per_row
    centre = (share + Z**2 * per_row / 2) / scale
    margin = Z * np.sqrt(share * (1 - share) * per_row + (Z * per_row / 2) ** 2) / scale
    return Interval(share, np.clip(centre - margin, 0, 1), np.clip(centre + margin, 0, 1))


def rows_to_halve(num: int, num_rows: int) -> int:
    """Return how many more audited rows halve the intervals: a quarter of the variance is left.

    The variance is proportional to 1 / audited rows − 1 / rows of the corpus.
    """
    quarter = (1 / num - 1 / num_rows) / 4
    return max(0, math.ceil(1 / (quarter + 1 / num_rows) - num - 1e-9))
