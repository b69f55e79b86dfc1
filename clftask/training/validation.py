"""The validation metrics of a model that is being trained."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from clftask.array_types import Float32
from clftask.components.decision.calibration import probabilities_of
from clftask.components.decision.decision import Decision
from clftask.components.decision.thresholds import best_global_threshold
from clftask.components.labels import LabelSpace
from clftask.components.metrics import compute
from clftask.config.train import TrainJob


def validation_metrics(
    job: TrainJob, space: LabelSpace, logits: Float32, targets: Float32
) -> dict[str, float]:
    """Return the job's metric, and micro- and macro-F1, at the best threshold.

    With a fixed threshold, the F1 of a multilabel model would be 0 for the first epochs, and
    early stopping would end the run.

    Args:
        job: The training job.
        space: The labels.
        logits: (rows, labels).
        targets: (rows, labels) indicators.
    """
    probabilities, decision = probabilities_of(logits, space.task), Decision()
    if space.task == "multilabel":
        threshold = best_global_threshold(probabilities, targets, job.average)
        decision = Decision(threshold=threshold)
    decided = decision.decide(probabilities, space.task)
    names = dict.fromkeys(["micro_f1", "macro_f1", job.training.metric])
    named = [name for name in names if name != "loss"]
    found = compute(probabilities, decided, targets, space.task, named, space.positive_index)
    # A young model may predict no label at all: its undefined macro average must not win.
    return {name: float(np.nan_to_num(value)) for name, value in found.items()}


def evaluations_without_gain(args: Any, state: Any) -> int:
    """Return the number of evaluations since the best one, from the Trainer's log history."""
    name = args.metric_for_best_model
    values = [entry[name] for entry in state.log_history if name in entry]
    sign = 1 if args.greater_is_better else -1
    best, since = -math.inf, 0
    for value in values:
        best, since = (sign * value, 0) if sign * value > best else (best, since + 1)
    return since
