"""The validation metrics of a model that is still being trained, before a decision is fitted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clftask.array_types import Float32
from clftask.components.counts import Average
from clftask.components.decision.calibration import probabilities_of
from clftask.components.decision.decision import Decision
from clftask.components.decision.thresholds import best_global_threshold
from clftask.components.labels import LabelSpace
from clftask.components.metrics import compute


def validation_metrics(
    logits: Float32, targets: Float32, space: LabelSpace, metric: str, average: Average
) -> dict[str, float]:
    """Return micro- and macro-F1 and the job's metric, at the best threshold.

    With a fixed threshold, the F1 of a multilabel model would be 0 for the first epochs, and
    early stopping would end the run.

    Args:
        logits: (rows, labels).
        targets: (rows, labels) of 0 and 1.
        space: The labels.
        metric: The job's metric; `loss` is left out.
        average: Of the F1 that the threshold maximises.
    """
    probabilities = probabilities_of(logits, space.task)
    decision = Decision()
    if space.task == "multilabel":
        decision = Decision(threshold=best_global_threshold(probabilities, targets, average))
    decided = decision.decide(probabilities, space.task)
    names: Sequence[str] = list(dict.fromkeys(["micro_f1", "macro_f1", metric]))
    names = [name for name in names if name != "loss"]
    found = compute(probabilities, decided, targets, space.task, names, space.positive_index)
    # A young model may predict no label at all: its undefined macro average must not win.
    return {name: float(np.nan_to_num(value)) for name, value in found.items()}
