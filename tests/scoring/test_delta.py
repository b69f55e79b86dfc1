"""Delta tables: the log names each part once, whatever is killed; readers see the parts' rows."""

from __future__ import annotations

import importlib.util
import json
import threading
from pathlib import Path

import boto3
import polars as pl
import pyarrow as pa
import pytest
from conftest import environment
from deltalake import DeltaTable
from pyarrow import parquet
from score_world import World

from clftask.commands.inspect import inspect
from clftask.errors import ConfigError, JobError
from clftask.io import storage
from clftask.scoring import delta
from clftask.scoring.manifest import PartEntry
from clftask.scoring.table_store import ScoreTableStore


@pytest.fixture
def world(tmp_path: Path, tiny_bundle: str) -> World:
    found = World(tmp_path, tiny_bundle)
    found.document["output"]["format"] = "delta"
    return found


def versions(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "_delta_log").glob("*.json"))


def rows(table: pa.Table) -> list[dict]:
    return table.sort_by("id").to_pylist()


def test_readers_of_the_log_see_the_rows_of_the_parts(world):
    world.write("a.parquet", 35, text=["a tool"] * 34 + [None])
    manifest = world.run(max_bad_rows=0.1)
    table = DeltaTable(str(world.output))
    assert rows(table.to_pyarrow_table()) == rows(world.table())
    assert sorted(pl.read_delta(str(world.output))["id"]) == world.ids()
    assert pl.scan_delta(str(world.output)).select(pl.len()).collect().item() == 34
    assert {Path(uri).name for uri in table.file_uris()} == {p.name for p in manifest.parts}
    assert table.history()[0]["clftask.plan"] == manifest.fingerprint
    assert table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=True) == []
    assert world.run(max_bad_rows=0.1) == manifest
    assert len(versions(world.output)) == 1
    assert inspect(str(world.output)).format == "delta"


def test_killed_between_log_and_manifest_it_commits_once(world, monkeypatch):
    world.write("a.parquet", 25)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ScoreTableStore, "write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            world.run()
    assert len(versions(world.output)) == 1
    assert not (world.output / "_manifest.json").exists()
    manifest = world.run()
    assert len(versions(world.output)) == 1
    assert len(DeltaTable(str(world.output)).file_uris()) == len(manifest.parts)


def test_until_all_parts_are_stored_there_is_no_delta_table(world):
    world.write("a.parquet", 35)
    with pytest.raises(KeyboardInterrupt):
        world.run(stop_after=8)
    assert not DeltaTable.is_deltatable(str(world.output))
    world.run()
    assert rows(DeltaTable(str(world.output)).to_pyarrow_table()) == rows(world.table())


def test_a_part_that_is_scored_again_is_replaced(world):
    world.write("a.parquet", 25)
    world.run()
    (world.output / "part-00001.parquet").unlink()
    world.run()
    assert rows(DeltaTable(str(world.output)).to_pyarrow_table()) == rows(world.table())


def entries(place: str, *numbers: int) -> list[PartEntry]:
    """Write parts of three rows."""
    found = []
    for i in numbers:
        name, sink = f"part-{i:05d}.parquet", pa.BufferOutputStream()
        ids = [f"row-{3 * i + j}" for j in range(3)]
        parquet.write_table(
            pa.table({"id": ids, "p": pa.array([[0.5]] * 3, pa.list_(pa.float32()))}), sink
        )
        storage.put_if_absent(storage.join(place, name), sink.getvalue().to_pybytes())
        found.append(PartEntry(name=name, num_rows=3, sha256=""))
    return found


@pytest.fixture(params=["disk", "s3"])
def place(request, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "out")
    return f"{request.getfixturevalue('s3').bucket}/{tmp_path.name}"


def opened(place: str) -> DeltaTable:
    return DeltaTable(place, storage_options=delta.store_options(place))


def ids(place: str) -> list[str]:
    return sorted(opened(place).to_pyarrow_table()["id"].to_pylist())


def test_each_generation_is_a_version_and_the_first_one_can_be_read_again(place):
    first = entries(place, 0, 1)
    assert delta.commit(place, first, "a") == 0
    both = [*first, *entries(place, 2)]
    assert delta.commit(place, both, "a") == 1
    assert delta.commit(place, both, "a") == 1
    assert ids(place) == [f"row-{i}" for i in range(9)]
    old = opened(place)
    old.load_as_version(0)
    assert sorted(old.to_pyarrow_table()["id"].to_pylist()) == [f"row-{i}" for i in range(6)]
    added = opened(place).history(1)[0]
    assert added["operationParameters"]["mode"] == "Append"


def test_files_that_another_tool_has_compacted_do_not_double_rows(place):
    first = entries(place, 0, 1)
    delta.commit(place, first, "a")
    opened(place).optimize.compact()
    assert len(opened(place).file_uris()) == 1
    both = [*first, *entries(place, 2)]
    delta.commit(place, both, "a")
    assert ids(place) == [f"row-{i}" for i in range(9)]
    assert {Path(uri).name for uri in opened(place).file_uris()} == {part.name for part in both}


def test_the_log_is_encrypted_as_the_parts_are(s3, tmp_path):
    place = f"{s3.bucket}/{tmp_path.name}"
    with environment({"CLFTASK_S3_SSE": "AES256"}):
        delta.commit(place, entries(place, 0), "a")
    key = f"{tmp_path.name}/_delta_log/{0:020}.json"
    found = boto3.client("s3").head_object(Bucket=s3.bucket.removeprefix("s3://"), Key=key)
    assert found["ServerSideEncryption"] == "AES256"
    assert ids(place) == ["row-0", "row-1", "row-2"]


def test_concurrent_drivers_commit_each_part_once(place):
    """Several at a time, in two generations; none fails."""
    for parts in (entries(place, 0, 1), entries(place, 0, 1, 2, 3)):
        failed: list[BaseException] = []
        barrier = threading.Barrier(4)

        def run(parts=parts, failed=failed, barrier=barrier):
            barrier.wait()
            try:
                delta.commit(place, parts, "a")
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert ids(place) == sorted(f"row-{i}" for i in range(3 * len(parts)))
        assert len(opened(place).file_uris()) == len(parts)
    assert opened(place).version() == 1


def test_a_log_that_cannot_be_read_ends_the_job(tmp_path):
    place = str(tmp_path / "out")
    parts = entries(place, 0)
    delta.commit(place, parts, "a")
    (tmp_path / "out" / "_delta_log" / f"{0:020}.json").write_text("{")
    with pytest.raises(JobError, match="_delta_log: cannot be written"):
        delta.commit(place, parts, "a")


def test_what_a_delta_table_cannot_have_is_refused_before_the_start(world, monkeypatch):
    world.write("a.parquet", 5, source=pa.array(range(5), pa.uint8()), **{"a b": ["x"] * 5})
    with pytest.raises(ConfigError) as error:
        world.run(input=world.document["input"] | {"keep": ["source", "a b"]})
    assert "source has the type uint8, which Delta tables do not have" in str(error.value)
    assert "must be a name without blanks" in str(error.value)
    assert not world.output.exists()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "deltalake" else find(name)
    )
    with pytest.raises(ConfigError, match=r"needs the package deltalake.*clftask\[delta\]"):
        world.run()


def test_another_format_is_refused(world):
    world.write("a.parquet", 5)
    world.run()
    with pytest.raises(ConfigError, match=r"output\.format"):
        world.run(output={"path": str(world.output)})
    assert (
        json.loads((world.output / "_plan.json").read_text())["settings"]["output.format"]
        == "delta"
    )
