"""Training on real Ray: same steps on any number of workers; killed workers and drivers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import own_processes

from clftask.config.results import TrainResult
from clftask.config.train import TrainJob
from clftask.distributed.train.driver import _refuse_other_disk, train
from clftask.errors import ConfigError, JobError
from clftask.io import listing, storage
from clftask.training.worker import Work

RAY_TRAINS = ("TrainController", "RayTrainWorker")


@pytest.fixture
def calm_base(tiny_base: Path, tmp_path: Path) -> Path:
    """The tiny model without dropout, whose masks differ from worker to worker."""
    folder = shutil.copytree(tiny_base, tmp_path / "calm")
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def document(toy_table, tiny_base, tmp_path) -> dict[str, Any]:
    return {
        "task": "multilabel",
        "data": {
            "train": str(toy_table(120)),
            "text": "text",
            "id": "id",
            "labels": {"kind": "list", "column": "tags"},
        },
        "model": {"base": str(tiny_base), "max_length": 32},
        "training": {
            "epochs": 2,
            "batch_size": 20,
            "learning_rate": 1e-2,
            "precision": "fp32",
            "early_stopping": None,
        },
        "scaling": {"workers": 2, "max_failures": 2},
        "run": {"storage": str(tmp_path / "runs"), "name": "run"},
    }


def run(document: dict[str, Any], *overrides: str, show: Any = None) -> TrainResult:
    job = TrainJob.load(document, overrides)
    return train(job, lambda line: None, show or (lambda record: None))


def records(path: str) -> list[dict[str, Any]]:
    lines = storage.read_bytes(storage.join(path, "metrics.jsonl")).decode().splitlines()
    return [json.loads(line) for line in lines]


def weights(path: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    return load(storage.read_bytes(storage.join(path, "bundle", "model.safetensors")))


@pytest.mark.parametrize("micro_batch_size", [3, pytest.param("auto", marks=pytest.mark.slow)])
def test_same_steps_on_one_and_two_workers_with_and_without_accumulation(
    ray_cluster, document, calm_base, micro_batch_size
):
    """96 train rows make 4 full batches and a ragged one; 3 does not divide a share.

    Workers that share the model give the same, too.
    """
    document["model"]["base"] = str(calm_base)
    document["training"] |= {"optimizer": "sgd", "learning_rate": 0.5, "epochs": 3}
    found = {}
    pairs = (2, micro_batch_size)
    for workers, micro, shard in ((1, "auto", "null"), (*pairs, "null"), (*pairs, "fsdp")):
        options = [f"scaling.workers={workers}", f"training.micro_batch_size={micro}"]
        options += [f"scaling.shard={shard}", f"run.name=w{workers}-{shard}"]
        result = run(document, *options)
        logs = [r for r in records(result.run) if "loss" in r]
        found[result.run] = logs, weights(result.run)
    (logs, model), *others = found.values()
    assert len(logs) >= 2
    assert logs[0]["grad_norm"] > 1e-3
    for other_logs, other_model in others:
        for a, b in zip(logs, other_logs, strict=True):
            assert a["step"] == b["step"]
            assert b["loss"] == pytest.approx(a["loss"], abs=1e-5)
            assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)
        for name in model:
            np.testing.assert_allclose(other_model[name], model[name], atol=2e-5)


def test_run_on_s3_leaves_all_of_a_run_there(ray_cluster, document, s3):
    seen: list[dict[str, Any]] = []
    result = run(document, f"run.storage={s3.bucket}/runs", "run.name=on-s3", show=seen.append)
    names = {f.path[len(result.run) + 1 :] for f in listing.list_files(result.run)}
    expected = {"job.yaml", "split.parquet", "metrics.jsonl", "log.txt", "bundle/clftask.json"}
    assert expected <= names
    assert not any(name.startswith(".ray") for name in names)
    folders = {name.split("/")[1] for name in names if name.startswith("checkpoints/")}
    assert 1 <= len(folders) <= 3
    assert result.workers == 2
    assert {"validation", "test"} == set(result.metrics)
    assert [r["step"] for r in seen if "eval_loss" in r] == [5, 10]
    again = run(document, f"run.storage={s3.bucket}/runs", "run.name=on-s3", "run.resume=true")
    assert again.metrics == result.metrics


def test_a_finished_run_keeps_no_checkpoints_if_none_are_asked_for(ray_cluster, document):
    checkpoints = Path(document["run"]["storage"], "run", "checkpoints")
    seen: list[bool] = []
    options = ["training.keep_checkpoints=0", "scaling.workers=1"]
    result = run(document, *options, show=lambda record: seen.append(checkpoints.exists()))
    assert any(seen)  # while it trains, there is one to resume from
    assert not checkpoints.exists()
    assert Path(result.bundle, "clftask.json").exists()
    shutil.copytree(result.bundle, checkpoints / "step-0000001")  # a driver killed at the end
    again = run(document, *options, "run.resume=true")
    assert again.metrics == result.metrics
    assert not checkpoints.exists()


def test_a_run_folder_on_another_nodes_disk_is_refused(document, tmp_path):
    work = Work(TrainJob.load(document), str(tmp_path / "elsewhere"), {}, (), {}, "")
    with pytest.raises(ConfigError) as caught:
        _refuse_other_disk(work)
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("run.storage", str(tmp_path / "elsewhere"))
    assert problem.remedy == "Use S3 or a disk that all nodes share."
    storage.put(f"{tmp_path}/elsewhere/job.yaml", b"")
    _refuse_other_disk(work)


def test_name_is_never_taken_twice_and_resume_wants_the_same_job(ray_cluster, document):
    run(document, "training.epochs=1")
    with pytest.raises(ConfigError, match=r"run\.name: is taken"):
        run(document, "training.epochs=1")
    with pytest.raises(ConfigError, match=r"training\.epochs: was 1 in the run \(found 2\)"):
        run(document, "run.resume=true")
    _change_a_text(Path(document["data"]["train"]))
    with pytest.raises(ConfigError, match=r"data: must be the run's data"):
        run(document, "training.epochs=1", "run.resume=true")


def _change_a_text(path: Path) -> None:
    import pandas as pd

    table = pd.read_parquet(path)
    table.loc[0, "text"] = "another text"
    table.to_parquet(path)


@pytest.mark.slow
def test_killed_worker_is_replaced_and_resumes(ray_cluster, document):
    """After the second evaluation a worker is killed: the run ends with all of its steps."""
    killed: list[int] = []

    def kill_once(record: dict[str, Any]) -> None:
        if "eval_loss" in record and record["epoch"] >= 2 and not killed:
            killed.append(_worker_pid())
            os.kill(killed[0], signal.SIGKILL)

    options = ["training.epochs=10", "training.batch_size=4", "training.keep_checkpoints=1"]
    result = run(document, *options, show=kill_once)
    assert killed
    log = storage.read_bytes(storage.join(result.run, "log.txt")).decode()
    assert "resuming from the checkpoint of step" in log
    steps = [r["step"] for r in records(result.run) if "eval_loss" in r]
    assert steps == [24 * epoch for epoch in range(1, 11)]
    assert len(list(Path(result.run, "checkpoints").iterdir())) <= 2


def _worker_pid() -> int:
    return own_processes("ray::RayTrainWorker")[0].pid


@pytest.fixture
def write_rank() -> Any:
    """A loop that leaves a file named by its rank; workers cannot import this module."""

    def loop(config: dict[str, Any]) -> None:
        import ray.train

        context = ray.train.get_context()
        text = str(context.get_world_size())
        Path(config["out"], str(context.get_world_rank())).write_text(text)

    return loop


@pytest.fixture
def deadly(tmp_path) -> Any:
    """The first worker that unpickles it dies; to others it is a string."""
    marker = str(tmp_path / "marker")

    def die_once() -> str:
        if b"RayTrainWorker" not in Path("/proc/self/cmdline").read_bytes():
            return marker
        with contextlib.suppress(FileExistsError):
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            os._exit(1)
        return marker

    class DiesWhenOpened:
        def __reduce__(self) -> Any:
            return die_once, ()

    return DiesWhenOpened()


@pytest.mark.slow
@pytest.mark.parametrize("max_failures", [1, 0])
def test_worker_that_dies_while_its_group_starts_is_replaced(
    ray_cluster, tmp_path, write_rank, deadly, max_failures
):
    """The group needs all CPUs: the next one would wait for any that it kept."""
    import ray

    from clftask.distributed.capacity import WorkerPlan
    from clftask.distributed.train.ray_trainer import run_workers

    cpus = ray.cluster_resources()["CPU"] / 2
    config = {"out": str(tmp_path), "deadly": deadly}
    error = run_workers(write_rank, config, WorkerPlan(2, False, cpus), max_failures, str(tmp_path))
    assert (tmp_path / "marker").exists(), str(error)
    written = {p.name: p.read_text() for p in tmp_path.glob("[01]")}
    if max_failures:
        assert error is None, str(error)
        assert written == {"0": "2", "1": "2"}
    else:
        assert "training failed" in str(error)
        assert len(written) < 2
    assert not (tmp_path / ".ray").exists()


@pytest.fixture
def dies_after_the_group() -> Any:
    """Kills a worker after the process group has formed, and waits until Ray knows."""

    def kill(worker_group: Any) -> None:
        os.kill(worker_group.get_workers()[1].metadata.pid, signal.SIGKILL)
        worker_group.execute(os.getpid)

    return kill


@pytest.fixture
def dies_within_the_group() -> Any:
    """The first worker dies after the process group forms: the others fail before Ray knows."""

    def prepare() -> None:
        import torch.distributed as dist

        def meet_and_die(*_: Any, **__: Any) -> None:
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            dist.TCPStore(host, port, None, True, wait_for_workers=False)
            time.sleep(3)
            os._exit(1)

        dist.init_process_group = meet_and_die

    return lambda worker_group: worker_group.execute_single(0, prepare)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["after_the_group", "within_the_group"])
def test_worker_that_dies_before_it_works_is_replaced(
    ray_cluster, tmp_path, write_rank, monkeypatch, request, moment
):
    import ray
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback

    from clftask.distributed.capacity import WorkerPlan
    from clftask.distributed.train import ray_trainer

    kill = request.getfixturevalue(f"dies_{moment}")

    class Kills(WorkerGroupCallback):
        def after_worker_group_start(self, worker_group: Any) -> None:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(tmp_path / "marker", os.O_CREAT | os.O_EXCL))
                kill(worker_group)

    create = ray_trainer._Trainer._create_default_callbacks

    def with_kills(self: Any) -> list[Any]:
        before, after = ([], [Kills()]) if moment == "after_the_group" else ([Kills()], [])
        return [*before, *create(self), *after]

    monkeypatch.setattr(ray_trainer._Trainer, "_create_default_callbacks", with_kills)
    cpus = ray.cluster_resources()["CPU"] / 2
    plan = WorkerPlan(2, False, cpus)
    error = ray_trainer.run_workers(write_rank, {"out": str(tmp_path)}, plan, 1, str(tmp_path))
    assert error is None, str(error)
    assert (tmp_path / "marker").exists()
    assert {p.name for p in tmp_path.glob("[01]")} == {"0", "1"}


@pytest.mark.usefixtures("ctrl_c", "ray_cluster")
def test_an_interrupted_training_asks_for_no_machines_any_more(tmp_path):
    """On a cluster that outlives the driver, the controller would continue."""
    from ray._private.state import actors
    from ray.util import placement_group_table

    from clftask.distributed.capacity import WorkerPlan
    from clftask.distributed.train.ray_trainer import run_workers

    def loop(config: dict[str, Any]) -> None:
        Path(config["out"], "works").touch()
        time.sleep(120)

    def living() -> list[str]:
        found = (a for a in actors().values() if a["State"] == "ALIVE")
        return [a["ActorClassName"] for a in found if a["ActorClassName"].startswith(RAY_TRAINS)]

    def held() -> list[str]:
        return [g["name"] for g in placement_group_table().values() if g["state"] != "REMOVED"]

    def interrupt() -> list[str]:
        give_up = time.monotonic() + 600
        while not (tmp_path / "works").exists():
            assert time.monotonic() < give_up
            time.sleep(0.05)
        try:
            return living()
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor(1) as beside:
        interrupting = beside.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_workers(loop, {"out": str(tmp_path)}, WorkerPlan(1, False, 1), 3, str(tmp_path))
        assert {"TrainController", "RayTrainWorker"} <= set(interrupting.result())
    give_up = time.monotonic() + 300
    while (living() or held()) and time.monotonic() < give_up:
        time.sleep(0.1)
    assert (living(), held()) == ([], [])
    assert not (tmp_path / ".ray").exists()


def test_waiting_is_said_at_the_start_and_whenever_workers_are_lost(ray_cluster, monkeypatch):
    import ray
    from ray.util import placement_group, remove_placement_group

    from clftask.distributed.capacity import WorkerPlan
    from clftask.distributed.train import progress

    monkeypatch.setattr(progress, "WAIT_S", 0)
    progress_actor, said = progress.new_progress_actor(), []
    waiting = progress.Waiting(WorkerPlan(3, False, 64), said.append)
    waiting.look(progress_actor)
    assert said == []  # nothing was asked for yet
    group = placement_group([{"CPU": 64}] * 3)
    line = "waiting for cluster resources: 3 workers with 64 CPUs each"
    for events, count in (((), 1), (("start",), 1), (("lose",), 2)):
        for event in events:
            ray.get(getattr(progress_actor, event).remote())
        waiting.look(progress_actor)
        waiting.look(progress_actor)
        assert said == [line] * count
    remove_placement_group(group)


def test_what_is_overridden_in_ray_train_is_there():
    from clftask.distributed.train import ray_trainer

    for kind in (
        ray_trainer._Trainer,
        ray_trainer._FailurePolicy,
        ray_trainer._WaitingForMachines,
        ray_trainer._QuietController,
    ):
        ours = [name for name in vars(kind) if callable(getattr(kind, name)) and name[:2] != "__"]
        for name in ours:
            assert any(hasattr(base, name) for base in kind.__bases__), (kind, name)
        assert ours


class Driver:
    """`clftask train` in a process of its own, with a Ray of its own; it resumes its run."""

    def __init__(self, document: dict[str, Any], folder: Path) -> None:
        document["run"]["resume"] = True
        file = folder / "job.yaml"
        file.write_text(json.dumps(document))
        self.command = [sys.executable, "-m", "clftask", "train", str(file), "--json"]
        self.environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        self.run = Path(document["run"]["storage"], "run")

    def stopped_by(self, number: int) -> tuple[int, str]:
        """Signal it when it has written a checkpoint; return its exit code and output."""
        before = self._checkpoints()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        with subprocess.Popen(self.command, env=self.environment, **pipes) as process:
            give_up = time.monotonic() + 600
            while not self._checkpoints() - before:
                assert process.poll() is None
                assert time.monotonic() < give_up
                time.sleep(0.05)
            process.send_signal(number)
            out, _ = process.communicate()
        return process.returncode, out

    def _checkpoints(self) -> set[Path]:
        return set(self.run.glob("checkpoints/*/complete.json"))


@pytest.mark.ray
@pytest.mark.slow
def test_killed_driver_is_resumed(document, tmp_path):
    """Kill -9 in mid-training; the same command with resume finishes the run."""
    document["training"] |= {"epochs": 12, "batch_size": 4}
    driver = Driver(document, tmp_path)
    assert driver.stopped_by(signal.SIGKILL) == (-signal.SIGKILL, "")
    assert not (driver.run / "bundle" / "clftask.json").exists()
    options = {"env": driver.environment, "capture_output": True, "text": True}
    done = subprocess.run(driver.command, **options)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["epochs"] == 12
    steps = [r["step"] for r in records(result["run"]) if "eval_loss" in r]
    assert steps == [24 * epoch for epoch in range(1, 13)]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c")
def test_interrupted_driver_says_how_to_go_on(document, tmp_path):
    """Ctrl-C, then SIGTERM in the resumed run."""
    document["training"] |= {"epochs": 12, "batch_size": 4}
    driver = Driver(document, tmp_path)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        returned, out = driver.stopped_by(number)
        assert returned == code
        error = json.loads(out.splitlines()[-1])["error"]
        assert error["exit"] == code
        assert error["problems"][0]["remedy"] == "Resume with run.name=run run.resume=true."
        assert not (driver.run / ".ray").exists()


def test_a_run_gives_back_what_it_asked_for_before_it_was_killed(ray_cluster, tmp_path):
    """Resource requests in Ray Train's coordinator, read as its trainer reads them."""
    import ray
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as rays

    from clftask.distributed.train.ray_trainer import _reservation

    coordinator = rays.get_or_create_autoscaling_coordinator()

    def asks(name: str) -> None:
        wanted = {"requester_id": name, "resources": [{"CPU": 1}], "expire_after_s": 180}
        ray.get(coordinator.request_resources.remote(**wanted))

    def has(name: str) -> bool:
        return bool(ray.get(coordinator.get_reserved_resources.remote(name)))

    killed = _reservation(str(tmp_path), "first")
    killed.__enter__()
    asks("train-first")
    asks("train-other")
    assert has("train-first")
    with contextlib.suppress(KeyboardInterrupt), _reservation(str(tmp_path), "second"):
        assert not has("train-first")
        asks("train-second")
        assert has("train-second")
        raise KeyboardInterrupt
    assert not has("train-second")
    assert has("train-other")


def test_error_that_trying_again_cannot_mend_is_not_tried_again(ray_cluster, document):
    from ray._private.state import actors

    def workers() -> set[str]:
        return {key for key, a in actors().items() if a["ActorClassName"] == "RayTrainWorker"}

    document["training"] |= {"optimizer": "sgd", "learning_rate": 1e30, "max_grad_norm": 1e30}
    before = workers()
    with pytest.raises(JobError, match="the loss is NaN or infinite"):
        run(document, "scaling.max_failures=50")
    assert len(workers() - before) == document["scaling"]["workers"]  # those of one start


def test_more_workers_than_the_cluster_has(ray_cluster, document):
    with pytest.raises(ConfigError, match=r"scaling\.workers: .*the cluster has at most \d+ CPUs"):
        run(document, "scaling.workers=4", "scaling.cpus_per_worker=64")
    with pytest.raises(ConfigError, match=r"scaling\.use_gpu: needs a GPU"):
        run(document, "scaling.use_gpu=true")
    assert not Path(document["run"]["storage"]).exists()


def test_two_runs_racing_for_a_name_have_one_winner(ray_cluster, document):
    outcomes: list[str] = []

    def attempt() -> None:
        try:
            run(document, "training.epochs=1", "scaling.workers=1")
            outcomes.append("won")
        except ConfigError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(o.split(":")[0] for o in outcomes) == ["run.name", "won"]
