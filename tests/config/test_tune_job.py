"""The search job: where its values come from, the trials that it gives, and what it allows."""

from __future__ import annotations

import copy
import itertools
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from clftask.config.train import TrainJob
from clftask.config.tune import Finalists, TuneJob
from clftask.errors import ConfigError, Problem

TRAIN: dict[str, Any] = {
    "task": "multilabel",
    "seed": 5,
    "data": {"train": "/d.csv", "text": "body", "labels": {"kind": "list", "column": "tags"}},
    "model": {"base": "pkg://some_package/model"},
    "training": {"epochs": 4, "metric": "macro_f1", "batch_size": 32},
}
RATE = {"kind": "loguniform", "low": 1e-5, "high": 1e-3}
RATES = {"training.learning_rate": RATE}
MLP = {"kind": "mlp", "hidden": {"kind": "randint", "low": 16, "high": 65}}
HEAD = {"kind": "choice", "values": ["linear", MLP]}
BATCH = {"kind": "choice", "values": [16, 32]}
JOB: dict[str, Any] = {"train": TRAIN, "space": RATES}


def job_with(**fields: Any) -> dict[str, Any]:
    return copy.deepcopy(JOB | fields)


def searching(path: str, distribution: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a job that searches one path."""
    return job_with(space={path: distribution}, **fields)


def choice(*values: Any) -> dict[str, Any]:
    return {"kind": "choice", "values": list(values)}


def training(**changes: Any) -> dict[str, Any]:
    """Return the training job with other sections."""
    return copy.deepcopy(TRAIN | changes)


def problems(job: Any, *overrides: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        TuneJob.load(job, overrides)
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


# ------------------------------------------------------------------ where values come from


def train_file(folder: Path, name: str = "train.yaml", **changes: Any) -> Path:
    file = folder / name
    file.write_text(TrainJob.load(TRAIN | changes).to_yaml())
    return file


def test_train_is_a_file_or_stands_inline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inline = TuneJob.load(JOB)
    assert (inline.train.training.epochs, inline.train.seed) == (4, 5)
    file = train_file(tmp_path)
    assert TuneJob.load(job_with(train=str(file))) == inline
    tune = tmp_path / "tune.yaml"
    tune.write_text(f"train: train.yaml\nspace: {{training.learning_rate: {RATE}}}\n")
    assert TuneJob.load("tune.yaml") == inline


@pytest.mark.parametrize("is_file", [True, False])
def test_overrides_reach_into_the_training_job(tmp_path: Path, is_file: bool) -> None:
    train = str(train_file(tmp_path)) if is_file else TRAIN
    overrides = ["train.training.epochs=2", "train.data.split.seed=9", "trials=3", "scheduler=fifo"]
    job = TuneJob.load(job_with(train=train), overrides)
    assert (job.train.training.epochs, job.train.data.split.seed) == (2, 9)
    assert (job.trials, job.scheduler.kind) == (3, "fifo")
    assert TuneJob.load(JOB, ["scheduler.grace_epochs=2"]).scheduler.dump() == {
        "kind": "asha",
        "grace_epochs": 2,
        "reduction_factor": 3,
    }


def test_an_override_may_name_another_training_job(tmp_path: Path) -> None:
    other = train_file(tmp_path, "other.yaml", seed=77)
    job = TuneJob.load(JOB, ["train.training.epochs=2", f"train={other}"])
    assert (job.train.seed, job.train.training.epochs) == (77, 2)


def test_mappings_that_are_loaded_are_left_alone() -> None:
    job = job_with(space={"model.head": HEAD}, scheduler="pbt")
    with pytest.raises(ConfigError):
        TuneJob.load(job, ["train.training.epochs=2"])
    assert job == job_with(space={"model.head": HEAD}, scheduler="pbt")


def test_what_a_job_is_that_says_little() -> None:
    job = TuneJob.load(JOB)
    assert (job.scheduler.kind, job.searcher.kind) == ("asha", "random")
    assert (job.trials, job.num_trials, job.concurrency) == (None, 16, "auto")
    assert (job.time_budget, job.storage_budget) == (None, None)
    assert job.finalists == Finalists(top=3, seeds=1)


@pytest.mark.parametrize(
    ("own", "of_train", "metric", "mode"),
    [
        (None, "macro_f1", "macro_f1", "max"),
        (None, "loss", "loss", "min"),
        ("hamming_loss", "macro_f1", "hamming_loss", "min"),
        ("ece", "macro_f1", "ece", "min"),
        ("lrap", "loss", "lrap", "max"),
        ("loss", "macro_f1", "loss", "min"),
        ("precision_at_5", "loss", "precision_at_5", "max"),
    ],
)
def test_the_metric_is_that_of_training_unless_said(
    own: str | None, of_train: str, metric: str, mode: str
) -> None:
    job = TuneJob.load(job_with(metric=own), [f"train.training.metric={of_train}"])
    assert (job.goal.metric, job.goal.mode) == (metric, mode)
    (picks,) = job.points()[:1]  # type: ignore[index]
    assert job.trial(picks).training.metric == metric


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        (" 1.5 h ", timedelta(minutes=90)),
        ("12d", timedelta(days=12)),
        ("1234567s", timedelta(days=14, hours=6, minutes=56, seconds=7)),
        ("0.5s", timedelta(milliseconds=500)),
    ],
)
def test_durations(text: str, duration: timedelta) -> None:
    job = TuneJob.load(job_with(time_budget=text))
    assert job.time_budget == duration
    assert TuneJob.load(job.dump()).time_budget == duration


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5_000_000_000), ("1GiB", 2**30), ("200MB", 200_000_000), (7, 7)]
)
def test_sizes(text: Any, size: int) -> None:
    job = TuneJob.load(job_with(storage_budget=text))
    assert job.storage_budget == size
    assert TuneJob.load(job.dump()).storage_budget == size


def test_searched_folders_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bases = {"kind": "choice", "values": ["./mine", "pkg://other_package/model", "some/hub-id"]}
    job = TuneJob.load(searching("model.base", bases))
    found = [job.trial({"model.base": pick}).model.base for pick in range(3)]
    assert found == [f"{tmp_path}/mine", "pkg://other_package/model", "some/hub-id"]


# ------------------------------------------------------------------ trials


def test_a_trial_is_the_training_job_with_other_values() -> None:
    space = {"training.learning_rate": RATE, "model.head": HEAD, "training.batch_size": BATCH}
    job = TuneJob.load(job_with(space=space, metric="lrap"))
    picks = {"training.learning_rate": 2e-4, "model.head": 1, "training.batch_size": 0}
    trial = job.trial(picks | {"model.head[1].hidden": 24}, seed=6)
    head = {"kind": "mlp", "hidden": 24}
    assert trial == TrainJob.load(
        training(
            seed=6,
            model={"base": "pkg://some_package/model", "head": head},
            training={"epochs": 4, "metric": "lrap", "batch_size": 16, "learning_rate": 2e-4},
        )
    )
    assert job.trial(picks | {"model.head": 0}).model.head.kind == "linear"
    assert job.trial(picks | {"model.head": 0}).seed == 5
    assert job.train.model.head.kind == "linear"


def test_picks_of_a_quantised_range_give_round_numbers() -> None:
    warmup = {"kind": "quniform", "low": 0, "high": 0.5, "q": 0.1}
    job = TuneJob.load(searching("training.warmup", warmup, trials=30))
    points = job.points()
    assert points is not None
    found = {job.trial(picks).training.warmup for picks in points}
    assert found == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5}
    assert job.num_trials == 6


def test_the_seed_of_the_training_job_decides_the_draws() -> None:
    first = TuneJob.load(JOB).points()
    assert first == TuneJob.load(JOB).points()
    assert first != TuneJob.load(JOB, ["train.seed=6"]).points()


def test_values_of_mixed_types_are_searched() -> None:
    rates = {"kind": "choice", "values": ["auto", 1e-3]}
    stopping = {"kind": "choice", "values": [None, {"patience": 2}]}
    space = {"training.head_learning_rate": rates, "training.early_stopping": stopping}
    job = TuneJob.load(job_with(space=space, searcher="grid"))
    trials = [job.trial(picks).training for picks in job.points() or ()]
    found = [(t.head_learning_rate, t.early_stopping and t.early_stopping.patience) for t in trials]
    assert found == [("auto", None), ("auto", 2), (1e-3, None), (1e-3, 2)]


def test_a_searcher_that_learns_has_no_points() -> None:
    job = TuneJob.load(job_with(searcher="optuna", trials=9))
    assert (job.points(), job.num_trials) == (None, 9)


# ------------------------------------------------------------------ round trip and identity


FULL = {
    "train": training(tracking=["tensorboard"], scaling={"workers": 2}),
    "space": {
        "training.learning_rate": RATE,
        "training.warmup": {"kind": "quniform", "low": 0, "high": 0.5, "q": 0.1},
        "training.early_stopping": {"kind": "choice", "values": [None, {"patience": 2}]},
        "training.batch_size": {"kind": "grid", "values": [16, 32]},
        "model.head": HEAD,
        "model.base": {"kind": "choice", "values": ["pkg://some_package/model", "/m"]},
    },
    "metric": "lrap",
    "trials": 8,
    "scheduler": {"kind": "median", "min_trials": 4},
    "concurrency": 2,
    "time_budget": "12d",
    "storage_budget": "5GB",
    "finalists": {"top": 2, "seeds": 2},
    "run": {"name": "mine", "storage": "s3://bucket/runs"},
}
BOHB = job_with(scheduler="bohb", searcher="bohb", finalists=None)


@pytest.mark.parametrize("document", [JOB, FULL, BOHB, job_with(scheduler="pbt")])
def test_to_yaml_is_read_back_as_the_same_job(document: Any, tmp_path: Path) -> None:
    job = TuneJob.load(document)
    file = tmp_path / "job.yaml"
    file.write_text(job.to_yaml())
    assert TuneJob.load(file) == job
    assert TuneJob.load(job.dump()) == job


FREE = [
    *("concurrency=3", "time_budget=2h", "storage_budget=5GB", "run.name=other"),
    *("train.run.name=other", "train.scaling.workers=2", "train.tracking=[tensorboard]"),
]
BOUND = [
    *("trials=3", "metric=lrap", "searcher=optuna", "finalists=null", "finalists.seeds=2"),
    *("scheduler=fifo", "scheduler.grace_epochs=2", "train.seed=6", "train.training.epochs=2"),
]


@pytest.mark.parametrize("override", FREE)
def test_identity_leaves_out_what_a_resumed_search_may_change(override: str) -> None:
    changed = TuneJob.load(JOB, [override])
    assert changed != TuneJob.load(JOB)
    assert changed.identity() == TuneJob.load(JOB).identity()


@pytest.mark.parametrize("override", BOUND)
def test_identity_holds_what_decides_the_trials(override: str) -> None:
    assert TuneJob.load(JOB, [override]).identity() != TuneJob.load(JOB).identity()


def test_identity_holds_the_space() -> None:
    wider = TuneJob.load(job_with(space={"training.learning_rate": RATE | {"high": 2e-3}}))
    assert wider.identity() != TuneJob.load(JOB).identity()


# ------------------------------------------------------------------ what is allowed


@pytest.mark.parametrize("scheduler", ["pbt", "pb2"])
def test_a_population_has_no_finalists_unless_they_are_asked_for(scheduler: str) -> None:
    assert TuneJob.load(job_with(scheduler=scheduler)).finalists is None
    assert TuneJob.load(job_with(scheduler={"kind": scheduler})).finalists is None
    assert TuneJob.load(JOB, [f"scheduler={scheduler}"]).finalists is None
    assert TuneJob.load(JOB, [f"scheduler.kind={scheduler}"]).finalists is None
    (problem,) = problems(JOB, f"scheduler={scheduler}", "finalists.top=2")
    assert (problem.path, problem.remedy) == ("finalists", "Set finalists: null.")


@pytest.mark.parametrize(
    "fields",
    [
        {"searcher": "grid", "space": {"training.batch_size": BATCH}, "trials": 2},
        {"scheduler": "fifo", "space": {"training.epochs": choice(1, 2)}},
        {"scheduler": {"kind": "asha", "grace_epochs": 4}},
        {"scheduler": "bohb", "searcher": "bohb"},
        {"scheduler": "pbt", "space": {"loss": choice("auto", "bce")}},
        {"scheduler": "hyperband", "searcher": "optuna"},
        {"space": {"model.max_length": choice(32, 64)}},
        {"space": {"training.batch_size": {"kind": "quniform", "low": 16, "high": 64, "q": 16}}},
        {"space": {"training.hf": choice({}, {"adam_beta1": 0.8})}},
        {"space": {"training.early_stopping.patience": {"kind": "randint", "low": 1, "high": 4}}},
        {"metric": "loss", "finalists": None},
    ],
)
def test_a_job_allows(fields: dict[str, Any]) -> None:
    assert TuneJob.load(job_with(**fields)).num_trials >= 2


def test_a_trial_keeps_its_workers() -> None:
    document = searching("training.learning_rate", {"kind": "loguniform", "low": 1e-5, "high": 1})
    with pytest.raises(ConfigError, match="a trial keeps its workers"):
        TuneJob.load(document, ["train.scaling.workers=[1, 2]"])
    with pytest.raises(ConfigError, match="the models of trials are whole") as caught:
        TuneJob.load(document, ["train.scaling={workers: 2, shard: fsdp}"])
    assert [problem.path for problem in caught.value.problems] == ["train.scaling.shard"]


def test_tokens_are_made_for_every_combination_of_listed_values() -> None:
    space = {
        "model.max_length": {"kind": "choice", "values": [16, 32]},
        "model.long_text": {"kind": "choice", "values": ["head", "head_tail", "windows"]},
        "model.base": {"kind": "grid", "values": ["one/base", "other/base"]},
    }
    document = searching("training.batch_size", BATCH)
    job = TuneJob.load(document | {"space": space})
    made = {model.tokens for model in job.token_models}
    names = list(space)
    combined = itertools.product(*(range(len(space[name]["values"])) for name in names))
    trials = [job.trial(dict(zip(names, picks, strict=True))) for picks in combined]
    assert {trial.model.tokens for trial in trials} == made
    assert len(made) == 12


def test_an_empty_path_of_the_training_job_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^job file: must be a readable job file"):
        TuneJob.load({"train": "", "space": {}})


def test_a_kind_that_is_no_text_is_a_value_of_a_choice() -> None:
    space = {"training.hf": {"kind": "choice", "values": [{"kind": []}]}}
    with pytest.raises(ConfigError, match=r"training\.hf\.kind"):
        TuneJob.load({"train": TRAIN, "space": space})


@pytest.mark.parametrize(
    ("searcher", "space", "expected"),
    [
        ("grid", {}, [("/a", 64, "linear")]),
        ("grid", {"model.adapt": ["head_only", "full"]}, [("/a", 64, "linear")]),
        ("grid", {"model.adapt": ["lora", "full"]}, []),
        (
            "grid",
            {"model.max_length": [32, 64], "model.head": ["linear", {"kind": "mlp", "hidden": 8}]},
            [("/a", n, head) for n in (32, 64) for head in ("linear", "mlp")],
        ),
        ("optuna", {"model.max_length": [32, 64]}, [("/a", 32, "linear"), ("/a", 64, "linear")]),
        ("optuna", {"model.max_length": [8, 16, 32, 64, 128]}, []),  # more than trials
    ],
)
def test_the_frozen_encoders_of_a_search_are_known(
    searcher: str, space: dict[str, Any], expected: list[Any]
) -> None:
    labels = {"kind": "list", "column": "tags"}
    model = {"base": "/a", "max_length": 64, "adapt": "head_only"}
    train = {"task": "multilabel", "data": {"train": "/t", "text": "text", "labels": labels}}
    kind = "grid" if searcher == "grid" else "choice"
    found = {path: {"kind": kind, "values": values} for path, values in space.items()}
    found["training.learning_rate"] = {"kind": kind, "values": [1e-3, 1e-2]}
    trials = {} if searcher == "grid" else {"trials": 4}
    document = {"train": {**train, "model": model}, "space": found, "searcher": searcher, **trials}
    frozen = TuneJob.load(document).frozen
    shown = [
        (t.transformer.base, t.transformer.max_length, t.transformer.head.kind) for t in frozen
    ]
    assert sorted(shown) == sorted(expected)
