"""Files of Excel, OpenDocument, Stata, SPSS and SAS."""

from __future__ import annotations

import datetime
import sys
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyreadstat
import pytest
from score_world import World
from streams import opened, refused, stream, survey, written

from clftask.config.train import TrainJob
from clftask.data.prepare import prepare
from clftask.data.readers import whole_files
from clftask.data.readers.cells import BAD
from clftask.data.readers.registry import open_source
from clftask.io import storage

DAY = datetime.date(2024, 1, 2)


def excel(path: Path, **sheets: Any) -> Path:
    with pd.ExcelWriter(path, engine="openpyxl") as writer:
        for name, columns in sheets.items():
            pd.DataFrame(columns).to_excel(writer, sheet_name=name, index=False)
    return path


def read(path: Path | str, *columns: str) -> dict[str, list[Any]]:
    source, _ = opened(path)
    table = source.read(columns or source.names())
    found: dict[str, list[Any]] = table.drop_columns(["_file", "_row"]).to_pydict()
    return found


# ------------------------------------------------------------------ Excel


def test_cells_of_excel_keep_their_types(tmp_path: Path) -> None:
    columns = {
        "text": ["a", None, "NA"],
        "code": ["007", "7", "1e5"],
        "n": [3, 1, None],
        "x": [0.5, 1, None],
        "ok": [True, None, False],
        "day": [DAY, None, DAY],
        "mixed": [1, "x", 2.5],
        "flags": [True, 1, None],
    }
    path = excel(tmp_path / "book.xlsx", first=columns)
    assert read(path) == columns | {"mixed": ["1", "x", "2.5"], "flags": ["true", "1", None]}
    types = survey(path, ["n", "x", "ok", "day", "code"], []).schema.types
    assert types == [pa.int64(), pa.float64(), pa.bool_(), pa.date32(), pa.string()]


def test_a_sheet_is_selected_by_its_name(tmp_path: Path) -> None:
    path = excel(tmp_path / "book.xlsx", one={"text": ["a"]}, two={"text": ["b"], "2024": [1]})
    assert read(path) == {"text": ["a"]}
    assert read(f"{path}#two") == {"text": ["b"], "2024": [1]}
    problem = refused(opened(f"{path}#three")[0].names)
    assert (problem.value, problem.allowed) == ("three", "has no such sheet: one, two")


def test_a_folder_of_excel_files_is_one_table(tmp_path: Path) -> None:
    excel(tmp_path / "a.xlsx", one={"text": ["a"], "label": [1]})
    excel(tmp_path / "b.XLSX", one={"text": ["b"], "label": ["01"]})
    written(tmp_path, "~$a.xlsx", "the lock of a file that is open in Excel")
    sources = open_source(str(tmp_path), "data.train")
    table = sources["train"].read(["text", "label"])
    assert table["label"].to_pylist() == ["1", "01"]
    assert table["_row"].to_pylist() == [0, 0]


def test_rows_and_columns_without_values_are_skipped(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    rows = [[None] * 4, [None, "text", None, "label"], [None, "a", None, 1], [None] * 4,
            [None, "b", None, 2]]  # fmt: skip
    for row in rows:
        book.active.append(row)
    book.save(tmp_path / "book.xlsx")
    assert read(tmp_path / "book.xlsx") == {"text": ["a", "b"], "label": [1, 2]}


def test_an_empty_sheet_is_refused(tmp_path: Path) -> None:
    path = excel(tmp_path / "book.xlsx", one={})
    problem = refused(opened(path)[0].names)
    assert (problem.path, problem.allowed) == (str(path), "contains no rows")


def test_a_missing_column_is_advised_of_the_other_sheets(tmp_path: Path) -> None:
    path = excel(tmp_path / "book.xlsx", notes={"x": ["a"]}, data={"text": ["b"]})
    source, _ = opened(path)
    (problem,) = source.missing([("data.text", "text")], source.names())
    assert problem.remedy == f"Sheets: notes, data. Select one with {path}#data."


CONTENT = """<?xml version="1.0"?><office:document-content
 xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
 xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"
 xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"><office:body><office:spreadsheet>
 <table:table table:name="one">%s</table:table>
 </office:spreadsheet></office:body></office:document-content>"""

MANIFEST = """<?xml version="1.0"?><manifest:manifest
 xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>"""


def test_open_document_sheets_are_read(tmp_path: Path) -> None:
    def text(cell: str) -> str:
        inner = f"<text:p>{cell}</text:p>"
        return f'<table:table-cell office:value-type="string">{inner}</table:table-cell>'

    number = '<table:table-cell office:value-type="float" office:value="3"/>'
    rows = [text("text") + text("code") + text("n"), text("é") + text("007") + number]
    content = CONTENT % "".join(f"<table:table-row>{row}</table:table-row>" for row in rows)
    with zipfile.ZipFile(tmp_path / "sheet.ods", "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("META-INF/manifest.xml", MANIFEST)
        archive.writestr("content.xml", content)
    assert read(tmp_path / "sheet.ods") == {"text": ["é"], "code": ["007"], "n": [3]}


# ------------------------------------------------------------------ statistics packages

FRAME = pd.DataFrame({
    "text": ["fine", "", "long" * 300],
    "label": [1.0, 2.0, None],
    "n": [10, 20, 30],
    "x": [0.5, None, 2.0],
})  # fmt: skip
NAMES = {"label": {1: "negative", 2: "positive"}}
WRITERS: dict[str, Callable[[Path], Any]] = {
    "rows.dta": lambda path: pyreadstat.write_dta(FRAME, path, variable_value_labels=NAMES),
    "strl.dta": lambda path: FRAME.to_stata(
        path, version=118, write_index=False, convert_strl=["text"], value_labels=NAMES
    ),
    "rows.sav": lambda path: pyreadstat.write_sav(FRAME, path, variable_value_labels=NAMES),
    "ROWS.ZSAV": lambda path: pyreadstat.write_sav(
        FRAME, path, compress=True, variable_value_labels=NAMES
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_value_labels_become_the_values(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    assert read(tmp_path / name) == {
        "text": ["fine", None, "long" * 300],
        "label": ["negative", "positive", None],
        "n": [10, 20, 30],
        "x": [0.5, None, 2.0],
    }
    assert survey(tmp_path / name, ["n"], []).schema == pa.schema({"n": pa.int64()})


@pytest.mark.parametrize("name", ["rows.xpt", "rows.por"])
def test_other_files_are_read(tmp_path: Path, name: str) -> None:
    frame = FRAME.assign(text=["a", "", "c"])
    write = pyreadstat.write_xport if name.endswith("xpt") else pyreadstat.write_por
    write(frame, tmp_path / name)
    found = {column.lower(): cells for column, cells in read(tmp_path / name).items()}
    assert found["text"] == ["a", None, "c"]
    assert found["label"] == [1, 2, None]
    assert found["x"] == [0.5, None, 2.0]


def test_values_without_a_label_are_written_as_numbers(tmp_path: Path) -> None:
    frame = FRAME.assign(label=[1, 7, 2])
    pyreadstat.write_sav(frame, tmp_path / "rows.sav", variable_value_labels=NAMES)
    assert read(tmp_path / "rows.sav", "label") == {"label": ["negative", "7", "positive"]}


def test_user_defined_missing_values_are_null(tmp_path: Path) -> None:
    frame = FRAME.assign(label=[1, 9, 2])
    ranges = {"label": [9]}
    pyreadstat.write_sav(
        frame, tmp_path / "rows.sav", variable_value_labels=NAMES, missing_ranges=ranges
    )
    assert read(tmp_path / "rows.sav", "label") == {"label": ["negative", None, "positive"]}


def test_training_names_labels_by_value_labels_and_reads_flags_as_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame({
        "text": [f"t{i}" for i in range(40)],
        "tone": [1, 2] * 20,
        "q1": [1, 0] * 20,
        "q2": [0, 1, 1, 1] * 10,
    })  # fmt: skip
    names = {"tone": {1: "calm", 2: "angry"}, "q1": {0: "no", 1: "yes"}, "q2": {0: "no", 1: "yes"}}
    path = tmp_path / "rows.sav"
    pyreadstat.write_sav(frame, path, variable_value_labels=names)

    def prepared(task: str, labels: Any) -> Any:
        data = {"train": str(path), "text": "text", "labels": labels}
        return prepare(TrainJob.load({"task": task, "model": {"base": "/none"}, "data": data}))

    found = prepared("multiclass", {"kind": "class", "column": "tone"})
    assert found.space.names == ("angry", "calm")
    found = prepared("multilabel", {"kind": "indicators", "columns": ["q1", "q2"]})
    rows = {
        row["text"]: row["labels"] for part in found.tables.values() for row in part.to_pylist()
    }
    assert [rows[f"t{i}"] for i in range(4)] == [[0], [1], [0, 1], [1]]


# ------------------------------------------------------------------ every format


@pytest.mark.parametrize("name", ["rows.xlsx", "rows.dta", "rows.sav"])
def test_batches_are_the_rows_from_any_start(tmp_path: Path, name: str) -> None:
    rows = {"id": [f"{i:02}" for i in range(7)], "n": list(range(7))}
    frame = pd.DataFrame(rows)
    writers = {"xlsx": lambda p: frame.to_excel(p, index=False),
               "dta": lambda p: frame.to_stata(p, write_index=False),
               "sav": lambda p: pyreadstat.write_sav(frame, p)}  # fmt: skip
    writers[name[5:]](tmp_path / name)
    found = survey(tmp_path / name, ["n", "id"])
    assert (found.num_rows, found.schema.types) == (7, [pa.int64(), pa.string()])
    for start, num_rows in [(0, 8192), (2, 3), (6, 1), (7, 4), (9, 4)]:
        rest = stream(tmp_path / name, found.schema, start=start, num_rows=num_rows)
        assert rest["id"].to_pylist() == rows["id"][start:]
        assert rest["n"].to_pylist() == rows["n"][start:]
        assert rest[BAD].null_count == len(rest)


@pytest.mark.parametrize("suffix", [".xlsx", ".xls", ".ods", ".dta", ".sav", ".por", ".sas7bdat"])
def test_a_damaged_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, f"rows{suffix}", "junk " * 100)
    problem = refused(opened(path)[0].names)
    assert problem.path == str(path)
    assert problem.allowed.startswith("cannot be read: ")


def test_a_damaged_file_that_crashes_its_library_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.sav"
    frame = pd.DataFrame({"text": ["fine", "x", "long" * 300] * 50, "label": [1.0, 2.0, None] * 50})
    pyreadstat.write_sav(frame, path, variable_value_labels=NAMES)
    data = bytearray(path.read_bytes())
    data[212:232] = bytes(20)  # in the record of a column
    path.write_bytes(data)
    problem = refused(opened(path)[0].names)
    assert problem.path == str(path)
    assert problem.allowed.startswith("cannot be read: ")


def test_a_damaged_sheet_is_named(tmp_path: Path) -> None:
    path = excel(tmp_path / "book.xlsx", one={"text": ["a", "b"] * 100})
    data = bytearray(path.read_bytes())
    start = data.index(b"xl/worksheets/sheet1.xml") + 100
    data[start : start + 20] = bytes(20)
    path.write_bytes(data)
    problem = refused(opened(path)[0].names)
    assert problem.path == str(path)
    assert problem.allowed.startswith("cannot be read: ")
    assert problem.remedy.endswith("save it as .xlsx, or as .csv.")


@pytest.mark.parametrize(
    ("name", "package"), [("rows.xlsx", "python_calamine"), ("rows.sav", "pyreadstat")]
)
def test_a_missing_extra_is_named(
    tmp_path: Path, name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, name, "any")
    monkeypatch.setitem(sys.modules, package, None)
    problem = refused(opened(path)[0].names)
    assert (problem.path, problem.allowed) == (str(path), f"requires the package {package}")
    assert problem.remedy == "pip install 'clftask[files]'"


@pytest.mark.parametrize("name", ["rows.xlsx", "rows.sav"])
def test_files_in_a_bucket_are_read(tmp_path: Path, name: str, s3: Any) -> None:
    if name == "rows.xlsx":
        excel(tmp_path / name, one={"text": ["a"]})
    else:
        pyreadstat.write_sav(pd.DataFrame({"text": ["a"]}), tmp_path / name)
    remote = f"{s3.bucket}/{uuid.uuid4().hex}/{name}"
    storage.put(remote, (tmp_path / name).read_bytes())
    assert read(remote) == {"text": ["a"]}


def test_a_file_is_loaded_once_for_all_shards(
    tmp_path: Path, tiny_bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, tiny_bundle)
    texts = [f"fast audio tool {i}" if i % 10 else None for i in range(45)]
    rows = {"id": [f"{i:03}" for i in range(45)], "text": texts, "source": range(45)}
    excel(world.input / "a.xlsx", one=rows)
    loads, load = [], whole_files.Excel.load
    monkeypatch.setattr(whole_files.Excel, "load", lambda *given: loads.append(1) or load(*given))
    manifest = world.run(max_bad_rows=0.2)
    assert (manifest.counts.rows_in, manifest.counts.rows_quarantined, len(loads)) == (45, 5, 1)
    table = world.table()
    assert table["id"].to_pylist() == [f"{i:03}" for i in range(45) if i % 10]
    assert table.schema.field("source").type == pa.int64()


# ------------------------------------------------------------------ labels


@pytest.mark.parametrize("cells", [["a|b", None, "b"], [1, None, 2]])
def test_a_blank_cell_of_delimited_labels_is_a_row_without_labels(
    tmp_path: Path, cells: list[Any]
) -> None:
    texts = [f"text {i}" for i in range(60)]
    path = excel(tmp_path / "book.xlsx", first={"text": texts, "y": cells * 20})
    data = {"train": str(path), "text": "text", "labels": {"kind": "delimited", "column": "y"}}
    job = {"task": "multilabel", "data": data, "model": {"base": "/x"}}
    report = prepare(TrainJob.load(job)).report
    assert sum(report.rows.values()) == 60
    assert report.num_without_label == 0
