"""Submission to a real cluster: log, exit code, and errors before submission."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import yaml
from conftest import environment, free_ports
from nodes import RayNodes, ray_nodes
from ray.runtime_env import RuntimeEnv
from typer.testing import CliRunner

from clftask.cli.main import app
from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.distributed.session import connected
from clftask.distributed.submit import client as submitting
from clftask.distributed.submit.client import Cluster, SubmittedJob
from clftask.distributed.submit.package import Shipping, check_paths, command, pinned
from clftask.distributed.submit.package import environment as runtime_env
from clftask.errors import ConfigError, JobError
from clftask.io import storage


@pytest.fixture(scope="module")
def cluster(s3) -> Iterator[RayNodes]:
    with ray_nodes(2) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def place(s3, tiny_base: Path) -> str:
    """An S3 prefix with the tiny base; the cluster reads nothing else of this machine."""
    storage.upload(str(tiny_base), f"{s3.bucket}/submit/base")
    return f"{s3.bucket}/submit"


@pytest.fixture
def job(place: str, toy_table, tmp_path: Path) -> Path:
    storage.put(f"{place}/train.parquet", toy_table(60).read_bytes())
    document = {
        "task": "multilabel",
        "data": {
            "train": f"{place}/train.parquet",
            "text": "text",
            "id": "id",
            "labels": {"kind": "list", "column": "tags"},
        },
        "model": {"base": f"{place}/base", "max_length": 32},
        "training": {"epochs": 1, "batch_size": 20, "precision": "fp32"},
        "run": {"storage": f"{place}/runs", "name": tmp_path.name},
    }
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def submit(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clftask", "submit", *map(str, arguments)]
    variables = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=variables)


def test_a_job_runs_there_and_its_result_comes_back(cluster, job, place):
    done = submit("train", job, "--address", cluster.dashboard, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["run"].startswith(f"{place}/runs/")
    assert storage.exists(f"{result['bundle']}/clftask.json")
    assert "job clftask-train-" in done.stderr
    assert "1 CPU worker" in done.stderr  # the job's own log


def test_the_exit_code_is_the_jobs_own(cluster, job, place):
    done = submit(
        "train", job, f"data.train={place}/absent.parquet", "--address", cluster.dashboard
    )
    assert done.returncode == 2
    assert "absent.parquet" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_without_waiting_ray_follows_and_stops_it(cluster, job):
    submitted = submit("train", job, "--address", cluster.dashboard, "--no-wait", "--json")
    assert submitted.returncode == 0, submitted.stderr
    found = json.loads(submitted.stdout)
    ray = shutil.which("ray", path=Path(sys.executable).parent)
    options = [found["id"], "--address", found["address"]]
    stopped = subprocess.run(
        [ray, "job", "stop", *options], capture_output=True, text=True, timeout=600
    )
    assert stopped.returncode == 0, stopped.stderr
    status = subprocess.run(
        [ray, "job", "status", *options], capture_output=True, text=True, timeout=600
    )
    assert "was stopped" in status.stdout + status.stderr


def test_workers_of_a_joined_cluster_write_and_log_as_their_driver_does(cluster):
    variables = {"CLFTASK_S3_SSE": "AES256", "CLFTASK_LOG": "json", "CLFTASK_DEBUG": None}
    with environment(variables), connected():
        import ray

        look = ray.remote(lambda: (os.environ["CLFTASK_S3_SSE"], os.environ["CLFTASK_LOG"]))
        assert ray.get(look.remote()) == ("AES256", "json")


def test_a_package_that_the_clusters_python_lacks_is_named_with_advice(cluster):
    shown: list[str] = []
    there = Cluster(cluster.dashboard, shown.append)
    code = there.submit("python -c 'import absent_here.part'", "lacking", {}).wait(shown.append)
    assert code == 1
    assert "has no module absent_here. Use --pip" in shown[-1]


class Tunnel:
    """Forwards connections to the dashboard, as `ssh -L` does.

    Attributes:
        silent: When set, it takes all and hands on nothing.
        cut: What a request begins with that is handed on, but whose answer is not.
    """

    def __init__(self, port: int, cut: bytes = b"nothing") -> None:
        self.port, self.cut, self.silent = port, cut, threading.Event()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self.listening.accept()
                there = socket.create_connection(("127.0.0.1", self.port))
                lost = threading.Event()
                for ends in ((here, there, lost), (there, here, lost)):
                    threading.Thread(target=self._forward, args=ends, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, lost: threading.Event) -> None:
        is_answer = source.getpeername()[1] == self.port
        with contextlib.suppress(OSError):
            while (data := source.recv(65536)) and not (is_answer and lost.is_set()):
                if not is_answer and data.startswith(self.cut):
                    lost.set()
                if not self.silent.is_set():
                    target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
def test_a_job_whose_sending_was_not_answered_is_followed_and_not_lost(cluster):
    tunnel = Tunnel(cluster.ports[1], cut=b"POST /api/jobs/")
    there = Cluster(tunnel.address, lambda line: None)
    assert there.submit("echo done; exit 3", "unanswered", {}).wait(lambda text: None) == 3
    names = [job.submission_id or "" for job in there.client.list_jobs()]  # a driver has none
    assert len([name for name in names if name.startswith("unanswered")]) == 1


@pytest.mark.slow
def test_a_tunnel_that_is_silently_dead_is_reported(cluster, monkeypatch):
    for name, seconds in {"ANSWER_S": 5.0, "QUIET_S": 5.0, "PATIENCE_S": 15.0}.items():
        monkeypatch.setattr(submitting, name, seconds)
    tunnel = Tunnel(cluster.ports[1])
    there = Cluster(tunnel.address, lambda line: None)
    submitted = there.submit("echo begun; sleep 600", "silent", {})
    shown: list[str] = []

    def show(text: str) -> None:
        shown.append(text)
        if "begun" in text.splitlines():
            tunnel.silent.set()

    with pytest.raises(JobError, match=f"has not answered for 15 s.*{submitted.id} may still run"):
        submitted.wait(show)
    assert "begun" in "".join(shown)


def test_a_wrong_token_is_refused_with_advice(cluster, job, tmp_path):
    wrong = tmp_path / "token"
    wrong.write_text("b" * 64)
    wrong.chmod(0o600)
    with environment({"RAY_AUTH_TOKEN_PATH": str(wrong)}):
        done = submit("train", job, "--address", cluster.dashboard)
    assert done.returncode == 2
    assert "ray get-auth-token" in done.stderr
    assert "b" * 64 not in done.stderr


# ------------------------------------------------------------------ without a cluster


def test_nobody_there(job):
    done = submit("train", job, "--address", f"http://127.0.0.1:{free_ports(1)[0]}")
    assert done.returncode == 2
    assert "--address" in done.stderr
    assert "port 8265" in done.stderr


@pytest.mark.parametrize(
    "address", ["", "ray://host:10001", "host:8265", "http://user:secret@host:8265", "http://"]
)
def test_an_address_that_is_none(job, address):
    found = CliRunner().invoke(app, ["submit", "train", str(job), "--address", address])
    assert found.exit_code == 2
    assert "http://host:8265" in found.stderr
    assert "secret" not in found.stderr


def test_a_kind_that_is_none(job):
    found = CliRunner().invoke(app, ["submit", "teach", str(job), "--address", "http://h:1"])
    assert found.exit_code == 2
    assert "train, tune, score" in found.stderr


def test_what_only_this_machine_has_is_refused_all_at_once(job, tmp_path):
    table = tmp_path / "table.csv"
    overrides = [f"data.train={table}", f"run.storage={tmp_path}/runs"]
    with pytest.raises(ConfigError) as refused:
        check_paths(TrainJob.load(job, overrides), [])
    assert [p.path for p in refused.value.problems] == ["data.train", "run.storage"]
    assert "--shared" in refused.value.problems[0].remedy
    check_paths(TrainJob.load(job, overrides), [str(tmp_path)])


def test_paths_of_a_search_and_of_a_scoring_job(job, tmp_path):
    search = {
        "train": yaml.safe_load(job.read_text()),
        "space": {"model.base": {"kind": "choice", "values": [str(tmp_path / "a"), "org/b"]}},
        "run": {"storage": "s3://bucket/runs"},
    }
    with pytest.raises(ConfigError) as refused:
        check_paths(TuneJob.load(search), [])
    assert [p.value for p in refused.value.problems] == [str(tmp_path / "a")]
    score = {
        "bundle": "/local/bundle",
        "input": {"path": "s3://bucket/in"},
        "output": {"path": "/local/out"},
    }
    with pytest.raises(ConfigError) as refused:
        check_paths(ScoreJob.load(score), [])
    assert [p.path for p in refused.value.problems] == ["bundle", "output.path"]


def test_nothing_secret_is_sent(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never")
    monkeypatch.setenv("WANDB_API_KEY", "never")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example.org")
    monkeypatch.setenv("CLFTASK_LOG", "json")
    submitted = runtime_env("/folder", Shipping(packages=True))
    assert submitted["env_vars"]["AWS_ENDPOINT_URL_S3"] == "https://s3.example.org"
    assert submitted["env_vars"]["CLFTASK_LOG"] == "json"
    assert "never" not in str(submitted)
    names = {line.partition("==")[0] for line in pinned()}
    assert {"transformers", "boto3", "pyarrow"} <= names
    assert not names & {"ray", "torch"}


@pytest.mark.parametrize(
    "shipping", [Shipping(), Shipping(packages=True), Shipping(image="registry/image:1")]
)
def test_ray_takes_what_is_sent(shipping, tmp_path):
    submitted = runtime_env(str(tmp_path), shipping)
    assert RuntimeEnv(**submitted).get("image_uri") == shipping.image


def test_an_image_gets_its_job_with_the_command(job, place):
    shipping = Shipping(image="registry/image:1")
    loaded = TrainJob.load(job, ["data.labels.names=['größer', \"it's\", '$(x)']"])
    ran = command("train", loaded, shipping, as_json=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", f"{ran} --dry-run"],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == loaded.dump()
    assert f"{place}/train.parquet" not in ran


def test_an_image_goes_with_no_packages_and_no_huge_job(job):
    image = Shipping(image="registry/image:1")
    with pytest.raises(ConfigError, match="--pip: cannot be combined with --image"):
        command("train", TrainJob.load(job), replace(image, packages=True), as_json=False)
    names = [secrets.token_hex(20) for _ in range(5_000)]
    huge = TrainJob.load(job, [f"data.labels.names={json.dumps(names)}"])
    with pytest.raises(ConfigError, match="--image: the job file is too large"):
        command("train", huge, image, as_json=False)


class _Client:
    """The job server's, of a log in lines; `falters` says when a look at the log breaks off."""

    def __init__(self, falters: Any, answers: list[Any], clock: list[float]) -> None:
        self.falters, self.answers, self.clock, self.looks = falters, answers, clock, 0

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        self.looks += 1
        for line in ("one\n", "two\n", "three\n"):
            if self.falters(self.looks, line):
                self.clock[0] += 0 if line == "one\n" else 3600  # for which it was followed
                raise RuntimeError("WebSocket connection closed unexpectedly")
            yield line

    def get_job_info(self, job_id: str) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        status = SimpleNamespace(is_terminal=lambda: answer is not None)
        return SimpleNamespace(status=status, driver_exit_code=answer, message="")


def followed(
    monkeypatch: Any, falters: Any, answers: list[Any]
) -> tuple[SubmittedJob, list[float]]:
    clock = [0.0]
    ticking = SimpleNamespace(
        monotonic=lambda: clock[0], sleep=lambda s: clock.__setitem__(0, clock[0] + s)
    )
    monkeypatch.setattr(submitting, "time", ticking)
    cluster: Any = SimpleNamespace(client=_Client(falters, answers, clock), address="http://h:1")
    return SubmittedJob(cluster, "job"), clock


def test_a_log_that_breaks_off_resumes_where_it_was(monkeypatch):
    submitted, _ = followed(
        monkeypatch, lambda look, line: (look, line) == (1, "three\n"), [None, 3]
    )
    shown: list[str] = []
    assert submitted.wait(shown.append) == 3
    assert "".join(shown) == submitted.log == "one\ntwo\nthree\n"


def test_a_head_that_is_away_for_a_while_is_waited_for(monkeypatch):
    away = [ConnectionError("refused")] * 100
    submitted, _ = followed(monkeypatch, lambda look, line: 1 <= look <= 100, [*away, 0])
    shown: list[str] = []
    assert submitted.wait(shown.append) == 0
    assert "".join(shown) == "one\ntwo\nthree\n"


def test_a_head_that_stays_away_is_reported(monkeypatch):
    submitted, clock = followed(monkeypatch, lambda look, line: False, [ConnectionError("refused")])
    with pytest.raises(JobError, match=r"has not answered for 300 s.*job status job"):
        submitted.wait(lambda text: None)
    assert 300 < clock[0] < 310


def quiet(monkeypatch: Any, submitted: SubmittedJob, until: Any) -> _Client:
    """Let a log say nothing more after its first line until an event, in its first look."""
    monkeypatch.setattr(submitting, "QUIET_S", 0.05)
    client: Any = submitted.cluster.client
    tail = client.tail_job_logs

    async def hanging(job_id: str) -> AsyncIterator[str]:
        async for line in tail(job_id):
            yield line
            while client.looks == 1 and line == "one\n" and not until():
                await asyncio.sleep(0.01)

    monkeypatch.setattr(client, "tail_job_logs", hanging)
    return client


def test_a_quiet_log_of_a_job_that_runs_is_not_asked_for_again(monkeypatch):
    submitted, _ = followed(monkeypatch, lambda look, line: False, [None, None, None, 0])
    client = quiet(monkeypatch, submitted, lambda: len(client.answers) == 1)
    shown: list[str] = []
    assert submitted.wait(shown.append) == 0
    assert "".join(shown) == "one\ntwo\nthree\n"
    assert client.looks == 2  # the second after the job's end


def test_a_log_that_stays_silent_beyond_the_jobs_end_is_asked_for_again(monkeypatch):
    submitted, _ = followed(monkeypatch, lambda look, line: False, [None, 0])
    client = quiet(monkeypatch, submitted, lambda: False)
    shown: list[str] = []
    assert submitted.wait(shown.append) == 0
    assert "".join(shown) == "one\ntwo\nthree\n"
    assert client.looks == 2


STATUS = "Request failed with status code {}: of the server."


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([RuntimeError(STATUS.format(404))], ConfigError),  # refused, and the job does not exist
        ([RuntimeError(STATUS.format(404)), None], None),  # recorded a little later
        ([RuntimeError(STATUS.format(503))], JobError),  # unknown
        ([requests.ConnectionError("gone")], JobError),
    ],
)
@pytest.mark.parametrize("error", [requests.ReadTimeout("slow"), RuntimeError(STATUS.format(504))])
def test_a_job_whose_sending_failed_is_not_given_up_unasked(monkeypatch, error, answers, expected):
    submitted, _ = followed(monkeypatch, lambda look, line: False, answers)

    def submit_job(**options: Any) -> None:
        raise error

    there = object.__new__(Cluster)
    there.address, there.client = "http://h:1", submitted.cluster.client
    monkeypatch.setattr(there.client, "submit_job", submit_job, raising=False)
    with pytest.raises(expected) if expected else contextlib.nullcontext():
        assert there.submit("true", "job", {}).id.startswith("job-")


def test_who_interrupts_the_sending_hears_of_the_job(monkeypatch):
    def submit_job(**options: Any) -> None:
        raise KeyboardInterrupt

    there = object.__new__(Cluster)
    there.address, there.client = "http://h:1", SimpleNamespace(submit_job=submit_job)
    with pytest.raises(KeyboardInterrupt) as stop:
        there.submit("true", "job", {})
    assert "ray job stop job-" in stop.value.__notes__[0]


@pytest.mark.parametrize(
    ("last", "code", "is_result"),
    [
        ('{"run": "s3://b/r"}', 0, True),
        ('{"error": {"exit": 2}}', 2, True),
        ('{"level": "info", "message": "step"}', 137, False),
        ('{"level": "info", "message": "step"}', 0, False),
        ("{'no': json", 0, False),
        ("[1]", 0, False),
        ("", 137, False),
    ],
)
def test_the_result_is_read_from_the_log(last, code, is_result):
    submitted = SubmittedJob(SimpleNamespace(address="http://h:1"), "job", f"a line\n{last}\n")
    assert submitted.result(code) == (last if is_result else None)


def test_json_ends_with_an_object_for_a_job_that_was_killed_too(monkeypatch, job):
    submitted, _ = followed(monkeypatch, lambda look, line: False, [None, -9])
    monkeypatch.setattr(submitting, "send", lambda *arguments: submitted)
    found = CliRunner().invoke(
        app, ["submit", "train", str(job), "--address", "http://h:1", "--json"]
    )
    assert found.exit_code == 137
    error = json.loads(found.stdout)["error"]
    assert error["exit"] == 137
    assert "ray job logs job" in error["problems"][0]["remedy"]


def test_the_exit_code_counts_where_the_log_is_lost(monkeypatch):
    submitted, _ = followed(monkeypatch, lambda look, line: True, [None, 2])
    assert submitted.wait(lambda text: None) == 2


def test_a_reader_who_leaves_ends_the_showing(monkeypatch):
    def leave(text: str) -> None:
        raise BrokenPipeError

    submitted, clock = followed(monkeypatch, lambda look, line: False, [None, 0])
    with pytest.raises(BrokenPipeError):
        submitted.wait(leave)
    assert clock[0] == 0
