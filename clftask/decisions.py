"""From logits to probabilities to labels: what a bundle decides, applied everywhere alike."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from clftask.labels import Task
from clftask.spec import Spec

Floats = npt.NDArray[np.floating[Any]]


class Decision(Spec):
    """How probabilities become labels.

    Attributes:
        threshold: Multilabel: a label is given when its probability is above.
    """

    calibration: Literal["none"] = "none"
    threshold: float = Field(0.5, gt=0, lt=1)

    def decide(self, probabilities: Floats, task: Task) -> npt.NDArray[np.bool_]:
        """Return (rows, labels) bool: the labels given to each row."""
        if task == "multilabel":
            return np.asarray(probabilities > self.threshold)
        best = probabilities.argmax(1)
        return np.asarray(np.arange(probabilities.shape[1])[None, :] == best[:, None])


def probabilities_of(logits: Floats, task: Task) -> npt.NDArray[np.float32]:
    """Return (rows, labels) float32: softmax over the row, or sigmoid of each label."""
    x = logits.astype(np.float32)
    if task == "multilabel":
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -80, 80))), np.float32)
    exponent = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(exponent / exponent.sum(1, keepdims=True), np.float32)
