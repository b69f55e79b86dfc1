"""Splits and groups of whole tables: from the file to the prepared rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from clftask.components.labels import LabelSpace
from clftask.config.train import TrainJob
from clftask.data.prepare import Prepared, prepare, read_labelled
from clftask.data.summary import DataReport
from clftask.errors import DataError, Problem

NUM_ROWS = 40
BY_GROUP = {"kind": "grouped", "group": "g", "validation": 0.2, "test": 0.2}


def columns(**fields: Any) -> dict[str, Any]:
    given = {
        "text": [f"text {i}" for i in range(NUM_ROWS)],
        "y": [("a", "b")[i % 2] for i in range(NUM_ROWS)],
        "g": [f"g{i // 4}" for i in range(NUM_ROWS)],
    }
    return given | fields


def write(path: Path, **fields: Any) -> str:
    table = pa.table(columns(**fields))
    csv.write_csv(table, path) if path.suffix == ".csv" else parquet.write_table(table, path)
    return str(path)


def job_of(train: str, split: Any, **data: Any) -> TrainJob:
    labels = {"kind": "class", "column": "y"}
    fields = {"train": train, "text": "text", "labels": labels, "split": split, **data}
    return TrainJob.load({"task": "multiclass", "data": fields, "model": {"base": "none"}})


def refused(job: TrainJob) -> Problem:
    with pytest.raises(DataError) as caught:
        prepare(job)
    (problem,) = caught.value.problems
    return problem


def with_gap(values: list[Any], gap: Any) -> list[Any]:
    return [gap if i in (6, 9) else value for i, value in enumerate(values)]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize(
    ("values", "gap"),
    [
        ([f"g{i // 4}" for i in range(NUM_ROWS)], None),
        ([f"g{i // 4}" for i in range(NUM_ROWS)], " "),
        ([f"g{i // 4}" for i in range(NUM_ROWS)], ""),
        ([i // 4 for i in range(NUM_ROWS)], None),
        ([float(i // 4) for i in range(NUM_ROWS)], float("nan")),
    ],
    ids=["null", "blank", "empty", "null number", "NaN"],
)
def test_a_missing_group_is_refused_with_its_row(
    tmp_path: Path, suffix: str, values: list[Any], gap: Any
) -> None:
    train = write(tmp_path / f"train{suffix}", g=with_gap(values, gap))
    problem = refused(job_of(train, BY_GROUP))
    assert problem.path == f"data.split.group g: {train}, row 6"
    assert problem.allowed == "the group is missing"
    assert "(2 rows of 40)" in problem.remedy


@pytest.mark.parametrize("kind", [pa.string(), pa.int32(), pa.float64(), pa.date32(), "categories"])
def test_groups_of_any_type_stay_together(tmp_path: Path, kind: Any) -> None:
    codes = pa.array(np.arange(NUM_ROWS) // 4, pa.int32())
    column = (
        codes.cast(pa.string()).dictionary_encode() if kind == "categories" else codes.cast(kind)
    )
    prepared = prepare(job_of(write(tmp_path / "train.parquet", g=column), BY_GROUP))
    by_split = {s: set(t["group"].to_pylist()) for s, t in prepared.tables.items()}
    assert sorted(map(len, by_split.values())) == [2, 2, 6]
    assert len(set.union(*by_split.values())) == 10


def test_lists_are_no_groups(tmp_path: Path) -> None:
    train = write(tmp_path / "train.parquet", g=[["x"]] * NUM_ROWS)
    problem = refused(job_of(train, BY_GROUP))
    assert (problem.path, problem.value) == ("data.split", "g: list<element: string>")
    assert problem.allowed == "must contain one value per row: strings, numbers or dates"


def lines(prepared: Prepared) -> str:
    return "\n".join(prepared.report.lines())


def test_rows_without_a_group_beside_a_split_column_are_counted(tmp_path: Path) -> None:
    parts = [("train", "train", "dev", "test")[i // 4 % 4] for i in range(NUM_ROWS)]
    groups = with_gap([f"g{i // 4}" for i in range(NUM_ROWS)], None)
    train = write(tmp_path / "train.parquet", part=parts, g=groups)
    prepared = prepare(job_of(train, {"kind": "column", "column": "part", "group": "g"}))
    assert len(set(prepared.tables["train"]["group"].to_pylist())) == 7
    assert "warning: 1 train row without a group: each is a group of its own" in lines(prepared)
    assert "warning: 1 validation row without a group" in lines(prepared)
    assert "more than one split" not in lines(prepared)


def test_groups_in_several_splits_are_warned_of(tmp_path: Path) -> None:
    parts = [("train", "train", "dev", "test")[i % 4] for i in range(NUM_ROWS)]
    train = write(tmp_path / "train.parquet", part=parts)
    prepared = prepare(job_of(train, {"kind": "column", "column": "part", "group": "g"}))
    assert "warning: 10 groups are in more than one split" in lines(prepared)


@pytest.mark.parametrize(("first", "second"), [("1", "1.0"), ("-2", "-2.")])
def test_groups_in_two_forms_of_a_number_are_warned_of(tmp_path, first, second):
    """pandas writes 1.0 in a table with missing cells; a file for each year is usual."""
    groups = [[first, second, "3", "4"][i // 10] for i in range(NUM_ROWS)]
    prepared = prepare(job_of(write(tmp_path / "train.csv", g=groups), BY_GROUP))
    assert f"differ only in the form of a number: '{first}', '{second}'; write" in lines(prepared)
    groups = [["1", "01", "3", "x.0"][i // 10] for i in range(NUM_ROWS)]  # codes of their own
    prepared = prepare(job_of(write(tmp_path / "train.csv", g=groups), BY_GROUP))
    assert "form of a number" not in lines(prepared)


def test_groups_of_a_separate_table_are_read(tmp_path: Path) -> None:
    train, own = write(tmp_path / "train.csv"), tmp_path / "own.parquet"
    validation = write(own, g=pa.array([str(i // 20) for i in range(NUM_ROWS)]))
    prepared = prepare(job_of(train, BY_GROUP, validation=validation))
    assert len(set(prepared.tables["validation"]["group"].to_pylist())) == 2
    parquet.write_table(parquet.read_table(own).drop_columns(["g"]), own)
    prepared = prepare(job_of(train, BY_GROUP, validation=validation))
    assert "warning: 40 validation rows without a group" in lines(prepared)


def test_a_giant_group_that_starves_a_split_is_warned_of(tmp_path: Path) -> None:
    train = write(tmp_path / "train.parquet", g=["giant"] * 38 + ["x", "y"])
    text = lines(prepare(job_of(train, BY_GROUP)))
    for split in ("validation", "test"):
        assert f"warning: {split} has 2.5% of the rows instead of 20.0%" in text


def test_evaluation_counts_rows_without_a_group(tmp_path: Path) -> None:
    table = write(tmp_path / "new.csv", g=with_gap([f"g{i // 4}" for i in range(NUM_ROWS)], None))
    report = DataReport()
    space = LabelSpace("multiclass", ("a", "b"))
    found = read_labelled(job_of(table, BY_GROUP), space, table, report)
    assert len(set(found["group"].to_pylist())) == 12
    assert "2 table rows without a group" in "\n".join(report.warnings())


@pytest.mark.parametrize(("value", "found"), [(None, None), ("", None), ("holdout", "holdout")])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_an_unknown_split_is_refused_with_its_row(
    tmp_path: Path, suffix: str, value: Any, found: Any
) -> None:
    parts = with_gap([("train", "train", "Val ", "test")[i % 4] for i in range(NUM_ROWS)], value)
    train = write(tmp_path / f"train{suffix}", part=parts)
    problem = refused(job_of(train, {"kind": "column", "column": "part"}))
    assert (problem.path, problem.value) == (f"data.split.column part: {train}, row 6", found)
    assert "must be train, validation (or valid, val, dev) or test" in problem.allowed
    assert problem.remedy.startswith("Fix 2 rows of 40, ")


def test_duplicate_ids_are_kept_apart_by_row(tmp_path: Path) -> None:
    train = write(tmp_path / "train.parquet", id=["same"] * NUM_ROWS)
    prepared = prepare(job_of(train, "random", id="id"))
    assert sorted(prepared.rows["row"].to_pylist()) == list(range(NUM_ROWS))


@pytest.mark.parametrize(
    ("split", "field"),
    [
        ({"kind": "grouped", "group": "nowhere"}, "data.split.group"),
        ({"kind": "column", "column": "nowhere"}, "data.split.column"),
        ({"kind": "column", "column": "y", "group": "nowhere"}, "data.split.group"),
    ],
)
def test_a_missing_column_of_the_split_is_named(tmp_path: Path, split: Any, field: str) -> None:
    problem = refused(job_of(write(tmp_path / "train.csv"), split))
    assert (problem.path, problem.value) == (field, "nowhere")
