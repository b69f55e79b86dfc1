"""Estimates of searches, extrapolated from real steps; they write nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from clocks import Ticks
from typer.testing import CliRunner

from clftask.cli.estimate_summaries import tune_estimate
from clftask.cli.main import app
from clftask.config.tune import TuneJob
from clftask.data.prepare import Prepared, prepare, tokenise
from clftask.distributed.session import connected
from clftask.errors import JobError
from clftask.estimate.measure import Range, Workers
from clftask.estimate.trial_cost import Cost, _typical_batches, measure_cost, sampled
from clftask.estimate.tune import (
    Kind,
    Schedule,
    Search,
    costs_of,
    estimate,
    kinds_of,
    makespan,
    trials_of,
)
from clftask.models.tokenizers import load_tokenizer
from clftask.training.trainer import ClassifierTrainer
from clftask.tuning.trial_store import Evaluation, Trial

RATES = {"training.learning_rate": {"kind": "loguniform", "low": 1e-5, "high": 1e-3}}
SIZES = {"training.batch_size": {"kind": "choice", "values": [8, 16]}}
COST = Cost(first_s=3.0, start_s=2.0, epoch_s=10.0, publish_s=5.0)


def job(base: str = "pkg://some_package/model", epochs: int = 9, **fields: Any) -> TuneJob:
    data = {"train": "/d.csv", "text": "body", "labels": {"kind": "list", "column": "tags"}}
    train = {"task": "multilabel", "data": data, "model": {"base": base}}
    train["training"] = {"epochs": epochs, "batch_size": 16}
    return TuneJob.load({"train": train, "space": RATES} | fields)


def search_of(found: TuneJob, known: Any = (), concurrency: int = 2, gpus: float = 0.0) -> Search:
    """Return a search whose rows are read after 1 s, a process of which needs 4 s to start."""
    empty = Prepared({}, None, None, None, "")  # type: ignore[arg-type]
    return Search(found, empty, {}, Workers(1, 1, gpus), concurrency, 12345, 1.0, 4.0, known)


def schedule(found: TuneJob, known: Any = (), **options: Any) -> Schedule:
    search = search_of(found, known, **options)
    trials = trials_of(search)
    return Schedule(search, trials, dict.fromkeys(trials, COST))


def a_trial(number: int, epochs: int, state: Any = "running", **fields: Any) -> Trial:
    seen = tuple(Evaluation(epoch=i + 1, step=i, seconds=i, metrics={}) for i in range(epochs))
    picks = {"training.learning_rate": 1e-4}
    return Trial(
        number=number, picks=picks, params={}, seed=42, state=state, evaluations=seen, **fields
    )


# ------------------------------------------------------------------ kinds of trials


def test_trials_that_differ_in_rates_alone_cost_the_same() -> None:
    (kind,) = kinds_of(trials_of(search_of(job(trials=5))))
    assert kind.numbers == (0, 1, 2, 3, 4)
    assert str(kind) == "base pkg://some_package/model, max_length 128, batch_size 16"


def test_kinds_are_named_by_what_differs() -> None:
    space = SIZES | {"model.max_length": {"kind": "choice", "values": [64, 128]}}
    kinds = kinds_of(trials_of(search_of(job(space=space, searcher="grid"))))
    assert [(kind.fields, kind.numbers) for kind in kinds] == [
        ({"model.max_length": 64, "training.batch_size": 8}, (0,)),
        ({"model.max_length": 128, "training.batch_size": 8}, (1,)),
        ({"model.max_length": 64, "training.batch_size": 16}, (2,)),
        ({"model.max_length": 128, "training.batch_size": 16}, (3,)),
    ]


def test_where_a_searcher_decides_trials_are_drawn_and_known_ones_kept() -> None:
    search = job(space=RATES | SIZES, searcher="optuna", trials=6)
    picks = {"training.learning_rate": 1e-4, "training.batch_size": 0}
    found = trials_of(search_of(search, [Trial(number=2, picks=picks, params={}, seed=42)]))
    assert list(found) == [0, 1, 2, 3, 4, 5]
    assert (found[2].training.batch_size, found[2].training.learning_rate) == (8, 1e-4)
    assert {trial.training.batch_size for trial in found.values()} == {8, 16}


def test_kinds_that_were_not_measured_cost_the_mean_and_those_that_fail_are_left_out() -> None:
    sizes = {"training.batch_size": {"kind": "grid", "values": [1, 2, 3, 4]}}
    kinds = kinds_of(trials_of(search_of(job(space=sizes, searcher="grid"))))
    measured = [COST, None, replace(COST, epoch_s=20.0), Cost(reason="out of memory")]
    kinds = [replace(kind, cost=cost) for kind, cost in zip(kinds, measured, strict=True)]
    assert costs_of(kinds) == {0: COST, 1: Cost(3.0, 2.0, 15.0, 5.0), 2: measured[2]}


# ------------------------------------------------------------------ the time


def test_makespan_of_trials_in_order() -> None:
    assert makespan([3, 1, 1, 1, 4], 2) == 7
    assert makespan([3, 1, 1, 1, 4], 1) == 10
    assert makespan([3, 1, 1, 1, 4], 99) == 4
    assert makespan([], 3) == 0


def test_starts_trials_finalists_and_the_end_make_up_the_time() -> None:
    """A trial takes 92 s: two and a half rounds of two, and three rounds of finalists.

    Each phase and the end start processes, for 7 s.
    """
    search = job(trials=5, scheduler="fifo", finalists={"top": 3, "seeds": 2})
    found = schedule(search).estimate("/run")
    assert (found.trials_left, found.finalists_left) == (5, 6)
    assert found.epochs == Range(45, 45, 45)
    assert (found.start_s, found.search_s, found.finalists_s, found.publish_s) == (1, 237, 283, 12)
    # At most: no half round, 46 s more.
    assert found.seconds == Range(round(0.75 * 533, 1), 533.0, round(1.25 * 579, 1))
    # With 16 at a time: 1 + 7 + 92 + 7 + 92 + 12.
    assert found.by_concurrency[16] == 211.0
    assert list(found.by_concurrency) == [1, 2, 4, 8, 16]
    assert found.bytes_stored == 12345


def test_epochs_that_are_searched_count_one_by_one() -> None:
    space = {"training.epochs": {"kind": "grid", "values": [1, 2, 4]}}
    search = job(space=space, scheduler="fifo", searcher="grid", finalists=None)
    found = schedule(search, concurrency=1).estimate("/run")
    assert (found.epochs.typical, found.epochs.high) == (7, 7)
    assert (found.search_s, found.finalists_s) == (7 + 3 * 2 + 70, 0)


def test_a_scheduler_that_stops_trials_spends_less() -> None:
    found = schedule(job(trials=16, finalists=None))
    estimated = found.estimate("/run")
    assert estimated.epochs.high == 144
    assert estimated.epochs.typical == pytest.approx(58, abs=3)
    typical, most = found.search_s(2)
    assert typical == pytest.approx(7 + (16 * 2 + 10 * estimated.epochs.typical) / 2)
    assert most == 7 + 8 * 92
    assert found.search_s(16) == (99, 99)  # one trial at least trains all its epochs


def test_of_a_search_under_way_the_rest_counts() -> None:
    """One trial has ended, one was interrupted after two epochs, one finalist is done."""
    known = [
        a_trial(0, 4, "finished"),
        a_trial(1, 2),
        a_trial(2, 0, "failed"),
        a_trial(1, 4, "finished", is_finalist=True),
    ]
    search = job(trials=4, epochs=4, scheduler="fifo", finalists={"top": 1, "seeds": 3})
    found = schedule(search, known, concurrency=1)
    assert found.left == {1: 2.0, 3: 4.0}
    assert found.num_finalists == 2
    assert found.search_s(1) == (7 + 2 * 2 + 60, 7 + 2 * 2 + 60)


def test_trials_that_share_a_gpu_have_a_share_of_its_speed() -> None:
    search = job(trials=4, scheduler="fifo", finalists=None)
    assert schedule(search, gpus=0.5).search_s(2)[1] == 7 + 368
    assert schedule(search, gpus=1.0).search_s(2)[1] == 7 + 184


def test_a_time_budget_ends_the_search_but_no_finalists() -> None:
    search = job(trials=5, scheduler="fifo", finalists={"top": 1}, time_budget="79s")
    found = schedule(search).estimate("/run")
    assert (found.search_s, found.finalists_s, found.time_budget_s) == (79.0, 99.0, 79.0)
    assert found.seconds.typical == 1 + 79 + 99 + 12
    assert found.warnings == ("time_budget ends the search after 33% of its typical time",)
    assert schedule(job(trials=5, time_budget="1h")).estimate("/run").warnings == ()


def test_the_estimate_is_printed() -> None:
    search = job(trials=5, scheduler="fifo", finalists={"top": 3, "seeds": 2}, time_budget="1h")
    found, shown = schedule(search).estimate("/run"), io.StringIO()
    kind = Kind({"training.batch_size": 8}, (0, 1, 2, 3, 4), COST)
    tune_estimate(replace(found, kinds=(kind,), warnings=("[careful]",)), shown)
    lines = " ".join(shown.getvalue().split())
    for words in (
        "5 trials, batch_size 8: 10 s an epoch",
        "time, 2 trials at a time │ 0:06:40 to 0:12:04, typically 0:08:53",
        "5 trials on cpu │ 0:03:57, time_budget 1:00:00",
        "6 finalists │ 0:04:43",
        "on disk at most │ 12.3KB",
        "warning: [careful]",
    ):
        assert words in lines


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


def read(document: dict[str, Any]) -> Search:
    found = TuneJob.load(document)
    base = found.train.model.base
    tokenizers, prepared = {base: load_tokenizer(base)}, prepare(found.train)
    return Search(found, prepared, tokenizers, Workers(1, 1), 2, 12345, 1.0, 4.0)


def cost_of(search: Search, prepared: Prepared) -> Cost:
    train = search.job.train
    tokens = tokenise(search.prepared, search.tokenizers[train.model.base], train.model)
    return measure_cost(train, prepared, tokens, "cpu", Ticks())


def larger(prepared: Prepared, times: int) -> Prepared:
    tables = {split: pa.concat_tables([t] * times) for split, t in prepared.tables.items()}
    return replace(prepared, tables=tables)


def test_some_rows_are_sampled_of_a_large_table(search: dict[str, Any]) -> None:
    prepared = read(search).prepared
    large = larger(prepared, 50)
    some = sampled(large, batch_size=16).tables
    assert (some["train"].num_rows, some["validation"].num_rows) == (4_000, 500)
    assert len(set(some["train"]["_row"].to_pylist())) > 150
    assert sampled(large, batch_size=1_000).tables["train"].num_rows == 6_000
    assert sampled(prepared, batch_size=16).tables["train"].num_rows == 192


def test_steps_are_of_short_and_of_long_texts() -> None:
    lengths = [i % 100 + 1 for i in range(2_000)]
    table = pa.table({"length": pa.array(lengths, pa.int32())})
    found = _typical_batches(table, 20)["length"].to_pylist()
    assert len(found) == 120
    assert sum(found) / 120 == pytest.approx(50.5, abs=2)
    assert (min(found), max(found)) == (pytest.approx(9, abs=3), pytest.approx(92, abs=3))


def test_the_start_steps_evaluations_and_the_end_are_timed(search: dict[str, Any]) -> None:
    """A second each: the trainer, a step, an evaluation, the bundle; of 100 times the rows.

    The bundle evaluates 99 times as many rows of validation and test again.
    """
    asked = read(search)
    tables = asked.prepared.tables
    found = cost_of(asked, larger(asked.prepared, 100))
    assert (found.reason, found.first_s, found.start_s) == ("", 0.0, 1.0)
    assert found.epoch_s == pytest.approx(1_200 + 100)
    test_rows = tables["test"].num_rows / tables["validation"].num_rows
    assert found.publish_s == pytest.approx(1 + 99 + 99 * test_rows)


def test_trials_that_cannot_train_say_why(
    search: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no kernel for this device")

    monkeypatch.setattr(ClassifierTrainer, "training_step", fail)
    asked = read(search)
    found = cost_of(asked, asked.prepared)
    assert found.reason == "RuntimeError: no kernel for this device"
    with pytest.raises(JobError, match="no trial can train here"):
        estimate(asked, "/run", lambda line: None, Ticks())


def test_each_kind_is_measured_and_the_total_reported(search: dict[str, Any]) -> None:
    """Of 192 rows: 24 steps or 12 of a second each, and a second for the evaluation."""
    said: list[str] = []
    found = estimate(read(search), "/run", said.append, Ticks())
    costs = {kind.fields["training.batch_size"]: kind.cost for kind in found.kinds}
    assert {size: cost and cost.epoch_s for size, cost in costs.items()} == {8: 25.0, 16: 13.0}
    assert sum(len(kind.numbers) for kind in found.kinds) == found.trials_left == 6
    assert len(said) == 2
    assert (found.epochs.high, found.finalists_left, found.start_s) == (24, 3, 2.0)
    # Finalists: 4 s for their processes, two rounds of 4 epochs of the mean kind.
    numbers = {kind.fields["training.batch_size"]: len(kind.numbers) for kind in found.kinds}
    mean = (numbers[8] * 25 + numbers[16] * 13) / 6
    assert found.finalists_s == pytest.approx(4 + 2 * (1 + 4 * mean))


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
    result = run(search, tmp_path, "--estimate", "--json", "time_budget=10h")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found) == {
        "run", "trials_left", "finalists_left", "epochs", "kinds", "workers", "device",
        "concurrency", "start_s", "search_s", "finalists_s", "publish_s", "seconds",
        "by_concurrency", "time_budget_s", "bytes_stored", "storage_budget", "warnings",
        "not_measured",
    }  # fmt: skip
    # 10 336 weights: 2 checkpoints of each trial at a time, and weights of the finalists.
    weights, both = 10_336 * 4, found["concurrency"]
    assert found["bytes_stored"] == (both * 2 * 3 + (3 + both) + 1) * weights
    assert (found["run"], found["time_budget_s"]) == (str(tmp_path / "runs" / "search"), 36_000.0)
    for words in ("batch_size 8: ", "6 trials on cpu", "time_budget 10:00:00",
                  "writing the bundle", "not measured: "):  # fmt: skip
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
