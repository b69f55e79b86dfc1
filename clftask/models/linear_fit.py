"""Fits a linear model with scikit-learn: a logistic regression per label, or a multinomial one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from clftask.array_types import Array, Float32, Float64, Floats
from clftask.components.losses import LossSpec, PairLoss, TrainLabels
from clftask.config.train import TrainJob
from clftask.models.linear import LinearModel, Vectorizer

MAX_ITERATIONS = 1_000
# Of liblinear: scikit-learn's 1e-4 takes longer for the same log loss on held-out rows. Its other
# solver of this problem draws random numbers from a generator that threads share.
_TOLERANCE = 1e-2
_ABSENT = 10.0  # logits of a class without train rows, below the smallest bias


def fit_linear(
    job: TrainJob, strength: float, vectorizer: Vectorizer, vectors: Any, targets: Float32
) -> tuple[LinearModel, list[str]]:
    """Return a model that minimises the job's loss, and warnings.

    Args:
        job: The job; its loss is a cross-entropy.
        strength: `TfidfSpec.C`.
        vectorizer: Made the vectors.
        vectors: (rows, n-grams) of the train rows.
        targets: (rows, labels) of 0 and 1.
    """
    from sklearn.exceptions import ConvergenceWarning

    options = {"C": strength, "max_iter": MAX_ITERATIONS, "random_state": job.seed}
    weights = positive_weights(job.loss, targets)
    fit = _one_vs_rest if job.task == "multilabel" else _multinomial
    with warnings.catch_warnings():  # of the process, its threads too
        warnings.simplefilter("ignore", ConvergenceWarning)
        coefficients, bias, is_done = fit(vectors, targets, weights, options, num_threads(job))
    slow = f"the linear model did not converge in {MAX_ITERATIONS} iterations; lower model.C"
    return LinearModel.of(vectorizer, coefficients, bias), [] if is_done else [slow]


def num_threads(job: TrainJob) -> int:
    """Return the number of threads that fit labels: `scaling.cpus_per_worker`, or all CPUs."""
    cpus = job.scaling.cpus_per_worker
    if cpus != "auto":
        return max(1, int(cpus))
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def positive_weights(loss: LossSpec, targets: Floats) -> Float64:
    """Return the (labels,) weights that a loss gives to the positives of each label."""
    assert isinstance(loss, PairLoss)
    found = loss.weights(TrainLabels(targets.sum(0).astype(float), len(targets)))
    return np.ones(targets.shape[1]) if found is None else found


def mean_loss(job: TrainJob, logits: Float32, targets: Float32, weights: Float64) -> float:
    """Return the mean weighted cross-entropy of rows: over labels the mean, or their sum.

    Args:
        job: The job.
        logits: (rows, labels).
        targets: (rows, labels) of 0 and 1.
        weights: From `positive_weights`.
    """
    from scipy.special import log_softmax

    x = logits.astype(np.float64)
    if job.task == "multiclass":
        return float(-(targets * weights * log_softmax(x, axis=1)).sum(1).mean())
    return float(((np.logaddexp(0, x) - targets * x) * (1 + targets * (weights - 1))).mean())


def _one_vs_rest(
    vectors: Any, targets: Float32, weights: Float64, options: Mapping[str, Any], threads: int
) -> tuple[Array, Array, bool]:
    """Fit each label by itself; liblinear releases Python's lock, so threads suffice."""
    from sklearn.linear_model import LogisticRegression

    rows, labels = targets.shape

    def fit(label: int) -> tuple[Array, float, bool]:
        own = targets[:, label] > 0
        if own.all() or not own.any():
            share = np.clip(own.mean(), 0.5 / rows, 1 - 0.5 / rows)
            return np.zeros(vectors.shape[1], np.float32), float(np.log(share / (1 - share))), True
        of_class = {False: 1.0, True: weights[label]}
        model = LogisticRegression(
            solver="liblinear", tol=_TOLERANCE, class_weight=of_class, **options
        )
        model.fit(vectors, own)
        is_done = bool((model.n_iter_ < options["max_iter"]).all())
        return model.coef_[0].astype(np.float32), float(model.intercept_[0]), is_done

    with ThreadPoolExecutor(threads) as pool:
        coefficients, bias, is_done = zip(*pool.map(fit, range(labels)), strict=True)
    return np.stack(coefficients), np.array(bias), all(is_done)


def _multinomial(
    vectors: Any, targets: Float32, weights: Float64, options: Mapping[str, Any], threads: int
) -> tuple[Array, Array, bool]:
    from sklearn.linear_model import LogisticRegression

    classes = targets.argmax(1)
    known = np.unique(classes)
    of_class = {int(label): float(weights[label]) for label in known}
    model = LogisticRegression(solver="lbfgs", class_weight=of_class, **options)
    model.fit(vectors, classes)
    found, intercepts = model.coef_, model.intercept_
    if len(known) == 2:  # scikit-learn gives the log odds of the second class
        found, intercepts = np.stack([-found[0], found[0]]) / 2, np.array([-1, 1]) * intercepts / 2
    coefficients = np.zeros((targets.shape[1], vectors.shape[1]), np.float32)
    bias = np.full(targets.shape[1], intercepts.min() - _ABSENT)
    coefficients[known], bias[known] = found, intercepts
    return coefficients, bias, bool((model.n_iter_ < options["max_iter"]).all())
