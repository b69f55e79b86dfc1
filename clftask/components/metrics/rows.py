"""Labelled rows, of which metrics are functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from clftask.array_types import Array
from clftask.components.counts import Counts, count


@dataclass(frozen=True)
class Rows:
    """Labelled rows with the predictions of a classifier.

    Attributes:
        probabilities: (rows, labels) float32.
        decided: (rows, labels) bool: the labels predicted.
        targets: (rows, labels) of 0 and 1.
        positive: The index of the positive class, if there is one.
    """

    probabilities: Array
    decided: Array
    targets: Array
    positive: int | None = None

    @cached_property
    def counts(self) -> tuple[Counts, Counts]:
        """The counts by label and by row, computed once for all metrics."""
        return count(self.decided, self.targets)


Metric = Callable[[Rows], float]
