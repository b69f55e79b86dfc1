"""Counts and what is computed from them, compared with scikit-learn."""

import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from clftask.components.counts import Counts, count, mean_of_defined, weighted
from clftask.components.metrics import DECIDED, METRICS, compute

AVERAGES = ("micro", "macro", "weighted", "samples")


def multilabel(seed, num_rows=40, num_labels=6):
    """Return decided and targets; one label never occurs, one is never predicted, one neither."""
    random = np.random.default_rng(seed)
    decided, targets = random.random((2, num_rows, num_labels)) < random.random(num_labels)
    targets[:, [-1, -3]] = decided[:, [-2, -3]] = False
    return decided, targets.astype(np.float32)


def multiclass(seed, num_rows=40, num_labels=6):
    """Return decided and targets; one class never occurs, and some rows get none."""
    random = np.random.default_rng(seed)
    true, found = random.integers(0, num_labels - 1, (2, num_rows))
    decided = np.eye(num_labels, dtype=bool)[found]
    decided[random.random(num_rows) < random.choice([0, 0.3])] = False
    return decided, np.eye(num_labels, dtype=np.float32)[true]


def of_sklearn(decided, targets, task):
    """Return the metrics of decisions by scikit-learn.

    Macro averages leave out labels whose ratio is not defined; elsewhere such a ratio is 0.
    """
    true = targets.astype(bool)
    averages = AVERAGES if task == "multilabel" else AVERAGES[:3]
    found = {}
    for average in averages:
        figures = sk.precision_recall_fscore_support(
            true, decided, average=average, zero_division=np.nan if average == "macro" else 0.0
        )
        names = (f"{average}_{name}" for name in ("precision", "recall", "f1"))
        found |= dict(zip(names, figures, strict=False))
    if task == "multilabel":
        shares = {"subset_accuracy": sk.accuracy_score, "hamming_loss": sk.hamming_loss}
        found["labels_absent"] = (~true & ~decided).all(0).sum()
        return found | {name: score(true, decided) for name, score in shares.items()}
    given = np.where(decided.any(1), decided.argmax(1), decided.shape[1])
    found["labels_absent"] = (~true & ~decided).all(0).sum()
    return found | {
        "accuracy": sk.accuracy_score(targets.argmax(1), given),
        "balanced_accuracy": sk.balanced_accuracy_score(targets.argmax(1), given),
        "mcc": sk.matthews_corrcoef(targets.argmax(1), given),
    }


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["multilabel", "multiclass"]),
    st.sampled_from([1, 2, 40]),
)
def test_metrics_of_decisions_are_those_of_sklearn(seed, task, num_rows):
    make = multilabel if task == "multilabel" else multiclass
    decided, targets = make(seed, num_rows)
    names = [name for name in (*METRICS[task], "labels_absent") if name in DECIDED]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that do not occur
        expected = of_sklearn(decided, targets, task)
    found = compute(decided, decided, targets, task, names)
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_f_of_labels_is_that_of_sklearn(beta):
    decided, targets = multilabel(0)
    by_label, by_row = count(decided, targets)
    sides = targets > 0, decided
    for undefined in (0.0, np.nan):
        options = {"beta": beta, "zero_division": undefined}
        expected = sk.fbeta_score(*sides, average=None, **options)
        np.testing.assert_allclose(by_label.f(beta, undefined), expected)
    expected = sk.fbeta_score(*sides, average="samples", beta=beta, zero_division=0.0)
    np.testing.assert_allclose(by_row.f(beta).mean(), expected)
    for average in ("micro", "macro"):
        expected = sk.fbeta_score(*sides, beta=beta, average=average, zero_division=np.nan)
        assert by_label.averaged_f(average, beta) == pytest.approx(expected)


def test_counts_of_weighted_rows_are_those_of_repeated_rows():
    decided, targets = multilabel(1)
    weights = np.random.default_rng(0).integers(0, 3, len(targets))
    found = weighted(weights[None].astype(np.float32), decided.astype(np.float32), targets)
    again = np.repeat(np.arange(len(targets)), weights)
    expected, _ = count(decided[again], targets[again])
    for name in ("true_positives", "predicted", "actual"):
        assert getattr(found, name).tolist() == [getattr(expected, name).tolist()]


def test_ratios_without_a_denominator_are_0():
    counts = Counts(np.array([0, 1]), np.array([0, 2]), np.array([0, 1]))
    assert counts.precision().tolist() == [0.0, 0.5]
    assert counts.recall().tolist() == [0.0, 1.0]
    assert counts.f().tolist() == [0.0, pytest.approx(2 / 3)]
    assert Counts(*np.zeros((3, 4))).averaged_f("micro") == 0.0
    assert np.isnan(Counts(*np.zeros((3, 4))).averaged_f("macro"))


def test_macro_averages_by_hand():
    """a: F1 2/3; b is only predicted: 0; c only occurs: 0; d does neither and is left out."""
    counts = Counts(np.array([1, 0, 0, 0]), np.array([2, 1, 0, 0]), np.array([1, 0, 3, 0]))
    assert counts.averaged_f("macro") == pytest.approx(2 / 9)
    assert mean_of_defined(counts.precision(np.nan)) == 0.25  # of a and b
    assert mean_of_defined(counts.recall(np.nan)) == 0.5  # of a and c
