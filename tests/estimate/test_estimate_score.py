"""Estimates of scoring jobs, extrapolated from a sample; they write nothing."""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from clocks import Ticks
from pyarrow import csv, parquet
from typer.testing import CliRunner

from clftask.cli.estimate_summaries import score_estimate
from clftask.cli.main import app
from clftask.config.score import ScoreJob
from clftask.data.readers.base import Source
from clftask.distributed.session import connected
from clftask.errors import ConfigError, DataError
from clftask.estimate.measure import Range, Workers, as_worker, check_device, within
from clftask.estimate.score import Pace, ScoreEstimate, _sample, estimate, extrapolate
from clftask.models import bundle
from clftask.models.predictor import Scorer
from clftask.scoring import plan as planning
from clftask.scoring.manifest import Piece, Shard
from clftask.scoring.plan import Planned
from clftask.scoring.sample import places
from clftask.scoring.worker import Done, ScoreWork, ShardScorer

ONE = Workers(count=1, cpus=1)
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

    def estimate(self, workers: Workers = ONE, start_s: float = 0.0, **job: Any) -> ScoreEstimate:
        found = self.job(**job)
        planned = self.planned(found)
        return estimate(found, self.meta, planned, workers, start_s, lambda line: None, Ticks())

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


# ------------------------------------------------------------------ the sample


def shard(*pieces: tuple[int, int, int]) -> Shard:
    return Shard(index=0, pieces=tuple(Piece(file=f, start=s, num_rows=n) for f, s, n in pieces))


def rows_of(pieces: tuple[Piece, ...]) -> list[tuple[int, int]]:
    return [(p.file, row) for p in pieces for row in range(p.start, p.start + p.num_rows)]


def test_places_lie_in_all_files_and_all_over_each() -> None:
    rows = rows_of(places([shard((1, 150, 150)), shard((0, 0, 100)), shard((1, 0, 150))], 4, 10))
    quarters = [{(0, row) for row in range(100)}, *({(1, row) for row in range(a, a + 100)}
                for a in (0, 100, 200))]  # fmt: skip
    assert len(rows) == 40
    for i, quarter in enumerate(quarters):
        found = rows[10 * i : 10 * i + 10]
        assert set(found) <= quarter
        assert [row for _, row in found] == list(range(found[0][1], found[0][1] + 10))


@pytest.mark.parametrize(
    ("shards", "count", "size", "expected"),
    [
        ([shard((0, 40, 10)), shard((0, 90, 10))], 2, 100, [(0, 40, 10), (0, 90, 10)]),
        ([shard((0, 0, 3), (1, 0, 4)), shard((2, 5, 3))], 2, 5,
         [(0, 0, 3), (1, 0, 2), (1, 2, 2), (2, 5, 3)]),
        ([shard((0, 0, 3))], 24, 1000, [(0, 0, 1), (0, 1, 1), (0, 2, 1)]),
    ],
    ids=["what is done is left out", "a place goes on in the next file", "few rows: all, once"],
)  # fmt: skip
def test_places(shards: Any, count: int, size: int, expected: Any) -> None:
    assert [(p.file, p.start, p.num_rows) for p in places(shards, count, size)] == expected


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_the_sample_is_what_stands_at_its_places(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A text file, and a row group, is read in one pass."""
    told = texts(30_000, longest=4)
    world.write(name, told)
    job = world.job(shard_rows=2_000)
    planned, opened = world.planned(job), []
    batches = Source.batches

    def counted(self: Source, file: str, *rest: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        opened.append(file)
        return batches(self, file, *rest, **options)

    monkeypatch.setattr(Source, "batches", counted)
    sample = _sample(job, world.meta, planned, "cpu")
    rows = sample.table["_row"].to_pylist()
    assert len(opened) == 1
    assert len(set(rows)) == 24_000
    assert sample.text.to_pylist() == [told[row] for row in rows]
    assert sample.table["id"].to_pylist() == [f"{name}-{row}" for row in rows]


# ------------------------------------------------------------------ this machine


def test_a_range_is_a_quarter_wide_and_reaches_the_most() -> None:
    assert within(100.0) == Range(75.0, 100.0, 125.0)
    assert within(100.0, 200.0) == Range(75.0, 100.0, 250.0)


def test_a_worker_has_the_cpus_of_a_worker_and_gives_them_back() -> None:
    before = torch.get_num_threads(), os.sched_getaffinity(0)
    with as_worker(Workers(1, 1.5)) as warnings:
        assert (warnings, torch.get_num_threads(), len(os.sched_getaffinity(0))) == ([], 1, 1)
    with as_worker(Workers(1, 1000)) as warnings:
        assert os.sched_getaffinity(0) == before[1]
    assert warnings[0].endswith("but a worker has 1,000 CPUs")
    assert (torch.get_num_threads(), os.sched_getaffinity(0)) == before


def test_workers_with_gpus_are_not_measured_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"scaling\.use_gpu: .*this machine has none") as caught:
        check_device(Workers(1, 1, 1.0), "auto", "scaling.use_gpu")
    assert caught.value.exit_code == 2
    check_device(ONE, "auto", "scaling.use_gpu")


# ------------------------------------------------------------------ a corpus


def test_the_whole_is_extrapolated_and_nothing_is_written(world: World) -> None:
    """Six chunks of 65 rows: a second from each to the next, 5 s for the last four of them."""
    world.write("a.parquet", texts(260))
    world.write("b.parquet", texts(130, seed=1))
    found = world.estimate(Workers(count=2, cpus=1), start_s=7.0)
    assert (found.rows_done, found.rows_left, found.shards_left) == (0, 390, 9)
    assert (found.rows_read, found.rows_bad, found.rows_measured) == (390, 0, 390)
    assert (found.rows_per_s, found.workers, found.device) == (52.0, 2, "cpu")
    assert found.start_s == 9.0  # 2 s to open the bundle and for the first batch
    assert found.seconds == Range(9.9, 13.2, 16.5)
    assert found.by_workers == {1: 16.5, 2: 13.2, 4: 11.5, 8: 10.7, 16: 9.8}
    assert found.warnings == ()
    assert not world.output.exists()
    assert sorted(path.name for path in world.input.iterdir()) == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize("layout", ["wide", "list", "top_k"])
def test_bytes_to_be_written_are_about_those_that_are(world: World, layout: str) -> None:
    world.write("a.parquet", texts(2_000))
    settings = {"output": {"path": str(world.output), "layout": layout}, "shard_rows": 500}
    found = world.estimate(**settings)
    assert found.bytes_written == pytest.approx(world.score(world.job(**settings)), rel=0.1)


def test_of_a_job_under_way_the_rest_is_estimated(world: World) -> None:
    world.write("a.parquet", texts(400))
    world.score(world.job(), most=6)
    before = {p: p.stat().st_mtime_ns for p in world.output.rglob("*")}
    found = world.estimate()
    assert (found.rows_done, found.rows_left, found.shards_left) == (300, 100, 2)
    assert found.rows_read == 100
    assert {p: p.stat().st_mtime_ns for p in world.output.rglob("*")} == before


def test_bad_rows_that_would_end_the_job_are_reported(world: World) -> None:
    path = world.write("a.parquet", [None, *texts(98), "  "])
    found = world.estimate(max_bad_rows=0.02)
    assert (found.rows_read, found.rows_bad, found.warnings) == (100, 2, ())
    for settings, limit in (
        ({"max_bad_rows": 0.01}, "max_bad_rows (0.01)"),
        ({"on_bad_row": "fail"}, "on_bad_row: fail"),
    ):
        assert world.estimate(**settings).warnings == (
            f"2 of 100 sampled rows are bad; {limit} would end the job. "
            f"The first: {path}, row 0: the text is null or blank",
        )


def test_only_rows_that_match_are_expected(world: World) -> None:
    """Every third of 390 rows; the other columns are read as well."""
    world.write("a.parquet", texts(390))
    keeping = {**world.document["input"], "keep": [], "where": "source = 0"}
    found = world.estimate(input=keeping)
    assert (found.rows_left, found.rows_read, found.rows_filtered) == (130, 130, 260)
    written = world.score(world.job(input=keeping))
    assert found.bytes_written == pytest.approx(written, rel=0.1)
    out = io.StringIO()
    score_estimate(found, out)
    assert "33.3% of 390 rows" in out.getvalue()
    assert "about 130 in 8 shards" in out.getvalue()


def test_a_condition_that_no_sampled_row_matches_is_reported(world: World) -> None:
    world.write("a.parquet", texts(30))
    keeping = {**world.document["input"], "where": "source > 7"}
    with pytest.raises(DataError, match=r"input\.where: none of 30 sampled rows matches"):
        world.estimate(input=keeping)


def test_auto_is_measured_in_the_precision_that_would_be_used(world: World) -> None:
    world.write("a.parquet", texts(60))
    found: list[str] = []
    job = world.job(precision="auto")
    estimate(job, world.meta, world.planned(job), ONE, 0.0, found.append, Ticks())
    assert any(line.startswith(("precision fp32", "precision bf16")) for line in found)


def test_a_corpus_of_bad_rows_is_refused(world: World) -> None:
    path = world.write("a.parquet", [None] * 30)
    with pytest.raises(DataError, match="none of 30 sampled rows can be scored") as caught:
        world.estimate()
    assert caught.value.exit_code == 2
    assert f"{path}, row 0: the text is null or blank" in str(caught.value)


def test_a_corpus_of_one_row(world: World) -> None:
    """A second for the first batch, then one a row."""
    world.write("a.parquet", ["fast audio"])
    found = world.estimate()
    assert (found.rows_left, found.rows_measured) == (1, 1)
    assert (found.rows_per_s, found.start_s, found.seconds.typical) == (1.0, 2.0, 3.0)


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
    result = run(world, "--estimate", "--json")
    assert result.exit_code == 0, result.output
    for words in ("rows/s of a worker", "time with 1 worker", "500 in 10 shards",
                  "not measured: reading and writing over a network"):  # fmt: skip
        assert words in result.stderr
    found = json.loads(result.stdout)
    assert set(found) == {
        "output", "rows_done", "rows_left", "shards_left", "rows_read", "rows_filtered", "rows_bad",
        "rows_measured", "rows_per_s", "start_s", "workers", "device", "seconds", "by_workers",
        "bytes_written", "warnings", "not_measured",
    }  # fmt: skip
    assert (found["rows_left"], found["workers"]) == (500, 1)
    assert set(found["seconds"]) == {"low", "typical", "high"}
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
    assert (found["path"], found["allowed"]) == ("input.path", "contains no rows")


def test_more_workers_than_there_is_room_for_are_refused(world: World, ray_here: None) -> None:
    world.write("a.parquet", texts(10))
    (found,) = problems(run(world, "--estimate", "--json", "scaling.workers=5000"))
    assert found["path"] == "scaling.workers"


def test_workers_that_share_a_gpu_gain_nothing_at_worst() -> None:
    left = ScoreEstimate("/out", rows_done=0, rows_left=1_000, shards_left=10)
    pace = Pace(num_rows=100, row_s=0.01, open_s=2.0, part_bytes=10.0)
    whole, shared = (
        extrapolate(left, pace, Workers(n, 1, gpus), 3.0) for n, gpus in ((1, 1.0), (2, 0.5))
    )
    assert (whole.rows_per_s, whole.seconds) == (100.0, within(15.0))
    assert (shared.rows_per_s, shared.seconds) == (50.0, Range(7.5, 15.0, 18.8))
    assert shared.by_workers == {1: 25.0, 2: 15.0, 4: 11.0, 8: 9.0, 16: 7.0}
    assert shared.not_measured[-1] == "what workers gain that share a GPU"
    assert shared.not_measured[-1] not in whole.not_measured
