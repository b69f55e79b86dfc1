"""Quotes of CSV: RFC 4180, and files that do not keep to it."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clftask.data.readers.base import Source
from clftask.data.readers.csv import Csv, Tsv
from clftask.data.readers.csv_rows import numbered_rows
from clftask.data.readers.text_encoding import TextFile
from clftask.errors import DataError, Problem

TEXT = pa.schema({"text": pa.string()})


def refused_by_all(source: Source) -> Problem:
    """Return what a survey, scoring and training say of a file: the same."""
    (file,) = source.files
    found = []
    for read in (
        lambda: source.survey(file, ["text", "n"], ["text"]),
        lambda: list(source.batches(file, TEXT)),
        lambda: source.read(["text"], ["text"]),
    ):
        with pytest.raises(DataError) as caught:
            read()
        found.append(caught.value.problems)
    assert found[0] == found[1] == found[2]
    return found[0][0]


def written(folder: Path, content: str, name: str = "rows.csv") -> Source:
    path = folder / name
    path.write_bytes(content.encode())
    return (Tsv if ".tsv" in name else Csv)([str(path)])


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_quote_that_closes_rows_later_is_refused(
    tmp_path: Path, size: int, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Csv, "block_size", size)
    lines = ["text,n", '"fine, ""it"" is",0', '"bar baz,1', "x,2", '"other" text,3', "y,4"]
    source = written(tmp_path, end.join(lines))
    problem = refused_by_all(source)
    assert (problem.path, problem.value) == (f"{source.files[0]}, line 3", '"bar baz,1')
    assert problem.allowed == "opens a quote that closes within a cell of line 5"
    assert problem.remedy == (
        "Double the quotes within a text and enclose it in quotes, or write Parquet or JSON lines."
    )


def test_quoted_word_at_the_beginning_of_a_cell_is_refused(tmp_path: Path) -> None:
    """Arrow would read `Hello he said`."""
    problem = refused_by_all(written(tmp_path, 'text,n\n"Hello" he said,1\n'))
    assert problem.allowed == "opens a quote that closes within a cell of line 2"


def test_blank_after_a_closing_quote_is_refused(tmp_path: Path) -> None:
    assert refused_by_all(written(tmp_path, 'text,n\n"a" ,1\n')).path.endswith("line 2")


def test_quote_that_is_never_closed_is_refused(tmp_path: Path) -> None:
    problem = refused_by_all(written(tmp_path, 'text,n\nx,1\n"y,2\nz,3\n'))
    assert problem.path.endswith("rows.csv, line 3")
    assert (problem.value, problem.allowed) == ('"y,2', "opens a quote that is never closed")


def test_header_with_an_open_quote_is_refused_as_such(tmp_path: Path) -> None:
    source = written(tmp_path, '"text,n\nx,1\n"y",2\n')
    with pytest.raises(DataError, match=r"line 1: opens a quote that closes within a cell"):
        source.names()
    refused_by_all(source)


def test_quotes_that_open_nothing_are_characters(tmp_path: Path) -> None:
    source = written(tmp_path, 'text,n\n5" disk, 3\nsay "hi",2\n "x" y,3\n')
    (batch,) = source.batches(source.files[0], TEXT)
    assert batch["text"].to_pylist() == ['5" disk', 'say "hi"', ' "x" y']


def test_tabs_end_cells_of_tsv(tmp_path: Path) -> None:
    source = written(tmp_path, 'text\tn\n"a\nb"\t1\n"c, d"\t2\n', "rows.tsv")
    (batch,) = source.batches(source.files[0], TEXT)
    assert batch["text"].to_pylist() == ["a\nb", "c, d"]
    assert (
        refused_by_all(written(tmp_path, 'text\tn\n"a", b\t1\n', "rows.tsv")).value == '"a", b\t1'
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_quotes_are_looked_at_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress('"text",n\n"é\n東""",1\n'.encode(encoding)))
    source = Csv([str(path)])
    assert source.read(["text"])["text"].to_pylist() == ['é\n東"']
    path.write_bytes(gzip.compress('"text",n\n"é" 東,1\n'.encode(encoding)))
    assert refused_by_all(source).value == '"é" 東,1'


def is_sound(content: str) -> bool:
    try:
        list(csv.reader(io.StringIO(content, newline=""), strict=True))
    except csv.Error:
        return False
    return True


@settings(deadline=None, max_examples=500)
@given(st.text(st.sampled_from('"",\n\rab'), max_size=20))
@example('"a\n"b",1\n')
def test_refused_is_what_the_strict_reader_of_python_refuses(
    tmp_path_factory: pytest.TempPathFactory, content: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "strict.csv"
    path.write_bytes(content.encode())
    lines = list(io.StringIO(content, newline=""))
    try:
        rows = list(numbered_rows(TextFile.of(str(path)), ",", 1 << 20))
    except DataError as error:
        (problem,) = error.problems
        line = int(problem.path.rpartition(" ")[2])
        assert not is_sound(content)
        assert problem.value[0] == '"'
        assert problem.value in lines[line - 1]
        assert problem.allowed.startswith("opens a quote that ")
    else:
        assert is_sound(content)
        assert all(lines[line - 1].strip("\r\n") for line, _ in rows)
        found = csv.reader(io.StringIO(content, newline=""))
        assert [cells for _, cells in rows] == [cells for cells in found if cells]
