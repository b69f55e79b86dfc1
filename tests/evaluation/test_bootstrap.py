"""Bootstrap intervals: of rows, of groups, and of differences."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from clftask.evaluation.bootstrap import bootstrap, figures_of, headline, interval, label_f1


def rows(count: int, right: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return decided and true classes, of which a share agrees."""
    random = np.random.default_rng(seed)
    true = np.eye(3)[random.integers(0, 3, count)]
    is_right = random.random(count) < right
    decided = np.where(is_right[:, None], true, np.roll(true, 1, axis=1)) > 0
    return decided, true


def test_figures_of_equal_weights_are_the_metrics():
    decided, true = rows(200, 0.7)
    weights = np.ones((1, 200), np.float32)
    found = {name: f(weights)[0] for name, f in figures_of(decided, true).items()}
    assert found == pytest.approx(
        {
            "accuracy": sk.accuracy_score(true, decided),
            "subset_accuracy": sk.accuracy_score(true, decided),
            "micro_f1": sk.f1_score(true, decided, average="micro"),
            "macro_f1": sk.f1_score(true, decided, average="macro"),
        }
    )


def test_a_weight_of_two_is_the_row_twice():
    decided, true = rows(50, 0.6)
    weights = np.random.default_rng(0).integers(0, 3, 50)
    again = np.repeat(np.arange(50), weights)
    found = label_f1(weights[None].astype(np.float32), decided.astype(np.float32), true)
    expected = sk.f1_score(true[again], decided[again], average=None)
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


def test_the_interval_of_a_share_is_the_binomial_one():
    """Accuracy 0.8 of 400 rows: ±1.96 · √(0.8 · 0.2 / 400) = ±0.039."""
    decided, true = rows(400, 0.8)
    share = (decided == (true > 0)).all(1).mean()
    low, high = headline(decided, true)["accuracy"]
    assert (share - low, high - share) == pytest.approx((0.039, 0.039), abs=0.008)


def test_intervals_hold_the_truth_about_95_times_in_100():
    held = 0
    for seed in range(100):
        low, high = headline(*rows(150, 0.75, seed))["accuracy"]
        held += low <= 0.75 <= high
    assert 88 <= held <= 100


def test_rows_that_come_in_groups_tell_less():
    decided, true = rows(40, 0.7)
    decided, true = np.repeat(decided, 10, axis=0), np.repeat(true, 10, axis=0)
    alone = np.diff(headline(decided, true)["accuracy"])[0]
    together = np.diff(headline(decided, true, np.repeat(np.arange(40), 10))["accuracy"])[0]
    assert together > 2.5 * alone  # √10 times in theory


def test_the_same_seed_draws_the_same_rows_and_blocks_change_nothing(monkeypatch):
    decided, true = rows(60, 0.7)
    figures = figures_of(decided, true)
    whole = bootstrap(figures, (60, 3))
    np.testing.assert_array_equal(whole["macro_f1"], bootstrap(figures, (60, 3))["macro_f1"])
    assert len(whole["macro_f1"]) == 1000
    monkeypatch.setattr("clftask.evaluation.bootstrap._BLOCK", 60 * 7)
    np.testing.assert_allclose(
        bootstrap(figures, (60, 3))["macro_f1"], whole["macro_f1"], rtol=1e-5
    )


def test_large_tables_get_fewer_resamples(monkeypatch):
    monkeypatch.setattr("clftask.evaluation.bootstrap._MAX_WORK", 60 * 3 * 250)
    decided, true = rows(60, 0.7)
    assert len(bootstrap(figures_of(decided, true), (60, 3))["accuracy"]) == 250


def test_interval_is_of_percentiles():
    assert interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))
    gaps = np.append(np.arange(1001.0), [np.nan] * 50)
    assert interval(gaps) == pytest.approx((25.0, 975.0))
    assert np.isnan(interval(np.full(3, np.nan))).all()


def test_macro_f1_of_resamples_is_that_of_sklearn_without_absent_labels():
    """Labels 3 and 4 never occur; label 3 is predicted once, so it is absent in some resamples."""
    decided, true = (np.pad(x, ((0, 0), (0, 2))) for x in rows(30, 0.7))
    decided[0, 3] = True
    weights = np.random.default_rng(0).integers(0, 3, (20, 30))
    found = figures_of(decided, true)["macro_f1"](weights.astype(np.float32))
    again = [np.repeat(np.arange(30), w) for w in weights]
    expected = [
        sk.f1_score(true[i], decided[i], average="macro", zero_division=np.nan) for i in again
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    low, high = headline(decided, true)["macro_f1"]
    whole = sk.f1_score(true, decided, average="macro", zero_division=np.nan)
    assert low <= whole <= high


def test_a_figure_that_is_undefined_has_no_interval():
    nothing = np.zeros((5, 2), bool)
    assert "macro_f1" not in headline(nothing, nothing)
    assert np.isnan(label_f1(np.ones((1, 5), np.float32), nothing, nothing)).all()


def test_positive_class_has_intervals():
    decided, true = rows(200, 0.7)
    found = headline(decided, true, positive=1)
    for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score),
                        ("f1", sk.f1_score)):  # fmt: skip
        low, high = found[name]
        assert low < score(true[:, 1], decided[:, 1]) < high
    assert "f1" not in headline(decided, true)
