"""Text files against Python's own writers, in any encoding."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from streams import NOT_UTF8, TABLE, TEXT, TEXTS, in_pieces, opened, refused, stream, written

from clftask.data.readers.arrow import Arrow
from clftask.data.readers.base import Source
from clftask.data.readers.cells import BAD
from clftask.data.readers.csv import Csv
from clftask.data.readers.hf_datasets import Saved
from clftask.data.readers.jsonl import JsonLines
from clftask.data.readers.text_encoding import detect_encoding

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


NO_TEXT = [
    (gzip.compress(b"text\na\n", mtime=0), "Let its name end with .gz."),
    (bz2.compress(b"text\na\n"), "Let its name end with .bz2."),
    (b"PK\x03\x04 and so on", "Unpack it, or let its name end with .xlsx."),
    (b"PAR1 and so on", "Let its name end with .parquet."),
]


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl"])
@pytest.mark.parametrize(("data", "remedy"), NO_TEXT)
def test_other_formats_are_named(tmp_path: Path, name: str, data: bytes, remedy: str) -> None:
    path = written(tmp_path, name, data)
    problem = refused(opened(path)[0].names)
    assert (problem.path, problem.remedy) == (str(path), remedy)
    assert problem.allowed.startswith("is not text, but ")
