"""Scoring on real Ray and a real S3 server: each row exactly once, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cascades import noisy_copy
from conftest import S3Process, environment, free_ports, own_processes
from proxy import Unwilling, between
from pyarrow import parquet

from clftask.commands.inspect import inspect
from clftask.config.results import ScoreResult
from clftask.config.score import ScoreJob
from clftask.distributed.score.driver import score
from clftask.errors import AccessError, ClftaskError
from clftask.io import listing, storage

NUM_ROWS, SHARD_ROWS = 1_000, 25


def write_corpus(folder: str) -> None:
    """Write a Parquet file of one row group and two CSV files."""
    words = ["fast audio", "the router", "a pixel shader", "simple melody library"]
    ids = [f"row-{i}" for i in range(NUM_ROWS)]
    texts = [f"{words[i % 4]} {i % 11}" for i in range(NUM_ROWS)]
    table = pa.table({"id": ids, "text": texts, "number": list(range(NUM_ROWS))})
    half = NUM_ROWS // 2
    sink = pa.BufferOutputStream()
    parquet.write_table(table.slice(0, half), sink)
    storage.put(storage.join(folder, "parquet", "a.parquet"), sink.getvalue().to_pybytes())
    lines = [
        f'{i},"{text}\nand more",{n}'
        for i, text, n in zip(ids, texts, range(NUM_ROWS), strict=True)
    ]
    for name, rows in (("b.csv", lines[half : half + 7]), ("c.csv", lines[half + 7 :])):
        text = "\n".join(["id,text,number", *rows])
        storage.put(storage.join(folder, "csv", name), text.encode())


@pytest.fixture
def job(tiny_bundle: str, s3, tmp_path: Path) -> dict[str, Any]:
    """A job from S3 to S3."""
    place = f"{s3.bucket}/{tmp_path.name}"
    write_corpus(f"{place}/in")
    return document(tiny_bundle, place)


def document(bundle: str, place: str, name: str = "csv") -> dict[str, Any]:
    return {
        "bundle": bundle,
        "input": {"path": f"{place}/in/{name}", "id": "id", "keep": "number"},
        "output": {"path": f"{place}/out"},
        "shard_rows": SHARD_ROWS,
        "precision": "fp32",
        "scaling": {"workers": 2},
    }


def meta_of(folder: str) -> dict[str, Any]:
    return storage.read_json(f"{folder}/clftask.json", "")


def run(job: dict[str, Any], *overrides: str, show: Any = None) -> ScoreResult:
    return score(ScoreJob.load(job, overrides), lambda line: None, show or (lambda record: None))


def assert_complete(job: dict[str, Any]) -> None:
    """Compare the table with the input: each row exactly once."""
    output = job["output"]["path"]
    files = [f.path for f in listing.list_files(output) if f.path.endswith(".parquet")]
    tables = [parquet.read_table(pa.BufferReader(storage.read_bytes(f))) for f in files]
    table = pa.concat_tables(tables)
    half = NUM_ROWS // 2
    wanted = range(half) if job["input"]["path"].endswith("parquet") else range(half, NUM_ROWS)
    assert sorted(table["id"].to_pylist()) == sorted(f"row-{i}" for i in wanted)
    assert sorted(table["number"].to_pylist()) == list(wanted)
    found = inspect(output, verify=True)
    assert found.state == "complete"
    assert found.rows_scored == half
    names = [f.path.rpartition("/")[2] for f in listing.list_files(f"{output}/_receipts")]
    receipts = [name for name in names if not name.startswith(".tmp-")]  # of a write that is killed
    assert sorted(receipts) == sorted(f"{Path(file).stem}.json" for file in files)
    assert len(receipts) == found.parts


def test_scores_from_s3_to_s3(ray_cluster, job):
    seen: list[dict[str, Any]] = []
    result = run(job, show=seen.append)
    assert_complete(job)
    assert result.rows_in == result.rows_scored == 500
    assert result.shards == 21
    assert seen[-1]["rows"] == seen[-1]["total"] == 500
    again = run(job)
    assert (again.shards_skipped, again.rows_in) == (21, 500)
    job["input"]["grow"] = True
    added = "id,text,number\nrow-0,fast audio,0\nrow-1,the router,1\n"
    storage.put(f"{job['input']['path']}/d.csv", added.encode())
    grown = run(job, show=seen.append)
    assert (grown.generations, grown.shards_skipped, grown.shards) == (2, 21, 22)
    assert (grown.rows_in, seen[-1]["total"], grown.labels.keys()) == (502, 2, again.labels.keys())


def test_one_limit_is_fitted_for_a_cascade_and_kept(ray_cluster, job, tiny_bundle, tmp_path):
    small, lines = noisy_copy(tiny_bundle, tmp_path / "small", std=1e-4), []
    job["bundle"] = {"cascade": [small, tiny_bundle], "agreement": 0.6}
    result = score(ScoreJob.load(job), lines.append, lambda record: None)
    assert_complete(job)
    plan, manifest = (storage.read_json(f"{job['output']['path']}/{name}", "")
                      for name in ("_plan.json", "_manifest.json"))  # fmt: skip
    assert plan["cascade"] == manifest["cascade"] == result.cascade.dump()
    assert result.cascade.limit is not None
    assert sum(result.answered_by.values()) == 500
    assert result.answered_by["small"] > 150
    assert lines.count(f"cascade: {result.cascade}") == 1
    again = run(job)
    assert (again.shards_skipped, again.answered_by) == (21, result.answered_by)
    both = [meta_of(folder)["fingerprint"] for folder in (small, tiny_bundle)]
    assert manifest["bundle"] == plan["settings"]["bundle"] == "+".join(both)


def test_one_precision_is_agreed_for_a_table_and_kept(ray_cluster, job):
    lines: list[str] = []
    job["input"]["where"] = "number < 700 or number is null"
    job["precision"] = "auto"
    result = score(ScoreJob.load(job), lines.append, lambda record: None)
    assert (result.rows_in, result.rows_scored, result.rows_filtered) == (200, 200, 300)
    plan, manifest = (storage.read_json(f"{job['output']['path']}/{name}", "")
                      for name in ("_plan.json", "_manifest.json"))  # fmt: skip
    agreed = plan["precision"]
    assert manifest["precision"] == agreed
    assert (agreed["asked"], agreed["used"]) == ("auto", result.precision)
    assert any(line.endswith(result.precision_note) for line in lines)
    assert run(job).precision == result.precision
    files = [f.path for f in listing.list_files(job["output"]["path"]) if "part-" in f.path]
    parts = [storage.read_bytes(f) for f in files if f.endswith(".parquet")]
    footers = [parquet.read_schema(pa.BufferReader(part)).metadata for part in parts]
    assert {json.loads(footer[b"clftask.precision"]) for footer in footers} == {result.precision}


def test_killed_worker_is_replaced(ray_cluster, job):
    killed: list[int] = []

    def kill(record: dict[str, Any]) -> None:
        if record["rows"] > 100 and not killed:
            killed.append(_actor_pid())
            os.kill(killed[0], signal.SIGKILL)

    job["input"]["path"] = job["input"]["path"].replace("/csv", "/parquet")
    run(job, show=kill)
    assert killed
    assert_complete(job)


def _actor_pid() -> int:
    return own_processes("ray::ScoreActor")[0].pid


def test_elastic_pool_starts_with_what_fits(ray_cluster, job):
    """Of at most six workers, as many start as there are CPUs."""
    job["scaling"] = {"workers": [1, 6], "cpus_per_worker": 1}
    assert run(job).rows_scored == 500
    assert_complete(job)


def test_refused_credentials_end_the_job_at_once(ray_cluster, job, s3, s3_user):
    with s3_user("nobody", "wrong"), pytest.raises(AccessError) as caught:
        run(job)
    assert caught.value.exit_code == 2
    assert "access denied" in str(caught.value)


# ------------------------------------------------------------------ drivers


@contextmanager
def driver(job: dict[str, Any], folder: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command, with a Ray of its own."""
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(job))
    variables = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "clftask", "score", str(file), "--json"]
    process = subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def finish(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    with driver(job, folder, "last") as process:
        out, error = process.communicate()
        assert process.returncode == 0, error
        result: dict[str, Any] = json.loads(out.splitlines()[-1])
        return result


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Wait for something that a driver does; fail with its words if it does not."""
    give_up = time.monotonic() + 600
    while not what():
        if process.poll() is not None or time.monotonic() > give_up:
            process.kill()
            raise AssertionError(f"waited in vain: {process.communicate()}")
        time.sleep(0.02)


@pytest.mark.ray
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("before a part", marks=pytest.mark.slow),
        "between part and receipt",
        pytest.param("before the end", marks=pytest.mark.slow),
    ],
)
def test_killed_driver_is_started_again(tiny_bundle, tmp_path, moment):
    write_corpus(str(tmp_path / "in"))
    job = document(tiny_bundle, str(tmp_path))
    out = tmp_path / "out"
    with driver(job, tmp_path, "first") as process:
        if moment == "before a part":
            wait_for((out / "_plan.json").exists, process)
        elif moment == "between part and receipt":
            wait_for(lambda: list(out.glob("part-*")), process)
        else:
            wait_for(lambda: len(list(out.glob("_receipts/part-*"))) >= 15, process)
        process.kill()
    receipts = sorted(out.glob("_receipts/part-*"))
    if moment == "between part and receipt" and receipts:
        receipts[0].unlink()  # the kill may have come a moment after it
        (out / "_receipts" / ".tmp-left").write_text("{")  # or in the midst of another
    (out / "_manifest.json").unlink(missing_ok=True)
    result = finish(job, tmp_path)
    assert result["rows_scored"] == 500
    assert_complete(job)


@pytest.mark.ray
@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow), (signal.SIGINT, 130)],
)
def test_interrupted_driver_says_how_to_go_on(tiny_bundle, tmp_path, number, code):
    write_corpus(str(tmp_path / "in"))
    job = document(tiny_bundle, str(tmp_path)) | {"shard_rows": 1}  # it goes on for a while
    with driver(job, tmp_path, "first") as process:
        wait_for(lambda: list((tmp_path / "out").glob("part-*")), process)
        process.send_signal(number)
        out, error = process.communicate()
    assert process.returncode == code
    assert "was interrupted. Run the job again to resume." in error
    assert "***" not in error
    assert json.loads(out.splitlines()[-1])["error"]["exit"] == code


@pytest.mark.ray
@pytest.mark.slow
def test_a_table_grows_although_drivers_are_killed(tiny_bundle, tmp_path):
    """The second generation is killed, and a third file is added before the job goes on."""
    write_corpus(str(tmp_path / "all"))
    (source := tmp_path / "in" / "csv").mkdir(parents=True)
    job, out = document(tiny_bundle, str(tmp_path)), tmp_path / "out"
    job["input"]["grow"] = True
    (source / "b.csv").write_bytes((tmp_path / "all" / "csv" / "b.csv").read_bytes())
    assert finish(job, tmp_path)["rows_scored"] == 7
    head, *lines = (tmp_path / "all" / "csv" / "c.csv").read_text().split("\nrow-")
    (source / "c.csv").write_text("\nrow-".join([head, *lines[:400]]))
    with driver(job, tmp_path, "killed") as process:
        wait_for(lambda: len(list(out.glob("part-*.parquet"))) > 3, process)
        process.kill()
    (source / "d.csv").write_text("\nrow-".join([head, *lines[400:]]))
    found = finish(job, tmp_path)
    assert (found["rows_scored"], found["generations"]) == (500, 3)
    assert_complete(job)
    again = finish(job, tmp_path)
    assert (again["shards_skipped"], again["rows_scored"], again["rows_per_s"]) == (
        found["shards"],
        500,
        0,
    )


@pytest.mark.ray
@pytest.mark.slow
def test_two_drivers_race(tiny_bundle, tmp_path):
    write_corpus(str(tmp_path / "in"))
    job = document(tiny_bundle, str(tmp_path))
    job["scaling"] = {"workers": 1}
    with driver(job, tmp_path, "one") as one, driver(job, tmp_path, "two") as two:
        for process in (one, two):
            out, error = process.communicate()
            assert process.returncode == 0, error
            assert json.loads(out.splitlines()[-1])["rows_scored"] == 500
    assert_complete(job)


@pytest.mark.ray
@pytest.mark.slow
def test_two_drivers_race_to_grow_a_table(tiny_bundle, tmp_path):
    write_corpus(str(tmp_path / "in"))
    job = document(tiny_bundle, str(tmp_path))
    job["input"]["grow"], job["scaling"] = True, {"workers": 1}
    kept = (tmp_path / "in" / "csv" / "c.csv").rename(tmp_path / "c.csv")
    assert finish(job, tmp_path)["rows_scored"] == 7
    kept.rename(tmp_path / "in" / "csv" / "c.csv")
    with driver(job, tmp_path, "one") as one, driver(job, tmp_path, "two") as two:
        for process in (one, two):
            out, error = process.communicate()
            assert process.returncode == 0, error
            assert json.loads(out.splitlines()[-1])["generations"] == 2
    assert_complete(job)


# ------------------------------------------------------------------ an S3 server in trouble
@pytest.mark.ray
def test_five_in_a_hundred_calls_answered_with_503(s3, job, tmp_path):
    with between(s3, Unwilling):
        result = finish(job, tmp_path)
    assert Unwilling.refused > 5
    assert result["rows_scored"] == 500
    assert_complete(job)


@pytest.mark.ray
@pytest.mark.slow
def test_s3_server_killed_and_started_again(tiny_bundle, tmp_path, s3):
    own = S3Process(tmp_path, free_ports(4))
    with own, environment({"AWS_ENDPOINT_URL_S3": own.endpoint}):
        own.make_bucket("own")
        write_corpus("s3://own/in")
        job = document(tiny_bundle, "s3://own")
        with driver(job, tmp_path, "first") as process:
            wait_for(lambda: listing.list_files("s3://own/out/_receipts"), process)
            own.kill()
            time.sleep(3)
            own.start()
            _, error = process.communicate()
        assert process.returncode == 0, error
        assert_complete(job)


def test_errors_cross_ray():
    import pickle

    error = pickle.loads(pickle.dumps(AccessError()))
    assert isinstance(error, ClftaskError)
