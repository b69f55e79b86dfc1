"""Prediction-powered shares: by hand, by the published formula, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest

from clftask.evaluation.prevalence import rows_to_halve, shares, wilson


def test_shares_by_hand():
    """Ten audited rows of a hundred: six have the label, of which the model finds four."""
    y = np.array([[1, 1, 1, 1, 1, 1, 0, 0, 0, 0]]).T
    p = np.array([[1, 1, 1, 1, 0, 0, 0, 0, 0, 0]]).T
    found = shares(y, p, np.array([0.3]), 100)
    assert not found.is_powered[0]  # four rows without the label
    assert found.powered.share[0] == found.sample.share[0] == 0.6
    y[5] = 0
    found = shares(y, p, np.array([0.3]), 100)
    # λ = Σ(y − 0.5)(p − 0.4) / Σ(p − 0.4)² = 2.0 / 2.4; its errors are 1/6 four times, 1, and 0.
    power = 2.0 / 2.4
    errors = np.array([1 - power] * 4 + [1] + [0] * 5)
    share = power * 0.3 + errors.mean()
    # To the normal variance, z² · 0.9 · var / 10, what Wilson's intervals of a rate of 1/10, of
    # missed rows, and of 0, of false alarms of size λ, have more than their own.
    missed, none = wilson(np.array([0.1]), 0.09), wilson(np.array([0.0]), 0.09)
    normal, own = 3.841459 * 0.09 * errors.var(), 3.841459 * 0.09 * 0.1 * 0.9
    below = normal + (0.1 - missed.low[0]) ** 2 - own + (power * none.high[0]) ** 2
    above = normal + (missed.high[0] - 0.1) ** 2 - own
    assert none.high[0] == pytest.approx(0.2569, abs=1e-4)
    assert found.is_powered[0]
    assert found.powered.share[0] == pytest.approx(share) == pytest.approx(0.4166667)
    assert found.powered.low[0] == pytest.approx(share - np.sqrt(below))
    assert found.powered.high[0] == pytest.approx(share + np.sqrt(above))
    width = np.sqrt(below) + np.sqrt(above)
    alone = found.sample.high[0] - found.sample.low[0]
    assert found.worth[0] == pytest.approx(10 * (alone / width) ** 2)


def test_shares_of_many_rows_are_those_of_the_published_formula():
    """As ppi_mean_ci of ppi_py, which adds the variance of p over the unlabelled rows / N."""
    random = np.random.default_rng(3)
    q = random.beta(0.4, 0.8, 1_000_000)
    y, p = random.random(len(q)) < q, q**1.5
    found = shares(y[:2_000, None], p[:2_000, None], p[2_000:].mean(keepdims=True), len(q) - 2_000)
    labels, audited, others = y[:2_000], p[:2_000], p[2_000:]
    pooled = np.concatenate([audited, others]).var(ddof=1)
    power = np.cov(labels, audited)[0, 1] / ((1 + 2_000 / len(others)) * pooled)
    power = min(max(power, 0), 1)
    share = power * others.mean() + (labels - power * audited).mean()
    error = np.sqrt(
        power**2 * others.var() / len(others) + (labels - power * audited).var() / 2_000
    )
    assert found.powered.share[0] == pytest.approx(share, abs=2e-4)
    assert (found.powered.high - found.powered.low)[0] / 2 == pytest.approx(1.96 * error, rel=0.01)


def population(random, num_rows):
    """Labels of four shares, and probabilities that are wrong in different ways."""
    q = random.beta([0.3, 0.5, 0.1, 2.0], [0.7, 3.0, 2.0, 1.0], (num_rows, 4))
    y = random.random(q.shape) < q
    p = np.stack([q[:, 0] ** 2, np.sqrt(q[:, 1]), q[:, 2] / 2, random.random(num_rows)], 1)
    return y, p.astype(np.float32)


@pytest.mark.parametrize(("num_rows", "num"), [(50_000, 400), (2_000, 500)])
def test_intervals_cover_the_true_share_where_the_naive_count_is_biased(num_rows, num):
    random = np.random.default_rng(11)
    y, p = population(random, num_rows)
    truth, mean, naive = y.mean(0), p.mean(0), (p > 0.5).mean(0)
    assert (np.abs(naive - truth) > 0.03).all()
    covered = {"sample": np.zeros(4), "powered": np.zeros(4)}
    widths = {"sample": np.zeros(4), "powered": np.zeros(4)}
    repeats = 2_000
    for _ in range(repeats):
        rows = random.choice(num_rows, num, replace=False, shuffle=False)
        found = shares(y[rows], p[rows], mean, num_rows)
        for name, interval in (("sample", found.sample), ("powered", found.powered)):
            covered[name] += (interval.low <= truth) & (truth <= interval.high)
            widths[name] += interval.high - interval.low
    for name, count in covered.items():
        assert ((count / repeats > 0.93) & (count / repeats < 0.97)).all(), name
    assert (widths["powered"][:2] < [0.8, 0.95] * widths["sample"][:2]).all()
    assert widths["powered"][3] < 1.02 * widths["sample"][3]  # random p: no help, no harm


@pytest.mark.parametrize(
    ("num", "share", "missed"),
    [(1_000, 0.02, 0.1), (1_000, 0.05, 0.05), (500, 0.1, 0.05), (300, 0.2, 0.03)],
)
@pytest.mark.parametrize("is_missed", [True, False])
def test_intervals_cover_the_true_share_where_few_errors_are_on_one_side(
    num, share, missed, is_missed
):
    """The audit has two to three errors of a good classifier, or none."""
    random = np.random.default_rng(23)
    y = random.random((20_000, 1)) < share
    p = np.where(y & (random.random(y.shape) > missed), 0.99, 0.001)
    if not is_missed:
        y, p = ~y, 1 - p
    truth, mean = y.mean(0), p.mean(0)
    covered = is_above = worth = 0.0
    for _ in range(1_000):
        rows = random.choice(len(y), num, replace=False, shuffle=False)
        found = shares(y[rows], p[rows], mean, len(y))
        covered += (found.powered.low <= truth) & (truth <= found.powered.high)
        is_above += truth > found.powered.high
        worth += found.worth / 1_000
    assert covered >= 930
    assert is_above <= 40
    assert worth > 2 * num


def test_rare_labels_stay_between_0_and_1():
    y = np.zeros((400, 3))
    y[:6, 1] = 1
    y[:, 2] = 1
    p = np.full((400, 3), 0.001, np.float32)
    p[:6, 1] = 0.99
    found = shares(y, p, np.array([0.0, 0.001, 0.999]), 1_000_000)
    assert (found.powered.low >= 0).all()
    assert (found.powered.high <= 1).all()
    assert (found.powered.low < found.powered.high).all()
    assert found.is_powered.tolist() == [False, True, False]
    # A label that was never seen has Wilson's interval: z² / (n + z²).
    assert found.powered.high[0] == pytest.approx(3.8415 / 403.8415, rel=1e-3)
    assert found.powered.low[2] == pytest.approx(400 / 403.8415, rel=1e-3)


def test_wilson_and_an_audit_of_all_rows():
    found = wilson(np.array([0.1]), 1 / 100)  # statsmodels: proportion_confint(10, 100, 0.05, …)
    assert (found.low[0], found.high[0]) == (
        pytest.approx(0.0552291, abs=1e-6),
        pytest.approx(0.1743657, abs=1e-6),
    )
    y = np.array([[1, 0] * 10]).T
    whole = shares(y, np.linspace(0, 1, 20)[:, None], np.array([0.5]), 20)
    assert whole.powered.low[0] == whole.powered.high[0] == pytest.approx(0.5)


def test_rows_that_halve_the_intervals():
    assert rows_to_halve(400, 10**9) == 1_200
    assert rows_to_halve(400, 1_600) == 515  # 1/915 − 1/1600 is a quarter of 1/400 − 1/1600
    assert rows_to_halve(400, 400) == 0
