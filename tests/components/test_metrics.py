"""Metrics against values computed by hand, and against sklearn where we do not call it."""

import math

import numpy as np
import pytest
import sklearn.metrics as sk

from clftask.components import metrics
from clftask.components.decision.decision import Decision
from clftask.components.metrics import METRICS, compute, find, names_of, per_label

CASES = [(task, name) for task, named in METRICS.items() for name in named]


def array(rows):
    return np.array(rows, np.float32)


def value(name, task, probabilities, targets, decided=None, positive=None):
    probabilities, targets = array(probabilities), array(targets)
    if decided is None:
        decided = Decision().decide(probabilities, task)
    decided = np.array(decided, bool)
    return compute(probabilities, decided, targets, task, [name], positive)[name]


def random_case(task, num_rows=200, num_labels=7, seed=3):
    """Probabilities, targets that follow them, no ties; the last label has no positive."""
    rng = np.random.default_rng(seed)
    raw = rng.random((num_rows, num_labels))
    if task == "multilabel":
        targets = rng.random(raw.shape) < raw**2
        targets[:, -1] = False
        return raw.astype(np.float32), targets.astype(np.float32)
    probabilities = raw / raw.sum(1, keepdims=True)
    chosen = [rng.choice(num_labels - 1, p=p[:-1] / p[:-1].sum()) for p in probabilities]
    return probabilities.astype(np.float32), np.eye(num_labels, dtype=np.float32)[chosen]


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize(("task", "name"), CASES)
def test_is_finite_and_in_range(task, name):
    probabilities, targets = random_case(task)
    found = value(name, task, probabilities, targets)
    assert isinstance(found, float)
    lowest = -1 if name == "mcc" else 0
    highest = 2 if name in ("brier", "log_loss") else 1
    assert lowest <= found <= highest


@pytest.mark.parametrize(("task", "name"), CASES)
def test_is_best_when_all_is_right_and_sure(task, name):
    targets = np.eye(5)
    if task == "multilabel":
        targets = [[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [1, 0, 1, 0, 0], [0, 0, 0, 1, 1]]
    best = 0.0 if name in metrics.LOWER_IS_BETTER else 1.0
    expected = {"precision_at_3": 2 / 3, "precision_at_5": 2 / 5}.get(name, best)
    assert value(name, task, targets, targets) == pytest.approx(expected, abs=1e-6)


def undefined(found):
    return {name for name, v in found.items() if math.isnan(v)}


@pytest.mark.parametrize("task", METRICS)
def test_one_row_and_one_positive_are_enough(task):
    found = compute(array([[0.7, 0.3]]), np.array([[True, False]]), array([[1, 0]]), task)
    assert undefined(found) == {"roc_auc_macro"}  # no label has positives and negatives
    assert (found["macro_f1"], found["labels_absent"]) == (1.0, 1)


def test_no_positive_at_all_is_no_error():
    probabilities = array([[0.7, 0.2], [0.1, 0.3]])
    nothing = np.zeros((2, 2), np.float32)
    found = compute(probabilities, probabilities > 0.5, nothing, "multilabel")
    assert undefined(found) == {"macro_recall", "map", "roc_auc_macro"}
    assert (found["micro_f1"], found["macro_f1"], found["labels_absent"]) == (0.0, 0.0, 1)
    assert found["hamming_loss"] == 0.25


def test_macro_averages_are_undefined_where_all_labels_are_absent():
    nothing = np.zeros((2, 3), np.float32)
    found = compute(nothing, nothing > 0, nothing, "multilabel")
    macros = {"macro_precision", "macro_recall", "macro_f1"}
    assert undefined(found) == macros | {"map", "roc_auc_macro", "ndcg_at_3"}
    assert (found["micro_f1"], found["labels_absent"]) == (0.0, 3)


# ------------------------------------------------------------------ by hand


@pytest.mark.parametrize(
    ("name", "task", "probabilities", "targets", "expected"),
    [
        # bins of 0.9 and of 0.6: |1 − 1.8| + |2 − 1.2| over 4 rows
        ("ece", "multiclass", [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]],
         [[1, 0], [0, 1], [1, 0], [0, 1]], 0.4),
        # bins of 0.1, 0.8 (two pairs) and 0.3: 0.1 + 0.6 + 0.7 over 4 pairs
        ("ece", "multilabel", [[0.1, 0.8], [0.3, 0.8]], [[0, 1], [1, 0]], 0.35),
        # a probability of 1 belongs to the last bin
        ("ece", "multilabel", [[1.0, 0.95]], [[1, 0]], 0.475),
        # of 15 bins, 0.61 and 0.65 share one: |1 − 1.26| + 0.69 over 3 pairs
        ("ece", "multilabel", [[0.61, 0.65, 0.69]], [[1, 0, 0]], 0.95 / 3),
        ("brier", "multiclass", [[0.7, 0.3], [0.4, 0.6]], [[1, 0], [1, 0]], 0.45),
        ("brier", "multilabel", [[0.7, 0.2], [0.4, 0.6]], [[1, 0], [1, 1]], 0.1625),
        ("log_loss", "multiclass", [[0.5, 0.5], [0.25, 0.75]], [[1, 0], [1, 0]], 1.0397208),
        ("log_loss", "multilabel", [[0.5, 0.25]], [[1, 0]], 0.4904147),
        # predicted shares that sum to 1 do not make a multilabel table multiclass
        pytest.param("log_loss", "multilabel", [[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]],
                     [[1, 0, 0], [0, 1, 0]], 0.5655386),
        pytest.param("brier", "multilabel", [[0.5, 0.5]], [[1, 0]], 0.25),
        # the surest mistake costs −ln 1e-7, not infinity
        ("log_loss", "multiclass", [[0.0, 1.0]], [[1, 0]], 16.1180957),
        ("precision_at_1", "multilabel", [[0.9, 0.8, 0.1], [0.2, 0.3, 0.1]],
         [[1, 1, 0], [1, 0, 0]], 0.5),
        ("precision_at_3", "multilabel", [[0.9, 0.8, 0.7, 0.1]], [[0, 1, 0, 1]], 1 / 3),
        # gain 1/log2(3) of 1 + 1/log2(3)
        ("ndcg_at_3", "multilabel", [[0.9, 0.8, 0.7, 0.1]], [[0, 1, 0, 1]], 0.3868528),
        # a row without a true label is left out
        ("ndcg_at_3", "multilabel", [[0.9, 0.8, 0.7, 0.1], [0.9, 0.1, 0.1, 0.1]],
         [[0, 1, 0, 1], [0, 0, 0, 0]], 0.3868528),
        ("ndcg_at_3", "multilabel", [[0.9, 0.8, 0.1]], [[1, 1, 0]], 1.0),
        ("hamming_loss", "multilabel", [[0.9, 0.8, 0.1], [0.2, 0.3, 0.1]],
         [[1, 0, 0], [1, 0, 0]], 1 / 3),
        ("subset_accuracy", "multilabel", [[0.9, 0.8], [0.2, 0.3]], [[1, 1], [0, 1]], 0.5),
        ("accuracy", "multiclass", [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]],
         [[1, 0], [0, 1], [0, 1]], 2 / 3),
        # recalls 1 and 1/2; the third class does not occur
        ("balanced_accuracy", "multiclass",
         [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]],
         [[1, 0, 0], [0, 1, 0], [0, 1, 0]], 0.75),
        # label F1s: 2/3 and 1; the third label neither occurs nor is predicted
        ("macro_f1", "multilabel", [[0.9, 0.9, 0.1], [0.9, 0.1, 0.1]],
         [[1, 1, 0], [0, 0, 0]], 5 / 6),
        # the same with a third label that is predicted once: 0
        ("macro_f1", "multilabel", [[0.9, 0.9, 0.1], [0.9, 0.1, 0.6]],
         [[1, 1, 0], [0, 0, 0]], 5 / 9),
        # precisions 1/2 and 1; the third is never predicted
        ("macro_precision", "multilabel", [[0.9, 0.9, 0.1], [0.9, 0.1, 0.1]],
         [[1, 1, 0], [0, 0, 1]], 0.75),
        # recalls 1, 1 and 0
        ("macro_recall", "multilabel", [[0.9, 0.9, 0.1], [0.9, 0.1, 0.1]],
         [[1, 1, 0], [0, 0, 1]], 2 / 3),
        ("precision_at_3", "multilabel", [[0.9, 0.8, 0.1]], [[1, 1, 0]], 2 / 3),
        ("micro_f1", "multilabel", [[0.9, 0.9, 0.1], [0.9, 0.1, 0.1]],
         [[1, 1, 0], [0, 0, 0]], 0.8),
        # rows: 1, and 0 for the row without a true label
        ("samples_f1", "multilabel", [[0.9, 0.9, 0.1], [0.9, 0.1, 0.1]],
         [[1, 1, 0], [0, 0, 0]], 0.5),
        ("weighted_recall", "multilabel", [[0.9, 0.9], [0.1, 0.1], [0.1, 0.9]],
         [[1, 1], [0, 1], [1, 1]], 0.6),
    ],
)  # fmt: skip
def test_by_hand(name, task, probabilities, targets, expected):
    assert value(name, task, probabilities, targets) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("task", METRICS)
def test_f1_of_a_label_that_neither_occurs_nor_is_predicted_is_left_out(task):
    targets = [[1, 0], [1, 0]]
    assert value("macro_f1", task, [[0.9, 0.1], [0.8, 0.1]], targets) == 1.0
    found = value("macro_f1", task, [[0.9, 0.1], [0.1, 0.8]], targets)
    assert found == pytest.approx(1 / 3)  # the other label is predicted wrongly: 0


def test_map_and_auc_leave_out_labels_where_they_are_not_defined():
    probabilities = [[0.9, 0.2, 0.5], [0.1, 0.8, 0.5], [0.5, 0.3, 0.5]]
    targets = [[1, 0, 1], [0, 0, 1], [1, 0, 1]]
    assert value("map", "multilabel", probabilities, targets) == 1.0  # labels 0 and 2
    assert value("roc_auc_macro", "multilabel", probabilities, targets) == 1.0  # label 0


# ------------------------------------------------------------------ against sklearn


def test_agrees_with_sklearn_on_multiclass():
    probabilities, targets = random_case("multiclass")
    true, given = targets.argmax(1), np.minimum(probabilities.argmax(1), 5)
    classes = list(range(7))
    decided = np.eye(7)[given]
    expected = {
        "accuracy": sk.accuracy_score(true, given),
        "balanced_accuracy": sk.balanced_accuracy_score(true, given),
        "macro_f1": sk.f1_score(true, given, labels=classes, average="macro", zero_division=np.nan),
        "micro_f1": sk.f1_score(true, given, average="micro"),
        "log_loss": sk.log_loss(true, probabilities, labels=classes),
        "mcc": sk.matthews_corrcoef(true, given),
    }
    found = compute(probabilities, decided, targets, "multiclass")
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    matrix = sk.confusion_matrix(true, given, labels=classes).tolist()
    assert metrics.confusion_matrix(decided, targets) == matrix


def test_agrees_with_sklearn_on_multilabel():
    probabilities, targets = random_case("multilabel")
    has_label = targets.sum(1) > 0
    decided = probabilities > 0.5
    expected = {
        "hamming_loss": sk.hamming_loss(targets, decided),
        "subset_accuracy": sk.accuracy_score(targets, decided),
        "brier": sk.mean_squared_error(targets, probabilities),
        "ndcg_at_5": sk.ndcg_score(targets[has_label], probabilities[has_label], k=5),
        "log_loss": np.mean([sk.log_loss(t, p, labels=[0, 1]) for t, p in
                             zip(targets.T, probabilities.T, strict=True)]),
    }  # fmt: skip
    found = compute(probabilities, decided, targets, "multilabel")
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


# ------------------------------------------------------------------ labels


def test_per_label():
    decided = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], bool)
    targets = array([[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    assert per_label(decided, targets, ["a", "b", "c"]) == [
        {"label": "a", "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1},
        {"label": "b", "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2},
        {"label": "c", "precision": None, "recall": None, "f1": None, "support": 0},
    ]


def test_figures_of_a_label_that_is_never_predicted_or_never_occurs():
    missed, surplus = per_label(np.array([[0, 1]], bool), array([[1, 0]]), ["missed", "surplus"])
    assert missed == {"label": "missed", "precision": None, "recall": 0, "f1": 0, "support": 1}
    assert surplus == {"label": "surplus", "precision": 0, "recall": None, "f1": 0, "support": 0}


# ------------------------------------------------------------------ the positive class


def test_positive_class_by_hand():
    """Class 1: predicted in rows 1 and 2, true in rows 1 and 3."""
    probabilities = [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]]
    targets = [[1, 0], [0, 1], [1, 0], [0, 1]]
    names = ("precision", "recall", "f1", "average_precision", "roc_auc")
    found = [value(n, "multiclass", probabilities, targets, positive=1) for n in names]
    assert found == pytest.approx([0.5, 0.5, 0.5, (1 + 2 / 3) / 2, 0.75])
    assert value("recall", "multiclass", probabilities, targets, positive=0) == 0.5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("positive", [0, 1])
def test_positive_class_agrees_with_sklearn(seed, positive):
    random = np.random.default_rng(seed)
    p = random.random(30)
    true = (random.random(30) < [0.0, 0.1, 0.5, 0.9, 1.0][seed]).astype(int)
    probabilities, targets = np.stack([1 - p, p], 1), np.eye(2)[true]
    decided, given = np.eye(2)[(p > 0.5).astype(int)], (p > 0.5).astype(int)
    scores = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}
    options = {"pos_label": positive, "zero_division": 0.0}
    expected = {name: score(true, given, **options) for name, score in scores.items()}
    if 0 < true.sum() < 30:
        own = probabilities[:, positive]
        expected["roc_auc"] = sk.roc_auc_score(true == positive, own)
        expected["average_precision"] = sk.average_precision_score(true == positive, own)
    found = compute(array(probabilities), decided, targets, "multiclass", positive=positive)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_metrics_of_the_positive_class_need_one():
    assert find("f1", "multiclass") is None
    assert find("f1", "multiclass", has_positive=True) is not None
    assert "f1" in names_of("multiclass", 2, has_positive=True)
    assert not {"f1", "roc_auc"} & set(names_of("multiclass", 2))


def test_confusion_matrix_has_true_classes_as_rows():
    decided = np.eye(3)[[0, 1, 1, 2]]
    targets = np.eye(3)[[0, 0, 1, 0]]
    assert metrics.confusion_matrix(decided, targets) == [[1, 1, 1], [0, 1, 0], [0, 0, 0]]


# ------------------------------------------------------------------ names


def test_any_k_can_be_named():
    probabilities, targets = array([[0.9, 0.8, 0.1, 0.2]]), array([[0, 1, 0, 0]])
    found = compute(probabilities, targets, targets, "multilabel", ["precision_at_2"])
    assert found == {"precision_at_2": 0.5}
    assert find("precision_at_0", "multilabel") is None
    assert find("precision_at_2", "multiclass") is None
    assert find("samples_f1", "multiclass") is None


def test_k_is_at_most_the_number_of_labels():
    assert find("precision_at_3", "multilabel", 3) is not None
    assert find("precision_at_4", "multilabel", 3) is None
    assert find("ndcg_at_4", "multilabel", 3) is None
    names = ["precision_at_1", "precision_at_3", "ndcg_at_3"]
    assert [n for n in names_of("multilabel", 3) if "_at_" in n] == names
    found = compute(*(array([[0.9, 0.8, 0.1]]),) * 2, array([[1, 0, 0]]), "multilabel")
    assert {n: v for n, v in found.items() if "_at_" in n} == pytest.approx(
        {"precision_at_1": 1.0, "precision_at_3": 1 / 3, "ndcg_at_3": 1.0}
    )


def test_a_module_works_with_evaluate_and_no_network():
    import evaluate

    probabilities, targets = [[0.9, 0.4], [0.2, 0.3], [0.6, 0.7]], [[1, 1], [0, 0], [0, 1]]
    batched = metrics.module("micro_f1")
    batched.add_batch(predictions=probabilities[:2], references=targets[:2])
    batched.add_batch(predictions=probabilities[2:], references=targets[2:])
    assert batched.compute(threshold=0.35) == {"micro_f1": pytest.approx(6 / 7)}

    both = evaluate.combine([metrics.module("micro_f1"), metrics.module("subset_accuracy")])
    both.add_batch(predictions=probabilities, references=targets)
    assert both.compute() == pytest.approx({"micro_f1": 2 / 3, "subset_accuracy": 1 / 3})

    classes = metrics.module("accuracy", "multiclass")
    assert classes.compute(predictions=[[0.4, 0.3, 0.3]], references=[[1, 0, 0]]) == {
        "accuracy": 1.0
    }
    with pytest.raises(KeyError, match="f2 is not a multilabel metric"):
        metrics.module("f2")
