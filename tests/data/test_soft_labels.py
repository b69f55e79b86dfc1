"""Soft labels and row weights, from table to targets: splits, statistics, fingerprint, messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from clftask.components.labels import LabelSpace
from clftask.config.train import TrainJob
from clftask.data.prepare import Prepared, prepare, read_labelled
from clftask.data.summary import DataReport
from clftask.data.targets import soft_targets, targets_of, train_labels
from clftask.errors import ConfigError, DataError, Problem

NUM_ROWS = 40
SOFT = {"kind": "probabilities", "prefix": "p_"}
CLASS = {"kind": "class", "column": "y"}


def columns(**more: Any) -> dict[str, Any]:
    """Probabilities 0.75 and 0.25: of each four rows, three are probably `a`."""
    likely = [i % 4 > 0 for i in range(NUM_ROWS)]
    found = {"text": [f"text {i}" for i in range(NUM_ROWS)]}
    found |= {"p_a": [0.75 if a else 0.25 for a in likely]}
    found |= {"p_b": [0.25 if a else 0.75 for a in likely], "w": [1.0, 3.0] * (NUM_ROWS // 2)}
    return found | more


def written(path: Path, **more: Any) -> Path:
    write = csv.write_csv if path.suffix == ".csv" else parquet.write_table
    write(pa.table(columns(**more)), path)
    return path


def job_of(path: Path, labels: dict[str, Any] = SOFT, task: str = "multiclass", **data: Any) -> Any:
    data = {"train": str(path), "text": "text", "labels": labels, **data}
    return TrainJob.load({"task": task, "data": data, "model": {"base": "/x"}})


def problems(document: dict[str, Any]) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        TrainJob.load(document)
    return list(caught.value.problems)


def refused(job: TrainJob) -> Problem:
    with pytest.raises(DataError) as caught:
        prepare(job)
    (problem,) = caught.value.problems
    return problem


def names(found: Prepared, split: str) -> list[Any]:
    return [found.space.decode(row) for row in found.tables[split]["labels"].to_pylist()]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_rows_keep_their_probabilities_in_every_split(
    tmp_path: Path, task: str, ending: str
) -> None:
    path = written(tmp_path / f"t.{ending}")
    found = prepare(job_of(path, task=task, split="stratified"))
    assert found.space.names == ("a", "b")
    assert {n: t.num_rows for n, t in found.tables.items()} == {
        "train": 32, "validation": 4, "test": 4
    }  # fmt: skip
    for split, table in found.tables.items():
        soft = soft_targets(table)
        assert soft is not None
        decided = [["a"] if row[0] > 0.5 else ["b"] for row in soft.tolist()]
        assert names(found, split) == decided
        assert sorted(set(soft[:, 0].tolist())) == [0.25, 0.75]
    assert found.report.label_counts["validation"] == {"a": 3, "b": 1}  # stratified by these
    assert found.report.soft_labels == dict.fromkeys(found.tables, 0.75)
    assert any(line.startswith("soft labels: ") for line in found.report.lines())


def test_tables_of_their_own_have_hard_labels(tmp_path: Path) -> None:
    train = written(tmp_path / "train.parquet")
    held_out = {"text": ["u", "v", "w"], "y": ["b", "a", "unknown"]}
    parquet.write_table(pa.table(held_out), tmp_path / "validation.parquet")
    labels, validation = SOFT | {"hard": CLASS}, str(tmp_path / "validation.parquet")
    found = prepare(job_of(train, labels, validation=validation, weight="w"))
    assert names(found, "validation") == [["b"], ["a"]]
    assert found.report.num_without_known_label["validation"] == 1
    assert "targets" not in found.tables["validation"].column_names
    assert targets_of(found.tables["validation"], 2).tolist() == [[0, 1], [1, 0]]
    assert targets_of(found.tables["train"], 2).max() == 0.75
    assert "targets" in found.tables["test"].column_names  # from train, which has no y
    job, space = job_of(train, labels, weight="w"), LabelSpace("multiclass", ("a", "b"))
    assert read_labelled(job, space, validation, DataReport()).num_rows == 2
    plain = read_labelled(job_of(train), space, str(train), DataReport())
    assert plain["labels"].to_pylist()[:2] == [[1], [0]]


def test_weights_are_relative_to_their_mean_on_train(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", split=["train", "validation"] * 20, w=[0, 9, 3, 9] * 10)
    split = {"kind": "column", "column": "split"}
    found = prepare(job_of(path, split=split, weight="w"))
    assert found.tables["train"]["row_weight"].to_pylist() == [0.0, 2.0] * 10
    assert "row_weight" not in found.tables["validation"].column_names
    assert found.report.row_weights == {"lowest": 0.0, "highest": 2.0, "zeros": 10}
    line = "row weights: 0 to 2 times their mean; 10 rows of weight 0"
    assert line in found.report.lines()
    # Rows 0, 4, … are probably b and weigh nothing; the others are probably a.
    assert train_labels(found.tables["train"], 2).shares.tolist() == [0.75, 0.25]


def test_statistics_by_hand() -> None:
    codes = pa.array([[0, 2], [], [2], [2]], pa.list_(pa.int32()))
    assert train_labels(pa.table({"labels": codes}), 4).shares.tolist() == [0.25, 0.0, 0.75, 0.0]
    assert train_labels(pa.table({"labels": codes[:0]}), 2).shares.tolist() == [0.0, 0.0]
    weighted = pa.table({"labels": codes, "row_weight": [2.0, 0.0, 1.0, 1.0]})
    assert train_labels(weighted, 4).counts.tolist() == [2.0, 0.0, 4.0, 0.0]


def test_the_fingerprint_covers_probabilities_and_weights(tmp_path: Path) -> None:
    half = written(tmp_path / "a.parquet")
    sure = written(
        tmp_path / "b.parquet", p_a=[0.8, *columns()["p_a"][1:]], p_b=[0.2, *columns()["p_b"][1:]]
    )
    other = written(tmp_path / "c.parquet", w=[2.0, 1.0] * (NUM_ROWS // 2))
    hard = written(tmp_path / "d.parquet", y=["a", "b"] * (NUM_ROWS // 2))
    jobs = [job_of(half), job_of(sure), job_of(half, weight="w"), job_of(other, weight="w")]
    jobs += [job_of(hard, CLASS), job_of(hard, CLASS, weight="w")]
    found = [prepare(job).fingerprint for job in jobs]
    assert len(set(found)) == len(found)
    assert prepare(job_of(other)).fingerprint == found[0]


@pytest.mark.parametrize(
    ("cell", "shown"),
    [(None, None), (-1.0, -1.0), (float("inf"), "inf"), (float("nan"), "nan"), ("heavy", "heavy")],
)
def test_cells_that_are_no_weights(tmp_path: Path, cell: Any, shown: Any) -> None:
    as_text = isinstance(cell, str)
    cells = [str(w) if as_text else w for w in columns()["w"]]
    path = written(tmp_path / "t.parquet", w=[*cells[:7], cell, *cells[8:]])
    problem = refused(job_of(path, weight="w"))
    assert (problem.path, problem.value) == (f"{path}, row 7, column w", shown)
    assert problem.allowed == "must be a row weight, a finite number of 0 or more"


def test_other_weights_that_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", w=[0] * NUM_ROWS)
    problem = refused(job_of(path, weight="w"))
    assert (problem.path, problem.value) == ("data.weight", "w")
    assert problem.allowed == "the weights of all 32 train rows are 0"
    problem = refused(job_of(path, weight="missing"))
    assert (problem.path, problem.value) == ("data.weight", "missing")


def test_settings_that_do_not_fit_soft_labels() -> None:
    hard = {"kind": "list", "column": "tags", "min_count": 3}
    labels = SOFT | {"min_count": 2, "empty": "drop", "hard": hard}
    data = {"train": "t.csv", "text": ["p_text"], "labels": labels, "weight": "p_w"}
    document = {"task": "multiclass", "data": data, "model": {"base": "/x"}, "loss": "focal"}
    found = {problem.path: problem.value for problem in problems(document)}
    assert found == {
        "data.labels.min_count": 2,
        "data.labels.empty": "drop",
        "data.labels.hard.kind": "list",
        "data.labels.hard.min_count": 3,
        "loss.kind": "focal",
        "data.labels": "p_text",
        "data.weight": "p_w",
    }
    for fields in ({"kind": "probabilities"}, SOFT | {"column": "p"}):
        (problem,) = problems({**document, "data": data | {"labels": fields}})
        assert problem.allowed == "requires either prefix or column"
    merged = SOFT | {"names": {"a": "x", "b": "x", "c": "y"}}
    (problem,) = problems({**document, "data": data | {"labels": merged}})
    assert problem.allowed == "must not merge labels"


def test_an_evaluated_table_needs_the_columns_of_the_labels(tmp_path: Path) -> None:
    job, space = job_of(written(tmp_path / "t.parquet")), LabelSpace("multiclass", ("a", "b"))
    parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError) as caught:
        read_labelled(job, space, str(tmp_path / "other.parquet"), DataReport())
    assert caught.value.problems[0].path == "table (labels.prefix)"


def with_lists(path: Path, names: list[str]) -> Path:
    """Write a score table of layout `list`, whose footer names the labels of the lists."""
    lists = list(zip(columns()["p_a"], columns()["p_b"], strict=True))
    table = pa.table({"text": columns()["text"], "p": pa.array(lists, pa.list_(pa.float64()))})
    metadata = {"clftask.label_names": json.dumps(names)}
    parquet.write_table(table.replace_schema_metadata(metadata), path)
    return path


@pytest.mark.parametrize("place", ["another table", "another file"])
def test_lists_in_another_order_are_refused_by_file(tmp_path: Path, place: str) -> None:
    (tmp_path / "in").mkdir()
    with_lists(tmp_path / "in" / "a.parquet", ["x", "y"])
    own = {}
    if place == "another table":
        other = with_lists(tmp_path / "validation.parquet", ["y", "x"])
        own = {"validation": str(other), "split": {"kind": "random", "test": 0}}
    else:
        other = with_lists(tmp_path / "in" / "b.parquet", ["y", "x"])
    labels = {"kind": "probabilities", "column": "p"}
    problem = refused(job_of(tmp_path / "in", labels, **own))
    assert (problem.path, problem.value) == (f"{other}, column p", "y, x")
    assert problem.allowed == "has lists of other labels, or in another order, than x, y"


def test_probabilities_below_a_half_are_targets_too(tmp_path: Path) -> None:
    """No label is decided in any row, but each has its probability."""
    rare = {"p_a": [0.3] * NUM_ROWS, "p_b": [0.2] * NUM_ROWS}
    found = prepare(job_of(written(tmp_path / "t.parquet", **rare), task="multilabel"))
    targets = targets_of(found.tables["train"], 2)
    assert targets[0].tolist() == pytest.approx([0.3, 0.2])


def test_a_score_table_without_all_of_its_parts_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "scores"
    folder.mkdir()
    written(folder / "part-00000.parquet")
    (folder / "_plan.json").write_text("{}")
    problem = refused(job_of(folder))
    assert (problem.path, problem.value) == ("data.train", str(folder))
    assert problem.allowed == "is a score table that is not complete"
    (folder / "_manifest.json").write_text("{}")
    assert sum(table.num_rows for table in prepare(job_of(folder)).tables.values()) == NUM_ROWS
    (folder / "_plan-00002.json").write_text("{}")  # a further generation is scored
    for complete in ([{}], None, "x"):
        (folder / "_manifest.json").write_text(json.dumps({"generations": complete}))
        assert refused(job_of(folder)).allowed == "is a score table that is not complete"
    (folder / "_manifest.json").write_text(json.dumps({"generations": [{}, {}]}))
    assert sum(table.num_rows for table in prepare(job_of(folder)).tables.values()) == NUM_ROWS
