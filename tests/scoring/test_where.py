"""Scoring only the rows that match `input.where`; the others are counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import csv, feather
from score_world import World

from clftask.commands.inspect import inspect
from clftask.config.score import ScoreJob
from clftask.errors import ConfigError, JobError
from clftask.scoring.table_store import ScoreTableStore


@pytest.fixture
def world(tmp_path: Path, tiny_bundle: str) -> World:
    return World(tmp_path, tiny_bundle)


def where(world: World, text: str, **more: Any) -> dict[str, Any]:
    return {**world.document["input"], "where": text, **more}


def counts(world: World) -> tuple[int, int, int, int]:
    manifest = ScoreTableStore(str(world.output)).manifest()
    found = manifest.counts
    return found.rows_in, found.rows_scored, found.rows_quarantined, found.rows_filtered


def test_only_matching_rows_are_scored_and_the_others_counted(world):
    world.write("a.parquet", 25, year=[2000 + i for i in range(25)])
    world.write("b.parquet", 5, first=25, year=[None, 2030, None, 2031, 2001])
    world.run(input=where(world, "year >= 2020"))
    assert world.ids() == sorted(
        ["row-20", "row-21", "row-22", "row-23", "row-24", "row-26", "row-28"]
    )
    assert counts(world) == (7, 7, 0, 23)
    assert "year" not in world.table().column_names
    found = inspect(str(world.output), verify=True)
    assert (found.rows_in, found.rows_filtered, found.rows_planned) == (7, 23, 30)
    assert (found.state, found.where) == ("complete", "year >= 2020")
    receipts = list(ScoreTableStore(str(world.output)).receipts())
    assert [r.counts.rows_filtered for r in receipts] == [8, 8, 4, 3]
    assert world.records[-1]["rows"] == world.records[-1]["total"] == 30


def test_rows_without_text_that_are_left_out_are_not_bad(world):
    texts = ["a tool", None, "  ", "the library", None]
    world.write("a.parquet", 5, text=pa.array(texts, pa.string()), year=[1, 1, 1, 2, 2])
    world.run(input=where(world, "year = 2"), max_bad_rows=0.5)
    assert counts(world) == (2, 1, 1, 3)
    (line,) = (world.output / "_quarantine" / "part-00000.jsonl").read_text().splitlines()
    assert json.loads(line)["row"] == 4


def test_the_share_of_bad_rows_is_that_of_the_rows_that_are_kept(world):
    texts = [None, "a tool", *["the library"] * 98]
    world.write("a.parquet", 100, text=pa.array(texts, pa.string()))
    with pytest.raises(JobError, match="1 of 2 rows is bad"):
        world.run(input=where(world, "id in ('row-0', 'row-1')"), max_bad_rows=0.1, shard_rows=100)


def test_the_first_bad_row_that_is_kept_ends_a_strict_job(world):
    world.write("a.parquet", 3, text=pa.array([None, "a tool", None], pa.string()))
    with pytest.raises(JobError, match=r"a\.parquet, row 2: the text is null or blank"):
        world.run(input=where(world, "id <> 'row-0'"), on_bad_row="fail")


def test_no_row_matches(world):
    world.write("a.parquet", 12)
    world.run(input=where(world, "source > 5"))
    assert counts(world) == (0, 0, 0, 12)
    assert world.table().num_rows == 0


def write(world: World, name: str, rows: list[dict[str, Any]]) -> None:
    path, table = world.input / name, pa.Table.from_pylist(rows)
    if name.endswith(".csv"):
        csv.write_csv(table, path)
    elif name.endswith(".arrow"):
        feather.write_feather(table, path)
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.jsonl.gz", "a.arrow"])
def test_every_format(world, name):
    rows = [{"id": f"r{i}", "text": "a tool", "source": i % 3, "odd - name": i if i % 2 else None}
            for i in range(30)]  # fmt: skip
    write(world, name, rows)
    world.run(input=where(world, '"odd - name" is null and source = 0'))
    assert world.ids() == sorted(f"r{i}" for i in range(0, 30, 6))
    assert counts(world) == (5, 5, 0, 25)


def test_a_column_of_numbers_in_one_file_and_text_in_another_is_text(world):
    for name, code in (("a.csv", "7"), ("b.csv", "x7")):
        (world.input / name).write_text(f"id,text,source,code\n{name},a tool,1,{code}\n")
    with pytest.raises(ConfigError, match=r"cannot compare code \(text\) with 3 \(a number\)"):
        world.run(input=where(world, "code > 3"))
    assert not world.output.exists()
    world.run(input=where(world, "code = '7'"))
    assert world.ids() == ["a.csv"]


def test_a_damaged_line_is_bad_unless_it_is_known_to_be_left_out(world):
    lines = ['{"id": "a", "text": "a tool", "source": 1, "year": 1}', "{damaged",
             '{"id": "c", "text": "a tool", "source": 1, "year": 2}']  # fmt: skip
    (world.input / "a.jsonl").write_text("\n".join(lines))
    world.run(input=where(world, "year = 2"), max_bad_rows=0.5)
    assert counts(world) == (2, 1, 1, 1)


def test_a_killed_job_resumes_with_the_same_condition_only(world):
    world.write("a.parquet", 35)
    with pytest.raises(KeyboardInterrupt):
        world.run(stop_after=6, input=where(world, "source < 2"))
    for other in ("source < 1", None):
        with pytest.raises(ConfigError, match=r"input\.where: the existing table has 'source < 2'"):
            world.run(input=where(world, other))
    world.run(input=where(world, "source < 2"))
    assert counts(world) == (24, 24, 0, 11)
    assert set(world.table()["source"].to_pylist()) == {0, 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yeer > 1", r"input\.where: yeer is not a column .*source"),
        ("id > 3", r"input\.where: cannot compare id \(text\)"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(world, text, message):
    world.write("a.parquet", 5)
    with pytest.raises(ConfigError, match=message):
        world.run(input=where(world, text))
    assert not world.output.exists()


def test_a_condition_is_parsed_with_the_job_file(world):
    with pytest.raises(ConfigError, match=r"input\.where: is not an SQL condition: a value is mis"):
        ScoreJob.load(world.document, ["input.where=year >"])
