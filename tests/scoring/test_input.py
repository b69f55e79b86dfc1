"""The input of a scoring job: one type for a column of all files, bad rows of whole files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from score_world import World

from clftask.config.score import ScoreJob
from clftask.data.readers.base import Source
from clftask.data.readers.registry import open_file
from clftask.errors import DataError
from clftask.scoring import plan as planning
from clftask.scoring.input import read_shards
from clftask.scoring.manifest import Piece, Shard


def rows(*ids: Any, **columns: Any) -> pa.Table:
    texts = [f"fast audio tool {i}" for i in range(len(ids))]
    return pa.table({"id": list(ids), "text": texts, **columns})


def write_csv(path: Path, table: pa.Table) -> None:
    table.to_pandas(integer_object_nulls=True).to_csv(path, index=False)


def write_json(path: Path, table: pa.Table) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))


WRITERS = {
    ".csv": write_csv,
    ".json.gz": lambda path, table: table.to_pandas().to_json(path, orient="records", lines=True),
    ".jsonl": write_json,
    ".parquet": lambda path, table: parquet.write_table(table, path),
    ".xlsx": lambda path, table: table.to_pandas().to_excel(path, index=False),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_numbers_in_one_file_and_text_in_another_are_one_column(
    tmp_path: Path, tiny_bundle: str, suffix: str
) -> None:
    world = World(tmp_path, tiny_bundle)
    WRITERS[suffix](world.input / f"a{suffix}", rows(1, 2, source=[10, 11]))
    WRITERS[suffix](world.input / f"b{suffix}", rows("03", "x", source=["012", "1e5"]))
    world.run()
    table = world.table()
    assert table["id"].to_pylist() == ["1", "2", "03", "x"]
    assert table["source"].to_pylist() == ["10", "11", "012", "1e5"]


def test_a_repeated_header_is_quarantined(tmp_path: Path, tiny_bundle: str) -> None:
    world = World(tmp_path, tiny_bundle)
    table = "id,text,source\n" + "".join(f"{i},fast tool {i},{i}\n" for i in range(12))
    (world.input / "a.csv").write_text(table * 2)
    manifest = world.run(max_bad_rows=0.1)
    assert (manifest.counts.rows_in, manifest.counts.rows_quarantined) == (25, 1)
    assert world.table()["source"].to_pylist() == [*range(12)] * 2
    (line,) = (world.output / "_quarantine" / "part-00001.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "id": "id",
        "file": str(world.input / "a.csv"),
        "row": 12,
        "reason": "line 14 repeats the header, as in files that were joined",
    }


def test_a_sheet_is_scored(tmp_path: Path, tiny_bundle: str) -> None:
    world = World(tmp_path, tiny_bundle)
    path = world.input / "book.xlsx"
    with pd.ExcelWriter(path) as writer:
        pd.DataFrame({"notes": ["x"]}).to_excel(writer, sheet_name="read me", index=False)
        rows("007", "08", source=[1, 2]).to_pandas().to_excel(
            writer, sheet_name="my data", index=False
        )
    world.document["input"]["path"] = f"{path}#my data"
    world.run()
    assert world.table()["id"].to_pylist() == ["007", "08"]


def test_text_of_numbers_is_refused(tmp_path: Path, tiny_bundle: str) -> None:
    world = World(tmp_path, tiny_bundle)
    parquet.write_table(rows("a", source=[1]), world.input / "a.parquet")
    numbers = pa.table({"id": ["b"], "text": [1], "source": [1]})
    parquet.write_table(numbers, world.input / "b.parquet")
    with pytest.raises(DataError, match=r"input\.text: must be strings \(found 'text: int64'\)"):
        world.run()


def test_a_missing_column_is_explained(tmp_path: Path, tiny_bundle: str) -> None:
    world = World(tmp_path, tiny_bundle)
    (world.input / "a.csv").write_text("ID|text|source\n1|a|b\n")
    with pytest.raises(DataError) as caught:
        world.run()
    assert [problem.path for problem in caught.value.problems] == [
        "input.text",
        "input.id",
        "input.keep",
    ]
    assert all("look separated by |" in problem.remedy for problem in caught.value.problems)


@pytest.mark.parametrize(("group_rows", "num_opened"), [(1_000, 1), (10, 3)])
def test_a_row_group_is_not_read_again_for_its_later_rows(
    tmp_path, tiny_bundle, monkeypatch, group_rows, num_opened
) -> None:
    opened: list[str] = []

    def noted(path: str) -> Source:
        opened.append(path)
        return open_file(path)

    monkeypatch.setattr("clftask.scoring.input.open_file", noted)
    world = World(tmp_path, tiny_bundle)
    table = rows(*map(str, range(1_000)), source=[0] * 1_000)
    parquet.write_table(table, world.input / "a.parquet", row_group_size=group_rows)
    job = ScoreJob.load(world.document)
    plan, recipe = planning.plan(job, world.meta).plan, job.input.recipe(world.meta.text)
    opened.clear()
    pieces = tuple(Piece(file=0, start=start, num_rows=2) for start in (3, 7, 500, 998))
    (found,) = read_shards(plan, [Shard(index=0, pieces=pieces)], recipe, 4)
    assert found.table["id"].to_pylist() == ["3", "4", "7", "8", "500", "501", "998", "999"]
    assert len(opened) == num_opened
