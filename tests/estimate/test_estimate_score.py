"""What scoring a corpus will take, and how it is learned: from a sample, with nothing written."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet
from typer.testing import CliRunner

from clftask.cli.main import app
from clftask.config.score import ScoreJob
from clftask.data.readers.base import Source
from clftask.distributed.session import connected
from clftask.errors import ConfigError, DataError
from clftask.estimate.machine import WorkerResources, as_worker, check_device
from clftask.estimate.pace import Pace, pace_of
from clftask.estimate.sampling import draw, places
from clftask.estimate.score import Load, estimate
from clftask.estimate.timing import _padding_of_shards, spread
from clftask.models import bundle
from clftask.models.predictor import Scorer
from clftask.scoring import plan as planning
from clftask.scoring.input import read_shards
from clftask.scoring.manifest import Piece, Shard
from clftask.scoring.plan import Planned
from clftask.scoring.worker import Done, ScoreWork, ShardScorer

ASKED = WorkerResources(workers=1, cpus=1)
WORDS = ["fast", "audio", "tool", "router", "shader", "melody", "library", "simple"]


class World:
    """A bundle, a folder of input and a job on them."""

    def __init__(self, folder: Path, tiny_bundle: str) -> None:
        self.input, self.output = folder / "in", folder / "out"
        self.input.mkdir()
        self.document: dict[str, Any] = {
            "bundle": tiny_bundle,
            "input": {"path": str(self.input), "id": "id", "keep": ["source"]},
            "output": {"path": str(self.output)},
            "shard_rows": 50,
            "precision": "fp32",
        }
        local, self.meta = bundle.fetch(tiny_bundle, "")
        self.scorer = Scorer(*bundle.open_model(local, self.meta), self.meta)

    def write(self, name: str, texts: list[str | None]) -> Path:
        """Write a table of texts."""
        ids = [f"{name}-{i}" for i in range(len(texts))]
        source = pa.array([i % 3 for i in range(len(texts))], pa.int16())
        table = pa.table({"id": ids, "text": pa.array(texts, pa.string()), "source": source})
        path = self.input / name
        write = csv.write_csv if name.endswith(".csv") else parquet.write_table
        write(table, path)
        return path

    def job(self, **settings: Any) -> ScoreJob:
        return ScoreJob.load(self.document | settings)

    def planned(self, job: ScoreJob) -> Planned:
        return planning.plan(job, self.meta)

    def estimate(self, asked: WorkerResources = ASKED, **settings: Any) -> dict[str, Any]:
        job = self.job(**settings)
        return estimate(job, self.meta, self.planned(job), asked, lambda line: None)

    def score(self, job: ScoreJob, most: int = 10**9) -> int:
        """Score shards of the job in this process; return the bytes of their parts."""
        planned = planning.create(job, self.meta, self.planned(job))
        worker = ShardScorer(ScoreWork(job, planned.plan, self.meta), self.scorer)
        done = [found for found in worker.run(planned.missing[:most]) if isinstance(found, Done)]
        return sum(found.receipt.num_bytes for found in done)


@pytest.fixture
def world(tmp_path: Path, tiny_bundle: str) -> World:
    return World(tmp_path, tiny_bundle)


def texts(count: int, longest: int = 20, seed: int = 0) -> list[str | None]:
    lot = random.Random(seed)
    return [" ".join(lot.choices(WORDS, k=lot.randint(1, longest))) for _ in range(count)]


# ------------------------------------------------------------------ places


def shard(*pieces: tuple[int, int, int]) -> Shard:
    return Shard(index=0, pieces=tuple(Piece(file=f, start=s, num_rows=n) for f, s, n in pieces))


def rows_of(shards: list[Shard]) -> list[tuple[int, int]]:
    pieces = [piece for found in shards for piece in found.pieces]
    return [(p.file, row) for p in pieces for row in range(p.start, p.start + p.num_rows)]


def test_places_lie_in_all_files_and_all_over_each() -> None:
    shards = [shard((1, 150, 150)), shard((0, 0, 100)), shard((1, 0, 150))]
    found = places(shards, 4, 10, seed=1)
    assert [s.index for s in found] == [0, 1, 2, 3]
    assert [s.num_rows for s in found] == [10, 10, 10, 10]
    rows = rows_of(found)
    batches = [{(0, r) for r in range(100)}, *({(1, r) for r in range(a, a + 100)}
                 for a in (0, 100, 200))]  # fmt: skip
    for i, shard_batch in enumerate(batches):
        assert set(rows[10 * i : 10 * i + 10]) <= shard_batch
    others = {tuple(rows_of(places(shards, 4, 10, seed=seed))) for seed in range(20)}
    assert len(others) == 20


def test_places_leave_out_what_is_done() -> None:
    found = places([shard((0, 40, 10)), shard((0, 90, 10))], 2, 100, seed=0)
    assert rows_of(found) == [(0, row) for row in [*range(40, 50), *range(90, 100)]]


def test_a_place_goes_on_in_the_next_file() -> None:
    found = places([shard((0, 0, 3), (1, 0, 4)), shard((2, 5, 3))], 2, 5, seed=0)
    assert [[(p.file, p.start, p.num_rows) for p in s.pieces] for s in found] == [
        [(0, 0, 3), (1, 0, 2)],
        [(1, 2, 2), (2, 5, 3)],
    ]


def test_few_rows_are_all_sampled_once() -> None:
    found = places([shard((0, 0, 5))], 24, 1000, seed=0)
    assert rows_of(found) == [(0, row) for row in range(5)]


@pytest.mark.parametrize(("name", "passes"), [("a.csv", 1), ("a.parquet", 24)])
def test_the_sample_is_what_stands_at_its_places(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, passes: int
) -> None:
    """A text file is read in one pass, others where the places are."""
    told = texts(30_000, longest=4)
    world.write(name, told)
    job = world.job(shard_rows=2_000)
    planned, opened = world.planned(job), []
    batches = Source.batches

    def counted(self: Source, file: str, *rest: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        opened.append(file)
        return batches(self, file, *rest, **options)

    monkeypatch.setattr(Source, "batches", counted)
    sample = draw(job, world.meta, planned, "cpu")
    assert len(opened) == passes
    assert sample.num_rows == 24_000
    for chunk in sample.chunks:
        rows = chunk.table["_row"].to_pylist()
        assert chunk.text.to_pylist() == [told[row] for row in rows]
        assert chunk.table["id"].to_pylist() == [f"{name}-{row}" for row in rows]


def test_shards_of_a_text_file_are_read_in_one_pass_with_gaps(world: World) -> None:
    told = texts(20_000)
    world.write("a.csv", told)
    job = world.job(shard_rows=1_000)
    plan = world.planned(job).plan
    chosen = [plan.shards[i] for i in (1, 2, 15, 3)]
    found = list(read_shards(plan, chosen, job.input.recipe(world.meta.text)))
    for chunk, wanted in zip(found, chosen, strict=True):
        start = wanted.pieces[0].start
        assert chunk.text.to_pylist() == told[start : start + 1_000]
        assert chunk.table["_row"].to_pylist() == list(range(start, start + 1_000))


# ------------------------------------------------------------------ figures


def test_a_steady_pace_is_certain() -> None:
    found = pace_of([10, 20, 10], [1.0, 2.0, 1.0])
    assert found == Pace(10.0, 10.0, 10.0)
    assert found.is_steady
    assert found.faster(1.5) == Pace(15.0, 15.0, 15.0)
    assert Pace(10.0).faster(2) == Pace(20.0)


def test_an_unsteady_pace_has_an_interval() -> None:
    # Of the seconds 1, 2, 3 the standard error is 1/√3; Student's t with 2 degrees is 4.3027.
    found = pace_of([10, 10, 10], [1.0, 2.0, 3.0])
    assert found.rows_per_s == pytest.approx(5.0)
    assert found.low == pytest.approx(1 / (0.2 + 0.24842), rel=1e-4)
    assert found.high is None
    assert not found.is_steady
    assert pace_of([10], [2.0]) == Pace(5.0)
    assert not Pace(5.0).is_steady


def test_time_depends_on_workers_until_each_has_one_shard() -> None:
    load = Load(rows=1_000, shards=10, rows_per_s=10.0, startup_s=5.0)
    assert [load.seconds(n) for n in (1, 2, 4, 10, 16)] == [105.0, 55.0, 35.0, 15.0, 15.0]
    assert load.by_workers(3)[2] == {"workers": 3, "seconds": 45.0}
    assert [row["workers"] for row in load.by_workers(3)] == [1, 2, 3, 4, 8, 16]
    assert [load.workers_within(s) for s in (105, 104, 35, 15, 14)] == [1, 2, 4, 10, None]


def test_a_worker_has_the_cpus_of_a_worker_and_gives_them_back() -> None:
    before = torch.get_num_threads(), os.sched_getaffinity(0)
    with as_worker(1.5) as cpus:
        assert (cpus, torch.get_num_threads(), len(os.sched_getaffinity(0))) == (1, 1, 1)
    with as_worker(1000) as cpus:
        assert cpus == len(before[1])
    assert (torch.get_num_threads(), os.sched_getaffinity(0)) == before


def test_workers_with_gpus_are_not_measured_without_one(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"scaling\.use_gpu: .*this machine has none") as caught:
        check_device(WorkerResources(1, 1, 1.0), "auto", "scaling.use_gpu")
    assert caught.value.exit_code == 2
    check_device(ASKED, "auto", "scaling.use_gpu")


# ------------------------------------------------------------------ a corpus


def test_counts_are_those_of_the_job_and_nothing_is_written(world: World) -> None:
    paths = [world.write("a.parquet", texts(260)), world.write("b.parquet", texts(130, seed=1))]
    found = world.estimate(WorkerResources(workers=2, cpus=1))
    assert (found["files"], found["rows"], found["rows_left"], found["rows_done"]) == (
        2, 390, 390, 0,
    )  # fmt: skip
    assert (found["shards"], found["shards_left"]) == (9, 9)
    assert found["bytes_read"] == sum(path.stat().st_size for path in paths)
    assert found["sample"]["rows_read"] == 390
    assert found["sample"]["rows_bad"] == found["rows_quarantined"] == 0
    assert found["rows_per_s"] > 0
    assert (found["workers"], found["cpus"]) == (2, 1)
    seconds = {row["workers"]: row["seconds"] for row in found["by_workers"]}
    assert found["seconds"] == seconds[2]
    assert found["warnings"] == []
    assert not world.output.exists()
    assert sorted(p.name for p in world.input.iterdir()) == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize("layout", ["wide", "list", "top_k"])
def test_bytes_to_be_written_are_about_those_that_are(world: World, layout: str) -> None:
    world.write("a.parquet", texts(2_000))
    settings = {"output": {"path": str(world.output), "layout": layout}, "shard_rows": 500}
    found = world.estimate(**settings)
    written = world.score(world.job(**settings))
    assert found["bytes_written"] == pytest.approx(written, rel=0.1)
    assert found["bytes_per_row"] == pytest.approx(found["bytes_written"] / 2_000, abs=0.05)


def test_small_chunks_are_padded_more_than_shards(world: World) -> None:
    """Of 3 and 5 tokens; 10 go through the model at once."""
    world.write("a.parquet", ["fast", "fast audio tool"] * 2)
    job = world.job(shard_rows=2)
    plan = world.planned(job).plan
    chunks = list(read_shards(plan, plan.shards, job.input.recipe(world.meta.text)))
    world.scorer.max_tokens = 10
    # Each chunk is padded to 2 x 5; both together make a batch of 2 x 5 and one of 2 x 3.
    assert _padding_of_shards(world.scorer, chunks, shard_rows=4) == pytest.approx(16 / 20)
    assert _padding_of_shards(world.scorer, chunks[:1], shard_rows=4) == 1.0


def test_truncated_rows_are_estimated_from_all_places(world: World) -> None:
    """All of the first file is short, all of the second is cut off at 32 tokens."""
    world.write("a.parquet", texts(600, longest=5))
    world.write("b.parquet", [" ".join(WORDS * 10)] * 200)
    found = world.estimate()
    assert found["sample"]["truncated"] == pytest.approx(0.25, abs=0.12)
    assert 0 < found["sample"]["truncated"] < 1


@pytest.mark.parametrize("count", [1, 2, 3, 7, 24, 100])
def test_whenever_measuring_stops_all_of_the_corpus_has_been_looked_at(count: int) -> None:
    order = spread(count)
    assert sorted(order) == list(range(count))
    for most in range(9, count):
        shares = np.histogram(order[:most], bins=4, range=(0, count))[0] / most
        assert shares == pytest.approx(0.25, abs=0.12)


def test_of_a_job_under_way_the_rest_is_estimated(world: World) -> None:
    path = world.write("a.parquet", texts(400))
    world.score(world.job(), most=6)
    before = {p: p.stat().st_mtime_ns for p in world.output.rglob("*")}
    found = world.estimate()
    assert (found["rows"], found["rows_done"], found["rows_left"]) == (400, 300, 100)
    assert (found["shards"], found["shards_left"]) == (8, 2)
    assert found["sample"]["rows_read"] == 100
    assert found["bytes_read"] == round(path.stat().st_size / 4)
    assert {p: p.stat().st_mtime_ns for p in world.output.rglob("*")} == before


def test_bad_rows_that_would_end_the_job_are_told(world: World) -> None:
    path = world.write("a.parquet", [None, *texts(98), "  "])
    found = world.estimate(max_bad_rows=0.02)
    assert (found["sample"]["rows_bad"], found["rows_quarantined"]) == (2, 2)
    assert found["warnings"] == []
    first = f"{path}, row 0: the text is null or blank"
    assert world.estimate(max_bad_rows=0.01)["warnings"] == [
        "2 of 100 sampled rows are bad: more than max_bad_rows (0.01) would end the job. "
        f"The first: {first}"
    ]
    assert world.estimate(on_bad_row="fail")["warnings"] == [
        f"2 of 100 sampled rows are bad, and on_bad_row: fail ends the job at the first: {first}"
    ]


def test_a_corpus_of_bad_rows_is_refused(world: World) -> None:
    path = world.write("a.parquet", [None] * 30)
    with pytest.raises(DataError, match="not one of 30 sampled rows can be scored") as caught:
        world.estimate()
    assert caught.value.exit_code == 2
    assert f"{path}, row 0: the text is null or blank" in str(caught.value)


def test_a_corpus_of_one_row_has_a_pace_without_interval(world: World) -> None:
    world.write("a.parquet", ["fast audio"])
    found = world.estimate()
    assert found["rows_left"] == found["sample"]["rows_measured"] == 1
    assert found["rows_per_s"] > 0
    assert found["rows_per_s_interval"] == [None, None]


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with connected():
        yield


def run(world: World, *options: str) -> Any:
    file = world.input.parent / "score.yaml"
    file.write_text(json.dumps(world.document))
    return CliRunner().invoke(app, ["score", str(file), *options])


def problems(result: Any) -> list[dict[str, Any]]:
    assert result.exit_code == 2, result.output
    found = json.loads(result.stdout.splitlines()[-1])["error"]["problems"]
    assert all(problem["path"] in result.stderr for problem in found)
    return list(found)


def test_the_command_prints_the_estimate(world: World, ray_here: None) -> None:
    world.write("a.parquet", texts(500))
    shown = run(world, "--estimate")
    assert shown.exit_code == 0, shown.output
    for words in ("rows/s of a worker", "time of 1 worker", "in one hour: 1 worker",
                  "500 in 10 shards", "not measured: the start of workers"):  # fmt: skip
        assert words in shown.stdout
    found = json.loads(run(world, "--estimate", "--json").stdout)
    assert set(found) == {
        "output", "files", "rows", "rows_done", "rows_left", "shards", "shards_left", "sample",
        "device", "precision", "cpus", "compiled", "rows_per_s", "rows_per_s_interval",
        "startup_s", "worker_hours", "workers", "seconds", "by_workers", "workers_for_one_hour",
        "bytes_read", "bytes_written", "bytes_per_row", "rows_quarantined", "warnings",
        "not_measured",
    }  # fmt: skip
    assert (found["rows"], found["workers"]) == (500, 1)
    assert found["cpus"] == len(os.sched_getaffinity(0))
    assert not world.output.exists()


def test_of_a_finished_job_nothing_is_left(world: World) -> None:
    world.write("a.parquet", texts(60))
    world.score(world.job())
    result = run(world, "--estimate", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rows_left"] == 0
    assert "nothing is left to be scored" in result.stderr


@pytest.mark.parametrize(
    ("options", "path"),
    [
        (["bundle=/no/such/bundle"], "bundle"),
        (["input.path=/no/such/corpus"], "input.path"),
        (["input.text=body"], "input.text"),
        (["--dry-run"], "--dry-run"),
    ],
)
def test_what_the_job_is_refused_for_is_refused(
    world: World, options: list[str], path: str
) -> None:
    world.write("a.parquet", texts(10))
    found = problems(run(world, "--estimate", "--json", *options))
    assert [problem["path"] for problem in found] == [path]
    assert not world.output.exists()


def test_an_empty_corpus_is_refused(world: World) -> None:
    world.write("a.parquet", [])
    (found,) = problems(run(world, "--estimate", "--json"))
    assert (found["path"], found["allowed"]) == ("input.path", "holds no row")


def test_more_workers_than_there_is_room_for_are_refused(world: World, ray_here: None) -> None:
    world.write("a.parquet", texts(10))
    (found,) = problems(run(world, "--estimate", "--json", "scaling.workers=5000"))
    assert found["path"] == "scaling.workers"
