"""Scoring jobs without Ray: plans, resume, bad rows, changed input; the workers run in here."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from score_world import World

from clftask.commands.inspect import inspect
from clftask.config.score import ScoreJob
from clftask.errors import ConfigError, DataError, JobError
from clftask.io import storage
from clftask.messages import counted
from clftask.scoring import plan as planning
from clftask.scoring.input import cut
from clftask.scoring.manifest import InputFile, Piece
from clftask.scoring.table_store import ScoreTableStore
from clftask.scoring.worker import Done, ScoreWork, ShardScorer


def all_ids(num_rows: int) -> list[str]:
    return sorted(f"row-{i}" for i in range(num_rows))


@pytest.fixture
def world(tmp_path: Path, tiny_bundle: str) -> World:
    return World(tmp_path, tiny_bundle)


def test_every_row_is_scored_once_with_its_kept_columns(world):
    world.write("a.parquet", 25)
    world.write("b.parquet", 4, first=25)
    world.write("c.parquet", 5, first=29)
    manifest = world.run()
    table = world.table()
    assert world.ids() == all_ids(34)
    assert manifest.counts.rows_in == manifest.counts.rows_scored == 34
    assert [(part.name, part.num_rows) for part in manifest.parts] == [
        ("part-00000.parquet", 8),
        ("part-00001.parquet", 8),
        ("part-00002.parquet", 9),
        ("part-00003.parquet", 9),
    ]
    assert table.column_names[:4] == ["id", "source", "labels", "confidence"]
    assert table.schema.field("source").type == pa.int16()
    row = table.filter(pa.compute.equal(table["id"], "row-31")).to_pylist()[0]
    wanted = world.scorer.predict(["fast audio tool 3"]).probabilities[0]
    found = [row[f"p_{name}"] for name in world.meta.label_names]
    assert found == pytest.approx(wanted.tolist(), abs=1e-6)
    assert row["source"] == 1


def test_without_an_id_file_and_row_say_which_row_it_is(world):
    path = world.write("a.parquet", 12)
    world.run(input={"path": str(world.input)})
    table = world.table()
    assert table.column_names[:2] == ["_file", "_row"]
    assert table["_row"].to_pylist() == list(range(12))
    assert set(table["_file"].to_pylist()) == {str(path)}


def test_same_job_again_scores_nothing(world):
    world.write("a.parquet", 25)
    first = world.run()
    assert world.num_scored == 25
    before = {p: p.stat().st_mtime_ns for p in world.output.glob("part-*")}
    assert world.run() == first
    assert world.num_scored == 25
    assert {p: p.stat().st_mtime_ns for p in world.output.glob("part-*")} == before


@pytest.mark.parametrize("died_at", ["plan", "first receipt", "part", "manifest"])
def test_killed_at_any_moment_it_resumes(world, died_at):
    """The state that a kill leaves: no part, a part without receipt, all but the manifest."""
    world.write("a.parquet", 35)
    if died_at == "plan":
        job = ScoreJob.load(world.document)
        planning.create(job, world.meta, planning.plan(job, world.meta))
    elif died_at == "manifest":
        world.run()
        (world.output / "_manifest.json").unlink()
    else:
        with pytest.raises(KeyboardInterrupt):
            world.run(stop_after=8)
        if died_at == "part":
            next(world.output.glob("_receipts/*")).unlink()
    assert not (world.output / "_manifest.json").exists()
    manifest = world.run()
    assert manifest.counts.rows_scored == 35
    assert world.ids() == all_ids(35)
    assert {r.sha256 for r in ScoreTableStore(str(world.output)).receipts()} == {
        part.sha256 for part in manifest.parts
    }


def test_part_that_lost_its_receipt_is_not_counted_as_scored_now(world):
    """Its receipt comes back as it was, the seconds too."""
    world.write("a.parquet", 35, text=["a tool"] * 34 + [None])
    first = world.run(max_bad_rows=0.1)
    lost = world.output / "_receipts" / "part-00003.json"
    content = lost.read_bytes()
    for path in (lost, world.output / "_manifest.json"):
        path.unlink()
    assert world.run(max_bad_rows=0.1) == first
    assert first.seconds > 0
    assert lost.read_bytes() == content
    found = {"rows": 35, "total": 35, "scored_now": 0, "skipped": 35, "quarantined": 1}
    assert world.records[-1] == found
    assert (world.last.num_skipped, world.last.counts.rows_in) == (4, 0)


def test_other_settings_are_refused_and_named(world):
    world.write("a.parquet", 25)
    world.run()
    with pytest.raises(ConfigError) as caught:
        world.run(shard_rows=5, precision="bf16")
    assert [problem.path for problem in caught.value.problems] == ["shard_rows", "precision"]
    assert "10" in str(caught.value)
    world.run(max_bad_rows=0.5, scaling={"workers": 2})  # not part of what the table depends on


def test_other_bundle_is_refused(world):
    world.write("a.parquet", 5)
    world.run()
    world.meta = world.meta.model_copy(update={"fingerprint": "another"})
    with pytest.raises(ConfigError, match="bundle: the existing table has"):
        world.run()


def test_added_file_is_refused_and_named(world):
    world.write("a.parquet", 25)
    world.run()
    added = world.write("b.parquet", 3, first=25)
    with pytest.raises(DataError, match=f"{added}: was added after the job was planned"):
        world.run()


def test_file_changed_before_it_was_scored_is_planned_anew(world):
    world.write("a.parquet", 25)
    world.write("b.parquet", 25, first=25)
    with pytest.raises(KeyboardInterrupt):
        world.run(stop_after=25)
    world.write("b.parquet", 45, first=25)
    manifest = world.run()
    assert manifest.counts.rows_scored == 70
    assert world.ids() == all_ids(70)


def test_small_files_sharing_a_shard_are_planned_anew_together(world):
    world.write("a.parquet", 25)
    for i in range(3):
        world.write(f"b{i}.parquet", 3, first=25 + 3 * i)
    with pytest.raises(KeyboardInterrupt):
        world.run(stop_after=25)
    world.write("b1.parquet", 33, first=100)
    assert world.run().counts.rows_scored == 25 + 3 + 33 + 3


def test_file_changed_after_it_was_scored_is_refused_and_can_be_scored_anew(world):
    world.write("a.parquet", 12)
    world.run()
    world.write("a.parquet", 12, text=["another text"] * 12)
    with pytest.raises(
        DataError, match=r"was changed after some of its rows were scored"
    ) as caught:
        world.run()
    parts = sorted(world.output.glob("part-*"))
    assert all(str(part) in str(caught.value) for part in parts)
    for part in parts:
        part.unlink()
    assert world.run().counts.rows_scored == 12
    assert len(set(world.table()["confidence"].to_pylist())) == 1


def test_file_gone_after_it_was_scored_is_no_matter(world):
    world.write("a.parquet", 25)
    gone = world.write("b.parquet", 25, first=25)
    with pytest.raises(KeyboardInterrupt):
        world.run(stop_after=25)
    kept = gone.rename(gone.with_suffix(".away"))
    with pytest.raises(
        DataError, match=r"b\.parquet: was deleted before all of its rows were scored"
    ):
        world.run()
    kept.rename(gone)
    (world.input / "a.parquet").unlink()
    assert world.run().counts.rows_scored == 50


def test_bad_rows_are_quarantined_with_file_row_and_reason(world):
    texts = ["a tool", None, "  ", "the library"]
    path = world.write("a.parquet", 4, text=pa.array(texts, pa.string()))
    manifest = world.run(max_bad_rows=0.5)
    assert (manifest.counts.rows_in, manifest.counts.rows_scored) == (4, 2)
    assert manifest.counts.rows_quarantined == 2
    lines = (world.output / "_quarantine" / "part-00000.jsonl").read_text().splitlines()
    reason = "the text is null or blank"
    assert [json.loads(line) for line in lines] == [
        {"id": "row-1", "file": str(path), "row": 1, "reason": reason},
        {"id": "row-2", "file": str(path), "row": 2, "reason": reason},
    ]
    assert world.ids() == ["row-0", "row-3"]


def test_too_many_bad_rows_fail_the_job_and_a_larger_share_finishes_it(world):
    world.write("a.parquet", 30, text=["a tool"] * 27 + [None] * 3)
    for _ in range(2):
        with pytest.raises(JobError, match=r"max_bad_rows: 3 of 30 rows are bad"):
            world.run(max_bad_rows=0.05)
    scored = world.num_scored
    assert not (world.output / "_manifest.json").exists()
    assert world.run(max_bad_rows=0.1).counts.rows_quarantined == 3
    assert world.num_scored == scored


def test_bad_row_fails_the_job_if_so_asked(world):
    path = world.write("a.parquet", 30, text=["a tool"] * 15 + [None] * 15)
    with pytest.raises(JobError, match=f"{path}, row 15: the text is null or blank"):
        world.run(on_bad_row="fail")
    assert not (world.output / "_manifest.json").exists()


def test_shard_that_cannot_be_read_is_named_and_the_rest_is_scored(world):
    world.write("a.parquet", 10)
    path = world.write("b.parquet", 10, first=10)
    world.write("c.parquet", 10, first=20)
    _damage_the_texts(path)
    with pytest.raises(JobError, match=rf"part-00001 \({path}, rows from 0\): failed"):
        world.run()
    assert world.ids() == sorted(f"row-{i}" for i in [*range(10), *range(20, 30)])
    world.write("b.parquet", 10, first=10)
    assert world.run().counts.rows_scored == 30
    assert world.ids() == all_ids(30)


def _damage_the_texts(path: Path) -> None:
    """Overwrite the pages of the text column; the footer stays whole."""
    chunk = parquet.read_metadata(path).row_group(0).column(1)
    start = chunk.dictionary_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)


def test_unreadable_file_is_named_before_anything_is_written(world):
    world.write("a.parquet", 10)
    (world.input / "b.parquet").write_bytes(b"PAR1 no footer")
    with pytest.raises(DataError, match=r"b\.parquet: cannot be read"):
        world.run()
    assert not world.output.exists()


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"text": "body"}, "input.text", "id, text, source"),
        ({"id": "key"}, "input.id", "must be a column"),
        ({"keep": ["labels"]}, "input.keep", "must be a column"),
        ({"text": "source"}, "input.text", "must be strings"),
    ],
)
def test_columns_that_do_not_fit_are_refused(world, change, path, words):
    world.write("a.parquet", 10)
    with pytest.raises(DataError, match=words) as caught:
        world.run(input=world.document["input"] | change)
    assert caught.value.problems[0].path == path
    assert not world.output.exists()


def test_kept_column_of_a_name_of_ours_is_refused(world):
    world.write("a.parquet", 10, Labels=["x"] * 10)
    with pytest.raises(ConfigError, match=r"input\.keep: .*(Labels|labels)"):
        world.run(input=world.document["input"] | {"keep": ["Labels"]})
    assert not world.output.exists()


def test_output_with_foreign_parts_is_refused(world):
    world.write("a.parquet", 10)
    world.output.mkdir()
    parquet.write_table(pa.table({"x": [1]}), world.output / "part-00000.parquet")
    with pytest.raises(ConfigError, match=r"output\.path: contains parts of a table but no plan"):
        world.run()


def test_failed_write_ends_the_batch_and_is_retried(world, monkeypatch):
    """A failed worker has stopped before another takes over its shards."""
    world.write("a.parquet", 100)
    real, seen = storage.put_if_absent, []

    def fails_once(path: str, data: bytes) -> bool:
        seen.append(path)
        if path.endswith("part-00003.parquet") and seen.count(path) == 1:
            raise OSError("the disk is full")
        return real(path, data)

    monkeypatch.setattr(storage, "put_if_absent", fails_once)
    assert world.run().counts.rows_scored == 100
    assert world.num_scored == 100
    assert world.ids() == all_ids(100)
    parts = [path for path in seen if "/part-" in path]
    assert len(parts) == 11


def test_part_of_an_older_version_of_a_file_is_named(world):
    """A slow worker of another run commits rows of a file that another run has replanned."""
    world.write("a.parquet", 10)
    job = ScoreJob.load(world.document)
    planned = planning.create(job, world.meta, planning.plan(job, world.meta))
    world.write("a.parquet", 10, text=["another text"] * 10)
    newer = planning.create(job, world.meta, planning.plan(job, world.meta))
    assert newer.plan != planned.plan
    worker = ShardScorer(ScoreWork(job, planned.plan, world.meta), world.scorer)
    old = planned.plan.files[0].version
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "version", lambda path: old)
        assert [type(found) for found in worker.run(planned.missing)] == [Done]
    with pytest.raises(DataError, match=r"part-00000\.parquet: contains rows of an input that"):
        world.run()
    next(world.output.glob("part-*")).unlink()
    world.run()
    whole = world.scorer.predict(["another text"]).probabilities.max()
    assert world.table()["confidence"].to_pylist() == pytest.approx([whole] * 10, abs=1e-6)


def test_planning_writes_nothing_and_says_what_it_leaves_out(world):
    world.write("a.parquet", 10)
    (world.input / "notes.docx").write_text("notes")
    planned = planning.plan(ScoreJob.load(world.document), world.meta)
    assert planned.left_out == (str(world.input / "notes.docx"),)
    assert not world.output.exists()


def test_empty_file_that_grew_makes_the_table_incomplete(world):
    world.write("a.parquet", 10)
    world.write("b.parquet", 0)
    world.run()
    world.write("b.parquet", 5, first=10)
    with pytest.raises(KeyboardInterrupt):
        world.run(stop_after=15)
    assert not (world.output / "_manifest.json").exists()
    assert world.run().counts.rows_scored == 15


def test_empty_file_that_is_written_again_keeps_no_job_from_its_end(world):
    world.write("a.parquet", 30)
    world.write("b.parquet", 0)
    with pytest.raises(KeyboardInterrupt):
        world.run(stop_after=10)
    world.write("b.parquet", 0, first=7, source=pa.array([], pa.int16()))
    os.utime(world.input / "b.parquet", (1, 1))
    assert world.run().counts.rows_scored == 30
    assert world.ids() == all_ids(30)


def test_what_is_taken_away_while_it_runs_is_missed_at_the_end(world):
    world.write("a.parquet", 30, text=["fast tool", None] * 15)
    job = {"max_bad_rows": 0.5}
    part, bad = "part-00001.parquet", "_quarantine/part-00001.jsonl"
    for name, message in (
        (part, "1 part deleted during the job"),
        (bad, r"00001.*quarantine file is missing"),
    ):
        shutil.rmtree(world.output, ignore_errors=True)
        seen = len(world.records)

        def take_away(record: dict[str, Any], name: str = name, seen: int = seen) -> None:
            world.records.append(record)
            if len(world.records) == seen + 3:
                (world.output / name).unlink()

        with pytest.raises(JobError, match=message):
            world.run(show=take_away, **job)
        assert not (world.output / "_manifest.json").exists()
        (world.output / part).unlink(missing_ok=True)
        assert world.run(**job).counts.rows_quarantined == 15
        assert len(world.ids()) == 15


def test_a_part_that_nobody_asked_for_is_named(world):
    world.write("a.parquet", 20)

    def add(record: dict[str, Any]) -> None:
        shutil.copy(world.output / "part-00000.parquet", world.output / "part-00007.parquet")

    with pytest.raises(JobError, match=r"part-00007\.parquet: belongs to another plan\. Delete it"):
        world.run(show=add)
    (world.output / "part-00007.parquet").unlink()
    assert world.run().counts.rows_scored == 20


@pytest.mark.parametrize("name", ["_file", "_bad"])
def test_columns_named_like_our_own_are_refused(world, name):
    world.write("a.parquet", 10, **{name: ["x"] * 10})
    with pytest.raises(ConfigError, match=r"input\.keep: .*Rename it"):
        world.run(input=world.document["input"] | {"keep": [name]})


def test_all_splits_of_a_saved_dataset_are_scored(world, tmp_path):
    import datasets

    whole = datasets.Dataset.from_dict(
        {"id": [f"row-{i}" for i in range(9)], "text": ["fast tool"] * 9}
    )
    splits = {"train": whole.select(range(2)), "unlabelled": whole.select(range(2, 9))}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    world.run(input={"path": str(tmp_path / "saved"), "id": "id"})
    assert world.ids() == all_ids(9)


@pytest.mark.parametrize(
    ("pattern", "output"), [("", "out"), ("", ""), ("/**/*.parquet", "out"), ("/*.parquet", "")]
)
def test_output_that_would_be_input_is_refused(world, pattern, output):
    path = world.write("a.parquet", 10)
    settings = {
        "input": {"path": f"{world.input}{pattern}", "id": "id"},
        "output": {"path": str(world.input / output)},
    }
    with pytest.raises(ConfigError, match=r"output\.path: is within the input"):
        world.run(**settings)
    assert list(world.input.iterdir()) == [path]


def test_kept_columns_that_other_tools_do_not_read_are_refused_by_name(world):
    views = pa.array([["x"]] * 3, pa.list_view(pa.string()))
    world.write("a.parquet", 3, views=views, extra=pa.array([None] * 3, pa.decimal256(50, 0)))
    keep = ["source", "views", "extra"]
    with pytest.raises(ConfigError) as caught:
        world.run(input={"path": str(world.input), "id": "id", "keep": keep})
    views, extra = caught.value.problems
    assert (views.path, views.value) == ("input.keep", "views: list_view<element: string>")
    assert views.allowed == "contains list views, which Polars does not read"
    assert views.remedy == "Remove it, or convert it to a plain type."
    assert extra.value == "extra: decimal256(50, 0)"
    with pytest.raises(ConfigError, match=r"input\.id: contains list views"):
        world.run(input={"path": str(world.input), "id": "views"})
    assert not world.output.exists()


def test_kept_column_that_parquet_cannot_hold_is_refused(world):
    lines = [json.dumps({"id": f"row-{i}", "text": "a tool", "extra": {}}) for i in range(3)]
    (world.input / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(
        ConfigError, match=r"input\.keep: contains a type that Parquet does not support: .*extra: "
    ):
        world.run(input={"path": str(world.input), "id": "id", "keep": "extra"})
    assert not world.output.exists()


def test_small_files_are_cut_in_linear_time_and_share_shards():
    files = [(i, InputFile(path=str(i), version="1", num_rows=3)) for i in range(50_000)]
    shards = cut(files, 1_000)
    assert [len(pieces) for pieces in shards] == [333] * 150 + [50]
    assert shards[1][0] == Piece(file=333, start=0, num_rows=3)


def test_one_bad_row_is_one(world):
    world.write("a.parquet", 2, text=["a tool", None])
    with pytest.raises(JobError, match="max_bad_rows: 1 of 2 rows is bad, more than max_bad_rows"):
        world.run()
    (world.output / "_receipts" / "part-00000.json").unlink()
    found = inspect(str(world.output)).state
    assert found == "incomplete, 1 part is missing: run the same job again"


def test_limit_of_bad_rows_holds_when_nothing_is_left_to_score(world):
    world.write("a.parquet", 3, text=pa.array([None] * 3, pa.string()))
    for _ in range(2):
        with pytest.raises(JobError, match="3 of 3 rows are bad"):
            world.run()
    assert not (world.output / "_manifest.json").exists()


def test_kept_csv_columns_are_as_they_were(world):
    """What a number would change stays text, and so does a column that differs between files."""
    header = "id,text,version,code,price,mixed"
    (world.input / "a.csv").write_text(f"{header}\nrow-0,a tool,1.10,1E5,0.5,1\n")
    (world.input / "b.csv").write_text(f"{header}\nrow-1,a tool,3.1,7e2,2,x\n")
    (world.input / "0.csv").write_text("")
    keep = ["version", "code", "price", "mixed"]
    world.run(input={"path": str(world.input), "id": "id", "keep": keep})
    assert world.table().select(keep).to_pylist() == [
        {"version": "1.10", "code": "1E5", "price": "0.5", "mixed": "1"},
        {"version": "3.1", "code": "7e2", "price": "2", "mixed": "x"},
    ]


def test_folder_with_brackets_in_its_name(world, tmp_path):
    world.write("a.parquet", 3)
    world.input = world.input.rename(tmp_path / "in [x]*")
    world.run(input={"path": str(world.input), "id": "id"})
    assert world.ids() == all_ids(3)


def test_verifying_finds_what_is_foreign_changed_or_gone(world):
    world.write("a.parquet", 20, text=["a tool"] * 19 + [None])
    world.run(max_bad_rows=0.1)
    parts = sorted(world.output.glob("part-*"))
    assert inspect(str(world.output), verify=True).complete is True
    shutil.copy(parts[0], world.output / "part-00007.parquet")
    with pytest.raises(JobError, match=r"part-00007\.parquet: does not belong to this table"):
        inspect(str(world.output), verify=True)
    (world.output / "part-00007.parquet").unlink()
    quarantine = world.output / "_quarantine" / "part-00001.jsonl"
    quarantine.unlink()
    with pytest.raises(JobError, match=r"_quarantine/part-00001\.jsonl: is missing. Delete .*part"):
        inspect(str(world.output), verify=True)
    parts[1].unlink()
    world.run(max_bad_rows=0.1)
    assert quarantine.exists()
    parts[0].write_bytes(parts[1].read_bytes())
    with pytest.raises(JobError, match=r"part-00000\.parquet: is missing, or its content"):
        inspect(str(world.output), verify=True)


def test_verifying_holds_parts_without_receipts_against_the_plan(world):
    world.write("a.parquet", 35, text=["a tool"] * 9 + [None] + ["a tool"] * 25)
    with pytest.raises(KeyboardInterrupt):
        world.run(max_bad_rows=0.1, stop_after=17)
    parts = sorted(world.output.glob("part-*"))

    def verified() -> str:
        return inspect(str(world.output), verify=True).verified

    for receipt in sorted(world.output.glob("_receipts/*"))[1:]:
        receipt.unlink()
    bare = "without a receipt, complete and as planned"
    assert verified() == f"1 part as written; {counted(len(parts) - 1, 'part')} {bare}"
    next(world.output.glob("_receipts/*")).unlink()
    assert verified() == f"{len(parts)} parts {bare}"
    (world.output / "_quarantine" / "part-00001.jsonl").rename(world.output / "aside")
    with pytest.raises(JobError, match=r"_quarantine/part-00001\.jsonl: is missing. Delete .*part"):
        verified()
    (world.output / "aside").rename(world.output / "_quarantine" / "part-00001.jsonl")
    first, second = (part.read_bytes() for part in parts[:2])
    parts[0].write_bytes(second)
    with pytest.raises(JobError, match=r"part-00000\.parquet: belongs to another job, or to"):
        verified()
    for content in (first[:1000], b"", first[:100] + bytes(300) + first[400:]):
        parts[0].write_bytes(content)
        with pytest.raises(
            JobError, match=r"part-00000\.parquet: is damaged. Delete .*run the job"
        ):
            verified()
    for part in parts:
        part.unlink()
    assert verified() == "no parts yet"


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}'])
def test_a_damaged_manifest_or_plan_is_named(world, content):
    world.write("a.parquet", 3)
    world.run()
    (world.output / "_manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"_manifest\.json: is damaged\. Delete it"):
        inspect(str(world.output))
    (world.output / "_plan.json").write_text(content)
    with pytest.raises(DataError, match=r"_plan\.json: is damaged\. Restore it"):
        world.run()


def test_types_that_differ_between_files_are_unified_or_refused(world):
    world.write("a.parquet", 5, source=pa.array(range(5), pa.int32()))
    world.write("b.parquet", 5, first=5, source=pa.array([0.5] * 5, pa.float64()))
    world.run()
    assert world.table().schema.field("source").type == pa.float64()


def test_same_on_s3(world, s3, tmp_path):
    world.write("a.parquet", 25)
    place = f"{s3.bucket}/{tmp_path.name}"
    storage.upload(str(world.input), f"{place}/in")
    settings = {
        "input": {"path": f"{place}/in/*.parquet", "id": "id"},
        "output": {"path": f"{place}/out"},
    }
    with pytest.raises(KeyboardInterrupt):
        world.run(stop_after=8, **settings)
    manifest = world.run(**settings)
    assert manifest.counts.rows_scored == 25
    assert world.num_scored == 25
    storage.download(f"{place}/out", str(world.output))
    assert world.ids() == all_ids(25)
