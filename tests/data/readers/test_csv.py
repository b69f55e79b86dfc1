"""CSV files: types of columns, quotes, compression."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from streams import TEXT, opened, refused, stream, survey, written

from clftask.data.readers.base import Survey
from clftask.data.readers.cells import BAD
from clftask.data.readers.csv import Csv
from clftask.data.readers.text_encoding import SAMPLE_BYTES


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
    for size in range(7, 40):
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
    assert "line 500002 has 3 cells, the header has 2: y,2,3" in problem.allowed


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


# ------------------------------------------------------------------ faults of whole files


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("rows.csv", "text,n\nx,1\ny,2,3\n", "line 3 has 3 cells, the header has 2"),
        ("rows.csv", 'text,n\n"x\n\nz",1\n\ny\n', "line 6 has 1 cell, the header has 2"),
        ("rows.tsv", "text\tn\r\nx\t1\r\ny\t2\t\r\n", "line 3 has 3 cells, the header has 2"),
        ("rows.csv", "text,n\rx,1\ry,2,3\r", "line 3 has 3 cells, the header has 2"),
    ],
)
def test_a_ragged_row_is_named_by_its_line(
    tmp_path: Path, name: str, content: str, where: str
) -> None:
    path = tmp_path / name
    path.write_text(content, newline="")
    for call in (lambda: survey(path, ["text"]), lambda: opened(path)[0].read(["text", "n"])):
        problem = refused(call)
        assert problem.path == str(path)
        assert problem.allowed.startswith(f"cannot be read: {where}: ")
        assert problem.remedy.startswith("Enclose cells that contain a ")


JOINED = [
    ("rows.csv", 'text,n\n"a\nb",1\n\ntext,n\nb,2\n', 5),
    ("rows.tsv", "text\tn\na\t1\ntext\tn\nb\t2\n", 3),
    ("rows.csv", '"text","n"\r\na,1\r\ntext,n\r\nb,2\r\n', 3),
    ("rows.csv", "\ufefftext,n\na,1\n\ufefftext,n\nb,2\n", 3),
]


@pytest.mark.parametrize(("name", "content", "line"), JOINED)
def test_a_row_that_repeats_the_header_is_bad(
    tmp_path: Path, name: str, content: str, line: int, tiny_blocks: None
) -> None:
    path = written(tmp_path, name, content)
    reason = f"line {line} repeats the header, as in files that were joined"
    for columns in (["text", "n"], ["n"], ["text"]):
        found = survey(path, columns, ["text"])
        assert found.num_rows == 3
        rows = stream(path, found.schema)
        assert rows[BAD].to_pylist() == [None, reason, None]
        assert stream(path, found.schema, start=1)[BAD].to_pylist() == [reason, None]
        if "n" in columns:
            assert rows["n"].to_pylist() == [1, None, 2]
        problem = refused(opened(path)[0].read, columns, ["text"])
        assert (problem.path, problem.allowed) == (f"{path}, row 1", reason)


def test_cells_that_are_column_names_are_no_header(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.csv", "text,label,n\ntext,label,1\nlabel,text,2\n")
    rows = opened(path)[0].read(["text", "label"], ["text"])
    assert rows["label"].to_pylist() == ["label", "text"]
    path = written(tmp_path, "one.csv", "text\na\ntext\n")
    assert opened(path)[0].read(["text"], ["text"])["text"].to_pylist() == ["a", "text"]


ADVICE = [
    ("rows.csv", "text|label\na|b\n", "text", "The cells look separated by |. Save it"),
    (
        "rows.csv",
        "text\tlabel\na\tb\n",
        "label",
        "The cells look separated by tabs. Let its name end with .tsv.",
    ),
    (
        "rows.tsv",
        "text,label\na,b\n",
        "text",
        "The cells look separated by commas. Let its name end with .csv.",
    ),
    ("rows.tsv", "text;label\na;b\n", "text", "The cells look separated by semicolons. Save it"),
    ("rows.tsv", "a text without header\t27\nb\t2\n", "text", "The first line looks like data:"),
    ("rows.csv", "it was nice to be here,good\nb,bad\n", "text", "The first line looks like data:"),
    ("rows.csv", "Text,lable\na,b\n", "text", "Did you mean Text?"),
    ("rows.csv", "text, label\na,b\n", "label", "Did you mean ' label'?"),
    ("rows.csv", "x,y\na,b\n", "label", ""),
]


@pytest.mark.parametrize(("name", "content", "column", "remedy"), ADVICE)
def test_a_missing_column_is_explained(
    tmp_path: Path, name: str, content: str, column: str, remedy: str
) -> None:
    source, file = opened(written(tmp_path, name, content))
    (problem,) = source.missing([("data.text", column)], source.names())
    assert (problem.path, problem.value) == ("data.text", column)
    assert problem.allowed.startswith(f"must be a column of {file}: ")
    assert problem.remedy.startswith(remedy)
    assert bool(problem.remedy) == bool(remedy)
