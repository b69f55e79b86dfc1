"""What a search will take, and how it is learned: from real steps, with nothing written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from clftask.cli.main import app
from clftask.config.tune import TuneJob
from clftask.data.prepare import Prepared, prepare, tokenise
from clftask.distributed.session import connected
from clftask.errors import JobError
from clftask.estimate.kinds import kinds_of, spread, trials_of
from clftask.estimate.machine import WorkerResources
from clftask.estimate.spending import Plan, Search, makespan
from clftask.estimate.steps import Cost, _of_typical_steps, measure, sampled
from clftask.estimate.tune import _by_trial, estimate
from clftask.models.loading import load_tokenizer
from clftask.training.trainer import ClassifierTrainer
from clftask.tuning.trial_store import Evaluation, Trial

RATES = {"training.learning_rate": {"kind": "loguniform", "low": 1e-5, "high": 1e-3}}
SIZES = {"training.batch_size": {"kind": "choice", "values": [8, 16]}}
ASKED = WorkerResources(workers=1, cpus=1)


def job(base: str = "pkg://some_package/model", epochs: int = 9, **fields: Any) -> TuneJob:
    data = {"train": "/d.csv", "text": "body", "labels": {"kind": "list", "column": "tags"}}
    train = {"task": "multilabel", "data": data, "model": {"base": base}}
    train["training"] = {"epochs": epochs, "batch_size": 16}
    return TuneJob.load({"train": train, "space": RATES} | fields)


# ------------------------------------------------------------------ kinds of trials


def test_trials_that_differ_in_rates_alone_cost_the_same() -> None:
    (kind,) = kinds_of(trials_of(job(trials=5), []))
    assert kind.numbers == (0, 1, 2, 3, 4)
    assert kind.fields == {
        "model.base": "pkg://some_package/model",
        "model.max_length": 128,
        "training.batch_size": 16,
    }
    assert str(kind) == "base pkg://some_package/model, max_length 128, batch_size 16"


def test_kinds_are_told_by_what_differs() -> None:
    lengths = {"model.max_length": {"kind": "choice", "values": [64, 128]}}
    search = job(space=SIZES | lengths, searcher="grid")
    assert [(kind.fields, kind.numbers) for kind in kinds_of(trials_of(search, []))] == [
        ({"model.max_length": 64, "training.batch_size": 8}, (0,)),
        ({"model.max_length": 128, "training.batch_size": 8}, (1,)),
        ({"model.max_length": 64, "training.batch_size": 16}, (2,)),
        ({"model.max_length": 128, "training.batch_size": 16}, (3,)),
    ]


def test_where_a_searcher_decides_trials_are_drawn_and_known_ones_kept() -> None:
    search = job(space=RATES | SIZES, searcher="optuna", trials=6)
    picks = {"training.learning_rate": 1e-4, "training.batch_size": 0}
    known = [Trial(number=2, picks=picks, params={}, seed=42)]
    found = trials_of(search, known)
    assert list(found) == [0, 1, 2, 3, 4, 5]
    assert (found[2].training.batch_size, found[2].training.learning_rate) == (8, 1e-4)
    assert {trial.training.batch_size for trial in found.values()} == {8, 16}


def test_of_many_kinds_some_are_measured() -> None:
    sizes = {"training.batch_size": {"kind": "grid", "values": list(range(1, 23))}}
    kinds = kinds_of(trials_of(job(space=sizes, searcher="grid"), []))
    measured = [kind.job.training.batch_size for kind in spread(kinds)]
    assert measured == [1, 4, 7, 10, 13, 16, 19, 22]
    costs = [Cost(step_s=float(size), steps=10, evaluation_s=2.0) for size in measured]
    costs[-1] = Cost(reason="out of memory")
    found = _by_trial(kinds, spread(kinds), costs)
    assert found[3] == costs[1]
    assert found[4] == Cost(0.0, 10.0, 10, 2.0)  # the mean of those that can train
    assert found[21].reason == "out of memory"


# ------------------------------------------------------------------ what is left of a search


def plan(search: TuneJob, known: Any = (), concurrency: int = 2, **asked: Any) -> Plan:
    """Return a plan with 2 s to start a trial, 10 s an epoch, and a second to prepare."""
    trials = trials_of(search, [])
    asked_for = WorkerResources(**{"workers": 1, "cpus": 1, **asked})
    inside = Search(
        search, Prepared({}, None, None, None, ""), {}, asked_for, concurrency, 0, known
    )  # type: ignore[arg-type]
    costs = dict.fromkeys(trials, Cost(startup_s=2.0, step_s=1.0, steps=9, evaluation_s=1.0))
    return Plan(inside, trials, costs, 1.0)


def a_trial(number: int, epochs: int, state: Any = "running", **fields: Any) -> Trial:
    seen = tuple(Evaluation(epoch=i + 1, step=i, seconds=i, metrics={}) for i in range(epochs))
    return Trial(
        number=number, picks={}, params={}, seed=42, state=state, evaluations=seen, **fields
    )


def test_makespan_of_trials_in_order() -> None:
    assert makespan([3, 1, 1, 1, 4], 2) == 7
    assert makespan([3, 1, 1, 1, 4], 1) == 10
    assert makespan([3, 1, 1, 1, 4], 99) == 4
    assert makespan([], 3) == 0


def test_all_epochs_of_all_trials_and_finalists() -> None:
    found = plan(job(trials=5, scheduler="fifo", finalists={"top": 3, "seeds": 2}))
    assert found.counts() == {
        "trials": 5,
        "trials_left": 5,
        "finalists_left": 6,
        "epochs": {"at_most": 45, "typical": 45, "finalists": 54},
    }
    # A trial takes 92 s: three rounds of two, and three of finalists; half a round is not full.
    times = found.times(2)
    assert times["search_s"] == {"at_most": 276.0, "typical": 230.0}
    assert times["finalists_s"] == {"at_most": 276.0, "typical": 276.0}
    assert times["seconds"] == {"at_most": 553.0, "typical": 507.0}
    assert times["time_budget_s"] is None
    rows = found.by_concurrency()
    assert [row["concurrency"] for row in rows] == [1, 2, 4, 8, 16]
    assert rows[-1] == {"concurrency": 16, "at_most": 185.0, "typical": 185.0}


def test_epochs_that_are_searched_count_one_by_one() -> None:
    space = {"training.epochs": {"kind": "grid", "values": [1, 2, 4]}}
    search = job(space=space, scheduler="fifo", searcher="grid", finalists=None)
    found = plan(search, concurrency=1)
    assert found.counts()["epochs"] == {"at_most": 7, "typical": 7, "finalists": 0}
    assert found.times(1)["seconds"] == {"at_most": 77.0, "typical": 77.0}


def test_asha_spends_less() -> None:
    found = plan(job(trials=16, finalists=None))
    epochs = found.counts()["epochs"]
    assert epochs["at_most"] == 144
    assert epochs["typical"] == pytest.approx(58, abs=3)
    times = found.times(2)["search_s"]
    assert times["at_most"] == 8 * 92.0
    assert times["typical"] == pytest.approx((16 * 2 + 10 * epochs["typical"]) / 2, abs=1)
    assert found.times(16)["search_s"] == {"at_most": 92.0, "typical": 92.0}


def test_of_a_search_under_way_the_rest_counts() -> None:
    """One trial has ended, one has stood still after two epochs, one finalist is done."""
    known = [
        a_trial(0, 4, "finished"),
        a_trial(1, 2),
        a_trial(2, 0, "failed"),
        a_trial(1, 4, "finished", is_finalist=True),
    ]
    search = job(trials=4, epochs=4, scheduler="fifo", finalists={"top": 1, "seeds": 3})
    found = plan(search, known, concurrency=1)
    assert found.left == {1: 2.0, 3: 4.0}
    assert found.counts()["finalists_left"] == 2
    assert found.counts()["epochs"] == {"at_most": 6, "typical": 6, "finalists": 8}
    assert found.times(1)["search_s"]["at_most"] == 64.0


def test_trials_that_share_a_gpu_have_a_share_of_its_speed() -> None:
    search = job(trials=4, scheduler="fifo", finalists=None)
    assert plan(search, gpus=0.5).times(2)["search_s"]["at_most"] == 368.0
    assert plan(search, gpus=1.0).times(2)["search_s"]["at_most"] == 184.0


def test_a_time_budget_ends_the_search_but_no_finalists() -> None:
    search = job(trials=5, scheduler="fifo", finalists={"top": 1}, time_budget="115s")
    found = plan(search)
    assert found.times(2)["search_s"] == {"at_most": 115.0, "typical": 115.0}
    assert found.times(2)["finalists_s"]["at_most"] == 92.0
    assert found.times(2)["time_budget_s"] == 115.0
    assert found.warnings() == [
        "time_budget ends the search after 50% of what it would typically train"
    ]
    assert plan(search.model_copy(update={"time_budget": timedelta(hours=1)})).warnings() == []


# ------------------------------------------------------------------ real steps


@pytest.fixture
def search(toy_table: Any, tiny_base: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "train": {
            "task": "multilabel",
            "data": {
                "train": str(toy_table(240)),
                "text": "text",
                "labels": {"kind": "list", "column": "tags"},
                "split": {"kind": "column", "column": "split"},
            },
            "model": {"base": str(tiny_base), "max_length": 32},
            "training": {"epochs": 4, "batch_size": 16, "precision": "fp32"},
            "run": {"storage": str(tmp_path / "trained")},
        },
        "space": RATES | SIZES,
        "trials": 6,
        "run": {"storage": str(tmp_path / "runs"), "name": "search"},
    }


def read(document: dict[str, Any], asked: WorkerResources = ASKED) -> Search:
    found = TuneJob.load(document)
    base = found.train.model.base
    tokenizers = {base: load_tokenizer(base)}
    return Search(found, prepare(found.train), tokenizers, asked, 2, 12345)


def test_some_rows_are_sampled_of_a_large_table(search: dict[str, Any]) -> None:
    prepared = read(search).prepared
    many = {split: pa.concat_tables([table] * 50) for split, table in prepared.tables.items()}
    large = Prepared(many, prepared.space, prepared.report, prepared.rows, "")
    some = sampled(large, batch_size=16).tables
    assert {split: table.num_rows for split, table in some.items()} == {
        "train": 4_000,
        "validation": 500,
    }
    assert len(set(some["train"]["_row"].to_pylist())) > 150
    assert sampled(large, batch_size=1_000).tables["train"].num_rows == 6_000
    assert sampled(prepared, batch_size=16).tables["train"].num_rows == 192


def test_steps_are_of_short_and_of_long_texts() -> None:
    lengths = [i % 100 + 1 for i in range(2_000)]
    table = pa.table({"length": pa.array(lengths, pa.int32())})
    found = _of_typical_steps(table, 20)["length"].to_pylist()
    assert len(found) == 120
    assert sum(found) / 120 == pytest.approx(50.5, abs=2)
    assert (min(found), max(found)) == (pytest.approx(9, abs=3), pytest.approx(92, abs=3))


def test_steps_and_evaluations_are_timed(search: dict[str, Any]) -> None:
    asked = read(search)
    tokens = tokenise(asked.prepared, asked.tokenizers[asked.job.train.model.base],
                      asked.job.train.model)  # fmt: skip
    num_rows = {"train": 19_200, "validation": 2_400}
    before = {k: v.num_rows for k, v in tokens.items()}
    found = measure(asked.job.train, tokens, asked.prepared.space.names, num_rows, "cpu")
    assert found.reason == ""
    assert found.steps == 1_200
    assert 0 < found.step_s < 5
    assert found.evaluation_s > 0
    assert found.epoch_s == found.steps * found.step_s + found.evaluation_s
    assert found.startup_s > 0
    assert {k: v.num_rows for k, v in tokens.items()} == before


@pytest.fixture
def broken_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every training step fail."""

    def fail(*_: Any) -> None:
        raise RuntimeError("no kernel for this device")

    monkeypatch.setattr(ClassifierTrainer, "training_step", fail)


@pytest.mark.usefixtures("broken_training")
def test_trials_that_cannot_train_say_why(search: dict[str, Any]) -> None:
    asked = read(search)
    train = asked.job.train
    tokens = tokenise(asked.prepared, asked.tokenizers[train.model.base], train.model)
    num_rows = {"train": 192, "validation": 24}
    found = measure(train, tokens, asked.prepared.space.names, num_rows, "cpu")
    assert found.reason == "RuntimeError: no kernel for this device"
    assert found.epoch_s == 0


@pytest.mark.usefixtures("broken_training")
def test_a_search_in_which_none_can_train_is_no_estimate(search: dict[str, Any]) -> None:
    with pytest.raises(JobError, match="no trial can train here"):
        estimate(read(search), lambda line: None)


def test_each_kind_is_measured_and_the_whole_told(search: dict[str, Any]) -> None:
    said: list[str] = []
    found = estimate(read(search, WorkerResources(workers=2, cpus=1)), said.append)
    steps = {kind["fields"]["training.batch_size"]: kind["steps"] for kind in found["kinds"]}
    assert steps == {8: 24, 16: 12}
    assert sum(kind["trials"] for kind in found["kinds"]) == found["trials"] == 6
    assert len(said) == 2
    assert found["bytes_stored"] == 12345
    assert found["epochs"]["at_most"] == 24
    assert found["epochs"]["finalists"] == 12
    assert found["seconds"]["at_most"] >= found["seconds"]["typical"] > 0
    assert "how long the workers of a trial wait for each other" in found["not_measured"]


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with connected():
        yield


def run(document: dict[str, Any], folder: Path, *options: str) -> Any:
    file = folder / "tune.yaml"
    file.write_text(json.dumps(document))
    return CliRunner().invoke(app, ["tune", str(file), *options])


def problems(result: Any) -> list[dict[str, Any]]:
    assert result.exit_code == 2, result.output
    return list(json.loads(result.stdout.splitlines()[-1])["error"]["problems"])


def test_the_command_prints_the_estimate(
    search: dict[str, Any], tmp_path: Path, ray_here: None
) -> None:
    result = run(search, tmp_path, "--estimate", "--json", "time_budget=1s")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found) == {
        "storage", "trials", "trials_left", "finalists_left", "epochs", "kinds",
        "kinds_not_measured", "device", "cpus", "workers", "concurrency", "seconds", "prepare_s",
        "search_s", "finalists_s", "time_budget_s", "by_concurrency", "bytes_stored",
        "storage_budget", "warnings", "not_measured",
    }  # fmt: skip
    # 10 336 weights: 2 checkpoints of each trial at a time, and weights of the finalists.
    weights = 10_336 * 4
    both = found["concurrency"]
    assert found["bytes_stored"] == (both * 2 * 3 + (3 + both) + 1) * weights
    assert found["search_s"] == {"at_most": 1.0, "typical": 1.0}
    for words in (
        "training.batch_size",
        "epochs of 6 trials",
        "time_budget of the search",
        "warning: time_budget ends the search",
        "not measured: the start of workers",
    ):
        assert words in result.stderr
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "trained").exists()


@pytest.mark.parametrize(
    ("options", "path"),
    [
        (["--dry-run"], "--dry-run"),
        (["train.data.train=/no/such/table"], "train.data.train"),
        (["train.model.base=/no/such/model"], "train.model.base"),
        (["storage_budget=10kB"], "storage_budget"),
        (["run.storage=gs://bucket/runs"], "run.storage"),
    ],
)
def test_what_the_search_is_refused_for_is_refused(
    search: dict[str, Any], tmp_path: Path, ray_here: None, options: list[str], path: str
) -> None:
    found = problems(run(search, tmp_path, "--estimate", "--json", *options))
    assert [problem["path"] for problem in found] == [path]
    assert not (tmp_path / "runs").exists()
