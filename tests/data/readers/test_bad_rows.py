"""Bad rows cost no other row."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import feather, parquet
from streams import NOT_UTF8, TEXT, stream, survey, written

from clftask.data.readers.base import Survey
from clftask.data.readers.cells import BAD


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


def test_the_first_reason_is_reported(tmp_path: Path) -> None:
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
