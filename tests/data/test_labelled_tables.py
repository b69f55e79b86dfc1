"""Label, group and split cells of text files keep what is written, in all tables of a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from clftask.components.labels import LabelSpace
from clftask.config.train import TrainJob
from clftask.data.prepare import Prepared, prepare, read_labelled
from clftask.data.readers.registry import open_source
from clftask.data.summary import DataReport
from clftask.errors import DataError, Problem

LABELS = {"kind": "class", "column": "label"}


def job(train: Path, task: str = "multiclass", **data: Any) -> TrainJob:
    fields = {"train": str(train), "text": "text", "labels": LABELS, **data}
    return TrainJob.load({"task": task, "model": {"base": "/none"}, "data": fields})


def table(path: Path, labels: list[str], **columns: list[str]) -> Path:
    """Write a CSV or TSV file with one text per label."""
    mark = "\t" if path.suffix == ".tsv" else ","
    rows = [["text", "label", *columns]]
    rows += [
        [f"t{i}", *cells] for i, cells in enumerate(zip(labels, *columns.values(), strict=True))
    ]
    path.write_text("".join(mark.join(row) + "\n" for row in rows))
    return path


def refused(job: TrainJob) -> Problem:
    with pytest.raises(DataError) as caught:
        prepare(job)
    (problem,) = caught.value.problems
    return problem


def pairs(prepared: Prepared) -> list[tuple[str, list[str]]]:
    """Return the sorted texts with their label names."""
    found = [
        (row["text"], prepared.space.decode(row["labels"]))
        for part in prepared.tables.values()
        for row in part.to_pylist()
    ]
    return sorted(found, key=lambda pair: int(pair[0][1:]))


CELLS = [
    ["011", "11", "11", "011"],
    ["1e5", "100000", "1e5", "100000"],
    ["+1", "1", "1", "+1"],
    ["0x10", "16", "16", "0x10"],
    ["09:30", "9:30", "10:00", "09:30"],
    ["1.10", "1.1", "1.1", "1.10"],
    ["250.0", "250.00", "250", "250"],
    ["2024-01-01 00:00", "2024-01-01", "2024-01-01T00:00", "2024-01-01"],
    ["True", "1", "1", "True"],
    ["true", "True", "true", "True"],
]


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
@pytest.mark.parametrize("cells", CELLS, ids=" ".join)
def test_classes_keep_what_is_written(tmp_path: Path, cells: list[str], name: str) -> None:
    prepared = prepare(job(table(tmp_path / name, cells * 10)))
    assert [names for _, names in pairs(prepared)] == [[cell] for cell in cells * 10]


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["1", "2", "10", "2"], ("1", "2", "10")),
        (["-1", "0", "1", "0"], ("-1", "0", "1")),
        (["1.0", "2.0", "1.0", "2.0"], ("1", "2")),  # pandas writes integers with gaps so
        (["True", "False", "True", "True"], ("false", "true")),
        (["3", "12345678901234567890", "3", "3"], ("3", "12345678901234567890")),
    ],
)
def test_numbers_are_labels_as_before(tmp_path: Path, cells: list[str], names: Any) -> None:
    assert prepare(job(table(tmp_path / "rows.csv", cells * 10))).space.names == names


@pytest.mark.parametrize(
    ("cells", "names", "wanted"),
    [
        (["011", "11"], ["11", "011"], ("11", "011")),
        (["1", "2"], [2, 1], ("2", "1")),
        (["1", "2"], ["2", "1"], ("2", "1")),
        (["1.0", "2.0"], [2, 1], ("2", "1")),
        (["1.0", "2.0"], ["2.0", "1.0"], ("2.0", "1.0")),
        (["True", "False"], [True, False], ("true", "false")),
        (["True", "False"], ["True", "False"], ("True", "False")),
        (["250.5", "401.9"], ["401.9", "250.5"], ("401.9", "250.5")),
        (["250.5", "401.9"], [401.9, 250.5], ("401.9", "250.5")),
    ],
)
def test_names_match_written_cells(
    tmp_path: Path, cells: list[str], names: Any, wanted: Any
) -> None:
    labels = {**LABELS, "names": names}
    prepared = prepare(job(table(tmp_path / "rows.csv", cells * 20), labels=labels))
    assert prepared.space.names == wanted
    assert sum(part.num_rows for part in prepared.tables.values()) == 40


def test_fractions_are_refused_with_a_way_out(tmp_path: Path) -> None:
    problem = refused(job(table(tmp_path / "rows.csv", ["1", "401.9"] * 20)))
    assert problem.path == "data.labels: column label"
    assert (problem.value, problem.allowed) == (401.9, "must contain classes, not fractions")
    assert "list them in data.labels.names" in problem.remedy


def test_missing_numbers_are_missing_labels(tmp_path: Path) -> None:
    path = table(tmp_path / "rows.csv", ["1", "2", "NA", ""] * 10)
    for names in (None, [1, 2]):
        labels = {**LABELS, "missing": "drop", "names": names}
        prepared = prepare(job(path, labels=labels))
        assert prepared.space.names == ("1", "2")
        assert prepared.report.num_without_label == 20


def test_the_tables_of_a_job_are_typed_together(tmp_path: Path) -> None:
    train = table(tmp_path / "train.csv", ["1.0", "2.0"] * 20)
    validation = table(tmp_path / "validation.csv", ["1.0", "V2"] * 10)
    prepared = prepare(job(train, validation=str(validation), split={"kind": "random", "test": 0}))
    assert prepared.space.names == ("1.0", "2.0")
    assert prepared.report.unknown_labels["validation"] == {"V2": 10}
    assert prepared.report.num_without_known_label["validation"] == 10


@pytest.mark.parametrize("codes", [["01", "1"], ["1.0", "1"], ["1e1", "10"], ["True", "1"]])
@pytest.mark.parametrize("kind", ["grouped", "column"])
def test_groups_keep_what_is_written(tmp_path: Path, codes: list[str], kind: str) -> None:
    groups = [*codes, "7", "8", "9", "10000"] * 10
    parts = ["train", "train", "train", "train", "validation", "test"] * 10
    split = {"kind": "grouped", "group": "g", "validation": 0.2, "test": 0.2}
    if kind == "column":
        split = {"kind": "column", "column": "part", "group": "g"}
    path = table(tmp_path / "rows.csv", ["a", "b"] * 30, g=groups, part=parts)
    prepared = prepare(job(path, split=split))
    found = {
        (groups[int(row["text"][1:])], name, row["group"])
        for name, part in prepared.tables.items()
        for row in part.to_pylist()
    }
    # Each written group is in one split, with one code of its own there.
    assert len(found) == len({group for group, _, _ in found}) == 6
    assert len({(name, code) for _, name, code in found}) == 6


def test_empty_groups_of_csv_are_null(tmp_path: Path) -> None:
    path = table(tmp_path / "rows.csv", ["a", "b"] * 4, g=["01", "", "1", "x"] * 2)
    source = open_source(str(path), "data.train")["train"]
    assert source.read(["g"], codes=["g"])["g"].to_pylist() == ["01", None, "1", "x"] * 2


def test_indicators_of_csv_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,0,1\n" + "t0,1,0\nt1,0,1\nt2,1,1\nt3,0,0\n" * 10)
    labels = {"kind": "indicators", "columns": ["0", "1"], "names": ["0", "1"]}
    prepared = prepare(job(path, "multilabel", labels=labels))
    found = {row["text"]: row["labels"] for part in prepared.tables.values()
             for row in part.to_pylist()}  # fmt: skip
    assert found == {"t0": [0], "t1": [1], "t2": [0, 1], "t3": []}


def test_delimited_cells_are_text(tmp_path: Path) -> None:
    path = table(tmp_path / "rows.csv", ["010", "10", "", "1.50"] * 10)
    labels = {"kind": "delimited", "column": "label"}
    prepared = prepare(job(path, "multilabel", labels=labels))
    assert set(prepared.space.names) == {"010", "1.50", "10"}
    assert [names for _, names in pairs(prepared)] == [["010"], ["10"], [], ["1.50"]] * 10


# ------------------------------------------------------------------ evaluate, decide, compare


def labelled(job: TrainJob, names: tuple[str, ...], path: Path) -> tuple[list[Any], DataReport]:
    report = DataReport()
    space = LabelSpace(job.task, names)
    rows = read_labelled(job, space, str(path), report)
    return [space.decode(codes)[0] for codes in rows["labels"].to_pylist()], report


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize(
    ("names", "cells"),
    [
        (("0110", "110"), ["0110", "110"]),
        (("110", "620"), ["110", "620"]),
        (("1.0", "V2"), ["1.0", "1.0"]),
        (("401.9", "V58"), ["401.9", "401.9"]),
        (("True", "False"), ["True", "False"]),
    ],
)
def test_the_same_codes_of_another_format_are_known(
    tmp_path: Path, suffix: str, names: tuple[str, ...], cells: list[str]
) -> None:
    path = tmp_path / f"rows{suffix}"
    texts = [f"t{i}" for i in range(len(cells))]
    if suffix == ".parquet":
        parquet.write_table(pa.table({"text": texts, "label": cells}), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": t, "label": c}) + "\n"
                                for t, c in zip(texts, cells, strict=True)))  # fmt: skip
    else:
        table(path, cells)
    found, report = labelled(job(tmp_path / "train.csv"), names, path)
    assert found == cells
    assert report.unknown_labels["table"] == {}


def test_numbers_of_csv_match_labels_of_numbers(tmp_path: Path) -> None:
    path = table(tmp_path / "rows.csv", ["1.0", "2.0"])
    assert labelled(job(path), ("1", "2"), path)[0] == ["1", "2"]
    path = table(tmp_path / "rows.csv", ["True", "False"])
    assert labelled(job(path), ("false", "true"), path)[0] == ["true", "false"]


def test_fractions_of_evaluated_rows_are_unknown_labels(tmp_path: Path) -> None:
    path = table(tmp_path / "rows.csv", ["0.5", "1.5"])
    with pytest.raises(DataError, match=r"Its labels \(0\.5, 1\.5\) are not labels of the bundle"):
        labelled(job(path), ("1", "2"), path)


def test_a_pattern_may_match_other_columns_in_each_table(tmp_path: Path) -> None:
    train, validation = tmp_path / "train.csv", tmp_path / "validation.csv"
    train.write_text("text,c_a,c_b\n" + "t0,1,0\nt1,0,1\n" * 10)
    validation.write_text("text,c_a,c_b,c_z\n" + "t0,1,0,1\nt1,0,1,0\n" * 10)
    labels = {"kind": "indicators", "pattern": "^c_"}
    split = {"kind": "random", "test": 0}
    prepared = prepare(
        job(train, "multilabel", labels=labels, validation=str(validation), split=split)
    )
    assert prepared.space.names == ("c_a", "c_b")
    assert prepared.report.unknown_labels["validation"] == {"c_z": 10}
