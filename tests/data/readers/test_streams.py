"""Streams of tables."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import feather, ipc, parquet
from streams import (
    COLUMNS,
    KINDS,
    STRINGS,
    TABLE,
    TEXT,
    TEXTS,
    in_pieces,
    opened,
    refused,
    stream,
    survey,
    written,
)

from clftask.data.readers.base import Survey
from clftask.data.readers.cells import BAD
from clftask.data.readers.csv import Csv
from clftask.data.readers.registry import SOURCES, open_file, open_source
from clftask.data.readers.whole_files import WholeFile
from clftask.errors import StorageError
from clftask.io import storage

# ------------------------------------------------------------------ every format


def as_csv(delimiter: str = ",", end: str = "\r\n") -> str:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end)
    writer.writerow(COLUMNS)
    for row in zip(*COLUMNS.values(), strict=True):
        writer.writerow(str(v).lower() if isinstance(v, bool) else v for v in row)
    return file.getvalue()


def as_json_lines() -> str:
    lines = [json.dumps(row, ensure_ascii=row["ok"] is True) for row in TABLE.to_pylist()]
    return "\n\n".join(lines[:4]) + "\n \r\n" + "\r\n".join(lines[4:])


def compress_zstd(path: Path, data: bytes) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(data)


def save(path: Path) -> None:
    import datasets

    datasets.Dataset(TABLE).save_to_disk(path)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "rows.csv": lambda path: path.write_text(as_csv(), newline=""),
    "newlines.csv": lambda path: path.write_text(as_csv(end="\n"), newline=""),
    "bom.csv": lambda path: path.write_bytes(as_csv().encode("utf-8-sig")),
    "utf-16.csv": lambda path: path.write_bytes(as_csv().encode("utf-16")),
    "rows.csv.gz": lambda path: path.write_bytes(gzip.compress(as_csv().encode())),
    "utf-16.csv.gz": lambda path: path.write_bytes(gzip.compress(as_csv().encode("utf-16"))),
    "rows.csv.bz2": lambda path: path.write_bytes(bz2.compress(as_csv().encode())),
    "ROWS.TSV.ZST": lambda path: compress_zstd(path, as_csv("\t").encode()),
    "rows.tab.gz": lambda path: path.write_bytes(gzip.compress(as_csv("\t").encode())),
    "rows.json.gz": lambda path: path.write_bytes(gzip.compress(as_json_lines().encode())),
    "ROWS.NDJSON.GZ": lambda path: path.write_bytes(gzip.compress(as_json_lines().encode())),
    "rows.json.zst": lambda path: compress_zstd(path, as_json_lines().encode()),
    "rows.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(as_json_lines().encode())),
    "rows.tsv": lambda path: path.write_text(as_csv("\t"), newline=""),
    "rows.jsonl": lambda path: path.write_bytes(as_json_lines().encode()),
    "bom.jsonl": lambda path: path.write_bytes(as_json_lines().encode("utf-8-sig")),
    "utf-16.jsonl": lambda path: path.write_bytes(as_json_lines().encode("utf-16")),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(as_json_lines().encode())),
    "rows.parquet": lambda path: parquet.write_table(TABLE, path),
    "groups.parquet": lambda path: parquet.write_table(TABLE, path, row_group_size=2),
    "rows.feather": lambda path: feather.write_feather(TABLE, str(path), chunksize=3),
    "pieces.arrow": lambda path: in_pieces(path, [1, 0, 4, 2]),
    "stream.arrow": lambda path: in_pieces(path, [2, 1, 4], ipc.new_stream),
    "saved": save,
}


HAS_LISTS = ("jsonl", "jsonl.gz", "parquet", "feather", "arrow", "saved")
HAS_LISTS += ("json.gz", "NDJSON.GZ", "json.zst", "jsonl.bz2")


with_formats = pytest.mark.parametrize("name", WRITERS)


def columns_of(name: str) -> list[str]:
    return [*COLUMNS, "tags"] if name.endswith(HAS_LISTS) else list(COLUMNS)


def test_every_source_is_tried_below() -> None:
    """`test_whole_files` has those of the formats that are loaded as a whole."""
    streamed = [source for source in SOURCES if not issubclass(source, WholeFile)]
    assert len(streamed) == 5
    assert all(any(n.endswith(source.suffixes) for n in WRITERS) for source in streamed)


@with_formats
def test_a_survey_counts_and_types(tmp_path: Path, name: str, tiny_blocks: None) -> None:
    WRITERS[name](tmp_path / name)
    found = survey(tmp_path / name, columns_of(name))
    assert found.num_rows == 7
    tags = {"tags": pa.list_(pa.string())} if "tags" in columns_of(name) else {}
    assert found.schema == pa.schema(KINDS | tags)


@pytest.mark.parametrize("blocks", ["tiny", "as they are"])
@with_formats
def test_batches_are_the_rows_from_any_start(
    tmp_path: Path, name: str, blocks: str, request: pytest.FixtureRequest
) -> None:
    if blocks == "tiny":
        request.getfixturevalue("tiny_blocks")
    WRITERS[name](tmp_path / name)
    columns = columns_of(name)
    schema = survey(tmp_path / name, columns).schema
    for start, num_rows in [(0, 8192), (0, 1), (1, 3), (2, 8192), (5, 2), (6, 1), (7, 4), (9, 4)]:
        found = stream(tmp_path / name, schema, start=start, num_rows=num_rows, texts=["text"])
        assert found.drop_columns([BAD]).to_pylist() == TABLE.select(columns).to_pylist()[start:]
        assert found.schema == pa.schema([*schema, pa.field(BAD, pa.string())])
        assert found[BAD].null_count == found.num_rows == max(0, 7 - start)


@with_formats
def test_batches_agree_with_what_training_reads(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    source, _ = opened(tmp_path / name)
    columns = ["text", "id", "n", "ok"]
    read = source.read(columns, STRINGS).select(columns).to_pylist()
    found = stream(tmp_path / name, survey(tmp_path / name, columns).schema).drop_columns([BAD])
    empty_is_null = [{n: None if v == "" else v for n, v in row.items()} for row in read]
    assert found.to_pylist() == empty_is_null == TABLE.select(columns).to_pylist()


@with_formats
def test_columns_come_in_the_order_that_is_asked_for(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    schema = survey(tmp_path / name, ["x", "text"]).schema
    assert schema.names == ["x", "text"]
    assert stream(tmp_path / name, schema, start=6).to_pylist() == [
        {"x": 7.0, "text": "007", BAD: None}
    ]


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet", "rows.feather"])
def test_a_null_or_narrow_column_takes_the_type_of_other_files(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    schema = pa.schema({"void": pa.string(), "n": pa.float64(), "text": pa.large_string()})
    found = stream(tmp_path / name, schema, start=5)
    assert found.schema.types == [pa.string(), pa.float64(), pa.large_string(), pa.string()]
    assert found.to_pylist()[1] == {"void": None, "n": 1.0, "text": "007", BAD: None}


@with_formats
def test_a_column_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    problem = refused(survey, tmp_path / name, ["text", "topic"])
    assert (problem.path, problem.allowed) == (
        str(tmp_path / name),
        "lacks the column 'topic'",
    )


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "saved"])
def test_a_file_is_opened_by_its_path_alone(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    source = open_file(str(tmp_path / name))
    assert source.files == [str(tmp_path / name)]
    assert source.survey(source.files[0], ["text"], ["text"]).num_rows == 7
    before = source.version(source.files[0])
    assert before == open_file(str(tmp_path / name)).version(source.files[0])
    (tmp_path / name).write_bytes(b"other")
    assert source.version(source.files[0]) != before


def test_a_saved_split_is_opened_by_its_path_alone(tmp_path: Path) -> None:
    import datasets

    whole = datasets.Dataset(TABLE)
    datasets.DatasetDict(train=whole, test=whole.select([4])).save_to_disk(tmp_path / "saved")
    sources = open_source(str(tmp_path / "saved"), "input.path")
    (file,) = sources["test"].files
    again = open_file(file)
    (batch,) = again.batches(file, pa.schema({"text": pa.string()}))
    assert batch["text"].to_pylist() == ["naïve 東京 🙂"]
    assert again.version(file) == sources["test"].version(file)
    assert again.version(file) != sources["train"].version(sources["train"].files[0])


def test_a_path_that_is_nothing_is_refused(tmp_path: Path) -> None:
    assert refused(open_file, str(tmp_path / "rows")).path == str(tmp_path / "rows")


@pytest.mark.parametrize(
    "name", ["rows.csv", "utf-16.csv.gz", "rows.jsonl.gz", "groups.parquet", "pieces.arrow"]
)
def test_a_bucket_is_streamed_like_a_disk(tmp_path: Path, name: str, s3: Any) -> None:
    WRITERS[name](tmp_path / name)
    remote = f"{s3.bucket}/{uuid.uuid4().hex}/{name}"
    storage.put(remote, (tmp_path / name).read_bytes())
    found = survey(remote, columns_of(name))
    assert found.num_rows == 7
    rows = stream(remote, found.schema, start=3).drop_columns([BAD])
    assert rows.to_pylist() == TABLE.select(columns_of(name)).to_pylist()[3:]


def test_a_saved_dataset_in_a_bucket_is_streamed(tmp_path: Path, s3: Any) -> None:
    save(tmp_path / "saved")
    remote = f"{s3.bucket}/{uuid.uuid4().hex}"
    storage.upload(str(tmp_path / "saved"), remote)
    source = open_file(remote)
    schema = source.survey(remote, ["text"], ["text"]).schema
    (batch,) = source.batches(remote, schema, start=4)
    assert batch["text"].to_pylist() == TEXTS[4:]
    storage.delete(f"{remote}/data-00000-of-00001.arrow")  # downloaded once only
    (batch,) = open_file(remote).batches(remote, schema, start=6)
    assert batch["text"].to_pylist() == TEXTS[6:]


def test_what_storage_refuses_is_no_damaged_file(tmp_path: Path, s3: Any, s3_user: Any) -> None:
    WRITERS["rows.parquet"](tmp_path / "rows.parquet")
    remote = f"{s3.bucket}/{uuid.uuid4().hex}/rows.parquet"
    storage.put(remote, (tmp_path / "rows.parquet").read_bytes())
    with s3_user("adminkey", "wrong"), pytest.raises(StorageError):
        open_file(remote).survey(remote, ["text"])


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_kept_columns_keep_their_types(tmp_path: Path, suffix: str) -> None:
    kept = pa.table({
        "when": pa.array([0, None], pa.timestamp("us", "UTC")),
        "day": pa.array([1, None], pa.date32()),
        "price": pa.array(["1.50", None]).cast(pa.decimal128(9, 2)),
        "small": pa.array([1, None], pa.int8()),
        "raw": pa.array([b"\xff", None]),
        "nested": pa.array([[{"a": [1]}], None], pa.list_(pa.struct({"a": pa.list_(pa.int32())}))),
        "large": pa.array([["a"], None], pa.large_list(pa.large_string())),
    })  # fmt: skip
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        parquet.write_table(kept, path)
    else:
        feather.write_feather(kept, str(path))
    schema = survey(path, kept.column_names, []).schema
    assert schema.types == kept.schema.types
    assert stream(path, schema).drop_columns([BAD]).to_pylist() == kept.to_pylist()


def test_feather_of_the_first_version(tmp_path: Path) -> None:
    path = tmp_path / "rows.feather"
    feather.write_feather(TABLE.select(["text", "n", "x"]), str(path), version=1)
    found = survey(path, ["text", "n"])
    assert found == Survey(7, TEXT)
    assert stream(path, TEXT, start=4, num_rows=2)["text"].to_pylist() == TEXTS[4:]


def test_files_of_zero_rows(tmp_path: Path) -> None:
    for suffix in (".parquet", ".feather", ".arrow"):
        path = tmp_path / f"rows{suffix}"
        if suffix == ".parquet":
            parquet.write_table(TABLE.slice(0, 0), path)
        elif suffix == ".feather":
            feather.write_feather(TABLE.slice(0, 0), str(path))
        else:
            with ipc.new_file(str(path), TABLE.schema):
                pass
        assert survey(path, ["text", "n"]) == Survey(0, TEXT)
        assert stream(path, TEXT).num_rows == 0


# ------------------------------------------------------------------ damage and memory


@pytest.mark.parametrize("name", [n for n in WRITERS if n.endswith(HAS_LISTS) and n != "saved"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    content = (tmp_path / name).read_bytes()
    written(tmp_path, name, content[: len(content) // 3] if "json" not in name else content[:30])
    assert refused(survey, tmp_path / name, ["text", "tags"]).path == str(tmp_path / name)


@pytest.mark.parametrize("name", ["rows.csv.gz", "rows.jsonl.gz"])
def test_a_cut_gzip_file_is_named(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    written(tmp_path, name, (tmp_path / name).read_bytes()[:-12])
    problem = refused(survey, tmp_path / name, ["text", "n"])
    assert problem.path == str(tmp_path / name)
    assert "Truncated" in problem.allowed


def write_large(path: Path, num_rows: int) -> int:
    """About 60 MB of rows in one row group, and 10 record batches; returns the bytes of texts."""
    import random

    chance = random.Random(0)
    texts = [f"{chance.random()} {'text ' * 30}{i}" for i in range(num_rows)]
    table = pa.table({"text": texts, "n": range(num_rows)})
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=num_rows, compression="none")
    elif path.suffix == ".feather":
        feather.write_feather(table, str(path), chunksize=num_rows // 10)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(f'{{"text": "{t}", "n": {i}}}' for i, t in enumerate(texts)))
    else:
        path.write_text("text,n\n" + "".join(f"{t},{i}\n" for i, t in enumerate(texts)))
    return int(table.nbytes)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".feather"])
def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Csv, "block_size", 1 << 17)
    size = write_large(tmp_path / f"rows{suffix}", 300_000)
    source, file = opened(tmp_path / f"rows{suffix}")
    before = pa.total_allocated_bytes()
    assert source.survey(file, ["text", "n"], ["text"]) == Survey(300_000, TEXT)
    most = num_rows = 0
    for batch in source.batches(file, TEXT, start=100_000):
        num_rows += batch.num_rows
        most = max(most, pa.total_allocated_bytes() - before)
    assert num_rows == 200_000
    assert size > 50_000_000
    assert most < size / 3
