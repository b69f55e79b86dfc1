"""Metrics and the positive class of a job: refused before the start where they do not exist."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.data.prepare import check_metric, prepare
from clftask.errors import ClftaskError, ConfigError, DataError, Problem

SPACE = {"training.learning_rate": {"kind": "choice", "values": [1e-4]}}
MULTILABEL = {"kind": "list", "column": "tags"}


def document(labels: dict[str, Any], metric: str = "micro_f1", train: str = "t.csv") -> Any:
    task = "multiclass" if labels["kind"] == "class" else "multilabel"
    data = {"train": train, "text": "text", "labels": labels}
    model = {"base": "pkg://some_package/model"}
    return {"task": task, "data": data, "model": model, "training": {"metric": metric}}


def problems(error: type[ClftaskError], run: Any) -> list[Problem]:
    with pytest.raises(error) as caught:
        run()
    return list(caught.value.problems)


def of_class(**fields: Any) -> dict[str, Any]:
    return {"kind": "class", "column": "label", **fields}


@pytest.fixture
def table(tmp_path):
    def make(classes: list[str]) -> str:
        rows = [{"text": f"text {i}", "label": classes[i % len(classes)]} for i in range(60)]
        path = tmp_path / "rows.csv"
        pd.DataFrame(rows).to_csv(path, index=False)
        return str(path)

    return make


@pytest.mark.parametrize(
    ("metric", "remedy"),
    [
        ("F1", "Set data.labels.positive to one of the two classes."),
        ("Macro_F1", "Did you mean macro_f1"),
        ("acuracy", "Did you mean accuracy"),
    ],
)
def test_a_misspelt_metric_has_a_remedy(metric, remedy):
    (problem,) = problems(ConfigError, lambda: TrainJob.load(document(of_class(), metric)))
    assert problem.path == "training.metric"
    assert problem.remedy.startswith(remedy)


# ------------------------------------------------------------------ k and the number of labels


@pytest.mark.parametrize("metric", ["precision_at_5", "ndcg_at_4"])
@pytest.mark.parametrize(
    "labels",
    [
        {**MULTILABEL, "names": ["a", "b", "c"]},
        {"kind": "indicators", "columns": ["a", "b", "c"]},
    ],
)
def test_k_above_the_known_labels_is_refused_with_the_job(labels, metric):
    (found,) = problems(ConfigError, lambda: TrainJob.load(document(labels, metric)))
    assert (found.path, found.value) == ("training.metric", metric)
    assert "precision_at_3" in found.allowed
    assert "_at_5" not in found.allowed
    assert found.remedy == "k must not exceed the number of labels, 3."
    TrainJob.load(document(labels, "precision_at_3"))
    search = {"train": document(labels), "metric": metric, "space": SPACE}
    (found,) = problems(ConfigError, lambda: TuneJob.load(search))
    assert (found.path, found.value) == ("metric", metric)


def test_k_above_the_labels_of_the_data_is_refused_when_they_are_read(toy_table):
    job = TrainJob.load(document(MULTILABEL, "precision_at_5", str(toy_table(120))))
    (found,) = problems(ConfigError, lambda: prepare(job))
    assert (found.path, found.value) == ("training.metric", "precision_at_5")
    assert found.allowed.startswith("must be one of loss, brier, ")
    assert "precision_at_3" in found.allowed
    assert "precision_at_5" not in found.allowed
    prepared = prepare(TrainJob.load(document(MULTILABEL, "precision_at_3", job.data.train)))
    (found,) = problems(ConfigError, lambda: check_metric("metric", "ndcg_at_9", prepared.space))
    assert found.path == "metric"


# ------------------------------------------------------------------ the positive class


def test_positive_class_reaches_the_label_space(table):
    job = TrainJob.load(document(of_class(positive="yes"), "f1", table(["no", "yes", "no"])))
    space = prepare(job).space
    assert (space.names, space.positive, space.positive_index) == (("no", "yes"), "yes", 1)
    assert TrainJob.load(job.dump()) == job


@pytest.mark.parametrize(("written", "name"), [(1, "1"), (True, "true"), ("1", "1")])
def test_positive_is_read_as_labels_are(written, name):
    assert TrainJob.load(document(of_class(positive=written))).data.labels.positive == name


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"positive": "maybe", "names": ["no", "yes"]}, "must be one of the labels: no, yes"),
        ({"positive": "yes", "names": ["no", "yes", "x"]},
         "is for two classes, and there are 3: no, yes, x"),
    ],
)  # fmt: skip
def test_positive_is_checked_with_the_job_where_labels_are_known(fields, allowed):
    (found,) = problems(ConfigError, lambda: TrainJob.load(document(of_class(**fields))))
    assert (found.path, found.value) == ("data.labels.positive", fields["positive"])
    assert found.allowed == allowed


@pytest.mark.parametrize(
    ("classes", "positive", "allowed"),
    [
        (["no", "yes"], "maybe", "must be one of the labels: no, yes"),
        (["a", "b", "c"], "a", "is for two classes, and there are 3: a, b, c"),
        (list("abcdefg"), "a", "is for two classes, and there are 7: a, b, c, d, e …"),
    ],
)
def test_positive_is_checked_with_the_data(table, classes, positive, allowed):
    job = TrainJob.load(document(of_class(positive=positive), "f1", table(classes)))
    (found,) = problems(DataError, lambda: prepare(job))
    assert (found.path, found.value) == ("data.labels.positive", positive)
    assert found.allowed == allowed


def test_positive_is_for_multiclass():
    (found,) = problems(
        ConfigError, lambda: TrainJob.load(document({**MULTILABEL, "positive": "a"}))
    )
    assert found.path == "data.labels.positive"
    assert found.allowed.startswith("is for labels of kind class")


@pytest.mark.parametrize("metric", ["f1", "precision", "recall", "roc_auc", "average_precision"])
def test_metrics_of_the_positive_class_need_one(metric):
    (found,) = problems(ConfigError, lambda: TrainJob.load(document(of_class(), metric)))
    assert found.path == "training.metric"
    assert found.remedy == "Set data.labels.positive to one of the two classes."
    assert TrainJob.load(document(of_class(positive="yes"), metric)).training.greater_is_better
    labels = of_class(positive="yes")
    search = {"train": document(labels), "metric": metric, "space": SPACE}
    assert TuneJob.load(search).goal.metric == metric
