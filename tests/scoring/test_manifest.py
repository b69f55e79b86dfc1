"""Plan, receipts and manifest of a score table, on disk and on S3."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from clftask.errors import DataError
from clftask.io import listing, storage
from clftask.scoring.manifest import (
    Counts,
    Generation,
    InputFile,
    Manifest,
    PartEntry,
    Piece,
    Receipt,
    ScorePlan,
    Shard,
    shards_of,
)
from clftask.scoring.table_store import ScoreTableStore

PLAN = ScorePlan(
    fingerprint="0123456789abcdef",
    settings={"input.id": None, "input.keep": ["größe"], "shard_rows": 2},
    files=(
        InputFile(path="/data/a.csv", version="30-1", num_rows=3),
        InputFile(path="/data/b c.csv", version="10-2", num_rows=1),
    ),
    shards=(
        Shard(index=0, pieces=(Piece(file=0, start=0, num_rows=1),)),
        Shard(
            index=1,
            pieces=(Piece(file=0, start=1, num_rows=2), Piece(file=1, start=0, num_rows=1)),
        ),
    ),
    columns="//8=",
)
COUNTS = Counts(
    rows_in=3,
    rows_scored=2,
    rows_quarantined=1,
    rows_truncated=1,
    confidence_sum=1.25,
    labels={"a": 2, "größe": 1},
)
MANIFEST = Manifest(
    fingerprint="0123456789abcdef",
    bundle="fedcba9876543210",
    task="multilabel",
    label_names=("a", "größe"),
    counts=COUNTS,
    parts=(PartEntry(name="part-00000.parquet", num_rows=2, sha256="ab" * 32),),
    seconds=1.5,
)


def receipt(shard: int) -> Receipt:
    return Receipt(
        shard=shard,
        input="ef" * 8,
        counts=COUNTS,
        sha256="cd" * 32,
        num_bytes=100 + shard,
        seconds=0.25,
    )


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> ScoreTableStore:
    """A store in an empty place."""
    if request.param == "local":
        return ScoreTableStore(str(tmp_path / "scores"))
    return ScoreTableStore(f"{request.getfixturevalue('s3').bucket}/{uuid.uuid4().hex}")


def put(store: ScoreTableStore, *names: str, content: bytes = b"x") -> None:
    for name in names:
        storage.put(storage.join(store.output, name), content)


def names_below(store: ScoreTableStore) -> list[str]:
    return [f.path.removeprefix(store.output) for f in listing.list_files(store.output)]


# ------------------------------------------------------------------ counts


def test_counts_add_up():
    other = Counts(rows_in=10, rows_scored=10, confidence_sum=8.5, labels={"größe": 4, "z": 6})
    assert COUNTS + other == Counts(
        rows_in=13,
        rows_scored=12,
        rows_quarantined=1,
        rows_truncated=1,
        confidence_sum=9.75,
        labels={"a": 2, "größe": 5, "z": 6},
    )
    assert other.labels == {"größe": 4, "z": 6}
    assert COUNTS.labels == {"a": 2, "größe": 1}


def test_nothing_adds_nothing():
    assert Counts() + COUNTS == COUNTS + Counts() == COUNTS
    assert sum([COUNTS, COUNTS], Counts()).labels == {"a": 4, "größe": 2}
    assert Counts().labels == {}


def test_rows_of_shards_and_plans():
    assert [shard.num_rows for shard in PLAN.shards] == [1, 3]
    assert PLAN.num_rows == 4


# ------------------------------------------------------------------ what is written is read


def test_places(tmp_path):
    store = ScoreTableStore(f"{tmp_path}/out/")
    assert store.part(7) == f"{tmp_path}/out/part-00007.parquet"
    assert store.quarantine(7) == f"{tmp_path}/out/_quarantine/part-00007.jsonl"
    assert store.receipt(7) == f"{tmp_path}/out/_receipts/part-00007.json"
    assert store.part(123_456) == f"{tmp_path}/out/part-123456.parquet"


def test_an_empty_folder_has_neither_plan_nor_manifest(store):
    assert store.plan() is None
    assert store.manifest() is None
    assert (store.stored_parts(), store.stored_receipts()) == (set(), set())
    assert list(store.receipts()) == []


def test_plan_and_manifest_come_back(store):
    assert store.write_plan(PLAN)
    assert store.plan() == PLAN
    assert store.manifest() is None
    store.write_manifest(MANIFEST)
    assert store.manifest() == MANIFEST
    assert names_below(store) == ["/_manifest.json", "/_plan.json"]


def test_the_plan_is_plain_json(store):
    store.write_plan(PLAN)
    text = storage.read_bytes(f"{store.output}/_plan.json").decode()
    assert "größe" in text
    found = json.loads(text)
    assert found["schema_version"] == 1
    assert found["shards"][1] == {
        "index": 1,
        "pieces": [{"file": 0, "start": 1, "num_rows": 2}, {"file": 1, "start": 0, "num_rows": 1}],
    }


def test_only_the_first_plan_is_written(store):
    other = PLAN.model_copy(update={"fingerprint": "another"})
    assert store.write_plan(PLAN)
    assert not store.write_plan(other)
    assert store.plan() == PLAN
    store.replace_plan(other)
    assert store.plan() == other


def test_receipts_come_in_the_order_of_the_parts(store):
    for shard in (100_000, 2, 99_999, 10):
        store.write_receipt(receipt(shard))
    assert list(store.receipts()) == [receipt(n) for n in (2, 10, 99_999, 100_000)]
    assert store.stored_receipts() == {2, 10, 99_999, 100_000}


def test_many_receipts(tmp_path):
    store = ScoreTableStore(str(tmp_path))
    for shard in range(70):
        store.write_receipt(receipt(shard))
    assert [found.num_bytes for found in store.receipts()] == list(range(100, 170))


def test_a_receipt_is_written_over_one_of_the_same_part(store):
    store.write_receipt(receipt(3))
    store.write_receipt(receipt(3).model_copy(update={"seconds": 9.0}))
    assert [found.seconds for found in store.receipts()] == [9.0]


# ------------------------------------------------------------------ what lies beside


FOREIGN = [
    "_plan.json",
    "_manifest.json",
    "part-00007.parquet.crc",
    "part-00008.csv",
    "part-9.parquet",
    "part-00011.snappy.parquet",
    "part-00012-6f1c.c000.parquet",
    "part-.parquet",
    "part-0001x.parquet",
    "part-²²²²².parquet",
    "other-00013.parquet",
    ".tmp-00014.parquet",
    "deep/part-00015.parquet",
    "_quarantine/part-00016.jsonl",
    "_receipts/part-00017.json",
]


def test_only_our_parts_count(store):
    put(store, *FOREIGN, "part-00000.parquet", "part-00042.parquet", "part-123456.parquet")
    assert store.stored_parts() == {0, 42, 123_456}
    assert store.stored_receipts() == {17}


@pytest.mark.parametrize("folder", ["part-00005.d", "part-00006"])
def test_the_name_of_the_place_is_no_part(tmp_path, folder):
    store = ScoreTableStore(str(tmp_path / folder))
    put(store, "x.parquet", "part-00001.parquet", "_receipts/x.json", "_receipts/part-00002.json")
    assert (store.stored_parts(), store.stored_receipts()) == ({1}, {2})


def test_what_a_killed_run_left_is_no_receipt(store):
    """A write to disk begins as `.tmp-…` beside its target; one that is killed leaves it."""
    store.write_receipt(receipt(1))
    put(store, "_receipts/.tmp-k3x", "_receipts/.tmp-part-00002.json", content=b'{"shard": 2, "co')
    assert store.stored_receipts() == {1}
    assert list(store.receipts()) == [receipt(1)]


def test_forgetting_leaves_parts_and_plan(store):
    store.write_plan(PLAN)
    store.write_manifest(MANIFEST)
    for shard in (0, 1, 2):
        store.write_receipt(receipt(shard))
        put(store, f"part-0000{shard}.parquet", f"_quarantine/part-0000{shard}.jsonl")
    store.forget(receipts=[0, 2, 7], quarantines=[2])
    assert names_below(store) == [
        "/_plan.json",
        "/_quarantine/part-00000.jsonl",
        "/_quarantine/part-00001.jsonl",
        "/_receipts/part-00001.json",
        "/part-00000.parquet",
        "/part-00001.parquet",
        "/part-00002.parquet",
    ]


# ------------------------------------------------------------------ of another clftask


@pytest.mark.parametrize(("kind", "name"), [("plan", "_plan.json"), ("manifest", "_manifest.json")])
def test_plan_and_manifest_of_a_newer_clftask_are_refused(store, kind, name):
    content = json.dumps({"schema_version": 2, "something": "new"}).encode()
    put(store, name, content=content)
    with pytest.raises(DataError) as caught:
        getattr(store, kind)()
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == (f"{store.output}/{name}", 2)
    assert (problem.allowed, problem.remedy) == (
        "was written by a newer clftask",
        "Upgrade clftask.",
    )
    assert caught.value.exit_code == 2


# ------------------------------------------------------------------ generations


def test_each_generation_has_a_plan(store):
    shards = tuple(shard.model_copy(update={"index": 2 + shard.index}) for shard in PLAN.shards)
    second = PLAN.model_copy(update={"generation": 2, "shards": shards})
    assert store.generations() == ([], None)
    assert store.write_plan(PLAN)
    assert store.write_plan(second)
    assert not store.write_plan(second.model_copy(update={"files": PLAN.files[:1]}))
    assert (store.plans(), store.plan(2), store.plan(3)) == ([PLAN, second], second, None)
    assert names_below(store) == ["/_plan-00002.json", "/_plan.json"]
    store.write_manifest(MANIFEST)
    assert store.generations() == ([PLAN, second], MANIFEST)
    for shard in (0, 1, 2):
        store.write_receipt(receipt(shard))
    assert [found.shard for found in store.receipts(shards_of([PLAN]))] == [2]


def test_generations_add_up_to_their_table():
    first = Generation.of(PLAN, COUNTS)
    assert (first.number, first.files, first.parts, first.rows_in) == (1, 2, 2, 3)
    parts = MANIFEST.parts * 2
    whole = MANIFEST.model_copy(update={"generations": (first,), "parts": parts})
    assert (MANIFEST.num_generations, whole.num_generations, whole.adds_up) == (1, 1, True)
    lost = first.model_copy(update={"rows_scored": 1})
    double = {"counts": COUNTS + COUNTS}
    for wrong in ({"generations": (first, first)}, {"generations": (lost,)}, double, {"parts": ()}):
        assert not whole.model_copy(update=wrong).adds_up
    both = {"generations": (first, first), "parts": parts * 2} | double
    assert whole.model_copy(update=both).adds_up
