from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
# One thread: those of several processes would wait for each other's, for most of the time. It is
# read when torch is imported, hence no import of clftask above.
os.environ["OMP_NUM_THREADS"] = "1"
# The same machine for all: two CPUs, no GPU, and no worker killed for lack of memory.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["RAY_OVERRIDE_RESOURCES"] = json.dumps(
    {"CPU": 2, "GPU": 0, "object_store_memory": 200_000_000}
)
os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # noqa: SIM112
# Ray puts its workers behind all else that runs: beside other tests they would hardly move.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112

ADMIN = ("adminkey", "adminsecret")
READER = ("readerkey", "readersecret")


@dataclass(frozen=True)
class S3Server:
    """A running S3 server: the URL of its bucket, its endpoint, and (key, secret) of its users."""

    bucket: str
    endpoint: str
    admin: tuple[str, str]
    reader: tuple[str, str]


class S3Process:
    """An S3 server of its own folder and ports, that can be killed and started again."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.folder, self.ports = folder, ports
        self.endpoint = f"http://127.0.0.1:{ports[0]}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = _start_weed(self.folder, self.ports)
        _wait_until_ready(self.process, self.ports, self.folder / "log.txt")

    def kill(self) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def make_bucket(self, name: str) -> None:
        import boto3

        boto3.client("s3").create_bucket(Bucket=name)

    def __enter__(self) -> S3Process:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for port in self.ports:  # its sockets lie there whatever it is told
            for left in Path("/tmp").glob(f"seaweedfs-*-grpc-{port}.sock"):
                left.unlink(missing_ok=True)


# ------------------------------------------------------------------ markers and order


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Keep what is imported and collected out of garbage collection.

    Every training calls gc.collect(), which takes a second for those objects.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


STORE_FIXTURES = {"s3", "gs", "az"}
RAY_FIXTURES = {"ray_cluster", "ray_session", "ray_here", "cluster"}
# Files with long tests, the longest first.
LONG_FILES = ("test_train_driver", "test_tune_driver", "test_score_command", "test_hostile_jobs")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures that they use, and begin with the longest.

    Tests that share a Ray session follow one another. What is short comes last: idle processes
    take over from the end of the queue.
    """
    for item in items:
        _add_marker(item)
    items.sort(key=_rank)


def _add_marker(item: pytest.Item) -> None:
    fixtures = set(getattr(item, "fixturenames", ()))
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    # `place` looks them up when the test runs.
    fixtures |= {v for v in parameters if isinstance(v, str) and v in STORE_FIXTURES}
    found = {
        "ray": fixtures & RAY_FIXTURES,
        "s3": fixtures & STORE_FIXTURES,
        "browser": fixtures & {"tab"},
        "model": fixtures & {"tiny_base"},
    }
    for name in (name for name, used in found.items() if used):
        item.add_marker(name)
    if not any(item.get_closest_marker(name) for name in (*found, "slow", "chaos")):
        item.add_marker("unit")


def _rank(item: pytest.Item) -> tuple[int, int]:
    shares_ray = "ray_cluster" in getattr(item, "fixturenames", ())
    kind = 0 if shares_ray else 1 if item.get_closest_marker("ray") else 2
    stem = item.path.stem
    return kind, LONG_FILES.index(stem) if stem in LONG_FILES else len(LONG_FILES)


# ------------------------------------------------------------------ Ray and S3

_shared_ray = contextlib.ExitStack()


@pytest.fixture
def ray_cluster(s3: S3Server) -> None:
    """Ray on this machine, one session for all tests in a row; its workers reach the S3 server."""
    import ray

    from clftask.distributed.session import connected

    if not ray.is_initialized():
        _shared_ray.close()  # a test may have ended the session
        _shared_ray.enter_context(connected())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """End the shared Ray session before a test that does not use it."""
    if "ray_cluster" not in getattr(item, "fixturenames", ()):
        _shared_ray.close()


def pytest_sessionfinish() -> None:
    _shared_ray.close()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server; the environment points to it, as admin, until the session ends."""
    server = S3Process(tmp_path_factory.mktemp("seaweedfs"), free_ports(4))
    variables = {
        "AWS_ENDPOINT_URL_S3": server.endpoint,
        "AWS_ACCESS_KEY_ID": ADMIN[0],
        "AWS_SECRET_ACCESS_KEY": ADMIN[1],
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PROFILE": None,
        "AWS_SESSION_TOKEN": None,
        "AWS_ENDPOINT_URL": None,
    }
    with server, environment(variables):
        server.make_bucket("clftask-test")
        yield S3Server("s3://clftask-test", server.endpoint, ADMIN, READER)


@pytest.fixture(scope="session")
def gs(s3: S3Server) -> Iterator[str]:
    """A bucket of a server that speaks as Google Cloud Storage does."""
    from stores import google_in_front_of

    with google_in_front_of(s3.endpoint, s3.admin) as variables, environment(variables):
        yield s3.bucket.replace("s3:", "gs:")


@pytest.fixture(scope="session")
def az(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A container of a real server of Azure's protocol; skipped where Azurite is missing."""
    from stores import azure_in

    folder = tmp_path_factory.mktemp("azurite")
    with azure_in(folder, free_ports(1)[0], "clftask") as variables, environment(variables):
        yield "az://clftask"


@pytest.fixture
def s3_user(s3: S3Server) -> Callable[[str, str], contextlib.AbstractContextManager[None]]:
    """A context manager for talking to the server as somebody else: `with s3_user(key, secret)`."""
    return lambda key, secret: environment(
        {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    )


@contextlib.contextmanager
def environment(values: dict[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    """Change the environment, and forget the clients that were made for the one before."""
    import boto3

    from clftask.io import object_stores

    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    for cached in (object_stores.s3_client, object_stores._session, object_stores._client):
        cached.cache_clear()
    boto3.DEFAULT_SESSION = None  # holds the credentials of its first use


def free_ports(count: int) -> list[int]:
    """Return ports that are free, and whose port + 10000 (weed's gRPC) is free too."""
    first = 20000 + os.getpid() % 500 * 20
    found: list[int] = []
    for port in [*range(first, 32000), *range(20000, first)]:
        if len(found) == count:
            break
        if _is_free(port) and _is_free(port + 10000):
            found.append(port)
    assert len(found) == count
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _start_weed(folder: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    (folder / "data").mkdir(exist_ok=True)
    _write_identities(folder / "s3.json")
    s3, master, volume, filer = ports
    weed = Path(sys.executable).with_name("weed")
    command = f"""{weed} -logtostderr=true server
      -dir={folder}/data -ip=127.0.0.1 -ip.bind=127.0.0.1
      -master.port={master} -master.telemetry=false -master.volumeSizeLimitMB=1024
      -master.electionTimeout=1s -volume.port={volume} -volume.max=500
      -volume.preStopSeconds=0 -volume.minFreeSpace=1
      -filer -filer.port={filer} -filer.localSocket={folder}/filer.sock
      -s3 -s3.port={s3} -s3.config={folder}/s3.json -s3.localSocket={folder}/s3.sock
      -s3.port.iceberg=0 -s3.port.lance=0 -s3.autoCreateBucket=false"""
    extra = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1", "GOMEMLIMIT": "512MiB"}
    extra |= {"WEED_S3_SSE_KEY": "for tests"}  # what it encrypts with where it is asked to
    with (folder / "log.txt").open("wb") as log:
        return subprocess.Popen(
            command.split(),
            cwd=folder,
            env=os.environ | extra,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _write_identities(path: Path) -> None:
    users = [
        ("admin", ADMIN, ["Admin", "Read", "Write", "List", "Tagging"]),
        ("reader", READER, ["Read", "List"]),
    ]
    identities = [
        {
            "name": name,
            "credentials": [{"accessKey": key, "secretKey": secret}],
            "actions": actions,
        }
        for name, (key, secret), actions in users
    ]
    path.write_text(json.dumps({"identities": identities}))


def _wait_until_ready(process: subprocess.Popen[bytes], ports: list[int], log: Path) -> None:
    give_up = time.monotonic() + 300
    while time.monotonic() < give_up and process.poll() is None:
        healthy = _get(f"http://127.0.0.1:{ports[0]}/healthz")
        if healthy is not None and "fid" in (
            _get(f"http://127.0.0.1:{ports[1]}/dir/assign?count=1") or ""
        ):
            return
        time.sleep(0.2)
    raise RuntimeError(f"weed did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _get(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


# ------------------------------------------------------------------ a model and a table

_WORDS = {
    "network": ["socket", "packet", "router", "latency", "firewall"],
    "graphics": ["shader", "pixel", "texture", "canvas", "polygon"],
    "sound": ["audio", "speaker", "volume", "melody", "rhythm"],
}
_FILLER = ["the", "a", "tool", "library", "for", "and", "fast", "simple", "new", "with"]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random BERT and its WordPiece tokenizer."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-base")
    words = [*_FILLER, *(word for group in _WORDS.values() for word in group)]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789.,!?-")
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *words]
    tokenizer = BertTokenizerFast(
        vocab={piece: index for index, piece in enumerate(vocabulary)}, model_max_length=128
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=200,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A multilabel bundle of the tiny model, its labels network, graphics and sound."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from clftask.components.decision.decision import Decision
    from clftask.config.train import TrainJob
    from clftask.models import bundle, bundle_meta

    names = tuple(sorted(_WORDS))
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_base,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        problem_type="multi_label_classification",
    )
    job = TrainJob.load(
        {
            "task": "multilabel",
            "data": {"train": "x.csv", "text": "text", "labels": {"kind": "list", "column": "y"}},
            "model": {"base": str(tiny_base), "max_length": 32},
        }
    )
    meta = bundle_meta.BundleMeta(
        task="multilabel",
        label_names=names,
        text=job.data.recipe,
        max_length=32,
        decision=Decision(),
        job=job.dump(),
        data={"fingerprint": "0" * 16, "report": {"rows": {"train": 3}, "tokens": {}}},
        versions=bundle.versions(),
        metrics={"validation": {"micro_f1": 0.5}},
    )
    folder = tmp_path_factory.mktemp("tiny-bundle")
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    bundle.write(folder, model, tokenizer, meta, {"per_label": {"validation": []}})
    return str(folder)


@pytest.fixture(scope="session")
def train_bundle(tiny_base: Path) -> Callable[..., tuple[Path, Path, dict[str, Any]]]:
    """A factory of trained bundles: `train_bundle(folder, task, *overrides)`.

    Returns the bundle, a table of the test rows, and what training found. Beside the test rows
    lies validation.parquet.
    """
    return lambda folder, task, *overrides: _train_bundle(folder, task, tiny_base, overrides)


def _train_bundle(
    folder: Path, task: str, base: Path, overrides: tuple[str, ...]
) -> tuple[Path, Path, dict[str, Any]]:
    import pandas as pd

    from clftask.config.train import TrainJob
    from clftask.data.prepare import prepare, tokenise
    from clftask.models.tokenizers import load_tokenizer
    from clftask.training import run_dir
    from clftask.training.worker import Work, fit

    table = _write_toy_table(folder / "toy.parquet", 240)
    kind, column = {"multilabel": ("list", "tags"), "multiclass": ("class", "label")}[task]
    split = {"kind": "column", "column": "split"}
    labels = {"kind": kind, "column": column}
    document = {
        "task": task,
        "data": {"train": str(table), "text": "text", "labels": labels, "split": split},
        "model": {"base": str(base), "max_length": 32},
        "training": {"epochs": 3, "learning_rate": 2e-2, "precision": "fp32"},
        "run": {"storage": str(folder)},
    }
    job = TrainJob.load(document, overrides)
    prepared = prepare(job)
    tables = tokenise(prepared, load_tokenizer(str(base)), job.model)
    data = {"fingerprint": prepared.fingerprint, "report": prepared.report.as_json()}
    sink = _Sink()
    run = run_dir.Run(str(folder / "run"), exists=False)
    run_dir.create(run, job, prepared.rows, prepared.fingerprint)
    fit(Work(job, str(folder / "run"), tables, prepared.space.names, data, ""), sink, 0, 1, "cpu")
    rows = pd.read_parquet(table)
    for name in ("test", "validation"):
        rows[rows["split"] == name].to_parquet(folder / f"{name}.parquet")
    return folder / "run" / "bundle", folder / "test.parquet", sink.outcome


class _Sink:
    """Keeps what a run ended with."""

    outcome: dict[str, Any]

    def post(self, record: dict[str, Any]) -> None:
        self.outcome = record.get("done", {})

    def report(self, metrics: dict[str, float]) -> None:
        pass

    def is_leaving(self) -> bool:
        return False


@pytest.fixture
def toy_table(tmp_path: Path) -> Callable[..., Path]:
    """A factory of learnable tables: `toy_table(rows, name="toy.parquet")` returns the file.

    Columns: id, text, label (class), tags (list of string), source (10 groups), split.
    """
    return lambda rows, name="toy.parquet": _write_toy_table(tmp_path / name, rows)


def _write_toy_table(path: Path, rows: int) -> Path:
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    random = np.random.default_rng(7)
    names = list(_WORDS)
    columns: dict[str, list[object]] = {"id": [f"row-{i:04d}" for i in range(rows)]}
    columns |= {name: [] for name in ("text", "label", "tags", "source", "split")}
    for i in range(rows):
        label, other = names[i % 3], names[(i + 1 + i // 3 % 2) % 3]
        has_two = i % 4 == 0
        words = [*random.choice(_WORDS[label], 4), *random.choice(_FILLER, 4)]
        words += list(random.choice(_WORDS[other], 2)) if has_two else []
        columns["text"].append(" ".join(random.permutation(words)))
        columns["label"].append(label)
        columns["tags"].append([label, other] if has_two else [label])
        columns["source"].append(f"source-{i // 3 % 10}")
        columns["split"].append({8: "validation", 9: "test"}.get(i // 3 % 10, "train"))
    parquet.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def make_work(
    tmp_path: Path, toy_table: Callable[..., Path], tiny_base: Path
) -> Callable[..., Any]:
    """A factory of a worker's inputs: `make_work(run="run", task="multilabel", epochs=2, …)`."""
    from training_work import work_factory

    return work_factory(tmp_path, toy_table(120), tiny_base)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Hear SIGINT, which a shell lets those ignore that it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def own_processes(title: str) -> list[Any]:
    """Return the Ray processes of this test process with a title, none of those beside it."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if title in "".join(process.cmdline()):
                found.append(process)
    return found


@pytest.fixture
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let readers read a few bytes at a time, so that every row crosses a boundary."""
    from clftask.data.readers.arrow import Parquet
    from clftask.data.readers.csv import Csv
    from clftask.data.readers.jsonl import JsonLines

    monkeypatch.setattr(Csv, "block_size", 8)
    monkeypatch.setattr(JsonLines, "block_size", 5)
    monkeypatch.setattr(Parquet, "buffer_size", 16)


@pytest.fixture(scope="module")
def make_bundle(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A factory of bundles; those with equal arguments are shared by the tests of a module."""
    from toy_scorers import bundles_of

    return bundles_of(tiny_base, tmp_path_factory)
