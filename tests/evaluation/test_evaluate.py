"""Metrics of a decision: cross-fitted on validation, with the plain ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clftask.components.decision.decision import DecisionSpec, cross_fitted
from clftask.components.labels import LabelSpace
from clftask.components.metrics import with_plain
from clftask.config.train import TrainJob
from clftask.evaluation.evaluate import Labelled, decide

KINDS = {
    "multilabel": {"kind": "list", "column": "y"},
    "multiclass": {"kind": "class", "column": "y"},
}
NAMES = ("a", "b", "c")


def job(task: str, *overrides: str) -> TrainJob:
    data = {"train": "/t.csv", "text": "text", "labels": KINDS[task]}
    document = {"task": task, "data": data, "model": {"base": "pkg://some_package/model"}}
    return TrainJob.load(document, overrides)


def rows(task: str, count: int = 200, seed: int = 0) -> Labelled:
    random = np.random.default_rng(seed)
    classes = random.integers(0, 3, count)
    targets = np.eye(3, dtype=np.float32)[classes]
    if task == "multilabel":
        targets = np.maximum(targets, (random.random((count, 3)) < 0.2).astype(np.float32))
    logits = 6 * targets - 5 + random.normal(0, 4, (count, 3))
    return Labelled(logits.astype(np.float32), targets)


def figures(task: str, *overrides: str, **more: Any) -> dict[str, Any]:
    splits = {"validation": rows(task), "test": rows(task, seed=1), **more}
    return decide(job(task, *overrides), LabelSpace(task, NAMES), splits).content


def test_multilabel_figures_stand_beside_the_plain_ones():
    found = figures("multilabel", "training.metric=macro_f1")
    metrics = found["metrics"]["test"]
    assert {"macro_f1", "macro_f1_at_0.5", "ece", "ece_uncalibrated", "classwise_ece"} <= set(
        metrics
    )
    assert metrics["macro_f1"] > metrics["macro_f1_at_0.5"]
    assert metrics["log_loss"] < metrics["log_loss_uncalibrated"]
    assert not {"map_at_0.5", "map_uncalibrated", "lrap_at_0.5"} & set(metrics)
    labels = found["per_label"]["test"]
    assert [row["label"] for row in labels] == list(NAMES)
    assert len({row["threshold"] for row in labels}) == 3


def test_nothing_is_plain_where_nothing_was_decided():
    metrics = figures("multilabel", "decision.calibration=none", "decision.threshold=0.5")[
        "metrics"
    ]
    assert not [name for name in metrics["test"] if "plain" in name or "_at_0.5" in name]
    assert all(plain is None for _, plain in with_plain(metrics["test"]).values())


def test_validation_metrics_are_cross_fitted():
    held_out = rows("multilabel")
    found = figures("multilabel")["metrics"]["validation"]
    probabilities, decided, _ = cross_fitted(
        DecisionSpec(), held_out.logits, held_out.targets, "multilabel", "micro"
    )
    hits = (decided & (held_out.targets > 0)).sum()
    assert found["micro_f1"] == pytest.approx(2 * hits / (decided.sum() + held_out.targets.sum()))
    assert found["brier"] == pytest.approx(((probabilities - held_out.targets) ** 2).mean())


def test_groups_of_the_split_are_folds_together():
    plain = rows("multilabel")
    grouped = Labelled(plain.logits, plain.targets, np.arange(200) // 50)
    a = figures("multilabel", validation=plain)["metrics"]
    b = figures("multilabel", validation=grouped)["metrics"]
    assert a["validation"]["log_loss"] != b["validation"]["log_loss"]
    assert a["test"] == b["test"]


def test_abstaining_trades_coverage_for_accuracy():
    found = figures("multiclass", "decision.abstain_below=0.8")
    metrics = found["metrics"]["test"]
    assert 0 < metrics["coverage"] < 1
    assert metrics["micro_precision"] > metrics["micro_precision_at_argmax"]
    assert metrics["accuracy"] < metrics["accuracy_at_argmax"]  # a row without a class is wrong
    matrix = np.array(found["confusion_matrix"]["test"])
    assert matrix.shape == (3, 4)
    assert matrix[:, 3].sum() == round((1 - metrics["coverage"]) * 200)


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_sets_are_measured_with_an_interval(task):
    found = figures(task, "decision.sets=conformal")
    for split in ("validation", "test"):
        metrics, (low, high) = found["metrics"][split], found["intervals"][split]["set_coverage"]
        assert low <= metrics["set_coverage"] <= high
        assert low <= 0.9 <= high
        assert 1 <= metrics["set_size"] < 3
    assert "set_coverage" not in figures(task)["metrics"]["test"]


def test_figures_by_length_where_lengths_are_known():
    plain = rows("multilabel")
    known = Labelled(plain.logits, plain.targets, num_tokens=np.arange(200))
    found = figures("multilabel", "model.max_length=64", validation=known)["by_length"]
    assert list(found) == ["validation"]
    assert [(b["from"], b["to"], b["truncated"]) for b in found["validation"]] == [
        (1, 32, 0),
        (33, 64, 0),
        (65, 128, 1),
        (129, 199, 1),
    ]


def test_multiclass_without_abstaining_has_a_square_matrix():
    matrix = np.array(figures("multiclass")["confusion_matrix"]["test"])
    assert matrix.shape == (3, 3)
    assert matrix.sum() == 200


def test_plain_values_by_metric():
    found = with_plain({"micro_f1": 0.6, "map": 0.7, "micro_f1_at_0.5": 0.5, "ece_uncalibrated": 1,
                        "ece": 0.1})  # fmt: skip
    assert found == {"micro_f1": (0.6, 0.5), "map": (0.7, None), "ece": (0.1, 1)}
