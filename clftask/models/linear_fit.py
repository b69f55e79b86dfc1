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
    job: TrainJob,
    strength: float,
    vectorizer: Vectorizer,
    vectors: Any,
    targets: Float32,
    row_weights: Float64 | None = None,
) -> tuple[LinearModel, list[str]]:
    """Return a model that minimises the job's loss, and warnings.

    Args:
        job: The job; its loss is a cross-entropy.
        strength: `TfidfSpec.C`.
        vectorizer: Made the vectors.
        vectors: (rows, n-grams) of the train rows.
        targets: (rows, labels), from 0 to 1.
        row_weights: (rows,); None: all are 1.
    """
    from sklearn.exceptions import ConvergenceWarning

    options = {"C": strength, "max_iter": MAX_ITERATIONS, "random_state": job.seed}
    weights = positive_weights(job.loss, targets, row_weights)
    rows = np.ones(len(targets)) if row_weights is None else row_weights
    if not rows.all():  # a class of rows without weight would have no finite bias
        counted = np.flatnonzero(rows)
        vectors, targets, rows = vectors[counted], targets[counted], rows[counted]
    fit = _one_vs_rest if job.task == "multilabel" else _multinomial
    with warnings.catch_warnings():  # of the process, its threads too
        warnings.simplefilter("ignore", ConvergenceWarning)
        coefficients, bias, is_done = fit(
            vectors, targets, weights, rows, options, num_threads(job)
        )
    slow = f"the linear model did not converge in {MAX_ITERATIONS} iterations; lower model.C"
    return LinearModel.of(vectorizer, coefficients, bias), [] if is_done else [slow]


def num_threads(job: TrainJob) -> int:
    """Return the number of threads that fit labels: `scaling.cpus_per_worker`, or all CPUs."""
    cpus = job.scaling.cpus_per_worker
    if cpus != "auto":
        return max(1, int(cpus))
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def positive_weights(
    loss: LossSpec, targets: Floats, row_weights: Float64 | None = None
) -> Float64:
    """Return the (labels,) weights that a loss gives to the positives of each label."""
    assert isinstance(loss, PairLoss)
    counts = targets.sum(0) if row_weights is None else row_weights @ targets
    found = loss.weights(TrainLabels(counts.astype(float), len(targets)))
    return np.ones(targets.shape[1]) if found is None else found


def mean_loss(job: TrainJob, logits: Float32, targets: Float32, weights: Float64) -> float:
    """Return the mean weighted cross-entropy of rows: over labels the mean, or their sum.

    Args:
        job: The job.
        logits: (rows, labels).
        targets: (rows, labels), from 0 to 1.
        weights: From `positive_weights`.
    """
    from scipy.special import log_softmax

    x = logits.astype(np.float64)
    if job.task == "multiclass":
        return float(-(targets * weights * log_softmax(x, axis=1)).sum(1).mean())
    negative = np.logaddexp(0, x)
    return float((targets * weights * (negative - x) + (1 - targets) * negative).mean())


def _is_soft(targets: Float32) -> bool:
    return bool(((targets > 0) & (targets < 1)).any())


def _one_vs_rest(
    vectors: Any,
    targets: Float32,
    weights: Float64,
    row_weights: Float64,
    options: Mapping[str, Any],
    threads: int,
) -> tuple[Array, Array, bool]:
    """Fit each label by itself; liblinear releases Python's lock, so threads suffice.

    A row with a soft label is a positive and a negative one, in these shares.
    """
    from scipy.sparse import vstack
    from sklearn.linear_model import LogisticRegression

    rows, labels = targets.shape
    is_soft = _is_soft(targets)
    both = vstack([vectors, vectors], format="csr") if is_soft else vectors

    def fit(label: int) -> tuple[Array, float, bool]:
        own, tolerance = targets[:, label].astype(float), _TOLERANCE
        positive, negative = row_weights * own * weights[label], row_weights * (1 - own)
        share = float(np.average(own, weights=row_weights))
        if not positive.any() or not negative.any():
            share = float(np.clip(share, 0.5 / rows, 1 - 0.5 / rows))
            return np.zeros(vectors.shape[1], np.float32), float(np.log(share / (1 - share))), True
        truth, each = own > 0, positive + negative
        if is_soft:
            truth, each = np.arange(2 * rows) < rows, np.concatenate([positive, negative])
            # liblinear multiplies it by the share of the rarer class, here always a half.
            tolerance *= 2 * min(share, 1 - share)
        model = LogisticRegression(solver="liblinear", tol=tolerance, **options)
        model.fit(both, truth, each)
        is_done = bool((model.n_iter_ < options["max_iter"]).all())
        return model.coef_[0].astype(np.float32), float(model.intercept_[0]), is_done

    with ThreadPoolExecutor(threads) as pool:
        coefficients, bias, is_done = zip(*pool.map(fit, range(labels)), strict=True)
    return np.stack(coefficients), np.array(bias), all(is_done)


def _multinomial(
    vectors: Any,
    targets: Float32,
    weights: Float64,
    row_weights: Float64,
    options: Mapping[str, Any],
    threads: int,
) -> tuple[Array, Array, bool]:
    from sklearn.linear_model import LogisticRegression

    known = np.flatnonzero(targets.any(0))
    if len(known) == 1:  # all others have rows without weight only
        found, intercepts, is_done = np.zeros((1, vectors.shape[1])), np.zeros(1), True
    elif _is_soft(targets):
        weighted = targets[:, known] * weights[known] * row_weights[:, None]
        found, intercepts, is_done = _soft_multinomial(vectors, weighted, options)
    else:
        classes = targets.argmax(1)
        model = LogisticRegression(solver="lbfgs", **options)
        model.fit(vectors, classes, row_weights * weights[classes])
        found, intercepts = model.coef_, model.intercept_
        is_done = bool((model.n_iter_ < options["max_iter"]).all())
        if len(known) == 2:  # scikit-learn gives the log odds of the second class
            found, intercepts = np.stack([-found[0], found[0]]) / 2, _halves(intercepts)
    coefficients = np.zeros((targets.shape[1], vectors.shape[1]), np.float32)
    bias = np.full(targets.shape[1], intercepts.min() - _ABSENT)
    coefficients[known], bias[known] = found, intercepts
    return coefficients, bias, is_done


def _halves(log_odds: Array) -> Array:
    return np.array([-1, 1]) * log_odds / 2


def _soft_multinomial(
    vectors: Any, targets: Float64, options: Mapping[str, Any]
) -> tuple[Array, Array, bool]:
    """Minimise −Σ targets · log softmax + ‖weights‖² / 2C, as scikit-learn for one class a row.

    scikit-learn itself would need a copy of each row for each of its classes.

    Args:
        vectors: (rows, n-grams).
        targets: (rows, classes), times the weights of rows and classes.
        options: Those of LogisticRegression.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    shape, of_rows = (vectors.shape[1] + 1, targets.shape[1]), targets.sum(1, keepdims=True)
    # For two classes, scikit-learn has one vector of weights, the difference of these two.
    strength, total = options["C"] / (2 if shape[1] == 2 else 1), targets.sum()

    def loss(flat: Float64) -> tuple[float, Float64]:
        weights, bias = np.split(flat.reshape(shape), [shape[0] - 1])
        log_p = log_softmax(vectors @ weights + bias, axis=1)
        errors = of_rows * np.exp(log_p) - targets
        value = (weights**2).sum() / 2 / strength - (targets * log_p).sum()
        slopes = np.concatenate([vectors.T @ errors + weights / strength, errors.sum(0)[None]])
        return value / total, slopes.ravel() / total

    limits = {"maxiter": options["max_iter"], "gtol": 1e-4, "maxls": 50, "ftol": 1e-14}
    found = minimize(loss, np.zeros(np.prod(shape)), jac=True, method="L-BFGS-B", options=limits)
    weights, bias = np.split(found.x.reshape(shape), [shape[0] - 1])
    return weights.T, bias[0], found.nit < options["max_iter"]
