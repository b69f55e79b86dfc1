from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather, ipc, parquet

from clftask.data.readers.arrow import Arrow, Parquet
from clftask.data.readers.base import Source, Survey
from clftask.data.readers.cells import BAD
from clftask.data.readers.csv import Csv
from clftask.data.readers.hf_datasets import Saved
from clftask.data.readers.jsonl import JsonLines
from clftask.data.readers.registry import SOURCES, open_file, open_source
from clftask.data.readers.text_encoding import SAMPLE_BYTES, detect_encoding
from clftask.errors import DataError, Problem, StorageError
from clftask.io import storage

TEXTS = ["plain", 'say "hi", ok', "two\nlines", "tab\there", "naïve 東京 🙂", None, "007"]
COLUMNS: dict[str, list[Any]] = {
    "text": TEXTS,
    "id": ["1", "02", "3", "4", "5", "6", "7"],
    "n": [3, None, -1, 0, 9007199254740993, 2, 1],
    "x": [0.5, None, 2.0, -1e-7, 3.25, 1e300, 7.0],
    "ok": [True, False, None, True, True, False, False],
    "code": ["007", "12", None, "1", "+1", "1 ", "x"],
    "void": [None] * 7,
}
TAGS = [["a", "b"], [], None, ["c"], ["é"], ["d", None], []]
KINDS = {
    "text": pa.string(),
    "id": pa.string(),
    "n": pa.int64(),
    "x": pa.float64(),
    "ok": pa.bool_(),
    "code": pa.string(),
    "void": pa.null(),
}
TABLE = pa.table({n: pa.array(v, KINDS[n]) for n, v in COLUMNS.items()} | {"tags": TAGS})
STRINGS = ["text", "id"]


def opened(path: Path | str) -> tuple[Source, str]:
    (source,) = open_source(str(path), "input.path").values()
    (file,) = source.files
    return source, file


def survey(path: Path | str, columns: Iterable[str], strings: Iterable[str] = STRINGS) -> Survey:
    source, file = opened(path)
    return source.survey(file, columns, strings)


def stream(path: Path | str, schema: pa.Schema, **options: Any) -> pa.Table:
    """All batches, put together; each is checked for its size and columns."""
    source, file = opened(path)
    batches = list(source.batches(file, schema, **options))
    assert all(0 < batch.num_rows <= options.get("num_rows", 8192) for batch in batches)
    assert all(batch.schema.names == [*schema.names, BAD] for batch in batches)
    return pa.Table.from_batches(batches, pa.schema([*schema, pa.field(BAD, pa.string())]))


def refused(call: Callable[..., Any], *arguments: Any) -> Problem:
    with pytest.raises(DataError) as caught:
        call(*arguments)
    (problem,) = caught.value.problems
    return problem


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Csv, "block_size", 8)
    monkeypatch.setattr(JsonLines, "block_size", 5)
    monkeypatch.setattr(Parquet, "buffer_size", 16)


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


def in_pieces(path: Path, sizes: list[int], opening: Callable[..., Any] = ipc.new_file) -> None:
    with pa.OSFile(str(path), "wb") as file, opening(file, TABLE.schema) as writer:
        start = 0
        for size in sizes:
            writer.write_table(TABLE.slice(start, size))
            start += size
    assert start == 7


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
with_formats = pytest.mark.parametrize("name", WRITERS)


def columns_of(name: str) -> list[str]:
    return [*COLUMNS, "tags"] if name.endswith(HAS_LISTS) else list(COLUMNS)


def test_every_source_is_tried_below() -> None:
    assert all(any(n.endswith(source.suffixes) for n in WRITERS) for source in SOURCES)


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


# ------------------------------------------------------------------ bad rows

TEXT = pa.schema({"text": pa.string(), "n": pa.int64()})
NOT_UTF8 = "column text: bytes that are not UTF-8"


def test_undecodable_bytes_in_csv_cost_their_row_alone(tmp_path: Path, tiny_blocks: None) -> None:
    content = "text,n\né,1\nüö,2\n?,3\n東,4\n".encode().replace(b"?", b"a\xff")
    path = written(tmp_path, "rows.csv", content)
    assert survey(path, ["text", "n"]) == Survey(4, TEXT)
    found = stream(path, TEXT, texts=["text"])
    assert found["text"].to_pylist() == ["é", "üö", None, "東"]
    assert found["n"].to_pylist() == [1, 2, 3, 4]
    assert found[BAD].to_pylist() == [None, None, NOT_UTF8, None]


def of_bytes(cells: list[bytes | None], kind: pa.DataType) -> pa.Array:
    """An array that says it is text, whatever its bytes are."""
    raw = pa.array(cells, pa.large_binary() if kind == pa.large_string() else pa.binary())
    return pa.Array.from_buffers(kind, len(cells), raw.buffers())


CELLS = [b"a", b"\xff", None, "é".encode(), b"\xc3"]
UNTRUSTED = {
    "string": of_bytes(CELLS, pa.string()),
    "large_string": of_bytes(CELLS, pa.large_string()),
    "binary": pa.array(CELLS, pa.binary()),
    "large_binary": pa.array(CELLS, pa.large_binary()),
    "dictionary": pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None, 2, 3]),
        of_bytes([b"a", b"\xff", "é".encode(), b"\xc3"], pa.string()),
    ),
    "json": pa.ExtensionArray.from_storage(pa.json_(), of_bytes(CELLS, pa.string())),
}


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        *((kind, ".feather") for kind in UNTRUSTED),
        # Arrow refuses a file with such a dictionary as a whole.
        *((kind, ".parquet") for kind in UNTRUSTED if kind != "dictionary"),
    ],
)
def test_undecodable_bytes_in_a_column_of_text(tmp_path: Path, kind: str, suffix: str) -> None:
    table = pa.table({"text": UNTRUSTED[kind], "n": [1, 2, 3, 4, 5]})
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        parquet.write_table(table, path)
    else:
        feather.write_feather(table, str(path))
    assert survey(path, ["text", "n"]).schema == TEXT
    found = stream(path, TEXT, num_rows=2)
    assert found["text"].to_pylist() == ["a", None, None, "é", None]
    assert found["n"].to_pylist() == [1, 2, 3, 4, 5]
    assert found[BAD].to_pylist() == [None, NOT_UTF8, None, None, NOT_UTF8]


def test_the_first_reason_is_told(tmp_path: Path) -> None:
    two = of_bytes([b"a", b"\xff"], pa.string())
    parquet.write_table(pa.table({"title": two, "text": two}), tmp_path / "rows.parquet")
    path = written(tmp_path, "rows.jsonl", '{"title": "a"}\n{"title": [], "text": 1}')
    schema = pa.schema({"title": pa.string(), "text": pa.string()})
    found = stream(tmp_path / "rows.parquet", schema)[BAD].to_pylist()
    assert found == [None, "column title: bytes that are not UTF-8"]
    found = stream(path, schema, texts=["title", "text"])[BAD].to_pylist()
    assert found == [None, "column title: a list, not a string"]


def test_ids_that_are_no_bytes_keep_their_type(tmp_path: Path) -> None:
    ids = pa.table(
        {"id": [1, 2], "hash": pa.array([b"\xff", b"b"], pa.binary(1)), "no": [None] * 2}
    )
    feather.write_feather(ids, str(tmp_path / "rows.feather"))
    schema = survey(tmp_path / "rows.feather", ["id", "hash", "no"], ["id", "hash", "no"]).schema
    assert schema == pa.schema({"id": pa.int64(), "hash": pa.binary(1), "no": pa.string()})
    assert stream(tmp_path / "rows.feather", schema).to_pylist()[1] == {
        "id": 2, "hash": b"b", "no": None, BAD: None
    }  # fmt: skip


def test_views_and_extension_types_come_out_plain(tmp_path: Path) -> None:
    views = pa.table({
        "text": pa.array(["a", "b"], pa.string_view()),
        "bytes": pa.array([b"a", b"b"], pa.binary_view()),
        "json": pa.array(["{}", "[]"], pa.json_()),
        "kept": pa.array(["x", "y"]).dictionary_encode(),
        "large": pa.array(["x", "y"], pa.large_string()),
    })  # fmt: skip
    feather.write_feather(views, str(tmp_path / "rows.feather"), compression="uncompressed")
    found = survey(tmp_path / "rows.feather", views.column_names)
    kinds = {"text": pa.string(), "bytes": pa.binary(), "json": pa.string(), "kept": pa.string()}
    assert found.schema == pa.schema(kinds | {"large": pa.large_string()})
    rows = stream(tmp_path / "rows.feather", found.schema).drop_columns([BAD]).to_pylist()
    assert rows[1] == {"text": "b", "bytes": b"b", "json": "[]", "kept": "y", "large": "y"}


def test_views_and_extension_types_within_others_come_out_plain(tmp_path: Path) -> None:
    ids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"a" * 16, b"b" * 16], pa.binary(16)))
    kept = pa.table({
        "views": pa.array([["a"], None], pa.list_(pa.string_view())),
        "kinds": pa.array([{"a": "x"}, None], pa.struct({"a": pa.dictionary(pa.int8(), "string")})),
        "map": pa.array([[("a", b"b")], []], pa.map_(pa.string(), pa.binary_view())),
        "pairs": pa.array([["x", "y"], None], pa.list_(pa.dictionary(pa.int8(), "string"), 2)),
        "uuids": pa.LargeListArray.from_arrays([0, 2, 2], ids),
    })  # fmt: skip
    wanted = pa.schema({
        "views": pa.list_(pa.string()),
        "kinds": pa.struct({"a": pa.string()}),
        "map": pa.map_(pa.string(), pa.binary()),
        "pairs": pa.list_(pa.string(), 2),
        "uuids": pa.large_list(pa.binary(16)),
    })  # fmt: skip
    feather.write_feather(kept, str(tmp_path / "rows.feather"), compression="uncompressed")
    parquet.write_table(kept, tmp_path / "rows.parquet")
    for name in ("rows.feather", "rows.parquet"):
        schema = survey(tmp_path / name, kept.column_names, []).schema
        assert schema.types == wanted.types
        found = stream(tmp_path / name, schema).drop_columns([BAD])
        assert found.drop_columns("uuids").to_pylist() == kept.drop_columns("uuids").to_pylist()
        assert found["uuids"].to_pylist() == [[b"a" * 16, b"b" * 16], []]


JSON_LINES = [
    (b'{"text": "fine", "n": 1}', "fine", None),
    (b'{"text": 12, "n": 2}', None, "column text: a number, not a string"),
    (b'{"text": 1.5}', None, "column text: a number, not a string"),
    (b'{"text": true}', None, "column text: a boolean, not a string"),
    (b'{"text": ["a"]}', None, "column text: a list, not a string"),
    (b'{"text": {"a": 1}}', None, "column text: an object, not a string"),
    (b'{"text": "a\xff"}', None, NOT_UTF8),
    (b'{"text": "\\ud800"}', None, NOT_UTF8),
    (b'{"other": "a\xff", "text": "a"}', "a", None),
    (b"null", None, "is not a JSON object"),
    (b"3", None, "is not a JSON object"),
    (b'["text"]', None, "is not a JSON object"),
    (b'{"text": "a"', None, "is not a JSON object"),
    (b'{"text": "a"} {"text": "b"}', None, "is not a JSON object"),
    (b'{"text": "a"}, {"text": "b"}', None, "is not a JSON object"),
    (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, "is not a JSON object"),
    (b'{"text": "twice", "text": "last"}', "last", None),
    (b'{"text": null}', None, None),
    (b"{}", None, None),
    (b'{"text": "\\u0000 is text"}', "\x00 is text", None),
]


@pytest.mark.parametrize(("line", "text", "reason"), JSON_LINES)
def test_a_bad_line_costs_no_other(
    tmp_path: Path, line: bytes, text: str | None, reason: str | None
) -> None:
    first, last = '{"text": "naïve 東京", "n": 7}\n'.encode(), b'\n{"n": 9, "text": "last"}'
    path = written(tmp_path, "rows.jsonl", first + line + last)
    assert survey(path, ["text", "n"]) == Survey(3, TEXT)
    found = stream(path, TEXT, texts=["text"])
    assert found["text"].to_pylist() == ["naïve 東京", text, "last"]
    assert found["n"].to_pylist()[::2] == [7, 9]
    assert found[BAD].to_pylist() == [None, reason, None]
    assert stream(path, TEXT, start=1, texts=["text"]).to_pylist() == found.to_pylist()[1:]


@pytest.mark.parametrize("line", [b"null", b'{"a": 1}{"a": 2}', b"[1]", b"junk"])
def test_a_file_that_begins_with_a_bad_line(tmp_path: Path, line: bytes) -> None:
    path = written(tmp_path, "rows.jsonl", line + b'\n{"text": "a", "n": 1}\n')
    assert survey(path, ["text", "n"]) == Survey(2, TEXT)
    assert stream(path, TEXT)[BAD].to_pylist() == ["is not a JSON object", None]


def test_an_object_over_two_lines_does_not_make_up_for_two_on_one(tmp_path: Path) -> None:
    lines = ['{"text": "a"} {"text": "b"}', '{"text": "c", "z":', '{"text": "d"}}']
    found = stream(written(tmp_path, "rows.jsonl", "\n".join([*lines, ""])), TEXT, texts=["text"])
    assert found["text"].to_pylist() == [None] * 3
    assert found[BAD].to_pylist() == ["is not a JSON object"] * 3


def test_undecodable_bytes_in_a_kept_list_of_json(tmp_path: Path) -> None:
    lines = ['{"l": ["é"]}', '{"l": ["東京"]}', '{"l": ["?"]}']
    path = written(tmp_path, "rows.jsonl", "\n".join(lines).encode().replace(b"?", b"\xff"))
    found = survey(path, ["l"])
    assert found == Survey(3, pa.schema({"l": pa.list_(pa.string())}))
    rows = stream(path, found.schema)
    assert rows["l"].to_pylist() == [["é"], ["東京"], None]
    assert rows[BAD].to_pylist() == [None, None, "column l: bytes that are not UTF-8"]


def test_ids_that_are_numbers_become_their_text(tmp_path: Path) -> None:
    ids = ["7", '"07"', "12345678901234567890", "null", "true", "[1]", "1.5"]
    lines = [f'{{"text": "a", "id": {value}}}' for value in ids]
    path = written(tmp_path, "rows.jsonl", "\n".join(lines))
    schema = survey(path, ["text", "id"]).schema
    assert schema.field("id").type == pa.string()
    found = stream(path, schema, texts=["text"])
    texts = ["7", "07", "12345678901234567890", None, "true", None, "1.5"]
    assert found["id"].to_pylist() == texts
    assert found[BAD].to_pylist() == [None] * 5 + ["column id: a list, not a string", None]


def test_a_kept_value_of_another_type_than_surveyed_is_bad(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.jsonl", '{"n": 1}\n{"n": "x"}\n{"n": true}\n')
    found = stream(path, pa.schema({"n": pa.int64()}))
    assert found["n"].to_pylist() == [1, None, None]
    assert found[BAD].to_pylist() == [
        None, "column n: a string, not int64", "column n: a boolean, not int64"
    ]  # fmt: skip


# ------------------------------------------------------------------ CSV


def kind_of(folder: Path, *cells: str) -> pa.DataType:
    content = "text,kept\n" + "".join(f"a,{cell}\n" for cell in cells)
    found = survey(written(folder, "rows.csv", content), ["text", "kept"])
    assert found.num_rows == len(cells)
    return found.schema.field("kept").type


CELL_KINDS = [
    (["1", "", "-2", "0"], "int64"),
    (["9223372036854775807"], "int64"),
    (["9223372036854775808"], "string"),
    (["1", "9223372036854775808"], "string"),
    (["1", "2.5", "", "1e-05", "3.0"], "double"),
    (["nan", "inf", "-inf", "1"], "double"),
    (["9007199254740993", "2.5"], "string"),
    (["9007199254740993", "2"], "int64"),
    (["007", "8"], "string"),
    (["00.5"], "string"),
    (["+1"], "string"),
    ([" 1"], "string"),
    (["1_000"], "string"),
    (["0x10"], "string"),
    (["true", "FALSE", ""], "bool"),
    (["true", "1"], "string"),
    (["1", "true"], "string"),
    (["2021-01-02"], "string"),
    (["NA", "1"], "string"),
    (["", ""], "null"),
    (["a", "", "1"], "string"),
]


@pytest.mark.parametrize(("cells", "kind"), CELL_KINDS)
def test_kept_columns_have_the_narrowest_type_of_all_rows(
    tmp_path: Path, cells: list[str], kind: str, tiny_blocks: None
) -> None:
    assert str(kind_of(tmp_path, *cells)) == kind
    schema = survey(tmp_path / "rows.csv", ["kept"]).schema
    found = stream(tmp_path / "rows.csv", schema)["kept"]
    if kind == "string":
        assert found.to_pylist() == [cell or None for cell in cells]
    assert found.null_count == cells.count("")


def test_the_last_row_may_widen_a_type(tmp_path: Path) -> None:
    assert kind_of(tmp_path, *["1"] * 300_000, "1.5") == pa.float64()
    assert kind_of(tmp_path, *["1"] * 300_000, "x") == pa.string()


def test_a_number_is_what_it_was(tmp_path: Path) -> None:
    kind_of(tmp_path, "1", "2.5", "1e+16", "-0.5", "1.0")
    schema = survey(tmp_path / "rows.csv", ["kept"]).schema
    assert stream(tmp_path / "rows.csv", schema)["kept"].to_pylist() == [1, 2.5, 1e16, -0.5, 1]


def test_a_row_longer_than_a_block_is_read(tmp_path: Path) -> None:
    long = "line\n" * 500_000
    rows = "".join(f"x{i},{i}\n" for i in range(150_000))
    path = written(tmp_path, "rows.csv", f'text,n\n{rows}"{long}",5\n{rows}')
    assert survey(path, ["text", "n"]) == Survey(300_001, TEXT)
    found = stream(path, TEXT, start=149_999)
    assert found["n"].to_pylist() == [149_999, 5, *range(150_000)]
    assert found["text"].to_pylist()[:3] == ["x149999", long, "x0"]


def test_line_ends_in_quotes_survive_the_ends_of_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "rows.csv", "text,n\r\n" + '"a\r\nb\r\r\n\n",1\r\n' * 40)
    for size in range(7, 40):  # Arrow alone loses a newline at 9 and others
        monkeypatch.setattr(Csv, "block_size", size)
        assert stream(path, TEXT)["text"].to_pylist() == ["a\r\nb\r\r\n\n"] * 40


def test_an_open_quote_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clftask.data.readers.csv.MAX_ROW_BYTES", 1 << 20)
    path = written(tmp_path, "rows.csv", 'text,n\nx,1\n"y,2\n' + "z,3\n" * 1_000_000)
    problem = refused(survey, path, ["text"])
    assert (problem.path, problem.value) == (f"{path}, line 3", '"y,2')
    assert problem.allowed == "opens a quote that is never closed"


def test_a_row_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clftask.data.readers.csv.MAX_ROW_BYTES", 1 << 20)
    path = written(tmp_path, "rows.csv", 'text,n\nx,1\n"' + "y,2\n" * 1_000_000 + '",3\n')
    problem = refused(survey, path, ["text"])
    assert (problem.path, problem.allowed) == (str(path), "has a row longer than 1 MB")
    assert problem.remedy == "Shorten it, or write Parquet."


def test_a_ragged_row_is_found_by_the_survey(tmp_path: Path) -> None:
    content = "text,n\n" + "x,1\n" * 500_000 + "y,2,3\n" + "x,1\n" * 5
    problem = refused(survey, written(tmp_path, "rows.csv", content), ["text"])
    assert problem.path.endswith("/rows.csv")
    assert "Row #500002: Expected 2 columns, got 3: y,2,3" in problem.allowed


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [4, 5, 6, 7, 8, 9, 16])
def test_line_ends_and_blank_lines(
    tmp_path: Path, end: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Csv, "block_size", size)
    path = written(tmp_path, "rows.csv", end.join(["t,n", "a,1", "", "", "b,2", "", "c,3", ""]))
    assert survey(path, ["t", "n"]).num_rows == 3
    found = stream(path, pa.schema({"t": pa.string(), "n": pa.int64()}), start=1)
    assert found.drop_columns([BAD]).to_pylist() == [{"t": "b", "n": 2}, {"t": "c", "n": 3}]


@pytest.mark.parametrize(
    "content", ["", "\n\n", "\ufeff", "text,n\n", "text,n", "\ufefftext,n\r\n\r\n"]
)
def test_a_csv_without_rows(tmp_path: Path, content: str) -> None:
    path = written(tmp_path, "rows.csv", content)
    assert survey(path, ["text", "n"]) == Survey(
        0, pa.schema({"text": pa.string(), "n": pa.null()})
    )
    assert stream(path, TEXT).num_rows == 0
    if "text" in content:
        assert refused(survey, path, ["topic"]).allowed == "lacks the column 'topic'"


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_sample_that_ends_within_a_character_of_a_short_row(tmp_path: Path, cut: int) -> None:
    """The beginning of a file is read for its header; its last row is cut anywhere."""
    begin = "id,text,n\n" + "1,a,2\n" * 100_000 + "2,"
    filling = "a" * (SAMPLE_BYTES - len(begin) - cut)
    path = written(tmp_path, "rows.csv", f"{begin}{filling}🙂,3\n")
    assert opened(path)[0].names() == ["id", "text", "n"]
    assert survey(path, ["text", "n"]) == Survey(100_001, TEXT)


def test_members_of_a_gzip_file_follow_each_other(tmp_path: Path) -> None:
    parts = [gzip.compress(part) for part in (b"text,n\na,1\nb", b",2\n", b"c,3\n")]
    path = written(tmp_path, "rows.csv.gz", b"".join(parts))
    assert stream(path, TEXT)["text"].to_pylist() == ["a", "b", "c"]


def test_a_reader_may_stop_early(tmp_path: Path) -> None:
    content = "text,n\n" + "é,1\n" * 2_000_000
    for name, encoding in [("utf-8.csv", "utf-8"), ("utf-16.csv", "utf-16")]:
        path = written(tmp_path, name, content.encode(encoding))
        for start in range(5):
            source, file = opened(path)
            assert next(source.batches(file, TEXT, start=start)).num_rows == 8192


# ------------------------------------------------------------------ JSON lines

NESTED = [
    '{"text": "a", "s": {"a": 1}, "l": [], "when": "2021-01-01", "many": [1, 2]}',
    '{"text": "b", "s": {"b": "x"}, "l": [null, "y"], "when": null, "many": null}',
    '{"text": "c", "l": ["2021-01-02"], "when": "soon", "many": [2.5]}',
    '{"text": "d", "s": null, "when": "2021-01-01 10:00:00", "other": 1}',
    '{"other": "x"}',
]


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
@pytest.mark.parametrize("damaged", [False, True])
def test_nested_columns_of_json_are_unified(
    tmp_path: Path, size: int, damaged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JsonLines, "block_size", size)
    path = written(tmp_path, "rows.jsonl", "\n".join([*NESTED, "junk"] if damaged else NESTED))
    found = survey(path, ["text", "s", "l", "when", "many"])
    assert found.num_rows == 5 + damaged
    assert found.schema == pa.schema({
        "text": pa.string(),
        "s": pa.struct({"a": pa.int64(), "b": pa.string()}),
        "l": pa.list_(pa.string()),
        "when": pa.string(),
        "many": pa.list_(pa.float64()),
    })  # fmt: skip
    rows = stream(path, found.schema)
    assert rows[BAD].to_pylist()[5:] == ["is not a JSON object"] * damaged
    assert rows.drop_columns([BAD]).to_pylist()[:5] == [
        {"text": "a", "s": {"a": 1, "b": None}, "l": [], "when": "2021-01-01", "many": [1, 2]},
        {"text": "b", "s": {"a": None, "b": "x"}, "l": [None, "y"], "when": None,
         "many": None},
        {"text": "c", "s": None, "l": ["2021-01-02"], "when": "soon", "many": [2.5]},
        {"text": "d", "s": None, "l": None, "when": "2021-01-01 10:00:00", "many": None},
        {"text": None, "s": None, "l": None, "when": None, "many": None},
    ]  # fmt: skip


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_types_that_cannot_be_one_are_refused(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JsonLines, "block_size", size)
    path = written(tmp_path, "rows.jsonl", '{"n": 1}\n{"n": 2.5}\n{"n": null}\n{"n": "x"}\n')
    problem = refused(survey, path, ["n"])
    assert (problem.path, problem.value) == (str(path), "double and string")
    assert problem.allowed == "column n must have one type, or be left out"
    path = written(tmp_path, "rows.jsonl", '{"n": [1, "x"]}\n')
    assert "column n" in refused(survey, path, ["n"]).allowed


def test_other_columns_may_hold_anything(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.jsonl", '{"n": 1, "z": 1}\n{"n": 2, "z": [1, "x"]}\n')
    assert survey(path, ["n"]) == Survey(2, pa.schema({"n": pa.int64()}))
    assert stream(path, pa.schema({"n": pa.int64()}))["n"].to_pylist() == [1, 2]


def test_numbers_beyond_int64_are_doubles(tmp_path: Path) -> None:
    for other in ("", "junk\n"):
        content = f'{{"n": 12345678901234567890}}\n{{"n": 9007199254740993}}\n{other}'
        path = written(tmp_path, "rows.jsonl", content)
        schema = survey(path, ["n"]).schema
        assert schema == pa.schema({"n": pa.float64()})
        assert stream(path, schema)["n"].to_pylist()[:2] == [12345678901234567890.0, 2.0**53]


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_json_file_without_rows(tmp_path: Path, content: str) -> None:
    path = written(tmp_path, "rows.jsonl", content)
    assert survey(path, ["text", "n"]) == Survey(
        0, pa.schema({"text": pa.string(), "n": pa.null()})
    )
    assert stream(path, TEXT).num_rows == 0


ARRAYS = ["[%s, %s]", "[\n%s,\n%s\n]\n", " [ %s,\n%s]", "\n[\r\n  %s\r\n, %s\r\n]"]


@pytest.mark.parametrize("form", ARRAYS)
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl.gz"])
def test_one_array_is_refused_with_the_remedy(tmp_path: Path, form: str, name: str) -> None:
    data = (form % ('{"text": "a"}', '{"text": "b"}')).encode()
    path = written(tmp_path, name, gzip.compress(data) if name.endswith("gz") else data)
    source, file = opened(path)
    calls = (source.names, lambda: survey(path, ["text"]), lambda: source.read(["text"]),
             lambda: stream(path, TEXT))  # fmt: skip
    for call in calls:
        problem = refused(call)
        assert (problem.path, problem.allowed) == (file, "is one JSON array, not JSON lines")
        assert problem.remedy == (
            "Write one object per line, without brackets and commas, or write Parquet."
        )


def test_line_that_is_an_array_is_but_a_bad_row(tmp_path: Path) -> None:
    for line in ('[{"text": "a"}]', "[INFO] export begins", "[1]"):
        path = written(tmp_path, "rows.jsonl", line + '\n{"text": "b", "n": 1}\n')
        assert survey(path, ["text", "n"]) == Survey(2, TEXT)


def test_any_line_may_bring_a_name(tmp_path: Path, tiny_blocks: None) -> None:
    path = written(tmp_path, "rows.jsonl", '{"a": 1}\n{"b": 1, "a": "x"}\nnull\n{"c": null}')
    assert opened(path)[0].names() == ["a", "b", "c"]
    assert survey(path, ["c", "b"]).schema == pa.schema({"c": pa.null(), "b": pa.int64()})


def test_training_refuses_a_bad_line(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.jsonl", 'null\n{"text": "a"}\n')
    problem = refused(opened(path)[0].read, ["text"])
    assert (problem.path, problem.allowed) == (f"{path}, row 0", "is not a JSON object")
    path = written(tmp_path, "rows.jsonl", '{"text": "éüß?"}\n'.encode().replace(b"?", b"\xff"))
    problem = refused(opened(path)[0].read, ["text"])
    assert (problem.path, problem.allowed) == (f"{path}, row 0", NOT_UTF8)


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
    monkeypatch.setattr(Csv, "block_size", 1 << 17)  # Arrow reads 32 blocks ahead
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


# ------------------------------------------------------------------ against Python's own writers

SIZES = st.integers(1, 64)
FIELDS = st.text(st.sampled_from("\"',\n\r; \tab0é東🙂"), max_size=6)


def rows_of(
    source: Source, name: str, content: str, schema: pa.Schema, start: int, num_rows: int
) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), name, content)
        assert source.survey(str(path), schema.names, schema.names).schema == schema
        rows = [
            row for b in source.batches(str(path), schema, start, num_rows) for row in b.to_pylist()
        ]
    assert all(row.pop(BAD) is None for row in rows)
    return rows


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(FIELDS, FIELDS), max_size=8), SIZES, st.integers(0, 9), SIZES)
def test_csv_of_any_text(rows: list[tuple[str, str]], size: int, start: int, num_rows: int) -> None:
    file = io.StringIO()
    csv.writer(file).writerows([("a", "b"), *rows])
    source = type("Blocks", (Csv,), {"block_size": size})(["rows.csv"])
    schema = pa.schema({"a": pa.string(), "b": pa.string()})
    found = rows_of(source, "rows.csv", file.getvalue(), schema, start, num_rows)
    assert found == [{"a": a or None, "b": b or None} for a, b in rows[start:]]


JSON_ROWS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={"a": st.none() | st.text(max_size=6), "b": st.integers() | FIELDS, "c": FIELDS},
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=80)
@given(JSON_ROWS, st.booleans(), SIZES, st.integers(0, 9), SIZES)
def test_json_lines_of_any_text(
    rows: list[dict[str, Any]], ascii_only: bool, size: int, start: int, num_rows: int
) -> None:
    rows = [{"a": "", "b": ""}, *rows]
    content = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    source = type("Blocks", (JsonLines,), {"block_size": size})(["rows.jsonl"])
    schema = pa.schema({"a": pa.string(), "b": pa.string()})
    found = rows_of(source, "rows.jsonl", content, schema, start, num_rows)
    texts = [{n: row.get(n) for n in ("a", "b")} for row in rows[start:]]
    assert found == [{n: v if v is None else str(v) for n, v in row.items()} for row in texts]


# ------------------------------------------------------------------ encodings

ENCODINGS = [
    (b"plain", "utf-8"),
    ("naïve 東京".encode(), "utf-8"),
    (b"a" * ((1 << 20) - 1) + "é".encode()[:1], "utf-8"),  # a sample ends anywhere
    (b"caf\xe9", "cp1252"),
    ("é\xff".encode("latin-1"), "cp1252"),
    ("éü東".encode() + b"\xff", "utf-8"),
    (b"plain text \xff", "cp1252"),
    ("\ufffd was there before é".encode() + b"\xe9", "utf-8"),
    ("naïve".encode("utf-16"), "utf-16"),
]


@pytest.mark.parametrize(("data", "encoding"), ENCODINGS)
def test_encodings_are_detected(data: bytes, encoding: str) -> None:
    assert detect_encoding(data) == encoding


def test_other_encodings_are_streamed(tmp_path: Path, tiny_blocks: None) -> None:
    sentence = "État présent à la française déjà vu où"
    content = f"text,n\n{sentence},1\nplain,2\n".encode("cp1252")
    for name, data in [("rows.csv", content), ("rows.csv.gz", gzip.compress(content))]:
        path = written(tmp_path, name, data)
        assert stream(path, TEXT, num_rows=1)["text"].to_pylist() == [sentence, "plain"]


def test_a_damaged_row_does_not_turn_the_others_into_gibberish_in_training(tmp_path: Path) -> None:
    content = "text,n\nnaïve,1\n東京,2\n?,3\n".encode().replace(b"?", b"\xff")
    path = written(tmp_path, "rows.csv", content)
    problem = refused(opened(path)[0].read, ["text"], ["text"])
    assert (problem.path, problem.allowed) == (f"{path}, row 2", NOT_UTF8)
    assert problem.remedy == "Fix or remove it."


def test_a_class_label_of_a_saved_dataset_is_its_name() -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"),
                                  "label": datasets.ClassLabel(names=["neg", "pos"])})  # fmt: skip
    rows = {"text": ["u", "v", "w"], "label": [1, -1, 0]}
    source = Saved("here", datasets.Dataset.from_dict(rows, features=features).select([2, 1, 0]))
    schema = source.survey("here", ["label", "text"], ["text"]).schema
    assert schema == pa.schema({"label": pa.string(), "text": pa.string()})
    (batch,) = source.batches("here", schema, start=1)
    assert batch.to_pylist() == [
        {"label": None, "text": "v", BAD: None},
        {"label": "pos", "text": "u", BAD: None},
    ]


def test_arrow_files_are_read_from_the_batch_that_is_wanted(tmp_path: Path) -> None:
    in_pieces(tmp_path / "rows.arrow", [1, 0, 4, 2])
    source = Arrow([str(tmp_path / "rows.arrow")])
    found = [b.num_rows for b in source.batches(source.files[0], pa.schema({"id": pa.string()}), 2)]
    assert found == [3, 2]


def test_parquet_is_read_from_the_row_group_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(TABLE, path, row_group_size=2)
    group = parquet.ParquetFile(path).metadata.row_group(0)
    spoilt = bytearray(path.read_bytes())
    for column in range(group.num_columns):
        first = group.column(column).data_page_offset
        spoilt[first : first + 8] = b"spoilt!!"
    path.write_bytes(spoilt)
    assert stream(path, TEXT, start=2)["text"].to_pylist() == TEXTS[2:]
    assert refused(stream, path, TEXT).path == str(path)
