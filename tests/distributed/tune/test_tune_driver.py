"""Searches on real Ray Tune: outputs, placement groups, killed workers and drivers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import own_processes

from clftask.config.results import TuneResult
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.distributed.tune.driver import tune
from clftask.errors import ConfigError, JobError
from clftask.io import listing, storage
from clftask.models import bundle
from clftask.tuning.trial_store import Trial, TrialStore
from clftask.yaml_io import parse_yaml


@pytest.fixture
def document(toy_table, tiny_base, tmp_path) -> dict[str, Any]:
    return {
        "train": {
            "task": "multilabel",
            "data": {
                "train": str(toy_table(240)),
                "text": "text",
                "id": "id",
                "labels": {"kind": "list", "column": "tags"},
            },
            "model": {"base": str(tiny_base), "max_length": 32, "head": {"kind": "mlp"}},
            "training": {"epochs": 6, "batch_size": 16, "early_stopping": None},
            "run": {"storage": str(tmp_path / "trained")},
        },
        "space": {"training.learning_rate": {"kind": "loguniform", "low": 1e-4, "high": 5e-2}},
        "trials": 6,
        "run": {"storage": str(tmp_path / "runs"), "name": "search"},
    }


def run(document: dict[str, Any], *overrides: str, show: Any = None) -> TuneResult:
    job = TuneJob.load(document, overrides)
    return tune(job, lambda line: None, show or (lambda record: None))


def files(path: str) -> set[str]:
    return {f.path[len(path) + 1 :] for f in listing.list_files(path)}


def lives() -> int:
    """Return how many placement groups hold resources."""
    from ray.util import placement_group_table

    return sum(g["state"] != "REMOVED" for g in placement_group_table().values())


def test_search_ships_one_bundle_and_a_job_that_trains(ray_cluster, document, s3):
    """On S3; one learning rate makes the loss NaN."""
    rates = {"kind": "grid", "values": [1e-2, 1e30, 1e-3, 3e-2, 2e-4]}
    document |= {"space": {"training.learning_rate": rates}, "searcher": "grid", "trials": None}
    seen: list[dict[str, Any]] = []
    place = f"run.storage={s3.bucket}/searches"
    result = run(document, place, "finalists.top=2", show=seen.append)
    run_path = f"{s3.bucket}/searches/search"
    trials = TrialStore(run_path).all()
    assert [(t.number, t.seed) for t in trials if not t.is_finalist] == [(i, 42) for i in range(5)]
    assert sum(result.trials.values()) == 5
    assert result.trials["failed"] == 1
    assert (trials[1].state, "the loss is NaN or infinite" in trials[1].reason) == ("failed", True)
    assert [t.seed for t in trials if t.is_finalist] == [43, 43]
    assert result.best["seed"] == 43
    assert result.best["trial"] in [f["trial"] for f in result.finalists]
    assert set(result.best["metrics"]) == {"validation", "test"}
    assert files(run_path) == {
        "search.yaml", "split.parquet", "searched.json", "job.yaml", "trials.parquet",
        "report.html", "result.json",
        *(f"trials/{t.key}/trial.json" for t in trials),
        *(f"bundle/{name}" for name in files(f"{run_path}/bundle")),
    }  # fmt: skip
    meta = bundle.read_meta(result.bundle)
    winner = TrainJob.load(parse_yaml(storage.read_bytes(result.job).decode(), "job.yaml"))
    assert winner.identity() == TrainJob.load(meta.job).identity()
    assert winner.training.learning_rate == rates["values"][result.best["trial"]]
    assert (winner.seed, winner.run.name, winner.training.epochs) == (43, None, 6)
    assert {r["trial"] for r in seen} == set(range(5))
    assert lives() == 0
    again = run(document, place, "finalists.top=2", "run.resume=true")
    assert replace(again, seconds=0) == replace(result, seconds=0)
    with pytest.raises(ConfigError, match=r"run\.name: is taken"):
        run(document, place, "finalists.top=2")
    with pytest.raises(ConfigError, match=r"train\.training\.epochs: was 6 in the run \(found 2\)"):
        run(document, place, "finalists.top=2", "run.resume=true", "train.training.epochs=2")


@pytest.mark.slow
def test_population_of_two_workers_each_exploits_and_leaves_no_resources(ray_cluster, document):
    rates = {"kind": "choice", "values": [2e-2, 1e-6]}
    document |= {"space": {"training.learning_rate": rates}, "trials": 2, "scheduler": "pbt"}
    document["space"]["training.weight_decay"] = {"kind": "uniform", "low": 0.0, "high": 0.1}
    document |= {"searcher": "random"}
    options = ["train.scaling.workers=2", "train.scaling.cpus_per_worker=1"]
    result = run(document, *options, "scheduler={kind: pbt, quantile: 0.5}", "train.seed=1")
    trials = TrialStore(result.run).all()
    assert {t.state for t in trials} == {"finished"}
    assert all(t.evaluations[-1].epoch == 6 for t in trials)
    assert any(t.source_trial is not None for t in trials)
    best = trials[result.best["trial"]].best(TuneJob.load(document).goal)
    winner = TrainJob.load(parse_yaml(storage.read_bytes(result.job).decode(), "job.yaml"))
    rate = rates["values"][best.picks["training.learning_rate"]]
    assert rate == winner.training.learning_rate
    assert best.picks["training.weight_decay"] == winner.training.weight_decay
    assert lives() == 0
    names = files(result.run)
    assert not any(name.startswith("trials/") and "trial.json" not in name for name in names)


def test_a_trial_that_others_wait_for_may_end_by_itself(ray_cluster, document):
    """Sequential trials: the first pauses at the end of its bracket, the second stops early."""
    rates = {"kind": "grid", "values": [3e-4, 1e-30]}
    document |= {"space": {"training.learning_rate": rates}, "searcher": "grid", "trials": None}
    document["train"]["training"] |= {"epochs": 3, "early_stopping": {"patience": 1}}
    document["train"]["training"] |= {"metric": "loss", "precision": "fp32"}
    options = ["scheduler=hyperband", "finalists=null", "train.scaling.cpus_per_worker=2"]
    result = run(document, *options, "time_budget=60m")
    trials = TrialStore(result.run).all()
    assert [t.evaluations[-1].epoch for t in trials] == [3, 2]
    assert result.trials == {"done": 2, "stopped": 0, "failed": 0}
    assert result.seconds < 3600
    assert lives() == 0


def test_killed_worker_is_replaced_and_its_trial_resumes(ray_cluster, document):
    killed: list[int] = []

    def kill_once(record: dict[str, Any]) -> None:
        if record.get("epoch") == 3 and not killed:
            killed.append(_pids_of("ImplicitFunc")[0])
            os.kill(killed[0], signal.SIGKILL)

    options = ["scheduler=fifo", "finalists=null", "trials=2"]
    result = run(document, *options, show=kill_once)
    assert killed
    assert result.trials == {"done": 2, "stopped": 0, "failed": 0}
    for trial in TrialStore(result.run).all():
        assert [e.epoch for e in trial.evaluations] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_worker_beside_the_first_that_dies_is_not_the_trials_fault(ray_cluster, document):
    """Killed before the process group forms, and in mid-training."""
    killed: list[int] = []

    def kill(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    def kill_first() -> None:
        while not (found := _pids_of("ray::Member")):
            time.sleep(0.02)
        kill(found[0])

    def kill_later(record: dict[str, Any]) -> None:
        if record.get("epoch") == 3 and len(killed) == 1:
            kill(_pids_of("ray::Member")[0])

    options = ["scheduler=fifo", "finalists=null", "trials=1", "train.scaling.max_failures=2"]
    options += ["train.scaling.workers=2", "train.scaling.cpus_per_worker=1"]
    threading.Thread(target=kill_first, daemon=True).start()
    result = run(document, *options, show=kill_later)
    assert len(set(killed)) == 2
    assert result.trials == {"done": 1, "stopped": 0, "failed": 0}
    (trial,) = TrialStore(result.run).all()
    assert [e.epoch for e in trial.evaluations] == [1, 2, 3, 4, 5, 6]
    assert lives() == 0


def _pids_of(title: str) -> list[int]:
    return [process.pid for process in own_processes(title)]


@pytest.mark.slow
def test_time_budget_ends_with_the_best_so_far(ray_cluster, document):
    options = ["finalists=null", "scheduler=fifo", "trials=4000", "train.training.epochs=3"]
    for seconds in (45, 180, 540):  # until a trial has ended, however slow the machine is
        named = [f"time_budget={seconds}s", f"run.name=search-{seconds}"]
        with contextlib.suppress(JobError):
            result = run(document, *options, *named)
            break
    counts = result.trials
    assert 1 <= counts["done"] + counts["stopped"] < 4000
    assert storage.exists(result.bundle + "/clftask.json")


def test_time_budget_too_short_for_any_evaluation_loses_nothing(ray_cluster, document):
    options = ["finalists=null", "scheduler=fifo", "trials=2", "train.training.epochs=2"]
    with pytest.raises(JobError, match="time_budget ended before any evaluation"):
        run(document, *options, "time_budget=1s")
    result = run(document, *options, "time_budget=60m", "run.resume=true")
    assert result.trials == {"done": 2, "stopped": 0, "failed": 0}


IMPOSSIBLE = [
    ("training.precision", ["fp32", "fp16"], r"space\.training\.precision: needs a GPU"),
    ("training.hf.no_such_argument", [1, 2], r"space\.training\.hf.*no_such_argument"),
    ("model.max_length", [32, 4096], r"space\.model\.max_length: must be at most 128"),
]


@pytest.mark.parametrize(("path", "values", "message"), IMPOSSIBLE)
def test_what_no_trial_could_do_is_refused_and_nothing_is_written(
    ray_cluster, document, path, values, message
):
    document |= {"space": {path: {"kind": "choice", "values": values}}}
    with pytest.raises(ConfigError, match=message):
        run(document)
    assert not Path(document["run"]["storage"], "search").exists()


def test_search_in_which_all_fail_says_why(ray_cluster, document):
    space = {"training.learning_rate": {"kind": "choice", "values": [1e29, 1e30]}}
    document |= {"space": space, "trials": 2}
    with pytest.raises(JobError, match=r"no trial succeeded: .*the loss is NaN or infinite"):
        run(document)


@pytest.mark.ray
@pytest.mark.slow
def test_killed_driver_is_resumed_and_no_trial_runs_twice(document, tmp_path):
    """Kill -9 of the command in mid-search; the same command with resume finishes the search."""
    document |= {"trials": 4, "scheduler": "fifo", "finalists": None}
    document["train"]["training"] |= {"epochs": 8, "batch_size": 8}
    before = _killed(document, tmp_path, lambda path: len(_ended(path)) >= 1)
    ended = {key for key, text in before.items() if '"state": "finished"' in text}
    assert 1 <= len(ended) < 4
    result = _resumed(document, tmp_path)
    assert result["trials"] == {"done": 4, "stopped": 0, "failed": 0}
    after = _records(result["run"])
    assert {key: after[key] for key in ended} == {key: before[key] for key in ended}  # not again
    for trial in TrialStore(result["run"]).all():
        assert [e.epoch for e in trial.evaluations] == list(range(1, 9))


@pytest.mark.ray
@pytest.mark.slow
def test_killed_population_resumes_where_it_was(document, tmp_path):
    rates = {"kind": "loguniform", "low": 1e-4, "high": 3e-2}
    document |= {"trials": 3, "scheduler": "pbt", "space": {"training.learning_rate": rates}}
    document["train"]["training"] |= {"epochs": 3, "batch_size": 8}
    before = _killed(document, tmp_path, lambda path: min(_epochs(path), default=0) >= 1)
    result = _resumed(document, tmp_path)
    assert result["trials"] == {"done": 3, "stopped": 0, "failed": 0}
    for trial in TrialStore(result["run"]).all():
        known = Trial.load(json.loads(before[trial.key])).evaluations
        assert trial.evaluations[: len(known)] == known
        assert [e.epoch for e in trial.evaluations] == [1, 2, 3]


def _command(document: dict[str, Any], folder: Path, *options: str) -> list[str]:
    file = folder / "search.yaml"
    file.write_text(json.dumps(document))
    return [sys.executable, "-m", "clftask", "tune", str(file), *options]


def _alone() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}


def _killed(document: dict[str, Any], folder: Path, is_time: Any) -> dict[str, str]:
    """Kill -9 a search when it is time; return its trials' records."""
    command = _command(document, folder)
    first = subprocess.Popen(command, env=_alone(), stderr=subprocess.DEVNULL)
    path = f"{document['run']['storage']}/search"
    give_up = time.monotonic() + 600
    while time.monotonic() < give_up and not is_time(path):
        time.sleep(0.05)
    first.kill()
    first.wait()
    assert not Path(path, "result.json").exists()
    return _records(path)


def _resumed(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    command = _command(document, folder, "run.resume=true", "--json")
    done = subprocess.run(command, env=_alone(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _records(path: str) -> dict[str, str]:
    return {p.parent.name: p.read_text() for p in Path(path).glob("trials/*/trial.json")}


def _ended(path: str) -> list[str]:
    return [text for text in _records(path).values() if '"state": "finished"' in text]


def _epochs(path: str) -> list[int]:
    """Return how many evaluations each trial has had, once all three have begun."""
    records = [json.loads(text) for text in _records(path).values()]
    return [len(record["evaluations"]) for record in records] if len(records) == 3 else []
