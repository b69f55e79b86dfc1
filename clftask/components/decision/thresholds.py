"""Thresholds: probabilities to labels, for multilabel tasks.

To add one: subclass `ThresholdSpec`, return one threshold or one per label, and add the class
to `AnyThreshold`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from clftask.array_types import Array, Floats
from clftask.components.counts import Average, Counts, count
from clftask.spec import BareKind, Spec

Fitted = float | tuple[float, ...]
Beta = Annotated[float, Field(gt=0, le=10)]

GRID = np.arange(1, 100) / 100
# Number of positives at which a label's own threshold weighs as much as that of all labels.
SHRINKAGE = 20.0


def curve(probabilities: Floats, targets: Floats) -> Counts:
    """Return the counts at each threshold of `GRID`, from one histogram per label.

    Args:
        probabilities: (rows, labels).
        targets: (rows, labels) of 0 and 1.

    Returns:
        (99, labels) true positives and predicted, (labels,) actual.
    """
    bins = np.clip(np.ceil(np.nan_to_num(probabilities) * 100).astype(int) - 1, 0, 99)
    num_labels = probabilities.shape[1]
    flat = (bins + 100 * np.arange(num_labels)).ravel()
    predicted = np.bincount(flat, minlength=100 * num_labels)
    true = np.bincount(flat, targets.ravel(), 100 * num_labels)
    by_bin = (x.reshape(num_labels, 100).T.astype(float) for x in (true, predicted))
    hits, given = (x[::-1].cumsum(0)[::-1][1:] for x in by_bin)
    return Counts(hits, given, targets.sum(0).astype(float))


def best_global_threshold(
    probabilities: Floats, targets: Floats, average: Average = "micro", beta: float = 1.0
) -> float:
    """Return the threshold in 0.01 … 0.99 with the highest micro- or macro-averaged F-beta."""
    scores = curve(probabilities, targets).averaged_f(average, beta)
    return float(GRID[_peak(scores[:, None])[0]])


def _peak(scores: Floats) -> npt.NDArray[np.int64]:
    """Return the (columns,) indices of the maximum of (99, columns) scores.

    For a plateau, the middle: its edge would generalise worst to new rows.
    """
    scores = np.nan_to_num(scores)  # macro-averaged F is undefined where all labels are absent
    is_top = scores >= scores.max(0) - 1e-12
    first = is_top.argmax(0)
    after = ~is_top & (np.arange(len(scores))[:, None] > first)
    last = np.where(after.any(0), after.argmax(0), len(scores)) - 1
    return np.asarray((first + last) // 2)


# ------------------------------------------------------------------ fitting


class Objective(NamedTuple):
    """What a threshold maximises: F-β with an average."""

    average: Average
    beta: float

    def of(self, decided: Array, targets: Array) -> float:
        """Return the F-β of (rows, labels) predicted and true labels; 0 if it is undefined."""
        counts, _ = count(decided, targets)
        return float(np.nan_to_num(counts.averaged_f(self.average, self.beta)))


class ThresholdSpec(Spec):
    """Base class of the thresholds of job files."""

    def objective(self, average: Average) -> Objective | None:
        """Return what it maximises, None if it has another aim.

        Args:
            average: How the job's metric averages labels.
        """
        return None

    def fallbacks(self, average: Average) -> tuple[GlobalThreshold | float, ...]:
        """Return what replaces it, in order, where it is worse than 0.5 without calibration.

        Args:
            average: How the job's metric averages labels.
        """
        return ()

    @abstractmethod
    def fit(self, probabilities: Floats, targets: Floats, average: Average) -> Fitted:
        """Return one threshold, or one per label.

        Args:
            probabilities: (rows, labels), calibrated, of held-out rows.
            targets: (rows, labels) of 0 and 1.
            average: How the job's metric averages labels.
        """


class _Maximising(ThresholdSpec):
    """Base class of thresholds that maximise F-β.

    Attributes:
        maximise: f1, or the β of F-β: above 1 recall weighs more, below 1 precision.
    """

    maximise: Literal["f1"] | Beta = "f1"

    @property
    def beta(self) -> float:
        """β of F-β."""
        return 1.0 if self.maximise == "f1" else float(self.maximise)


class GlobalThreshold(_Maximising):
    """One threshold for all labels, which maximises averaged F-β.

    Attributes:
        average: micro, macro, or auto: as in the job's metric.
    """

    kind: Literal["global"] = "global"
    average: Literal["auto", "micro", "macro"] = "auto"

    def objective(self, average: Average) -> Objective:
        return Objective(average if self.average == "auto" else self.average, self.beta)

    def fit(self, probabilities: Floats, targets: Floats, average: Average) -> float:
        return best_global_threshold(probabilities, targets, *self.objective(average))


class PerLabelThreshold(_Maximising):
    """One threshold per label, which maximises its F-β, shrunk to the best for macro-averaged F-β.

    The best threshold of a label with few positives is noisy. Both thresholds are averaged as
    logits, with its number of positives and `shrinkage` as weights.

    Attributes:
        shrinkage: The weight of the common threshold, in positives; 0: no shrinkage.
    """

    kind: Literal["per_label"] = "per_label"
    shrinkage: float = Field(SHRINKAGE, ge=0)

    def objective(self, average: Average) -> Objective:
        """Return the macro-averaged F-β: the best of each label maximises their mean."""
        return Objective("macro", self.beta)

    def fit(self, probabilities: Floats, targets: Floats, average: Average) -> Fitted:
        found = curve(probabilities, targets)
        together = GRID[_peak(found.averaged_f("macro", self.beta)[:, None])[0]]
        own = GRID[_peak(found.f(self.beta))]
        weight = found.actual + self.shrinkage
        share = np.where(weight > 0, found.actual / np.maximum(weight, 1e-12), 0.0)
        logits = share * _logit(own) + (1 - share) * _logit(together)
        return tuple(round(float(t), 6) for t in 1 / (1 + np.exp(-logits)))


class FloorThreshold(ThresholdSpec):
    """One threshold per label, at which its precision or its recall reaches a minimum.

    `shrinkage` rows with the precision or recall of all labels are added to the counts of each
    label. If no threshold reaches the minimum, the nearest one is used: 0.99 or 0.01.

    Attributes:
        precision: The minimum; the lowest threshold that reaches it has the highest recall.
        recall: The minimum; the highest threshold that reaches it has the highest precision.
        shrinkage: Number of added rows.
    """

    kind: Literal["floor"] = "floor"
    precision: float | None = Field(None, gt=0, lt=1)
    recall: float | None = Field(None, gt=0, lt=1)
    shrinkage: float = Field(SHRINKAGE, ge=0)

    @model_validator(mode="after")
    def _one_floor(self) -> Self:
        if (self.precision is None) == (self.recall is None):
            raise ValueError("requires either precision or recall; Set one of them")
        return self

    def fit(self, probabilities: Floats, targets: Floats, average: Average) -> Fitted:
        found = curve(probabilities, targets)
        if self.precision is not None:
            keeps = self._share(found.true_positives, found.predicted) >= self.precision
            first = np.where(keeps.any(0), keeps.argmax(0), len(GRID) - 1)
            return tuple(float(t) for t in GRID[first])
        actual = np.broadcast_to(found.actual, found.predicted.shape)
        keeps = self._share(found.true_positives, actual) >= (self.recall or 0)
        last = np.where(keeps.any(0), len(GRID) - 1 - keeps[::-1].argmax(0), 0)
        return tuple(float(t) for t in GRID[last])

    def _share(self, part: Floats, whole: Floats) -> Floats:
        """Return (99, labels) part / whole, shrunk to the ratio of all labels together."""
        pooled = part.sum(1) / np.maximum(whole.sum(1), 1e-12)
        filled = part + self.shrinkage * pooled[:, None]
        return np.asarray(filled / np.maximum(whole + self.shrinkage, 1e-12))


class AutoThreshold(ThresholdSpec):
    """One threshold per label if the job's metric is macro-averaged, else one for all.

    It falls back to one for all, then to 0.5: few rows do not support fitted thresholds.
    """

    kind: Literal["auto"] = "auto"

    def objective(self, average: Average) -> Objective:
        return Objective(average, 1.0)

    def fallbacks(self, average: Average) -> tuple[GlobalThreshold | float, ...]:
        return (GlobalThreshold(), 0.5) if average == "macro" else (0.5,)

    def fit(self, probabilities: Floats, targets: Floats, average: Average) -> Fitted:
        chosen = PerLabelThreshold() if average == "macro" else GlobalThreshold()
        return chosen.fit(probabilities, targets, average)


AnyThreshold = Annotated[
    AutoThreshold | GlobalThreshold | PerLabelThreshold | FloorThreshold,
    Field(discriminator="kind"),
    BareKind(),
]


def _logit(p: Any) -> Any:
    return np.log(p / (1 - p))
