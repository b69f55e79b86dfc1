"""From logits to probabilities to labels."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from clftask.decisions import Decision, probabilities_of

LN3 = math.log(3)


def test_multilabel_gives_what_is_above_the_threshold():
    probabilities = np.array([[0.5, 0.51, 0.1], [0.2, 0.3, 0.49]], np.float32)
    assert Decision().decide(probabilities, "multilabel").tolist() == [
        [False, True, False],
        [False, False, False],
    ]
    assert Decision(threshold=0.3).decide(probabilities, "multilabel").tolist() == [
        [True, True, False],
        [False, False, True],  # 0.3 itself is not above
    ]


def test_multiclass_gives_one_class_whatever_the_threshold():
    probabilities = np.array([[0.2, 0.5, 0.3], [0.3, 0.3, 0.4], [0.4, 0.4, 0.2]], np.float32)
    expected = [[False, True, False], [False, False, True], [True, False, False]]
    for threshold in (0.01, 0.5, 0.99):
        decision = Decision(threshold=threshold)
        assert decision.decide(probabilities, "multiclass").tolist() == expected


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_no_rows_are_no_error(task):
    nothing = np.zeros((0, 3), np.float32)
    decided = Decision().decide(probabilities_of(nothing, task), task)
    assert (decided.shape, decided.dtype) == ((0, 3), np.bool_)


@pytest.mark.parametrize(
    ("task", "logits", "expected"),
    [
        ("multilabel", [0.0, LN3, -LN3], [0.5, 0.75, 0.25]),
        ("multilabel", [1000.0, -1000.0, 0.0], [1.0, 0.0, 0.5]),
        ("multiclass", [0.0, LN3], [0.25, 0.75]),
        ("multiclass", [1000.0, 1000.0, -1000.0], [0.5, 0.5, 0.0]),
        ("multiclass", [5.0, 5.0, 5.0, 5.0], [0.25, 0.25, 0.25, 0.25]),
    ],
)
def test_probabilities_by_hand(task, logits, expected):
    found = probabilities_of(np.array([logits], np.float64), task)
    assert found.dtype == np.float32
    assert found[0].tolist() == pytest.approx(expected, abs=1e-7)


def test_threshold_is_a_probability():
    for wrong in (0, 1, -0.1, 1.5):
        with pytest.raises(ValidationError, match="threshold"):
            Decision(threshold=wrong)
