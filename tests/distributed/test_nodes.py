"""Jobs on multi-node clusters that share only an S3 server; nodes die and join."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from conftest import free_ports
from nodes import RayNodes, ray_nodes
from pyarrow import parquet
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from clftask.commands.inspect import inspect
from clftask.config.results import TrainResult
from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.distributed import spot_notice
from clftask.distributed.capacity import capacity
from clftask.distributed.score.driver import score
from clftask.distributed.session import connected
from clftask.distributed.train import ray_trainer
from clftask.distributed.train.driver import train
from clftask.distributed.tune.driver import tune
from clftask.io import listing, storage
from clftask.tuning.trial_store import TrialStore

pytestmark = pytest.mark.chaos


@pytest.fixture
def cluster(s3) -> Iterator[RayNodes]:
    """Two nodes of one CPU, and a head that has none."""
    with ray_nodes(1, 1) as nodes, connected():
        yield nodes


@pytest.fixture
def place(s3, tiny_base: Path, tmp_path: Path) -> str:
    """A prefix with the tiny base without dropout, whose masks differ from worker to worker."""
    folder = shutil.copytree(tiny_base, tmp_path / "calm")
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    storage.upload(str(folder), f"{s3.bucket}/{tmp_path.name}/base")
    return f"{s3.bucket}/{tmp_path.name}"


@pytest.fixture
def document(place: str, toy_table) -> dict[str, Any]:
    storage.put(f"{place}/train.parquet", toy_table(120).read_bytes())
    return {
        "task": "multilabel",
        "data": {
            "train": f"{place}/train.parquet",
            "text": "text",
            "id": "id",
            "labels": {"kind": "list", "column": "tags"},
        },
        "model": {"base": f"{place}/base", "max_length": 32},
        "training": {
            "epochs": 12,
            "batch_size": 20,
            "learning_rate": 0.5,
            "optimizer": "sgd",
            "precision": "fp32",
            "early_stopping": None,
        },
        "scaling": {"workers": 2},
        "run": {"storage": f"{place}/runs", "name": "run"},
    }


AUTOSCALING: dict[str, Any] = {
    "cluster_name": "fake",
    "max_workers": 2,
    "upscaling_speed": 10,
    "idle_timeout_minutes": 5,
    "provider": {"type": "fake_multinode"},
    "head_node_type": "ray.head.default",  # as this provider calls it
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 2},
    },
    **{name: {} for name in ("auth", "docker", "file_mounts", "head_node", "worker_nodes")},
    **{
        name: []
        for name in (
            "cluster_synced_files",
            "rsync_exclude",
            "rsync_filter",
            "initialization_commands",
            "setup_commands",
            "head_setup_commands",
            "worker_setup_commands",
            "head_start_ray_commands",
            "worker_start_ray_commands",
        )
    },
    "file_mounts_sync_continuously": False,
}


class Once:
    """Runs an action during a job, triggered by a progress record."""

    def __init__(self, is_time: Callable[[dict[str, Any]], bool], what: Callable[[], Any]) -> None:
        self.is_time, self.what = is_time, what
        self.thread: threading.Thread | None = None
        self.failure: BaseException | None = None

    def __call__(self, record: dict[str, Any]) -> None:
        if self.thread is None and self.is_time(record):
            self.thread = threading.Thread(target=self._run)
            self.thread.start()

    def _run(self) -> None:
        try:
            self.what()
        except BaseException as error:  # re-raised in the test's thread
            self.failure = error

    def end(self) -> None:
        assert self.thread is not None, "it never came to it"
        self.thread.join()
        if self.failure is not None:
            raise self.failure


def fit(document: dict[str, Any], show: Any, *overrides: str) -> TrainResult:
    return train(TrainJob.load(document, overrides), lambda line: None, show)


def losses(run: str) -> dict[int, float]:
    lines = storage.read_bytes(f"{run}/metrics.jsonl").decode().splitlines()
    records = [json.loads(line) for line in lines]
    found = [(r["step"], r["loss"]) for r in records if "loss" in r]
    assert len(dict(found)) == len(found)
    return dict(found)


def log_of(run: str) -> str:
    return storage.read_bytes(f"{run}/log.txt").decode()


def node_of_first_worker() -> str:
    """Return the node where the newest group of workers has its first."""
    from ray.util import placement_group_table

    groups = [g for g in placement_group_table().values() if g["state"] == "CREATED"]
    return str(groups[-1]["bundles_to_node_id"][0])


def test_training_outlives_the_node_of_its_first_worker(cluster, document):
    """It finishes with fewer workers, after the same steps as without the loss."""
    whole = fit(document, lambda record: None, "run.name=whole")
    assert whole.workers == 2

    def take_away() -> None:
        first = node_of_first_worker()
        next(node for node in cluster.nodes if node.id == first).kill()

    beside = Once(lambda record: record["step"] >= 10 and "eval_loss" in record, take_away)
    result = fit(document, beside, "scaling.workers=[1,2]", "scaling.max_failures=1")
    beside.end()
    assert result.workers == 1
    assert "resuming from the checkpoint of step" in log_of(result.run)
    # The first log after a restart is a mean over fewer steps.
    later = [{s: x for s, x in losses(r.run).items() if s > 20} for r in (result, whole)]
    assert later[0] == pytest.approx(later[1], abs=1e-5)
    assert max(later[0]) == 60
    for split, found in result.metrics.items():
        assert found == pytest.approx(whole.metrics[split], abs=1e-4)


def corpus(place: str, rows: int) -> None:
    words = ["fast audio", "the router", "a pixel shader", "simple melody library"]
    table = pa.table(
        {"id": [f"row-{i}" for i in range(rows)], "text": [words[i % 4] for i in range(rows)]}
    )
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    storage.put(f"{place}/in/a.parquet", sink.getvalue().to_pybytes())


def test_scoring_outlives_its_nodes_and_uses_one_that_joins(cluster, place, tiny_bundle):
    num_rows = 20_000
    corpus(place, num_rows)
    storage.upload(tiny_bundle, f"{place}/bundle")
    job = {
        "bundle": f"{place}/bundle",
        "input": {"path": f"{place}/in", "id": "id"},
        "output": {"path": f"{place}/out"},
        "shard_rows": 200,
        "precision": "fp32",
        "scaling": {"workers": [1, 2], "use_gpu": False, "cpus_per_worker": 1},
    }

    def replace_both_nodes() -> None:
        for node in cluster.nodes[1:]:
            node.kill()
        cluster.add(1)

    beside = Once(lambda record: record["rows"] > 0, replace_both_nodes)
    result = score(ScoreJob.load(job), lambda line: None, beside)
    beside.end()
    assert result.rows_scored == num_rows
    assert inspect(job["output"]["path"], verify=True).state == "complete"
    files = [f.path for f in listing.list_files(f"{place}/out") if f.path.endswith(".parquet")]
    ids = [
        name
        for file in files
        for name in parquet.read_table(pa.BufferReader(storage.read_bytes(file)))["id"].to_pylist()
    ]
    assert sorted(ids) == sorted(f"row-{i}" for i in range(num_rows))


def test_a_search_outlives_a_node(cluster, document, place):
    del document["run"], document["scaling"]
    document["training"] |= {"epochs": 4}
    search = {
        "train": document,
        "space": {"training.learning_rate": {"kind": "loguniform", "low": 1e-2, "high": 1.0}},
        "trials": 4,
        "scheduler": "fifo",
        "finalists": None,
        "run": {"storage": f"{place}/searches", "name": "search"},
    }
    beside = Once(lambda record: True, cluster.nodes[2].kill)
    result = tune(TuneJob.load(search), lambda line: None, beside)
    beside.end()
    assert result.trials == {"done": 4, "stopped": 0, "failed": 0}
    assert all(len(trial.evaluations) == 4 for trial in TrialStore(result.run).all())


def test_a_killed_driver_does_not_keep_the_machines_of_a_range(s3, document, tmp_path):
    """Ray itself would keep them for three minutes, and the resumed run would wait."""
    file = tmp_path / "job.yaml"
    document["training"]["epochs"] = 40
    document["run"]["resume"] = True
    file.write_text(json.dumps(document | {"scaling": {"workers": [1, 2]}}))
    command = [sys.executable, "-m", "clftask", "train", str(file), "--json"]
    with ray_nodes(1, 1):
        first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        checkpoints = f"{document['run']['storage']}/run/checkpoints"
        while not any(f.path.endswith("complete.json") for f in listing.list_files(checkpoints)):
            assert first.poll() is None
            time.sleep(0.2)
        first.kill()
        first.wait()
        done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["workers"] == 2


def test_a_node_that_joins_is_used_by_a_training(s3, document, monkeypatch):
    monkeypatch.setattr(ray_trainer, "RESIZE_S", 3.0)
    with ray_nodes(1) as nodes, connected():
        beside = Once(lambda record: "eval_loss" in record, nodes.add)
        result = fit(document, beside, "scaling.workers=[1,2]", "training.epochs=150")
        beside.end()
    assert result.workers == 2
    assert sorted(losses(result.run))[-1] == result.steps == 150 * 5


def test_a_machine_that_says_that_it_leaves_costs_few_steps(s3, document, place, toy_table):
    """An epoch that takes longer than all of this has no other checkpoints."""
    storage.put(f"{place}/train.parquet", toy_table(36_000).read_bytes())

    with ray_nodes(1, 1, 1) as nodes, connected():

        def reclaim() -> None:
            first = node_of_first_worker()
            there = NodeAffinitySchedulingStrategy(first, soft=False)
            until = datetime.now(UTC) + timedelta(seconds=10)
            drain = ray.remote(num_cpus=0)(spot_notice.drain)
            ray.get(drain.options(scheduling_strategy=there).remote(until))
            time.sleep(10)
            next(node for node in nodes.nodes if node.id == first).kill()

        beside = Once(lambda record: record["step"] >= 50, reclaim)
        result = fit(document, beside, "training.epochs=1", "scaling.max_failures=0")
        beside.end()
    log = log_of(result.run)
    steps = [
        int(line.split("step ")[1].split(":")[0])
        for line in log.splitlines()
        if ": checkpoint" in line
    ]
    assert steps[0] < 1440 == result.steps
    assert f"resuming from the checkpoint of step {steps[0]}" in log or len(steps) > 2


def test_a_cluster_grows_from_nothing_for_a_scoring_job(s3, place, tiny_bundle, tmp_path):
    """Ray's fake provider starts the nodes that its autoscaler asks for."""
    corpus(place, 5_000)
    storage.upload(tiny_bundle, f"{place}/bundle")
    config = tmp_path / "autoscaling.json"
    ports = free_ports(3)
    provider = {**AUTOSCALING["provider"], "gcs_address": f"127.0.0.1:{ports[0]}"}
    config.write_text(json.dumps(AUTOSCALING | {"provider": provider}))
    job = {
        "bundle": f"{place}/bundle",
        "input": {"path": f"{place}/in", "id": "id"},
        "output": {"path": f"{place}/out"},
        "shard_rows": 100,
        "precision": "fp32",
        "scaling": {"workers": [1, 2], "use_gpu": False},
    }
    said: list[str] = []
    variables = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "CLFTASK_AUTOSCALING_CONFIG": str(config),
    }
    head = (f"--autoscaling-config={config}",)
    with ray_nodes(head=head, ports=ports, **variables) as nodes, connected():
        assert len(nodes.alive()) == 1
        assert capacity().nodes == ((0.0, 0.0), (1.0, 0.0), (1.0, 0.0))
        result = score(ScoreJob.load(job), said.append, lambda record: None)
        assert len(nodes.alive()) > 1  # the second may come when all is done
    assert result.rows_scored == 5_000
    assert any("1 to 2 CPU workers" in line for line in said)
