"""The search job: what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from test_tune_job import (
    BATCH,
    HEAD,
    JOB,
    MLP,
    RATE,
    RATES,
    choice,
    job_with,
    problems,
    searching,
    training,
)

from clftask.config.tune import TuneJob

# ------------------------------------------------------------------ paths that are refused

NOT_SEARCHED = [
    *("data.text", "data.split.seed", "data", "task", "seed", "decision", "decision.threshold"),
    *("scaling", "scaling.workers", "run", "run.name", "tracking", "model", "training"),
    *("training.metric", "training.keep_checkpoints"),
]


@pytest.mark.parametrize("path", NOT_SEARCHED)
def test_what_all_trials_share_is_not_searched(path: str) -> None:
    (problem,) = problems(searching(path, {"kind": "choice", "values": [1, 2]}))
    assert problem.path == f"space.{path}"
    assert problem.allowed.startswith("cannot be searched: ")


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("training.learning_rat", "Did you mean learning_rate?"),
        ("training.lr", "Use training.learning_rate."),
        ("training.unheard", "Known fields: batch_size, compile, deterministic"),
        ("modell", "Did you mean model?"),
        ("trainig.learning_rate", "Did you mean training?"),
        ("loss.gamma", "Known fields: class_weights, kind"),
        ("model.head.hidden", "Known fields: bias, kind"),
        ("training.early_stopping.x", "Known fields: "),
    ],
)
def test_a_path_that_is_no_field_is_named(path: str, remedy: str) -> None:
    (problem,) = problems(searching(path, {"kind": "choice", "values": [0.5]}))
    assert (problem.path, problem.allowed) == (f"space.{path}", "is not a field of the job file")
    assert problem.remedy.startswith(remedy)


@pytest.mark.parametrize("path", ["", "a b", "training..epochs", ".loss", "loss[1].gamma"])
def test_a_path_that_is_none_is_named(path: str) -> None:
    (problem,) = problems(searching(path, BATCH))
    assert (problem.path, problem.allowed) == (f"space.{path}", "must be a dotted path of the job")


def test_a_path_below_a_value_is_refused() -> None:
    (problem,) = problems(searching("training.epochs.most", BATCH, scheduler="fifo"))
    assert problem.path == "space.training.epochs.most"
    assert problem.allowed == "epochs has no fields to override"


def test_a_path_within_another_is_refused() -> None:
    hidden = {"kind": "randint", "low": 16, "high": 65}
    (problem,) = problems(job_with(space={"model.head": HEAD, "model.head.hidden": hidden}))
    assert (problem.path, problem.allowed) == ("space.model.head.hidden", "is inside model.head")
    near = {"training.learning_rate": RATE, "training.head_learning_rate": RATE}
    assert TuneJob.load(job_with(space=near)).num_trials == 16


def test_all_wrong_paths_are_reported_at_once() -> None:
    found = problems(job_with(space={"seed": BATCH, "data.id": BATCH, "a b": BATCH, "loss": BATCH}))
    assert [p.path for p in found] == ["space.seed", "space.data.id", "space.a b"]


# ------------------------------------------------------------------ values that are refused

IMPOSSIBLE: list[tuple[str, dict[str, Any], str]] = [
    ("training.learning_rate", {"kind": "uniform", "low": 0, "high": 1}, "learning_rate"),
    ("training.warmup", {"kind": "uniform", "low": 0, "high": 1}, "warmup"),
    ("training.warmup", {"kind": "quniform", "low": 0.5, "high": 1, "q": 0.25}, "warmup"),
    ("training.batch_size", {"kind": "randint", "low": 0, "high": 9}, "batch_size"),
    ("training.batch_size", {"kind": "uniform", "low": 16, "high": 64}, "batch_size"),
    ("training.batch_size", {"kind": "quniform", "low": 16, "high": 18, "q": 0.5}, "batch_size"),
    ("training.optimizer", choice("adamw", "adam", "sgd"), "optimizer"),
    ("training.precision", {"kind": "grid", "values": ["fp32", "fp8"]}, "precision"),
    ("training.early_stopping", choice(None, {"patience": 0}), "early_stopping.patience"),
    ("training.hf", choice({}, {"seed": 3}), "hf.seed"),
]


@pytest.mark.parametrize("searcher", ["random", "optuna"])
@pytest.mark.parametrize(("path", "distribution", "field"), IMPOSSIBLE)
def test_values_that_no_training_job_takes_are_refused(
    path: str, distribution: dict[str, Any], field: str, searcher: str
) -> None:
    if searcher == "optuna" and distribution["kind"] == "grid":
        distribution = distribution | {"kind": "choice"}
    found = problems(searching(path, distribution, searcher=searcher))
    assert [p.path for p in found] == [f"space.training.{field}"]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (MLP | {"hidden": {"kind": "randint", "low": 0, "high": 9}}, "model.head.hidden"),
        (MLP | {"hidden": {"kind": "randint", "low": 9, "high": 70000}}, "model.head.hidden"),
        (MLP | {"dropout": {"kind": "uniform", "low": 0.5, "high": 1}}, "model.head.dropout"),
        (MLP | {"dropout": {"kind": "unifrom", "low": 0, "high": 0.5}}, "model.head.dropout"),
        (MLP | {"hiden": 3}, "model.head.hiden"),
        ("lniear", "model.head.kind"),
        (MLP | {"hidden": {"kind": "randint", "low": 9, "high": 9}}, "model.head.values"),
        ({"kind": "uniform", "low": 0, "high": 1}, "model.head.values"),
    ],
)
def test_wrong_values_within_a_choice_are_refused(value: Any, path: str) -> None:
    found = problems(searching("model.head", choice("linear", value), searcher="hyperopt"))
    assert [p.path for p in found] == [f"space.{path}"]


def test_values_at_odds_with_the_rest_of_the_job_are_refused() -> None:
    train = training(scaling={"workers": 2})
    (problem,) = problems(searching("training.batch_size", choice(16, 33), train=train))
    assert (problem.path, problem.value) == ("space.training.batch_size", 33)
    (problem,) = problems(searching("loss", choice("bce", "cross_entropy")))
    assert (problem.path, problem.value) == ("space.loss.kind", "cross_entropy")


WRONG_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"space": {}}, "space"),
    ({"space": {"loss": {"kind": "choise", "values": [1]}}}, "space.loss.kind"),
    ({"space": {"loss": {"values": ["bce"]}}}, "space.loss.kind"),
    ({"space": {"loss": {"kind": "choice"}}}, "space.loss.values"),
    ({"space": {"loss": choice("bce", "bce")}}, "space.loss.values"),
    ({"space": {"training.warmup": RATE | {"low": 2}}}, "space.training.warmup"),
    ({"trials": 0}, "trials"),
    ({"concurrency": 0}, "concurrency"),
    ({"concurrency": "all"}, "concurrency"),
    ({"time_budget": "2 hours"}, "time_budget"),
    ({"time_budget": 7200}, "time_budget"),
    ({"time_budget": "0h"}, "time_budget"),
    ({"time_budget": "99999999999d"}, "time_budget"),
    ({"storage_budget": "5 apples"}, "storage_budget"),
    ({"finalists": {"top": 0}}, "finalists.top"),
    ({"finalists": {"seeds": 0}}, "finalists.seeds"),
    ({"scheduler": "ahsa"}, "scheduler.kind"),
    ({"scheduler": {"kind": "asha", "reduction_factor": 1}}, "scheduler.reduction_factor"),
    ({"scheduler": {"kind": "asha", "grace": 1}}, "scheduler.grace"),
    ({"scheduler": {"kind": "pbt", "quantile": 0.6}}, "scheduler.quantile"),
    ({"searcher": "tpe"}, "searcher.kind"),
    ({"train": "/none.yaml"}, "/none.yaml"),
    ({"train": training(seed=-1)}, "train.seed"),
    ({"train": training(loss="cross_entropy")}, "train.loss.kind"),
    ({"train": training(training={"metric": "mcc"})}, "train.training.metric"),
    ({"run": {"resume": True}}, "run"),
    ({"metrics": "lrap"}, "metrics"),
    # Fields held against each other:
    ({"metric": "mcc"}, "metric"),
    ({"metric": "accurac"}, "metric"),
    ({"scheduler": {"kind": "asha", "grace_epochs": 5}}, "scheduler.grace_epochs"),
    ({"scheduler": {"kind": "median", "grace_epochs": 5}}, "scheduler.grace_epochs"),
    ({"searcher": "grid"}, "space.training.learning_rate"),
    ({"trials": 10_001}, "trials"),
    ({"searcher": "bohb"}, "scheduler.kind"),
    ({"searcher": "bohb", "scheduler": "hyperband"}, "scheduler.kind"),
    ({"scheduler": "bohb"}, "searcher.kind"),
    ({"scheduler": "bohb", "searcher": "optuna"}, "searcher.kind"),
    ({"scheduler": "pbt", "searcher": "optuna"}, "searcher.kind"),
    ({"scheduler": "pb2", "searcher": "hyperopt"}, "searcher.kind"),
    ({"scheduler": "pbt", "finalists": {"top": 1}}, "finalists"),
    ({"scheduler": "pb2", "finalists": {}}, "finalists"),
    ({"scheduler": "pbt", "space": {"training.batch_size": BATCH}}, "space.training.batch_size"),
    ({"scheduler": "pbt", "space": {"model.head": choice("linear")}}, "space.model.head"),
    ({"scheduler": "pb2", "space": {"training.warmup": choice(0, 0.1)}}, "space.training.warmup"),
    ({"searcher": "grid", "space": {"training.batch_size": BATCH}, "trials": 3}, "trials"),
    (
        {"space": {"training.batch_size": {"kind": "grid", "values": [8, 16]}}, "trials": 1},
        "trials",
    ),
    (
        {"searcher": "optuna", "space": {"loss": {"kind": "grid", "values": ["bce"]}}},
        "space.loss",
    ),
    (
        {"space": {"training.epochs": {"kind": "randint", "low": 1, "high": 4}}},
        "space.training.epochs",
    ),
    (
        {"space": {"model.max_length": {"kind": "randint", "low": 16, "high": 129}}},
        "space.model.max_length.kind",
    ),
]


@pytest.mark.parametrize(("fields", "path"), WRONG_FIELDS)
def test_a_job_refuses(fields: dict[str, Any], path: str) -> None:
    assert [p.path for p in problems(job_with(**fields))] == [path]


def test_the_metric_of_another_task_is_refused_with_those_of_this_one() -> None:
    (problem,) = problems(job_with(metric="balanced_accuracy"))
    assert problem.value == "balanced_accuracy"
    assert problem.allowed.startswith("must be one of loss, brier, classwise_ece, ece, ")


def test_every_wrong_value_of_a_list_is_reported() -> None:
    found = problems(searching("training.batch_size", {"kind": "choice", "values": [0, 16, -3]}))
    assert [(p.path, p.value) for p in found] == [
        ("space.training.batch_size", 0),
        ("space.training.batch_size", -3),
    ]


def test_one_wrong_value_of_a_range_is_reported() -> None:
    found = problems(searching("training.batch_size", {"kind": "randint", "low": -50, "high": 8}))
    assert [(p.path, p.value) for p in found] == [("space.training.batch_size", -50)]


def test_overrides_reach_into_the_space() -> None:
    overrides = ["space.training.learning_rate.low=1e-4", "space.training.batch_size.values=[8,16]"]
    job = TuneJob.load(job_with(space=RATES | {"training.batch_size": BATCH}), overrides)
    assert job.space["training.learning_rate"].dump() == RATE | {"low": 1e-4}
    assert job.space["training.batch_size"].values == (8, 16)
    more = ["space.training.batch_size={kind: randint, low: 8, high: 33}"]
    job = TuneJob.load(JOB, more)
    assert job.space["training.batch_size"].dump() == {"kind": "randint", "low": 8, "high": 33}
    assert JOB["space"] == RATES
    (problem,) = problems(JOB, "space.training.learning_rate=0.1")
    assert problem.path == "space.training.learning_rate"


def test_whole_numbers_of_a_quantised_range_are_whole() -> None:
    spread = {"kind": "quniform", "low": 8, "high": 64, "q": 8}
    job = TuneJob.load(searching("training.batch_size", spread))
    value = job.searched.params({"training.batch_size": 16.0})["training.batch_size"]
    assert (value, type(value)) == (16, int)


def test_all_errors_of_a_search_are_reported_at_once() -> None:
    space = {"training.epochs": {"kind": "randint", "low": 1, "high": 4}, "model.head": HEAD}
    scheduler = {"kind": "asha", "grace_epochs": 9}
    found = problems(job_with(space=space, scheduler=scheduler, searcher="grid"))
    assert [p.path for p in found] == [
        "space.training.epochs",
        "scheduler.grace_epochs",
        "space.training.epochs",
        "space.model.head[1].hidden",
    ]
