"""Figures of where a classifier is right: by hand, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score

from clftask.components.decision.decision import Outcome
from clftask.evaluation import diagnostics
from clftask.evaluation.diagnostics import (
    Sample,
    abstention,
    average_precisions,
    by_length,
    largest_pairs,
    most_confused,
    precision_recall,
    replacements,
    surprises,
)


def rows(count: int, labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    targets = random.random((count, labels)) < 0.3
    scores = np.round(0.3 * targets + 0.7 * random.random((count, labels)), 2)  # with ties
    return scores.astype(np.float32), targets


def sample(probabilities: np.ndarray, targets: np.ndarray) -> Sample:
    outcome = Outcome(probabilities, probabilities > 0.5, None)
    return Sample.of(
        np.log(probabilities / (1 - probabilities + 1e-9) + 1e-9), outcome, targets, "multilabel"
    )


# ------------------------------------------------------------------ curves


def test_precision_and_recall_from_the_highest_score_down():
    found = precision_recall(np.array([0.7, 0.9, 0.6, 0.8]), np.array([1, 1, 0, 0]))
    assert found.recall.tolist() == [0.5, 1.0]
    assert found.precision == pytest.approx([1.0, 2 / 3])
    assert found.average == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_equal_scores_are_given_together():
    found = precision_recall(np.array([0.5, 0.5, 0.5]), np.array([1, 0, 0]))
    assert (found.recall.tolist(), found.precision.tolist()) == ([1.0], [1 / 3])


def test_average_precision_is_that_of_scikit_learn():
    scores, targets = rows(400, 4)
    found = average_precisions(sample(scores, targets))
    assert found == pytest.approx([average_precision_score(targets[:, i], scores[:, i])
                                   for i in range(4)])  # fmt: skip


def test_labels_without_positives_have_no_average_precision():
    scores, targets = rows(50, 2)
    targets[:, 1] = False
    first, second = average_precisions(sample(scores, targets))
    assert first is not None
    assert second is None
    assert len(precision_recall(scores[:, 1], targets[:, 1]).recall) == 0


def test_a_long_curve_has_few_points_spread_over_recall():
    scores = np.random.default_rng(0).random(5000)
    found = precision_recall(scores, np.random.default_rng(1).random(5000) < scores, 20)
    assert len(found.recall) == 20
    assert np.diff(found.recall).max() < 0.06
    assert found.recall[-1] == 1


def test_abstaining_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]], np.float32)
    targets = np.array([[1, 0], [0, 1], [0, 1]])
    covered, accuracy = abstention(probabilities, targets)
    at = {floor: (covered[round(100 * floor) - 1], accuracy[round(100 * floor) - 1])
          for floor in (0.01, 0.6, 0.61, 0.8, 0.95)}  # fmt: skip
    assert at[0.01] == at[0.6] == pytest.approx((1, 2 / 3))
    assert at[0.61] == pytest.approx((2 / 3, 1))
    assert at[0.8] == pytest.approx((1 / 3, 1))
    assert at[0.95][0] == 0
    assert np.isnan(at[0.95][1])


def test_a_sample_is_drawn_from_many_rows_and_keeps_few(monkeypatch):
    scores, targets = rows(100, 4)
    assert len(sample(scores, targets).targets) == 100
    monkeypatch.setattr(diagnostics, "MAX_PAIRS", 80)
    found = sample(scores, targets)
    assert found.targets.shape == found.decided.shape == found.plain.shape == (20, 4)
    assert found.num_rows == 100
    assert found.probabilities.tolist() == sample(scores, targets).probabilities.tolist()


# ------------------------------------------------------------------ confusions


def test_replacements_of_classes_are_the_confusion_matrix_without_its_diagonal():
    random = np.random.default_rng(0)
    true, given = random.integers(0, 4, (2, 300))
    eye = np.eye(4)
    found = replacements(eye[given].astype(bool), eye[true])
    expected = confusion_matrix(true, given)
    np.fill_diagonal(expected, 0)
    assert found.tolist() == expected.tolist()


def test_replacements_of_labels_by_hand():
    targets = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]])
    decided = np.array([[0, 1, 1], [0, 0, 1], [0, 0, 1]], bool)
    assert replacements(decided, targets).tolist() == [[0, 0, 2], [0, 0, 0], [0, 0, 0]]


def test_pairs_and_labels_that_are_confused_most():
    counts = np.array([[0, 5, 1], [0, 0, 0], [7, 0, 0]])
    assert largest_pairs(counts, 2) == [(2, 0, 7), (0, 1, 5)]
    assert largest_pairs(counts, 9) == [(2, 0, 7), (0, 1, 5), (0, 2, 1)]
    assert most_confused(counts, 2).tolist() == [0, 2]
    assert most_confused(np.zeros((3, 3)), 2).tolist() == []


# ------------------------------------------------------------------ single rows


def test_surprises_of_classes_are_those_of_the_true_one():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], np.float32)
    found = surprises(probabilities, np.array([[0, 1], [0, 1], [1, 0]]), "multiclass", 2)
    assert [(s.row, s.label) for s in found] == [(0, 1), (2, 0)]
    assert [s.loss for s in found] == pytest.approx([2.302585, 0.693147], rel=1e-5)


def test_surprises_of_labels_are_missing_ones_and_ones_too_many():
    probabilities = np.array([[0.9, 0.2], [0.6, 0.3], [0.4, 0.01]], np.float32)
    found = surprises(probabilities, np.array([[0, 0], [1, 0], [1, 1]]), "multilabel", 5)
    assert [(s.row, s.label) for s in found] == [(2, 1), (0, 0), (1, 0)]
    assert found[0].loss == pytest.approx(4.60517, rel=1e-4)


def test_surprises_are_found_block_by_block_and_stay_finite(monkeypatch):
    scores, targets = rows(50, 3)
    whole = surprises(scores, targets, "multilabel", 10)
    monkeypatch.setattr(diagnostics, "_BLOCK", 12)
    assert surprises(scores, targets, "multilabel", 10) == whole
    certain = surprises(np.array([[0.0]], np.float32), np.array([[1]]), "multilabel", 1)
    assert certain[0].loss == pytest.approx(16.118, abs=0.001)


# ------------------------------------------------------------------ lengths


def test_figures_by_length_are_those_of_the_rows_in_each_bin():
    scores, targets = rows(300, 3)
    decided = scores > 0.5
    num_tokens = np.random.default_rng(2).integers(5, 200, 300)
    found = by_length(num_tokens, decided, targets, 64)
    assert [(b["from"], b["to"]) for b in found[1:]] == [
        (found[0]["to"] + 1, 64),
        (65, 128),
        (129, int(num_tokens.max())),
    ]
    assert sum(b["rows"] for b in found) == 300
    assert [b["truncated"] for b in found] == [0, 0, 1, 1]
    for b in found:
        own = (num_tokens >= b["from"]) & (num_tokens <= b["to"])
        assert b["rows"] == own.sum() >= 30
        for average in ("micro", "macro"):
            expected = f1_score(targets[own], decided[own], average=average)
            assert b[f"{average}_f1"] == pytest.approx(expected)


def test_bins_with_few_rows_are_merged_with_their_neighbours():
    num_tokens = np.array([3] * 10 + [10] * 25 + [40] * 30 + [1000] * 10)
    decided = np.ones((75, 1), bool)
    found = by_length(num_tokens, decided, decided, 32)
    assert [(b["from"], b["to"], b["rows"]) for b in found] == [(1, 16, 35), (17, 1000, 40)]
    assert [b["truncated"] for b in found] == [0, 1]
    (one,) = by_length(num_tokens[:20], decided[:20], decided[:20], 4)
    assert one == {"from": 1, "to": 10, "rows": 20, "truncated": 0.5,
                   "micro_f1": 1.0, "macro_f1": 1.0}  # fmt: skip


def test_macro_f1_of_a_bin_is_that_of_its_rows():
    """The second label is predicted without occurring: 0. The third is absent: left out."""
    targets = np.array([[1, 0, 0]] * 40)
    (found,) = by_length(np.full(40, 5), np.array([[True, True, False]] * 40), targets, 8)
    assert found["macro_f1"] == 0.5
    assert found["micro_f1"] == pytest.approx(2 * 40 / 120)
