"""Thresholds: probabilities to labels, for multilabel tasks.

To add one: subclass `ThresholdSpec`, return one threshold or one a label, and put the class
into `AnyThreshold`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from clftask.array_types import Floats
from clftask.components.counts import Average, Counts
from clftask.spec import BareKind, Spec

Fitted = float | tuple[float, ...]
Beta = Annotated[float, Field(gt=0, le=10)]

GRID = np.arange(1, 100) / 100
# How many positives of its own a label needs until they weigh as much as all labels together.
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
    """Return the threshold, of 0.01 … 0.99, with the highest micro- or macro-averaged F-beta."""
    scores = curve(probabilities, targets).averaged_f(average, beta)
    return float(GRID[_peak(scores[:, None])[0]])


def _peak(scores: Floats) -> npt.NDArray[np.int64]:
    """Return the (columns,) places of the highest of (99, columns) scores.

    Where neighbours are as high, the middle of them: the edge would be the first to be wrong
    on new rows.
    """
    is_top = scores >= scores.max(0) - 1e-12
    first = is_top.argmax(0)
    after = ~is_top & (np.arange(len(scores))[:, None] > first)
    last = np.where(after.any(0), after.argmax(0), len(scores)) - 1
    return np.asarray((first + last) // 2)


# ------------------------------------------------------------------ how to fit one


class ThresholdSpec(Spec):
    """Base of the thresholds that a job may name."""

    @abstractmethod
    def fit(self, probabilities: Floats, targets: Floats, average: Average) -> Fitted:
        """Return one threshold, or one for each label.

        Args:
            probabilities: (rows, labels), calibrated, of held-out rows.
            targets: (rows, labels) of 0 and 1.
            average: How the job's metric averages labels.
        """


class _Maximising(ThresholdSpec):
    """Base of those that maximise F.

    Attributes:
        maximise: f1, or the β of F-β: above 1 recall counts more, below 1 precision.
    """

    maximise: Literal["f1"] | Beta = "f1"

    @property
    def beta(self) -> float:
        """β of F-β."""
        return 1.0 if self.maximise == "f1" else float(self.maximise)


class GlobalThreshold(_Maximising):
    """One threshold for all labels, of the highest F.

    Attributes:
        average: Of which F: micro, macro, or auto: as the job's metric averages.
    """

    kind: Literal["global"] = "global"
    average: Literal["auto", "micro", "macro"] = "auto"

    def fit(self, probabilities: Floats, targets: Floats, average: Average) -> float:
        """Return the best of 0.01 … 0.99."""
        chosen = average if self.average == "auto" else self.average
        return best_global_threshold(probabilities, targets, chosen, self.beta)


class PerLabelThreshold(_Maximising):
    """A threshold for each label, of its highest F, drawn to the best one for macro-F.

    A label's own best threshold is noise where it has few positives: on logits the two are
    averaged, weighted by its positives and by `shrinkage`.

    Attributes:
        shrinkage: How many positives weigh as much as all labels together; 0 trusts each label.
    """

    kind: Literal["per_label"] = "per_label"
    shrinkage: float = Field(SHRINKAGE, ge=0)

    def fit(self, probabilities: Floats, targets: Floats, average: Average) -> Fitted:
        """Return a threshold for each label."""
        found = curve(probabilities, targets)
        together = GRID[_peak(found.averaged_f("macro", self.beta)[:, None])[0]]
        own = GRID[_peak(found.f(self.beta))]
        weight = found.actual + self.shrinkage
        share = np.where(weight > 0, found.actual / np.maximum(weight, 1e-12), 0.0)
        logits = share * _logit(own) + (1 - share) * _logit(together)
        return tuple(round(float(t), 6) for t in 1 / (1 + np.exp(-logits)))


class FloorThreshold(ThresholdSpec):
    """For each label the threshold at which its precision, or its recall, keeps to a floor.

    Counts of labels with few rows are filled up with `shrinkage` rows that behave as all labels
    together. Where the floor cannot be kept, the nearest to it: 0.99 or 0.01.

    Attributes:
        precision: The floor; of those that keep it the lowest threshold, so the most recall.
        recall: The floor; of those that keep it the highest threshold, so the most precision.
        shrinkage: As for `per_label`.
    """

    kind: Literal["floor"] = "floor"
    precision: float | None = Field(None, gt=0, lt=1)
    recall: float | None = Field(None, gt=0, lt=1)
    shrinkage: float = Field(SHRINKAGE, ge=0)

    @model_validator(mode="after")
    def _one_floor(self) -> Self:
        if (self.precision is None) == (self.recall is None):
            raise ValueError("needs precision or recall, one of them; Set the floor of one")
        return self

    def fit(self, probabilities: Floats, targets: Floats, average: Average) -> Fitted:
        """Return a threshold for each label."""
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
        """Return (99, labels) part / whole, drawn to that of all labels together."""
        pooled = part.sum(1) / np.maximum(whole.sum(1), 1e-12)
        filled = part + self.shrinkage * pooled[:, None]
        return np.asarray(filled / np.maximum(whole + self.shrinkage, 1e-12))


class AutoThreshold(ThresholdSpec):
    """What serves the job's metric: one a label for macro averages, else one for all."""

    kind: Literal["auto"] = "auto"

    def fit(self, probabilities: Floats, targets: Floats, average: Average) -> Fitted:
        """Return one threshold, or one for each label."""
        chosen = PerLabelThreshold() if average == "macro" else GlobalThreshold()
        return chosen.fit(probabilities, targets, average)


AnyThreshold = Annotated[
    AutoThreshold | GlobalThreshold | PerLabelThreshold | FloorThreshold,
    Field(discriminator="kind"),
    BareKind(),
]


def _logit(p: Any) -> Any:
    return np.log(p / (1 - p))
