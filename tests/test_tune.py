"""Searches on real Ray Tune: what is left of them, and deaths survived."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from clftask import bundle, storage
from clftask.cluster.session import connected
from clftask.cluster.tune import tune
from clftask.config import TrainJob, TuneJob
from clftask.errors import ConfigError, JobError
from clftask.spec import parse_yaml
from clftask.trials import Trials


@pytest.fixture(scope="module")
def ray_cluster(s3) -> Iterator[None]:
    """Ray on this machine; its workers inherit the way to the S3 server."""
    with connected():
        yield


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


def run(document: dict[str, Any], *overrides: str, show: Any = None) -> dict[str, Any]:
    job = TuneJob.load(document, overrides)
    return tune(job, lambda line: None, show or (lambda record: None))


def files(path: str) -> set[str]:
    return {f.path[len(path) + 1 :] for f in storage.list_files(path)}


def lives() -> int:
    """Return how many placement groups hold resources."""
    from ray.util import placement_group_table

    return sum(g["state"] != "REMOVED" for g in placement_group_table().values())


def test_search_ships_one_bundle_and_a_job_that_trains(ray_cluster, document, s3):
    """On S3; one rate makes the loss no number."""
    rates = {"kind": "grid", "values": [1e-2, 1e30, 1e-3, 3e-2, 2e-4]}
    document |= {"space": {"training.learning_rate": rates}, "searcher": "grid", "trials": None}
    seen: list[dict[str, Any]] = []
    place = f"run.storage={s3.bucket}/searches"
    result = run(document, place, "finalists.top=2", show=seen.append)
    run_path = f"{s3.bucket}/searches/search"
    trials = Trials(run_path).all()
    assert [(t.number, t.seed) for t in trials if not t.is_finalist] == [(i, 42) for i in range(5)]
    assert sum(result["trials"].values()) == 5
    assert result["trials"]["failed"] == 1
    assert (trials[1].state, "no finite number" in trials[1].reason) == ("failed", True)
    assert [t.seed for t in trials if t.is_finalist] == [43, 43]
    assert result["best"]["seed"] == 43
    assert result["best"]["trial"] in [f["trial"] for f in result["finalists"]]
    assert set(result["best"]["metrics"]) == {"validation", "test"}
    assert files(run_path) == {
        "search.yaml", "split.parquet", "searched.json", "job.yaml", "trials.parquet",
        "report.html", "result.json",
        *(f"trials/{t.key}/trial.json" for t in trials),
        *(f"bundle/{name}" for name in files(f"{run_path}/bundle")),
    }  # fmt: skip
    meta = bundle.read_meta(result["bundle"])
    winner = TrainJob.load(parse_yaml(storage.read_bytes(result["job"]).decode(), "job.yaml"))
    assert winner.identity() == TrainJob.load(meta.job).identity()
    assert winner.training.learning_rate == rates["values"][result["best"]["trial"]]
    assert (winner.seed, winner.run.name, winner.training.epochs) == (43, None, 6)
    assert {r["trial"] for r in seen} == set(range(5))
    assert lives() == 0
    again = run(document, place, "finalists.top=2", "run.resume=true")
    assert {**again, "seconds": 0} == {**result, "seconds": 0}
    with pytest.raises(ConfigError, match=r"run\.name: is taken"):
        run(document, place, "finalists.top=2")
    with pytest.raises(ConfigError, match=r"train\.training\.epochs: was 6 in the run \(found 2\)"):
        run(document, place, "finalists.top=2", "run.resume=true", "train.training.epochs=2")


def test_population_of_two_workers_each_exploits_and_leaves_no_resources(ray_cluster, document):
    rates = {"kind": "choice", "values": [2e-2, 1e-6]}
    document |= {"space": {"training.learning_rate": rates}, "trials": 2, "scheduler": "pbt"}
    document["space"]["training.weight_decay"] = {"kind": "uniform", "low": 0.0, "high": 0.1}
    document |= {"searcher": "random"}
    options = ["train.scaling.workers=2", "train.scaling.cpus_per_worker=1"]
    result = run(document, *options, "scheduler={kind: pbt, quantile: 0.5}", "train.seed=1")
    trials = Trials(result["run"]).all()
    assert {t.state for t in trials} == {"finished"}
    assert all(t.evaluations[-1].epoch == 6 for t in trials)
    assert lives() == 0
    names = files(result["run"])
    assert not any(name.startswith("trials/") and "trial.json" not in name for name in names)


def test_killed_worker_is_replaced_and_its_trial_goes_on(ray_cluster, document):
    killed: list[int] = []

    def kill_once(record: dict[str, Any]) -> None:
        if record.get("epoch") == 3 and not killed:
            killed.append(_trial_pid())
            os.kill(killed[0], signal.SIGKILL)

    options = ["scheduler=fifo", "finalists=null", "trials=2"]
    result = run(document, *options, show=kill_once)
    assert killed
    assert result["trials"] == {"done": 2, "stopped": 0, "failed": 0}
    for trial in Trials(result["run"]).all():
        assert [e.epoch for e in trial.evaluations] == [1, 2, 3, 4, 5, 6]


def _trial_pid() -> int:
    found = [
        p
        for p in psutil.process_iter(["cmdline"])
        if "ImplicitFunc" in "".join(p.info["cmdline"] or ())
    ]
    return found[0].pid


def test_time_budget_ends_with_the_best_so_far(ray_cluster, document):
    options = ["time_budget=12s", "finalists=null", "scheduler=fifo", "trials=400"]
    result = run(document, *options, "train.training.epochs=3")
    counts = result["trials"]
    assert 1 <= counts["done"] + counts["stopped"] < 400
    assert storage.exists(result["bundle"] + "/clftask.json")


def test_search_in_which_all_fail_says_why(ray_cluster, document):
    space = {"training.learning_rate": {"kind": "choice", "values": [1e29, 1e30]}}
    document |= {"space": space, "trials": 2}
    with pytest.raises(JobError, match=r"no trial could be used: .*no finite number"):
        run(document)


def test_killed_driver_is_resumed_and_no_trial_runs_twice(document, tmp_path):
    """Kill -9 of the command in mid-search; the same command with resume ends the search."""
    document |= {"trials": 5, "scheduler": "fifo", "finalists": None}
    document["train"]["training"] |= {"epochs": 8, "batch_size": 8}
    file = tmp_path / "search.yaml"
    file.write_text(json.dumps(document))
    command = [sys.executable, "-m", "clftask.cli", "tune", str(file)]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    first = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    path = f"{document['run']['storage']}/search"
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up and len(_ended(path)) < 2:
        time.sleep(0.05)
    first.kill()
    first.wait()
    before = _ended(path)
    assert 2 <= len(before) < 5
    assert not Path(path, "result.json").exists()
    done = subprocess.run(
        [*command, "run.resume=true", "--json"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["trials"] == {"done": 5, "stopped": 0, "failed": 0}
    after = _ended(path)
    assert {key: after[key] for key in before} == before  # seconds and all: not run again
    for trial in Trials(path).all():
        assert [e.epoch for e in trial.evaluations] == list(range(1, 9))


def _ended(path: str) -> dict[str, str]:
    found = {p.parent.name: p.read_text() for p in Path(path).glob("trials/*/trial.json")}
    return {key: text for key, text in found.items() if '"state": "finished"' in text}
