"""Decisions: logits to probabilities to labels, fitted on held-out rows."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from clftask.array_types import Array, Bools, Float32, Floats
from clftask.components.counts import Average
from clftask.components.decision.calibration import (
    AnyCalibration,
    AnyFitted,
    AutoCalibration,
    Calibration,
    NoCalibration,
)
from clftask.components.decision.conformal import AnySets, SetRule
from clftask.components.decision.thresholds import AnyThreshold, AutoThreshold
from clftask.components.labels import Task
from clftask.spec import Spec

NUM_FOLDS = 5
Share = Annotated[float, Field(gt=0, lt=1)]


class Decision(Spec):
    """The fitted decision of a bundle: logits to probabilities to labels.

    Attributes:
        calibration: The calibration of the probabilities.
        threshold: Multilabel: a label is predicted if its probability is above its threshold;
            one threshold for all labels, or one per label.
        abstain_below: Multiclass: a row gets no label if its highest probability is below.
        sets: The rule of the prediction sets, if any.
    """

    calibration: AnyFitted = Calibration()
    threshold: Share | tuple[Share, ...] = 0.5
    abstain_below: Share | None = None
    sets: SetRule | None = None

    def fits(self, num_labels: int) -> bool:
        """Tell whether all values per label are for this number of labels."""
        calibration = self.calibration
        each = (self.threshold, calibration.scale, calibration.shift, calibration.maps)
        return all(len(x) == num_labels for x in each if isinstance(x, tuple))

    def apply(self, logits: Floats, task: Task) -> Outcome:
        """Return the outcome of the bundle's logits."""
        return self.outcome(self.probabilities(logits, task), task)

    def outcome(self, probabilities: Float32, task: Task) -> Outcome:
        """Return the outcome of calibrated probabilities."""
        sets = None if self.sets is None else self.sets.of(probabilities)
        return Outcome(probabilities, self.decide(probabilities, task), sets)

    def probabilities(self, logits: Floats, task: Task) -> Float32:
        """Return (rows, labels) float32 calibrated probabilities from the bundle's logits."""
        return self.calibration.probabilities(logits, task)

    def decide(self, probabilities: Floats, task: Task) -> Bools:
        """Return (rows, labels) bool: the predicted labels of each row."""
        if task == "multilabel":
            return np.asarray(probabilities > np.asarray(self.threshold, np.float32))
        best = probabilities.argmax(1)
        found = np.arange(probabilities.shape[1])[None, :] == best[:, None]
        if self.abstain_below is not None:
            found &= probabilities.max(1, keepdims=True) >= np.float32(self.abstain_below)
        return np.asarray(found)

    def as_at_half(self, num_labels: int) -> Decision:
        """Return the decision that predicts the labels of 0.5 without calibration."""
        levels = self.calibration.level(num_labels)
        is_one = len(set(levels)) == 1
        return self.model_copy(update={"threshold": levels[0] if is_one else levels})

    def thresholds(self, num_labels: int) -> list[float]:
        """Return the threshold of each label."""
        return [float(t) for t in np.broadcast_to(np.asarray(self.threshold), num_labels)]

    def rule(self, task: Task) -> str:
        """Return a description of which labels are predicted."""
        if task == "multiclass":
            floor = self.abstain_below
            return "the most probable" + (f", none below {floor:g}" if floor is not None else "")
        if isinstance(self.threshold, float):
            return f"above {self.threshold:g}"
        low, high = min(self.threshold), max(self.threshold)
        return f"above a threshold of their own, {low:.2f} to {high:.2f}"


class Outcome(NamedTuple):
    """The result of a decision on rows.

    Attributes:
        probabilities: (rows, labels) float32, calibrated.
        decided: (rows, labels) bool: the predicted labels.
        sets: (rows, labels) bool: the prediction sets, if any.
    """

    probabilities: Float32
    decided: Bools
    sets: Bools | None


class DecisionSpec(Spec):
    """How a decision is fitted on validation.

    Attributes:
        calibration: auto | none | temperature | platt | isotonic.
        threshold: A number | auto | global | per_label | floor.
        abstain_below: As in `Decision`.
        sets: conformal {coverage}, or null.
    """

    calibration: AnyCalibration = AutoCalibration()
    threshold: Share | AnyThreshold = AutoThreshold()
    abstain_below: Share | None = None
    sets: AnySets | None = None

    def of_soft(self) -> DecisionSpec:
        """Return the spec for rows with soft labels: `auto` does not calibrate.

        The model learned their probabilities. The labels that these give are surer than they are:
        calibration to them would raise all probabilities.
        """
        if not self.calibration.falls_back:
            return self
        return self.model_copy(update={"calibration": NoCalibration()})

    def fit(
        self, logits: Floats, targets: Floats, task: Task, average: Average, groups: Any = None
    ) -> Decision:
        """Return the decision fitted on held-out rows.

        Sets are fitted on the cross-fitted probabilities of all rows (cross-conformal, Vovk
        2015): with a separate calibration fold, the coverage would depend on few rows.

        Args:
            logits: (rows, labels), uncalibrated.
            targets: (rows, labels) of 0 and 1.
            task: multiclass or multilabel.
            average: How the job's metric averages labels.
            groups: (rows,) the group of each row, if the split is grouped.
        """
        decision = self._fit(logits, targets, task, average)
        if self.sets is None:
            return decision
        bare = self.model_copy(update={"sets": None})
        unseen = cross_fitted(bare, logits, targets, task, average, groups).probabilities
        sets = self.sets.fit(unseen, targets, task, groups)
        return decision.model_copy(update={"sets": sets})

    def _fit(self, logits: Floats, targets: Floats, task: Task, average: Average) -> Decision:
        calibration = self.calibration.fit(logits, targets, task)
        if task == "multiclass":
            return Decision(calibration=calibration, abstain_below=self.abstain_below)
        threshold: Any = self.threshold
        if not isinstance(threshold, float):
            probabilities = calibration.probabilities(logits, task)
            threshold = threshold.fit(probabilities, targets, average)
        return Decision(calibration=calibration, threshold=threshold)


def cross_fitted(
    spec: DecisionSpec,
    logits: Floats,
    targets: Floats,
    task: Task,
    average: Average,
    groups: Array | None = None,
) -> Outcome:
    """Return the cross-fitted outcome: each of five folds gets a decision fitted on the others.

    Metrics on the rows that a decision was fitted on are biased. Folds keep groups together.

    Args:
        spec: How decisions are fitted.
        logits: (rows, labels).
        targets: (rows, labels) of 0 and 1.
        task: multiclass or multilabel.
        average: How the job's metric averages labels.
        groups: (rows,) the group of each row, if the split is grouped.
    """
    shape = logits.shape
    sets = None if spec.sets is None else np.zeros(shape, np.bool_)
    found = Outcome(np.zeros(shape, np.float32), np.zeros(shape, np.bool_), sets)
    fold = folds(len(logits), groups)
    for i in np.unique(fold):
        own = fold == i
        rest = ~own if (~own).any() else own  # a single group: no other rows to fit on
        others = None if groups is None else groups[rest]
        decision = spec.fit(logits[rest], targets[rest], task, average, others)
        for whole, part in zip(found, decision.apply(logits[own], task), strict=True):
            if whole is not None:
                whole[own] = part
    return found


def folds(rows: int, groups: Array | None = None) -> npt.NDArray[np.int64]:
    """Return the fold of each row: deterministic, groups kept together."""
    names = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    size = int(names.max()) + 1 if rows else 0
    return np.asarray(np.random.default_rng(0).permutation(size)[names] % NUM_FOLDS, np.int64)
