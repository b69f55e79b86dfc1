"""Score tables that grow: each ends as the table that scores all files at once."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from score_world import World
from typer.testing import CliRunner

from clftask.cli.main import app
from clftask.commands.compare_tables import compare_tables
from clftask.commands.inspect import inspect
from clftask.config.score import ScoreJob
from clftask.data.readers.arrow import Parquet
from clftask.distributed.score.driver import ScoreRun, score
from clftask.errors import DataError, JobError
from clftask.estimate.score import _not_counted, remaining
from clftask.io import storage
from clftask.scoring import delta
from clftask.scoring import plan as planning
from clftask.scoring.manifest import Manifest
from clftask.scoring.plan import Planned
from clftask.scoring.table_store import ScoreTableStore
from clftask.scoring.worker import ScoreWork, ShardScorer


@pytest.fixture
def world(tmp_path: Path, tiny_bundle: str) -> World:
    """A job that grows."""
    found = World(tmp_path, tiny_bundle)
    found.document["input"]["grow"] = True
    return found


def planned(world: World, **settings: Any) -> Planned:
    return planning.plan(ScoreJob.load(world.document | settings), world.meta)


def created(world: World) -> Planned:
    return planning.create(ScoreJob.load(world.document), world.meta, planned(world))


def finish(world: World, **settings: Any) -> Manifest:
    """Run the job again and again until nothing is left to be done."""
    for _ in range(6):
        if (now := planned(world, **settings)).is_finished:
            assert now.before is not None
            return now.before
        world.run(**settings)
    raise AssertionError("it does not end")


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows by id; each id occurs once."""
    tables = [parquet.read_table(part) for part in sorted(folder.glob("part-*.parquet"))]
    rows = pa.concat_tables(tables).to_pylist()
    assert set(Counter(row["id"] for row in rows).values()) == {1}
    return {row["id"]: row for row in rows}


def assert_same(some: dict[str, dict[str, Any]], others: dict[str, dict[str, Any]]) -> None:
    assert some.keys() == others.keys()
    for name in ("source", "labels"):
        assert {key: row[name] for key, row in some.items()} == {
            key: row[name] for key, row in others.items()
        }
    wanted = {key: row["confidence"] for key, row in others.items()}
    assert {key: row["confidence"] for key, row in some.items()} == pytest.approx(wanted, abs=1e-6)


def assert_as_at_once(world: World, **settings: Any) -> None:
    """Compare the table with one that scores all files at once."""
    whole = world.output.parent / "at-once"
    document = {**settings, "output": {"path": str(whole)}}
    at_once = world.run(**document)
    grown = ScoreTableStore(str(world.output)).manifest()
    assert grown is not None
    sums = {name: n for name, n in at_once.counts.dump().items() if name != "confidence_sum"}
    assert sums.items() <= grown.counts.dump().items()
    assert grown.adds_up
    assert_same(rows_of(world.output), rows_of(whole))
    found = inspect(str(world.output), verify=True)
    assert (found.state, found.rows_scored) == ("complete", at_once.counts.rows_scored)
    shutil.rmtree(whole)


def files(world: World, generation: int) -> list[str]:
    plan = ScoreTableStore(str(world.output)).plan(generation)
    return [] if plan is None else [Path(file.path).name for file in plan.files]


# ------------------------------------------------------------------ growth


def test_scored_files_under_other_paths_are_refused(world, tmp_path):
    a = world.write("a.parquet", 25)
    b = world.write("b.parquet", 12, first=25)
    first = world.run()
    other = tmp_path / "other"
    other.symlink_to(world.input)
    elsewhere = world.document["input"] | {"path": str(other)}
    with pytest.raises(DataError) as error:
        planned(world, input=elsewhere)
    shown = str(error.value)
    for file in (a, b):
        twice = f"{other / file.name}: is {file}, which was scored and is gone: its rows would be"
        assert twice in shown
    assert "Use the former input.path, move it back or out of the input" in shown
    moved = world.input / "done" / "a.parquet"
    moved.parent.mkdir()
    a.rename(moved)
    world.write("c.parquet", 25, first=37)
    with pytest.raises(DataError) as error:
        planned(world)
    assert [problem.path for problem in error.value.problems] == [str(moved)]
    moved.rename(tmp_path / "a.parquet")  # out of the input
    assert world.run().counts.rows_in == first.counts.rows_in + 25
    assert planned(world).is_finished


def test_added_files_become_further_parts_and_nothing_done_is_read_again(world, monkeypatch):
    opened: list[str] = []
    real = Parquet.survey_file

    def spied(self: Parquet, file: str, *rest: Any) -> Any:
        opened.append(Path(file).name)
        return real(self, file, *rest)

    monkeypatch.setattr(Parquet, "survey_file", spied)
    world.write("a.parquet", 25)
    first = world.run()
    before = {p: p.stat().st_mtime_ns for p in world.output.rglob("part-*")}
    assert planned(world).is_finished
    assert world.run() == first
    world.write("b.parquet", 12, first=25)
    world.write("c.parquet", 5, first=37)
    opened.clear()
    reads: list[str] = []
    read_bytes = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda p: reads.append(p) or read_bytes(p))
    new = planned(world)
    assert (new.is_new, [shard.index for shard in new.missing]) == (True, [3, 4, 5])
    assert (new.plan.num_rows, new.plan.fingerprint) == (17, first.fingerprint)
    assert sorted(opened) == ["b.parquet", "c.parquet"]
    assert [Path(p).name for p in reads] == ["_plan.json", "_manifest.json"]
    estimate = remaining(ScoreJob.load(world.document), new)
    assert (estimate.rows_done, estimate.rows_left, estimate.shards_left) == (25, 17, 3)
    manifest = world.run()
    assert world.num_scored == 42
    assert files(world, 2) == ["b.parquet", "c.parquet"]
    assert [part.name for part in manifest.parts][2:4] == [
        "part-00002.parquet",
        "part-00003.parquet",
    ]
    sums = [(one.number, one.files, one.parts, one.rows_in) for one in manifest.generations]
    assert sums == [(1, 1, 3, 25), (2, 2, 3, 17)]
    assert manifest.counts.rows_in == manifest.counts.rows_scored == 42
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert_as_at_once(world)
    assert finish(world) == manifest


@pytest.mark.parametrize("died_at", ["plan", "first receipt", "part", "all receipts"])
def test_killed_at_any_moment_it_completes_the_generation_then_the_next(world, died_at):
    world.write("a.parquet", 25)
    world.run()
    world.write("b.parquet", 35, first=25)
    if died_at == "plan":
        created(world)
    elif died_at == "all receipts":
        manifest = (world.output / "_manifest.json").read_bytes()
        world.run()
        (world.output / "_manifest.json").write_bytes(manifest)
    else:
        with pytest.raises(KeyboardInterrupt):
            world.run(stop_after=25 + 8)
        if died_at == "part":
            (world.output / "_receipts" / "part-00003.json").unlink()
    world.write("c.parquet", 4, first=60)
    found = inspect(str(world.output))
    assert (found.complete, found.parts) == (False, 7)
    assert [one["complete"] for one in found.generations] == [True, False]
    assert compare_tables(str(world.output), str(world.output), []).rows == 25
    unfinished = planned(world)
    assert (unfinished.plan.generation, unfinished.num_waiting) == (2, 1)
    assert unfinished.is_followed(grows=True)
    assert _not_counted(unfinished) == ["1 file added since the last plan is not counted"]
    manifest = finish(world)
    assert [one.rows_in for one in manifest.generations] == [25, 35, 4]
    assert_as_at_once(world)
    assert world.num_scored == 64 + 64


def test_of_two_runs_at_once_one_plans_and_both_score_the_same(world):
    world.write("a.parquet", 25)
    world.run()
    world.write("b.parquet", 12, first=25)
    job, few = ScoreJob.load(world.document), planned(world)
    world.write("c.parquet", 5, first=37)
    many = planned(world)
    assert [len(found.plan.files) for found in (few, many)] == [1, 2]
    winner = planning.create(job, world.meta, few)
    loser = planning.create(job, world.meta, many)
    assert (winner.is_new, loser.is_new) == (True, False)
    assert loser.plan == winner.plan
    slow = ScoreRun(job, world.meta, loser, world.records.append)
    manifest = finish(world)
    assert [one.files for one in manifest.generations] == [1, 1, 1]
    assert slow.close() == manifest  # and it leaves the newer one alone
    assert_as_at_once(world)


def test_a_manifest_that_a_run_replaces_late_comes_back(world):
    """A run that stood still between its last look and its write."""
    older = []
    for number in range(3):
        world.write(f"{number}.parquet", 12, first=12 * number)
        world.run()
        older.append((world.output / "_manifest.json").read_bytes())
    manifest, scored = finish(world), world.num_scored
    (world.output / "_manifest.json").write_bytes(older[1])
    assert inspect(str(world.output)).state.startswith("incomplete, only the manifest is missing")
    assert finish(world) == manifest
    assert world.num_scored == scored
    store = ScoreTableStore(str(world.output))
    store.write_manifest(manifest.model_copy(update={"generations": ()}))  # that of the first
    assert store.manifest() == manifest


def test_files_added_while_it_runs_are_for_the_next_run(world):
    world.write("a.parquet", 25)
    world.run()
    world.write("b.parquet", 25, first=25)
    manifest = world.run(show=lambda record: world.write("c.parquet", 5, first=50))
    assert manifest.num_generations == 2
    assert not world.last.planned.is_followed(grows=True)
    assert finish(world).num_generations == 3
    assert_as_at_once(world)


def test_a_file_that_is_still_written_is_planned_again(world):
    world.write("a.parquet", 25)
    world.write("b.parquet", 0)
    world.run()
    world.write("b.parquet", 4, first=25)  # empty files are new when they have rows
    world.write("c.parquet", 13, first=29)
    created(world)
    world.write("c.parquet", 33, first=29)
    again = planned(world)
    assert (again.plan.generation, again.plan.num_rows, again.is_spoiled) == (2, 37, False)
    manifest = finish(world)
    assert [one.rows_in for one in manifest.generations] == [25, 37]
    assert world.num_scored == 62
    assert_as_at_once(world)


def test_changed_files_are_refused_and_those_that_are_gone_keep_their_rows(world):
    gone = world.write("a.parquet", 12)
    first = world.write("b.parquet", 12, first=12)
    world.run()
    last = world.write("c.parquet", 12, first=24)
    world.run()
    whole = rows_of(world.output)
    gone.unlink()
    kept = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (first, last)}
    for path, first_row in ((first, 12), (last, 24)):
        world.write(path.name, 12, first=first_row, text=["another text"] * 12)
    world.write("d.parquet", 12, first=36)
    with pytest.raises(DataError) as caught:
        world.run()
    earlier, newest = caught.value.problems
    assert (earlier.path, earlier.remedy) == (str(first), "Restore it, or use another output.")
    assert earlier.allowed == newest.allowed == "was changed after some of its rows were scored"
    assert newest.path == str(last)
    assert "part-00003.parquet" not in earlier.remedy
    assert "/part-00004.parquet" in newest.remedy
    for path, (content, changed_at) in kept.items():
        path.write_bytes(content)
        os.utime(path, ns=(changed_at, changed_at))
    assert planned(world).num_gone == 1
    assert finish(world).counts.rows_scored == 48
    now = rows_of(world.output)
    assert_same({key: now[key] for key in whole}, whole)
    for path in world.input.iterdir():
        path.unlink()
    nothing = planned(world)
    assert (nothing.is_finished, nothing.num_gone) == (True, 4)


def test_growth_is_switched_on_and_off(world):
    grow = world.document["input"]
    still = {"input": grow | {"grow": False}}
    world.write("a.parquet", 12)
    world.run(**still)
    added = world.write("b.parquet", 12, first=12)
    with pytest.raises(DataError, match=rf"{added}: was added after .*Set input\.grow: true"):
        world.run(**still)
    manifest = finish(world)
    assert manifest.num_generations == 2
    assert world.run(**still) == manifest
    (world.output / "part-00001.parquet").unlink()
    (world.output / "part-00002.parquet").unlink()
    assert finish(world, **still).counts.rows_scored == 24
    assert_as_at_once(world)
    world.write("c.parquet", 1, first=24)
    with pytest.raises(DataError, match=r"c\.parquet: was added after"):
        world.run(**still)


def test_a_table_of_an_older_version_grows(world):
    world.write("a.parquet", 12)
    world.run()
    for name, keys in (("_plan.json", ("generation", "planned_at")),
                       ("_manifest.json", ("generations",))):  # fmt: skip
        content = json.loads((world.output / name).read_text())
        for key in keys:
            del content[key]
        (world.output / name).write_text(json.dumps(content))
    assert inspect(str(world.output)).generations is None
    world.write("b.parquet", 12, first=12)
    manifest = finish(world)
    assert [(one.number, one.planned_at == "") for one in manifest.generations] == [
        (1, True),
        (2, False),
    ]
    assert_as_at_once(world)


# ------------------------------------------------------------------ what does not fit


def test_added_files_with_other_columns_are_refused_by_name(world):
    world.write("a.parquet", 12)
    world.run()
    other = world.write("b.parquet", 3, first=12, source=["x", "y", "z"])
    wide = world.write("c.parquet", 3, first=15, source=pa.array([1, 2, 3], pa.int64()))
    with pytest.raises(DataError) as caught:
        world.run()
    assert [(p.path, p.value, p.allowed) for p in caught.value.problems] == [
        (str(other), "source: string", "must be int16, as in the existing table"),
        (str(wide), "source: int64", "must be int16, as in the existing table"),
    ]
    wide.unlink()
    parquet.write_table(pa.table({"id": ["x"], "text": ["a tool"]}), other)
    with pytest.raises(DataError, match=r"b\.parquet: lacks the column 'source'"):
        world.run()
    world.write("b.parquet", 3, first=12, text=[1, 2, 3])
    with pytest.raises(DataError, match=r"input\.text: must be strings .found 'text: int64"):
        world.run()
    other.write_bytes(b"PAR1 no footer")
    with pytest.raises(DataError, match=r"b\.parquet: cannot be read"):
        world.run()
    assert files(world, 2) == []
    world.write("b.parquet", 3, first=12, source=pa.array([1, 2, 3], pa.int8()))
    finish(world)
    assert_as_at_once(world)


def test_csv_columns_keep_the_type_of_the_first_generation(world):
    settings = {
        "input": {"path": str(world.input), "id": "id", "keep": ["source", "n"], "grow": True}
    }
    header = "id,text,source,n\n"
    (world.input / "a.csv").write_text(f"{header}row-0,a tool,1.10,1\nrow-1,a tool,x,2\n")
    world.run(**settings)
    (world.input / "b.csv").write_text(f"{header}row-2,a tool,7,3\n")
    (world.input / "c.csv").write_text("")
    finish(world, **settings)
    assert world.table()["source"].to_pylist() == ["1.10", "x", "7"]
    (world.input / "d.csv").write_text(f"{header}row-3,a tool,7,many\n")
    with pytest.raises(
        DataError, match=r"d\.csv: must be int64, as in the existing table .*n: string"
    ):
        world.run(**settings)


def test_the_limit_of_bad_rows_is_that_of_each_generation(world):
    world.write("a.parquet", 50)
    world.run(max_bad_rows=0.1)
    texts = ["a tool"] * 8 + [None] * 2
    world.write("b.parquet", 10, first=50, text=texts)
    with pytest.raises(JobError, match=r"max_bad_rows: 2 of 10 rows are bad"):
        world.run(max_bad_rows=0.1)
    assert inspect(str(world.output)).complete is False
    manifest = finish(world, max_bad_rows=0.2)
    assert [one.rows_quarantined for one in manifest.generations] == [0, 2]
    assert len((world.output / "_quarantine" / "part-00005.jsonl").read_text().splitlines()) == 2
    assert_as_at_once(world, max_bad_rows=0.2)


def test_rows_that_are_left_out_are_counted_in_each_generation(world):
    settings = {"input": world.document["input"] | {"where": "source = 1"}}
    for number in range(3):
        world.write(f"{number}.parquet", 12, first=12 * number)
        finish(world, **settings)
    manifest = finish(world, **settings)
    assert [(one.rows_in, one.rows_filtered) for one in manifest.generations] == [(4, 8)] * 3
    assert_as_at_once(world, **settings)


def test_a_part_of_an_earlier_generation_that_was_deleted_is_scored_again(world):
    for number in range(3):
        world.write(f"{number}.parquet", 12, first=12 * number)
        world.run()
    (world.output / "part-00002.parquet").unlink()
    assert inspect(str(world.output)).missing == [2]
    assert finish(world).num_generations == 3
    assert world.num_scored == 36 + 6
    assert_as_at_once(world)


def test_a_plan_that_is_missing_or_damaged_is_named(world):
    for number in range(3):
        world.write(f"{number}.parquet", 5, first=5 * number)
        world.run()
    second = world.output / "_plan-00002.json"
    whole = second.read_text()
    for content in ("{", json.dumps(json.loads(whole) | {"generation": 7})):
        second.write_text(content)
        with pytest.raises(DataError, match=r"_plan-00002\.json: is damaged\. Restore it"):
            world.run()
    third = (world.output / "_plan-00003.json").read_text()
    second.write_text(json.dumps(json.loads(third) | {"generation": 2}))
    with pytest.raises(DataError, match=r"_plan-00003\.json: is damaged"):
        world.run()
    second.unlink()
    with pytest.raises(DataError, match=r"_plan-00002\.json: is missing\. Restore it"):
        inspect(str(world.output))
    (world.output / "_plan-00003.json").unlink()
    with pytest.raises(
        DataError, match=r"_manifest\.json.*counts more generations than the 1 plan"
    ):
        world.run()


# ------------------------------------------------------------------ what is shown


def test_inspect_shows_the_generations(world):
    for number in range(2):
        world.write(f"{number}.parquet", 12, first=12 * number)
        world.run()
    shown = CliRunner().invoke(app, ["inspect", str(world.output)]).stdout
    assert "generation" in shown
    row = next(line for line in shown.splitlines() if line.startswith("│          2 │"))
    assert [cell.strip() for cell in row.split("│")][3:7] == ["1", "2", "12", "yes"]
    found = json.loads(CliRunner().invoke(app, ["inspect", str(world.output), "--json"]).stdout)
    first, second = found["generations"]
    assert (first["files"], first["rows"], second["generation"]) == (1, 12, 2)
    assert first["planned"][:2] == "20"


def test_each_generation_is_a_version_of_the_delta_table(world):
    deltalake = pytest.importorskip("deltalake")
    settings = {"output": {"path": str(world.output), "format": "delta"}}
    for number in range(2):
        world.write(f"{number}.parquet", 12, first=12 * number)
        finish(world, **settings)
        table = deltalake.DeltaTable(str(world.output))
        names = [file.rpartition("/")[2] for file in table.file_uris()]
        assert len(names) == 2 + 2 * number
    assert len(deltalake.DeltaTable(str(world.output), version=0).file_uris()) == 2


def versions(world: World) -> tuple[int, int]:
    """Return the version of the Delta table, and its number of rows."""
    table = pytest.importorskip("deltalake").DeltaTable(str(world.output))
    return table.version(), table.to_pyarrow_table().num_rows


def test_a_late_run_leaves_later_generations_in_the_delta_table(world, monkeypatch):
    world.document["output"]["format"] = "delta"
    world.write("a.parquet", 12)
    world.run()
    world.write("b.parquet", 12, first=12)
    commit, others_ran = delta.commit, []

    def late(*given: Any) -> int:
        if not others_ran:
            others_ran.append(True)
            world.run()
            world.write("c.parquet", 12, first=24)
            world.run()
        return commit(*given)

    monkeypatch.setattr(delta, "commit", late)
    world.run()
    assert versions(world) == (2, 36)
    finish(world)
    assert versions(world) == (2, 36)


def test_a_deleted_part_leaves_the_others_in_the_delta_table(world):
    world.document["output"]["format"] = "delta"
    for number in range(3):
        world.write(f"{number}.parquet", 12, first=12 * number)
        world.run()
    (world.output / "part-00005.parquet").unlink()
    lost = 36 - parquet.read_metadata(world.output / "part-00004.parquet").num_rows
    world.run()  # completes the first generation again
    assert versions(world)[1] == lost
    finish(world)
    assert versions(world)[1] == 36
    shutil.rmtree(world.output / "_delta_log")
    score(ScoreJob.load(world.document), lambda _: None, lambda _: None)  # starts nothing
    assert versions(world) == (0, 36)


def test_a_plan_that_another_run_has_completed_is_not_replaced(world):
    """A file is changed while a run that has read it commits; another run has planned it again."""
    world.write("a.parquet", 12)
    world.run()
    world.write("b.parquet", 8, first=12)
    job = ScoreJob.load(world.document)
    first = created(world)
    worker = ShardScorer(ScoreWork(job, first.plan, world.meta), world.scorer)
    ready = list(worker._read(first.missing))
    world.write("b.parquet", 8, first=12, text=["another text"] * 7 + [None])
    late = planned(world)
    assert late.is_replanned
    for batch in ready:
        worker._commit(worker._score(batch, 0))
    assert ScoreRun(job, world.meta, first, world.records.append).close().num_generations == 2
    with pytest.raises(DataError, match=r"b\.parquet"):
        planning.create(job, world.meta, late)
    store = ScoreTableStore(str(world.output))
    assert store.plan(2) == first.plan
    assert store.manifest().counts.rows_scored == 20


def test_the_same_on_s3(world, s3, tmp_path):
    place = f"{s3.bucket}/{tmp_path.name}"
    settings = {
        "input": {"path": f"{place}/in/*.parquet", "id": "id", "keep": ["source"], "grow": True},
        "output": {"path": f"{place}/out"},
    }
    for number in range(3):
        world.write(f"{number}.parquet", 12, first=12 * number)
        path = world.input / f"{number}.parquet"
        storage.put(f"{place}/in/{path.name}", path.read_bytes())
        if number == 1:
            with pytest.raises(KeyboardInterrupt):
                world.run(stop_after=18, **settings)
        finish(world, **settings)
    storage.put(f"{place}/in/1.parquet", (world.input / "0.parquet").read_bytes())
    with pytest.raises(DataError, match=r"1\.parquet: was changed after some of its rows"):
        world.run(**settings)
    assert world.num_scored == 36
    storage.download(f"{place}/out", str(world.output))
    assert_as_at_once(world)
