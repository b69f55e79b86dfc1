"""The limit of a cascade: its bound, the order of the tests, and the promise."""

from __future__ import annotations

import numpy as np
import pytest

from clftask.components.decision.cascade import (
    CascadeLimit,
    certainty,
    fit_limit,
    lower_bound,
    num_rows_to_compare,
)
from clftask.components.decision.decision import Decision


@pytest.mark.parametrize(
    ("agreed", "rows", "bound"),
    [
        (0, 0, 0.0),
        (0, 10, 0.0),
        (10, 10, 0.7411),  # 0.05 ** (1 / 10)
        (9, 10, 0.6058),  # Clopper and Pearson's table
        (299, 299, 0.9900),
        (298, 299, 0.9842),
    ],
)
def test_lower_bound(agreed, rows, bound):
    assert lower_bound(agreed, rows) == pytest.approx(bound, abs=1e-4)


@pytest.mark.parametrize(
    ("promised", "rows", "compared"),
    [(0.99, 10**7, 4_000), (0.99, 20_000, 2_000), (0.99, 500, 1_000), (0.95, 10**7, 800)],
)
def test_a_higher_promise_and_a_larger_corpus_need_more_rows(promised, rows, compared):
    assert num_rows_to_compare(promised, rows) == compared


# ------------------------------------------------------------------ certainty


def test_multiclass_certainty_is_the_highest_probability():
    found = certainty(np.array([[0.2, 0.7, 0.1], [0.5, 0.3, 0.2]]), Decision(), "multiclass")
    assert found.tolist() == [0.7, 0.5]


def test_multilabel_certainty_is_that_of_all_labels_relative_to_their_thresholds():
    decision = Decision(threshold=(0.5, 0.2))
    rows = np.array([[0.9, 0.2], [0.5, 0.5], [0.1, 0.5], [1.0, 0.0]], np.float32)
    # Odds of 0.5 are four times those of 0.2, so that label is right with 4 / 5.
    found = certainty(rows, decision, "multilabel")
    assert found == pytest.approx([0.9 * 0.5, 0.5 * 0.8, 0.9 * 0.8, 1.0], abs=1e-6)


# ------------------------------------------------------------------ the limit


def test_the_limit_is_the_lowest_that_passes_before_one_fails():
    rows = np.linspace(0, 1, 1001)
    agrees = rows >= 0.4
    found = fit_limit(0.95, rows, rows, agrees.__getitem__)
    # 0.38 is tested after 0.40: 621 rows with 20 that differ; 0.36 has 40 of 641.
    assert found.limit == pytest.approx(0.38)
    assert (found.rows, found.answered, found.agreed) == (1001, 621, 601)
    assert found.at_least == pytest.approx(0.9535, abs=1e-4)
    assert found.answers(np.array([0.37, 0.39])).tolist() == [False, True]
    assert str(found) == (
        "the small bundle answers 62% of 1,001 sampled rows, 96.78% of them with the labels of "
        "the large one; at least 0.95 in the corpus with 95 % confidence"
    )
    assert CascadeLimit.load(found.dump()) == found


def test_after_a_test_that_fails_no_lower_limit_is_tried():
    rows = np.linspace(0, 1, 1001)
    agrees = ~((rows > 0.6) & (rows < 0.65))  # at 0 again 95 % agree
    found = fit_limit(0.93, rows, rows, agrees.__getitem__)
    assert found.limit == pytest.approx(0.64, abs=0.02)


def test_without_a_limit_the_small_bundle_answers_nothing():
    rows = np.linspace(0, 1, 1001)
    found = fit_limit(0.99, rows, rows, lambda i: i % 10 > 0)
    assert (found.limit, found.answered, found.agreed) == (None, 501, 450)
    assert not found.answers(np.ones(3)).any()
    assert str(found) == (
        "the large bundle answers all rows: no limit reaches 0.99; the small one agrees on 450 of "
        "the 501 sampled rows with the most certain labels, at least 87.32% with 95 % confidence"
    )


@pytest.mark.parametrize("num_rows", [0, 1, 298])
def test_few_rows_show_nothing(num_rows):
    rows = np.linspace(0, 1, num_rows)
    found = fit_limit(0.99, rows[: num_rows // 4], rows, lambda i: np.ones(len(i), bool))
    assert found == CascadeLimit(promised=0.99, rows=num_rows)
    assert str(found).startswith("the large bundle answers all rows: no limit reaches 0.99, as ")
    assert "too few to tell" in str(found)


def test_the_promise_is_broken_in_at_most_five_of_a_hundred_samples():
    """Certainty u, agreement with probability 0.9 + 0.1 u: 0.97 holds above 0.4 exactly."""
    random = np.random.default_rng(0)
    limits = []
    for _ in range(300):
        rows = random.random(1250)
        agrees = random.random(1250) < 0.9 + 0.1 * rows
        limits.append(fit_limit(0.97, rows[:250], rows[250:], agrees[250:].__getitem__).limit)
    broken = sum(limit is not None and limit < 0.4 for limit in limits)
    assert broken <= 0.05 * 300
    assert sum(limit is not None for limit in limits) > 100
