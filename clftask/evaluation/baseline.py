"""Baselines: the majority class and a linear model; warnings of models that are not better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clftask.array_types import Array
from clftask.components.decision.decision import Outcome
from clftask.components.labels import LabelSpace
from clftask.components.metrics import LINEAR, LOWER_IS_BETTER, MAJORITY, compute

# The metrics that the majority class is compared in.
COMPARED = (
    "accuracy", "subset_accuracy", "micro_f1", "macro_f1", "weighted_f1", "samples_f1", "f1"
)  # fmt: skip


def majority_label(data: Mapping[str, Any], names: Sequence[str], targets: Array) -> int:
    """Return the index of the most frequent label of the train rows.

    Args:
        data: The fingerprint and report of the training data.
        names: The labels.
        targets: (rows, labels) of 0 and 1: used if the report has no counts.
    """
    counts = data.get("report", {}).get("label_counts", {}).get("train")
    known = targets.sum(0) if not counts else [counts.get(name, 0) for name in names]
    return int(np.argmax(known))


def with_majority(
    metrics: dict[str, float], targets: Array, majority: int, space: LabelSpace
) -> dict[str, float]:
    """Return metrics with those of always predicting one label, each beside its own.

    Args:
        metrics: The metrics of a classifier.
        targets: (rows, labels) of 0 and 1.
        majority: The index of the label.
        space: The labels.
    """
    decided = np.zeros(targets.shape, np.bool_)
    decided[:, majority] = True
    names = [name for name in COMPARED if name in metrics]
    of_label = decided.astype(np.float32), decided, targets
    base = compute(*of_label, space.task, names, space.positive_index)
    found = {}
    for name, value in metrics.items():
        found[name] = value
        if name in base:
            found[name + MAJORITY] = base[name]
    return found


def with_linear(
    metrics: Mapping[str, float | None], linear: Mapping[str, float | None]
) -> dict[str, float | None]:
    """Return metrics with those of the linear baseline, each beside its own."""
    found = {}
    for name, value in metrics.items():
        found[name] = value
        if linear.get(name) is not None and not name.endswith(MAJORITY):
            found[name + LINEAR] = linear[name]
    return found


def against_linear(metrics: Mapping[str, float | None], metric: str, where: str) -> str | None:
    """Return how much better a model is than the linear baseline, in words.

    Args:
        metrics: Its metrics on some rows, with those of the baseline.
        metric: The job's metric; `loss`, which depends on the kind of loss, stands for log_loss.
        where: The rows, in words.

    Returns:
        None without a baseline.
    """
    metric = "log_loss" if metric == "loss" else metric
    value, base = metrics.get(metric), metrics.get(metric + LINEAR)
    if value is None or base is None:
        return None
    gain = base - value if metric in LOWER_IS_BETTER else value - base
    verdict = f"better than linear by {gain:.4f}" if gain > 0 else (
        f"worse than linear by {-gain:.4f}" if gain else "equal to linear"
    )  # fmt: skip
    return f"{metric} on {where} is {value:.4f}, {verdict}"


def worse_than_linear(metrics: Mapping[str, float | None], metric: str, where: str) -> list[str]:
    """Return a warning of a model that is not better than the linear baseline, if so."""
    line = against_linear(metrics, metric, where)
    if line is None or "better than" in line:
        return []
    return [f"{line}. A linear model (model.base: tfidf) trains and scores much faster."]


def _remedy(optimizer: str | None) -> str:
    if optimizer is None:
        return "Try a higher model.C."
    more = "." if optimizer == "adamw" else ", or training.optimizer: adamw."
    return f"Try a higher training.learning_rate or more epochs{more}"


def weaknesses(
    metrics: Mapping[str, float | None],
    outcome: Outcome,
    space: LabelSpace,
    majority: int,
    where: str,
    optimizer: str | None = "adamw",
) -> list[str]:
    """Return warnings if a model has not learned to tell labels apart.

    Args:
        metrics: Its metrics on some rows, with those of the majority class.
        outcome: The outcome of the rows.
        space: The labels.
        majority: The index of the most frequent label.
        where: The rows, in words.
        optimizer: The optimiser of the training; None for a linear model.
    """
    found = []
    remedy = _remedy(optimizer)
    if 1.0 in (metrics.get("accuracy"), metrics.get("subset_accuracy")):
        pass  # the rows may have one label only
    elif (outcome.decided == outcome.decided[:1]).all() and len(outcome.decided) > 1:
        labels = [repr(space.names[i]) for i in np.flatnonzero(outcome.decided[0])]
        given = f"as {', '.join(labels)}" if labels else "without a label"
        if not labels and space.task == "multiclass":
            remedy = "Lower decision.abstain_below."
        found.append(f"all rows of {where} are predicted {given}. {remedy}")
    else:
        name = "accuracy" if space.task == "multiclass" else "micro_f1"
        value, base = metrics.get(name), metrics.get(name + MAJORITY)
        if value is not None and base is not None and value <= base:
            always = f"always predicting {space.names[majority]!r} has {base:.4f}"
            found.append(f"{name} on {where} is only {value:.4f}; {always}. {remedy}")
    if (area := metrics.get("roc_auc_macro")) is not None and area <= 0.5:
        check = "Check that texts and labels belong together."
        found.append(f"ROC AUC on {where} is {area:.4f}, no better than chance (0.5). {check}")
    return found
