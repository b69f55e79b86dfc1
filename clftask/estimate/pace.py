"""How fast rows go by, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clftask.evaluation.bootstrap import LEVEL


@dataclass(frozen=True)
class Pace:
    """Rows in a second.

    Attributes:
        rows_per_s: The estimate.
        low: The lower end of its 95 % interval, None of a single measurement.
        high: The upper end, None where it has none.
    """

    rows_per_s: float
    low: float | None = None
    high: float | None = None

    def faster(self, factor: float) -> Pace:
        """Return the pace times a factor."""
        ends = (None if end is None else end * factor for end in (self.low, self.high))
        return Pace(self.rows_per_s * factor, *ends)

    @property
    def is_steady(self) -> bool:
        """Whether the seconds that a row takes are known to 5 %."""
        return self.low is not None and self.rows_per_s / self.low <= 1.05


def pace_of(rows: Sequence[int], seconds: Sequence[float]) -> Pace:
    """Return the pace of chunks of rows from places at random.

    The seconds that a row takes are a ratio estimate, with its standard error from the chunks'
    residuals (Cochran 1977, section 6.4) and Student's t.

    Args:
        rows: Of each chunk.
        seconds: Of each chunk.
    """
    n, s = np.asarray(rows, float), np.asarray(seconds, float)
    ratio = s.sum() / n.sum()
    if len(n) < 2:
        return Pace(1 / ratio)
    from scipy.stats import t

    error = (s - ratio * n).std(ddof=1) / np.sqrt(len(n)) / n.mean()
    half = t.ppf((1 + LEVEL) / 2, len(n) - 1) * error
    high = 1 / (ratio - half) if half < ratio else None
    return Pace(float(1 / ratio), float(1 / (ratio + half)), high and float(high))
