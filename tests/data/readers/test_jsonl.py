"""JSON lines: types, nesting, arrays."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from streams import NOT_UTF8, TEXT, opened, refused, stream, survey, written

from clftask.data.readers.base import Survey
from clftask.data.readers.cells import BAD
from clftask.data.readers.jsonl import JsonLines

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


def test_numbers_beyond_int64_are_exact(tmp_path: Path) -> None:
    for other in ("", "junk\n"):
        content = f'{{"n": 12345678901234567890}}\n{{"n": 9007199254740993}}\n{other}'
        path = written(tmp_path, "rows.jsonl", content)
        schema = survey(path, ["n"]).schema
        assert schema == pa.schema({"n": pa.string()})
        numbers = ["12345678901234567890", "9007199254740993"]
        assert stream(path, schema)["n"].to_pylist()[:2] == numbers


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_json_file_without_rows(tmp_path: Path, content: str) -> None:
    path = written(tmp_path, "rows.jsonl", content)
    assert survey(path, ["text", "n"]) == Survey(
        0, pa.schema({"text": pa.string(), "n": pa.null()})
    )
    assert stream(path, TEXT).num_rows == 0


ARRAYS = ["[%s, %s]", "[\n%s,\n%s\n]\n", " [ %s,\n%s]", "\n[\r\n  %s\r\n, %s\r\n]"]


@pytest.mark.parametrize("form", ARRAYS)
@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl.gz"])
def test_the_items_of_one_array_are_rows(
    tmp_path: Path, form: str, name: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JsonLines, "block_size", size)
    items = '{"text": "a, ]é\\n", "n": 1.10}', '{\r\n "text": "b",\n "z": [{"n": 2}]}'
    data = (form % items).encode()
    path = written(tmp_path, name, gzip.compress(data) if name.endswith("gz") else data)
    assert opened(path)[0].names() == ["text", "n", "z"]
    found = survey(path, ["text", "n"])
    assert found == Survey(2, pa.schema({"text": pa.string(), "n": pa.float64()}))
    rows = [{"text": "a, ]é\n", "n": 1.1}, {"text": "b", "n": None}]
    assert stream(path, found.schema).drop_columns([BAD]).to_pylist() == rows
    assert stream(path, TEXT, start=1)["text"].to_pylist() == ["b"]


def test_a_bad_item_of_an_array_is_a_bad_row(tmp_path: Path) -> None:
    items = '[{"text": "é"}, {"text": "é'.encode() + b'\xff"}, [1], null, {"text": 1}]'
    rows = stream(written(tmp_path, "rows.json", items), TEXT)
    assert rows["text"].to_pylist() == ["é", None, None, None, "1"]
    assert rows[BAD].to_pylist() == [
        None, "column text: bytes that are not UTF-8", "is not a JSON object",
        "is not a JSON object", None,
    ]  # fmt: skip


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize(
    ("content", "rest"),
    [
        ('[{"text": "a"}, {"text": "b"', '{"text": "b"'),
        ('[{"text": "a"}, {text: "b"}]', '{text: "b"}]'),
        ('[{"text": "a"},]', "]"),
        ('[{"text": "a"},', None),
        ('[\n{"text": "a"}\n] x', "x"),
    ],
)
def test_a_damaged_array_is_refused(
    tmp_path: Path, content: str, rest: str | None, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JsonLines, "block_size", size)
    path = written(tmp_path, "rows.json", content)
    problem = refused(survey, path, ["text"])
    assert (problem.path, problem.value) == (str(path), rest)
    assert problem.allowed == "is a JSON array that is damaged after 1 item"


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


WRAPPED = [
    ('{\n "data": [\n  {\n   "text": "a"\n  }\n ]\n}\n', ["data", "text"], "'data'"),
    ('{"rows": [\n{"text": "a"},\n{"text": "b"}\n]}', ["rows", "text"], "'rows'"),
    ('{\n  "text": "a",\n  "n": 1\n}\n{\n  "text": "b"\n}\n', ["text", "n"], "Write the rows one"),
]


@pytest.mark.parametrize(("content", "keys", "remedy"), WRAPPED)
def test_an_object_over_several_lines_is_refused(
    tmp_path: Path, content: str, keys: list[str], remedy: str
) -> None:
    path = written(tmp_path, "rows.json", content)
    for call in (opened(path)[0].names, lambda: survey(path, ["text"])):
        problem = refused(call)
        assert (problem.path, problem.value) == (str(path), keys)
        assert problem.allowed == "is a JSON object over several lines, not JSON lines"
        assert remedy in problem.remedy
        assert "one object per line" in problem.remedy


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('{"version": 1, "data": [{"text": "a"}, {"text": "b"}]}', "'data'"),
        ('{"text": {"0": "a"}, "label": {"0": "x"}}', "'text'"),
    ],
)
def test_rows_within_one_object_are_explained(tmp_path: Path, line: str, key: str) -> None:
    source, _ = opened(written(tmp_path, "rows.json", line))
    (problem,) = source.missing([("data.labels", "category")], source.names())
    assert problem.remedy.startswith(f"The file is one object, with rows under {key}.")
    assert "to_json(path, orient='records', lines=True)" in problem.remedy


@pytest.mark.parametrize(
    ("line", "found", "within"),
    [
        # What pandas' to_json writes by default, and json.dump of a dict of columns.
        ('{"text": {"0": "a", "1": "b"}}', "an object", ", with rows under 'text'"),
        ('{"text": ["a", "b"]}', "a list", ""),
    ],
)
def test_columns_within_one_object_are_explained(
    tmp_path: Path, line: str, found: str, within: str
) -> None:
    source, _ = opened(written(tmp_path, "columns.json", line))
    problem = refused(lambda: source.read(["text"], strings=["text"]))
    assert problem.allowed == f"column text: {found}, not a string"
    assert problem.remedy.startswith(f"The file is one object{within}. Write the rows one object")
