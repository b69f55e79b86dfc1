"""The majority class beside accuracy and F1, and models that are not better."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.dummy import DummyClassifier

from clftask.components.decision.decision import Outcome
from clftask.components.labels import LabelSpace
from clftask.components.metrics import compute
from clftask.evaluation.baseline import majority_label, weaknesses, with_majority

CLASSES = LabelSpace("multiclass", ("no", "yes"), "yes")
TAGS = LabelSpace("multilabel", ("a", "b", "c"))


def figures(decided: Any, targets: Any, space: LabelSpace, majority: int) -> dict[str, float]:
    decided, targets = np.asarray(decided, bool), np.asarray(targets, np.float32)
    probabilities = np.where(decided, 0.9, 0.1).astype(np.float32)
    found = compute(probabilities, decided, targets, space.task, positive=space.positive_index)
    return with_majority(found, targets, majority, space)


def said(decided: Any, targets: Any, space: LabelSpace, majority: int = 0, **more: Any) -> str:
    decided = np.asarray(decided, bool)
    found = figures(decided, targets, space, majority)
    outcome = Outcome(np.zeros(decided.shape, np.float32), decided, None)
    return "\n".join(weaknesses(found | more, outcome, space, majority, "test"))


def test_the_majority_class_is_that_of_sklearn():
    true = np.array([0] * 6 + [1] * 4)
    given = np.array([0, 1] * 5)
    found = figures(np.eye(2)[given], np.eye(2)[true], CLASSES, 0)
    dummy = DummyClassifier(strategy="most_frequent").fit(true[:, None], true)
    constant = dummy.predict(true[:, None])
    expected = {
        "accuracy_majority": sk.accuracy_score(true, constant),
        "macro_f1_majority": sk.f1_score(true, constant, average="macro"),
        "micro_f1_majority": sk.f1_score(true, constant, average="micro"),
        "weighted_f1_majority": sk.f1_score(true, constant, average="weighted"),
        "f1_majority": 0.0,  # the positive class is never predicted
    }
    assert {n: v for n, v in found.items() if n.endswith("_majority")} == pytest.approx(expected)
    names = list(found)
    assert names.index("accuracy_majority") == names.index("accuracy") + 1


def test_multilabel_baseline_is_the_most_frequent_label():
    """Label a in each of 4 rows, true in 3; 5 labels are true: F1 2 · 3 / (4 + 5)."""
    targets = [[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]]
    found = figures(targets, targets, TAGS, 0)
    assert found["micro_f1_majority"] == pytest.approx(6 / 9)
    assert found["subset_accuracy_majority"] == 0.5
    assert found["macro_f1_majority"] == pytest.approx((6 / 7 + 0) / 2)  # c is absent


def test_the_majority_is_of_the_train_rows():
    targets = np.eye(2)[[0, 0, 0, 1]]
    data = {"report": {"label_counts": {"train": {"yes": 9, "no": 5}, "test": {"no": 99}}}}
    assert majority_label(data, CLASSES.names, targets) == 1
    assert majority_label({}, CLASSES.names, targets) == 0


def test_a_model_that_predicts_one_class_is_named_with_advice():
    assert said(np.eye(2)[[0, 0, 0]], np.eye(2)[[0, 0, 1]], CLASSES) == (
        "all rows of test are predicted as 'no'. "
        "Try a higher training.learning_rate or more epochs.\n"
        "ROC AUC on test is 0.5000, no better than chance (0.5). "
        "Check that texts and labels belong together."
    )


@pytest.mark.parametrize("space", [CLASSES, TAGS])
def test_rows_of_one_label_that_are_all_right_are_no_weakness(space):
    one = np.eye(len(space.names))[[1, 1, 1]]
    assert said(one, one, space) == ""
    wrong = np.roll(one, 1, axis=1)
    assert said(wrong, one, space).startswith("all rows of test are predicted as ")


def test_adamw_is_advised_where_another_optimizer_was_used():
    targets = np.eye(2, dtype=np.float32)[[0, 1]]
    outcome = Outcome(targets * 0, np.eye(2)[[0, 0]] > 0, None)
    (line,) = weaknesses({}, outcome, CLASSES, 0, "test", "sgd")
    assert line.endswith("more epochs, or training.optimizer: adamw.")


def test_a_multilabel_model_that_predicts_nothing_is_named():
    found = said(np.zeros((3, 3)), [[1, 0, 0], [0, 1, 0], [0, 0, 1]], TAGS)
    assert found.startswith("all rows of test are predicted without a label. ")


def test_a_class_model_that_abstains_from_all_rows_has_too_high_a_limit():
    found = said(np.zeros((3, 2)), np.eye(2)[[0, 1, 1]], CLASSES)
    assert found.startswith(
        "all rows of test are predicted without a label. Lower decision.abstain_below."
    )


def test_a_model_that_is_not_better_than_the_majority_is_named():
    true = np.eye(2)[[0, 0, 0, 1]]
    found = said(np.eye(2)[[0, 0, 1, 0]], true, CLASSES)
    assert "accuracy on test is only 0.5000; always predicting 'no' has 0.7500." in found
    assert said(np.eye(2)[[0, 0, 1, 1]], true, CLASSES).startswith("accuracy on test is only 0.75")
    assert said(np.eye(2)[[0, 0, 0, 1]], true, CLASSES) == ""


def test_a_ranking_below_chance_is_named():
    true = np.eye(2)[[0, 0, 0, 1]]
    found = said(true, true, CLASSES, roc_auc_macro=0.43)
    assert found.startswith("ROC AUC on test is 0.4300, no better than chance (0.5).")
    assert said(true, true, CLASSES, roc_auc_macro=None) == ""
