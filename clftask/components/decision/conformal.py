"""Prediction sets with target coverage.

To add one: subclass `SetSpec`, return a fitted `SetRule`, and add the class to `AnySets`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from clftask.array_types import Bools, Floats
from clftask.components.labels import Task
from clftask.spec import BareKind, Spec


class SetRule(Spec):
    """A fitted rule: a row's set contains the labels with at least this probability.

    Attributes:
        coverage: The target coverage. Multiclass: the share of rows whose class is in the set;
            multilabel: the mean share of a row's labels in the set.
        threshold: The minimum probability.
    """

    coverage: float = Field(gt=0, lt=1)
    threshold: float = Field(ge=0, le=1)

    def of(self, probabilities: Floats) -> Bools:
        """Return (rows, labels) bool: the sets."""
        return np.asarray(probabilities >= np.float32(self.threshold))


class SetSpec(Spec):
    """Base class of the prediction sets of job files.

    Attributes:
        coverage: The target coverage; see `SetRule`.
    """

    coverage: float = Field(0.9, gt=0, lt=1)

    @abstractmethod
    def fit(
        self, probabilities: Floats, targets: Floats, task: Task, groups: Any = None
    ) -> SetRule:
        """Return the rule that reaches the target coverage on rows of this distribution.

        Args:
            probabilities: (rows, labels), calibrated, of rows that calibration was not fitted on.
            targets: (rows, labels) of 0 and 1.
            task: multiclass or multilabel.
            groups: (rows,) the group of each row, if new rows belong to new groups.
        """


class Conformal(SetSpec):
    """Conformal sets for multiclass (Sadinle et al. 2019: least ambiguous sets), conformal risk
    control of the false negatives for multilabel (Angelopoulos et al. 2024).

    Both guarantee the mean coverage on new rows that are exchangeable with validation, for any
    model: with n rows, (missed + 1) / (n + 1) stays below 1 − coverage. If rows are grouped, n
    is the number of groups, and the rows of a group share its weight (Lee et al. 2023), because
    only groups are exchangeable.
    """

    kind: Literal["conformal"] = "conformal"

    def fit(
        self, probabilities: Floats, targets: Floats, task: Task, groups: Any = None
    ) -> SetRule:
        rows, columns = np.nonzero(targets)
        true = probabilities[rows, columns].astype(np.float64)
        weight, count = _weights(len(targets), groups)
        share = (weight / np.maximum(targets.sum(1), 1))[rows]
        order = np.argsort(true, kind="stable")
        missed = np.concatenate([[0.0], share[order].cumsum()[:-1]])  # by a threshold at each value
        allowed = (1 - self.coverage) * (count + 1)
        fitting = np.flatnonzero(missed + 1 <= allowed + 1e-9)
        threshold = float(true[order][fitting[-1]]) if len(fitting) else 0.0
        return SetRule(coverage=self.coverage, threshold=_below(threshold))


AnySets = Annotated[Conformal, BareKind()]


def _weights(rows: int, groups: Any) -> tuple[Floats, int]:
    """Return (rows,) weights that sum to the number of groups, and that number."""
    if groups is None:
        return np.ones(rows), rows
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / sizes[codes], len(sizes)


def _below(value: float) -> float:
    """Round down to 6 decimals: labels at the threshold must stay in the set."""
    return max(0.0, float(np.floor(value * 1e6) / 1e6))
