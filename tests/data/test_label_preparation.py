"""Labels from table to label space: rare labels, names, missing cells, warnings."""

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
from clftask.data.summary import DataReport
from clftask.errors import ConfigError, DataError, Problem

CLASS = {"kind": "class", "column": "y"}
LIST = {"kind": "list", "column": "y"}
NUM_ROWS = 60


def job_of(path: Path | str, labels: dict[str, Any], *overrides: str, **data: Any) -> TrainJob:
    task = "multiclass" if labels["kind"] == "class" else "multilabel"
    data = {"train": str(path), "text": "text", "labels": labels, **data}
    return TrainJob.load({"task": task, "data": data, "model": {"base": "/x"}}, overrides)


def written(path: Path, **columns: Any) -> Path:
    num_rows = len(next(iter(columns.values())))
    texts = {"text": [f"text {i}" for i in range(num_rows)]}
    groups = {"group": [f"group {i % 12}" for i in range(num_rows)]}
    parquet.write_table(pa.table(texts | groups | columns), path)
    return path


def refused(call: Any, *arguments: Any) -> Problem:
    with pytest.raises(DataError) as caught:
        call(*arguments)
    (problem,) = caught.value.problems
    return problem


def total(found: Prepared) -> dict[str, int]:
    """Return the number of rows of each label over all splits."""
    counts = dict.fromkeys(found.space.names, 0)
    for by_label in found.report.label_counts.values():
        for name, count in by_label.items():
            counts[name] += count
    return counts


# ------------------------------------------------------------------ rare labels

SPLITS = [
    {"kind": "random"},
    {"kind": "stratified"},
    {"kind": "grouped", "group": "group"},
    {"kind": "grouped", "group": "group", "stratify": True},
]
RARE = [*["a", "b"] * 29, "once", "twice", "twice"]


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: "-".join(map(str, split.values())))
@pytest.mark.parametrize(
    "fields", [{"min_count": 3}, {"names": ["b", "a"]}, {"names": {"b": "b", "a": "a"}}]
)
def test_classes_are_left_out_before_the_split(
    tmp_path: Path, split: dict[str, Any], fields: dict[str, Any]
) -> None:
    path = written(tmp_path / "t.parquet", y=RARE)
    found = prepare(job_of(path, CLASS | fields, split=split))
    assert total(found) == {"a": 29, "b": 29}
    assert found.space.names == (("b", "a") if "names" in fields else ("a", "b"))
    assert found.report.unknown_labels["train"] == {"once": 1, "twice": 2}
    assert found.report.num_without_known_label == {"train": 3, "validation": 0, "test": 0}
    assert found.rows.num_rows == 58


def test_the_remedy_of_a_stratified_split_works(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", y=RARE)
    problem = refused(prepare, job_of(path, CLASS, split="stratified"))
    assert problem.path == "data.split"
    assert "data.labels.min_count" in problem.remedy
    prepare(job_of(path, CLASS | {"min_count": 3}, split="stratified"))


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: "-".join(map(str, split.values())))
@pytest.mark.parametrize(("empty", "num_rows"), [("keep", 61), ("drop", 58)])
def test_labels_of_lists_are_left_out_before_the_split(
    tmp_path: Path, split: dict[str, Any], empty: str, num_rows: int
) -> None:
    rows = [[label, "once"] if i == 0 else [label] for i, label in enumerate(RARE)]
    path = written(tmp_path / "t.parquet", y=rows)
    found = prepare(job_of(path, LIST | {"min_count": 3, "empty": empty}, split=split))
    assert total(found) == {"a": 29, "b": 29}
    assert found.rows.num_rows == num_rows
    assert found.report.unknown_labels["train"] == {"once": 2, "twice": 2}


def test_min_count_counts_the_rows_before_the_split(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", y=["a"] * 40 + ["b"] * 15 + ["c"] * 5)
    split = {"kind": "stratified", "validation": 0.3, "test": 0.3}
    found = prepare(job_of(path, CLASS | {"min_count": 5}, split=split))
    assert total(found) == {"a": 40, "b": 15, "c": 5}
    assert found.report.label_counts["train"]["c"] < 5


def test_labels_of_other_tables_do_not_count(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", y=[*["a", "b"] * 20, "c"])
    own = written(tmp_path / "v.parquet", y=["a", "b", "c", "c", "d"])
    found = prepare(job_of(path, CLASS | {"min_count": 2}, validation=str(own)))
    assert found.space.names == ("a", "b")
    assert found.report.unknown_labels["validation"] == {"c": 2, "d": 1}
    assert found.report.rows["validation"] == 2


def test_too_few_labels_are_refused_before_the_split(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", y=["a"] * 9 + ["b"])
    problem = refused(prepare, job_of(path, CLASS | {"min_count": 2}, split="stratified"))
    assert (problem.path, problem.value) == ("data.labels", ["a", "b"])
    assert problem.remedy == "Check the column, or lower min_count."


def test_names_without_rows_are_reported(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", y=["a", "b"] * 30)
    found = prepare(job_of(path, CLASS | {"names": ["a", "z", "b"]}))
    assert found.space.names == ("a", "z", "b")
    assert "warning: labels without training rows: z" in found.report.lines()


# ------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "override",
    [
        "data.labels.names={0: exclude, 1: include}",
        "data.labels.names={'0': exclude, '1': include}",
        "data.labels.names={0.0: exclude, 1.0: include}",
    ],
)
def test_numbers_get_names_on_the_command_line(tmp_path: Path, override: str) -> None:
    path = written(tmp_path / "t.parquet", y=[1, 0, 0] * 20)
    found = prepare(job_of(path, CLASS, override))
    assert found.space.names == ("exclude", "include")
    assert total(found) == {"exclude": 40, "include": 20}


def test_one_name_can_be_overridden(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", y=[1, 0, 0] * 20)
    labels = CLASS | {"names": {"0": "exclude", "1": "include"}}
    found = prepare(job_of(path, labels, "data.labels.names.1=accept"))
    assert found.space.names == ("exclude", "accept")


def test_the_order_of_a_mapping_survives_the_resolved_job(tmp_path: Path) -> None:
    job = job_of("t.csv", CLASS | {"names": {2: "z", 0: "y", 1: "x"}})
    (tmp_path / "job.yaml").write_text(job.to_yaml())
    again = TrainJob.load(tmp_path / "job.yaml")
    assert again == job
    assert again.data.labels.fixed_names == ("z", "y", "x")
    assert TrainJob.load(json.loads(json.dumps(job.dump()))) == job


@pytest.mark.parametrize(
    "values",
    [[0, 1, 1], [0.0, 1.0, 1.0], ["exclude", "include", "include"], ["0", "1.0", "include"]],
)
def test_a_bundle_reads_raw_values_and_names(tmp_path: Path, values: list[Any]) -> None:
    job = job_of("t.csv", CLASS | {"names": {0: "exclude", 1: "include"}})
    path = written(tmp_path / "new.parquet", y=values)
    space = LabelSpace("multiclass", ("exclude", "include"))
    table = read_labelled(job, space, str(path), DataReport())
    assert table["labels"].to_pylist() == [[0], [1], [1]]


def test_a_bundle_reads_vectors_by_its_names(tmp_path: Path) -> None:
    job = job_of("t.csv", LIST | {"names": ["c", "a", "b"]})
    path = written(tmp_path / "new.parquet", y=[[0, 1, 0], [1, 0, 1]])
    table = read_labelled(job, LabelSpace("multilabel", ("c", "a")), str(path), DataReport())
    assert table["labels"].to_pylist() == [[1], [0]]


def test_a_bundle_refuses_vectors_without_names(tmp_path: Path) -> None:
    path = written(tmp_path / "new.parquet", y=[[0, 1, 0], [1, 0, 1]])
    space = LabelSpace("multilabel", ("a", "b", "c"))
    problem = refused(read_labelled, job_of("t.csv", LIST), space, str(path), DataReport())
    assert problem.path == f"{path}, row 0, column y"
    assert "multi-hot" in problem.allowed


def test_a_bundle_reads_indicators_in_words(tmp_path: Path) -> None:
    job = job_of("t.csv", {"kind": "indicators", "columns": ["a", "b"]})
    path = written(tmp_path / "new.parquet", a=["yes", "no", "NO"], b=["1", "0", "maybe"])
    space = LabelSpace("multilabel", ("a", "b"))
    problem = refused(read_labelled, job, space, str(path), DataReport())
    assert (problem.path, problem.value) == (f"{path}, row 2, column b", "maybe")


@pytest.mark.parametrize("values", [[3, 4, 3], pa.array([True, False, None]), pa.nulls(3)])
def test_a_bundle_reads_delimited_columns_of_any_type(tmp_path: Path, values: Any) -> None:
    job = job_of("t.csv", {"kind": "delimited", "column": "y"})
    path = written(tmp_path / "new.parquet", y=values)
    space, report = LabelSpace("multilabel", ("3", "true")), DataReport()
    if isinstance(values, list):
        table = read_labelled(job, space, str(path), report)
        assert table["labels"].to_pylist() == [[0], [], [0]]
    elif values.null_count == 3:
        problem = refused(read_labelled, job, space, str(path), report)
        assert problem.allowed == "contains no usable rows"
    else:
        table = read_labelled(job, space, str(path), report)
        assert table["labels"].to_pylist() == [[1], []]


def test_lists_of_objects_are_refused(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "y": [{"label": i % 2, "user": 1}]} for i in range(9)]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    problem = refused(prepare, job_of(path, LIST))
    assert problem.path == "data.labels: column y"
    assert problem.value == "lists of objects with the fields label, user"
    assert problem.remedy == "Make a column of lists that contain the labels only."


def test_spans_with_labels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a text", "y": [[0, 5, "LABEL"]]}\n' * 9)
    problem = refused(prepare, job_of(path, LIST))
    assert problem.path == str(path)
    assert problem.allowed == (
        'cannot be read: column y: a list mixes types: [[0, 5, "LABEL"]]; '
        "make a column of plain values"
    )


def test_saved_datasets_of_vectors(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    rows = {"text": [f"t {i}" for i in range(30)], "y": [[1, 0], [0, 1], [1, 1]] * 10}
    for name, feature in {
        "list": datasets.Sequence(datasets.Value("int64")),
        "fixed": datasets.Sequence(datasets.Value("float32"), length=2),
        "large": datasets.LargeList(datasets.Value("bool")),
    }.items():
        features = datasets.Features({"text": datasets.Value("string"), "y": feature})
        saved = datasets.Dataset.from_dict(rows, features=features)
        saved.save_to_disk(tmp_path / name)
        assert "multi-hot" in refused(prepare, job_of(tmp_path / name, LIST)).allowed
        found = prepare(job_of(tmp_path / name, LIST | {"names": ["b", "a"]}))
        assert total(found) == {"b": 20, "a": 20}


# ------------------------------------------------------------------ missing labels


@pytest.mark.parametrize(
    ("labels", "columns", "column", "word"),
    [
        (CLASS, {"y": ["a", "b", None, " ", "a"]}, "y", "Label the row"),
        (CLASS, {"y": [1.0, 0.0, float("nan"), None, 1.0]}, "y", "Label the row"),
        (LIST, {"y": [["a"], [], None, None, ["b"]]}, "y", "Write [] where no"),
        (LIST, {"y": ["['a']", "[]", "", None, "['b']"]}, "y", "Write [] where no"),
        (
            {"kind": "delimited", "column": "y"},
            {"y": ["a", "b", None, None, "a|b"]},
            "y",
            "Write an empty text",
        ),
        (
            {"kind": "indicators", "columns": ["a", "b"]},
            {"a": [1, 0, 1, None, 1], "b": [1, 1, None, 0, 0]},
            "b",
            "Write 0 where a label does not apply",
        ),
    ],
)
def test_a_missing_label_names_row_and_column(
    tmp_path: Path, labels: dict[str, Any], columns: Any, column: str, word: str
) -> None:
    path = written(tmp_path / "t.parquet", **columns)
    problem = refused(prepare, job_of(path, labels))
    assert problem.path == f"{path}, row 2, column {column}"
    assert problem.allowed == "the label is missing here; 2 rows of 5 have none"
    assert problem.remedy.startswith(word)
    assert problem.remedy.endswith("or set data.labels.missing: drop to leave such rows out.")


def test_the_missing_indicator_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", a=[1, None, 1], b=[None, 1, None])
    job = job_of(path, {"kind": "indicators", "columns": ["a", "b"]})
    problem = refused(prepare, job)
    assert (problem.path, problem.value) == (f"{path}, row 0, column b", None)
    assert problem.allowed == "the label is missing here; 3 rows of 3 have none"
    assert problem.remedy == "Write 0 where a label does not apply."


# ------------------------------------------------------------------ warnings


def warnings_of(tmp_path: Path, values: list[Any], *overrides: str) -> list[str]:
    found = prepare(job_of(written(tmp_path / "t.parquet", y=values), CLASS, *overrides))
    return found.report.label_warnings


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ("food", "food ", "'food' (30 rows), 'food ' (15 rows)"),
        ("food", "Food", "'food' (30 rows), 'Food' (15 rows)"),
        ("sea food", "sea\u00a0food", r"'sea food' (30 rows), 'sea\xa0food' (15 rows)"),
        ("sea food", "sea  Food", "'sea food' (30 rows), 'sea  Food' (15 rows)"),
        ("caf\u00e9", "cafe\u0301", r"'caf\xe9' (30 rows), 'cafe\u0301' (15 rows)"),
        ("food", "food\u200b", r"'food' (30 rows), 'food\u200b' (15 rows)"),
        ("Stra\u00dfe", "STRASSE", "'Straße' (30 rows), 'STRASSE' (15 rows)"),
    ],
)
def test_similar_labels_are_reported(tmp_path: Path, one: str, other: str, shown: str) -> None:
    (line,) = warnings_of(tmp_path, [one, other, one, "money"] * 15)
    expected = f"labels that differ only in blanks, case or Unicode form: {shown}; if they are one"
    assert line.startswith(expected)
    assert line.endswith("map them to one in data.labels.names")
    names = json.dumps({one: "one", other: "one", "money": "money"})
    assert warnings_of(tmp_path, [one, other, "money"] * 15, f"data.labels.names={names}") == []


def test_many_similar_labels_are_counted(tmp_path: Path) -> None:
    values = [name for i in range(8) for name in (f"label {i}", f"LABEL {i}")] * 9
    lines = warnings_of(tmp_path, values)
    assert len(lines) == 6
    assert lines[5].startswith("and 3 more groups of such labels; if they are one label")


def test_similar_labels_stand_in_the_summary(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", y=["food", "food ", "money"] * 20)
    lines = prepare(job_of(path, CLASS)).report.lines()
    assert any(line.startswith("warning: labels that differ only in blanks") for line in lines)


@pytest.mark.parametrize("header", ["y", "Y", " y"])
@pytest.mark.parametrize("num_tables", [1, 2])
def test_a_header_among_the_rows_is_reported(tmp_path: Path, header: str, num_tables: int) -> None:
    values = ["a", "b"] * 15 + [header] + ["a", "b"] * 15
    path = written(tmp_path / "t.parquet", y=values * num_tables)
    (line,) = prepare(job_of(path, CLASS)).report.label_warnings
    rows = "1 row" if num_tables == 1 else "2 rows"
    assert line == (
        f"label {header!r} ({rows}) is the name of its column: "
        f"remove the header among the rows, first at {path}, row 30"
    )


def test_a_class_can_have_the_name_of_its_column(tmp_path: Path) -> None:
    assert warnings_of(tmp_path, ["y", "not y", "not y"] * 20) == []


@pytest.mark.parametrize(
    ("name", "count", "is_told"),
    [
        *((name, 20, True) for name in ("nan", "NaN", "NULL", "<NA>")),
        *((name, 2, True) for name in ("None", "none", "N/A", "NA", "-")),
        *((name, 20, False) for name in ("None", "none", "N/A", "NA")),
        ("None of the above", 2, False),
    ],
)
def test_missing_values_in_words_are_reported(
    tmp_path: Path, name: str, count: int, is_told: bool
) -> None:
    lines = warnings_of(tmp_path, ["a", "b"] * 20 + [name] * count)
    shown = f"label {name!r} ({count} rows) looks like a missing value, first at"
    assert [line.startswith(shown) for line in lines] == [True] * is_told


def test_blanks_are_seen_if_no_label_is_known(tmp_path: Path) -> None:
    path = written(tmp_path / "new.parquet", y=["food ", "money "])
    space = LabelSpace("multiclass", ("food", "money"))
    problem = refused(read_labelled, job_of("t.csv", CLASS), space, str(path), DataReport())
    assert problem.remedy.startswith("Its labels ('food ', 'money ') are not labels of the bundle")


def test_a_table_with_other_spellings_than_the_bundle_is_reported(tmp_path: Path) -> None:
    path = written(tmp_path / "new.parquet", y=["Food", "food ", "money"])
    space, report = LabelSpace("multiclass", ("food", "money")), DataReport()
    table = read_labelled(job_of("t.csv", CLASS), space, str(path), report)
    assert table.num_rows == 1
    (line,) = report.label_warnings
    assert "'food' (0 rows), 'Food' (1 row), 'food ' (1 row)" in line
    assert "table contains 2 labels (2 times) outside the label space: Food 1, 'food ' 1" in (
        report.warnings()
    )


def test_labels_that_a_bundle_distinguishes_are_not_reported(tmp_path: Path) -> None:
    path = written(tmp_path / "new.parquet", y=["US", "us", "y"])
    space, report = LabelSpace("multiclass", ("US", "us", "y")), DataReport()
    assert read_labelled(job_of("t.csv", CLASS), space, str(path), report).num_rows == 3
    assert report.warnings() == []


@pytest.mark.parametrize(("one", "other"), [("1", "1.0"), ("-2", "-2."), ("0", "0.00")])
def test_two_spellings_of_a_number_are_reported(tmp_path: Path, one: str, other: str) -> None:
    path = tmp_path / "t.csv"
    rows = [f"text {i},{(one, other, 'x')[i % 3]}\n" for i in range(NUM_ROWS)]
    path.write_text("text,y\n" + "".join(rows))
    (line,) = prepare(job_of(path, CLASS)).report.label_warnings
    shown = f"{one!r} (20 rows), {other!r} (20 rows)"
    assert line.startswith(f"labels that differ only in the form of a number: {shown}; if they")


@pytest.mark.parametrize(
    ("delimiter", "values", "shown"),
    [
        ("|", ["a;b", "c", "a;c"], "2 labels with ';', such as 'a;b', divided only at '|'"),
        ("|", ["a, b", "c"], "1 label with ',', such as 'a, b', divided only at '|'"),
        (", ", ["a, b", "c", "a,b"], "1 label with ',', such as 'a,b', divided only at ', '"),
        ("|", ["a, b|c", "c"], None),
        (",", ["a, b", "c"], None),
        ("|", ["a", "c"], None),
    ],
)
def test_another_delimiter_is_reported(
    tmp_path: Path, delimiter: str, values: list[str], shown: str | None
) -> None:
    labels = {"kind": "delimited", "column": "y", "delimiter": delimiter}
    path = written(tmp_path / "t.parquet", y=values * 30)
    expected = [] if shown is None else [f"{shown}: check data.labels.delimiter"]
    assert prepare(job_of(path, labels)).report.label_warnings == expected


# ------------------------------------------------------------------ held-out tables


@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_own_table_of_other_labels_is_refused(tmp_path: Path, split: str) -> None:
    path = written(tmp_path / "t.parquet", y=["a", "b"] * 30)
    other = written(tmp_path / "other.parquet", y=[True, False] * 30)
    problem = refused(prepare, job_of(path, CLASS, **{split: str(other)}))
    assert (problem.path, problem.allowed) == (f"data.{split}", "contains no usable rows")
    assert problem.remedy == "Its labels (true, false) are not labels of train (a, b)."


def test_a_test_part_without_known_labels_is_left_out(tmp_path: Path) -> None:
    values = ["a", "b"] * 28 + ["q", "r", "s", "t"]
    part = ["train"] * 40 + ["val"] * 16 + ["test"] * 4
    path = written(tmp_path / "t.parquet", y=values, part=part)
    found = prepare(job_of(path, CLASS, split={"kind": "column", "column": "part"}))
    assert found.report.rows == {"train": 40, "validation": 16}
    assert "warning: 4 test rows without a known label left out" in found.report.lines()


def test_a_test_without_labels_can_be_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", y=["a", "b"] * 30)
    test = written(tmp_path / "test.parquet", y=pa.nulls(60, pa.string()))
    problem = refused(prepare, job_of(path, CLASS, test=str(test)))
    assert problem.remedy == (
        "Label the row, or set data.labels.missing: drop to leave such rows out."
    )
    job = job_of(path, CLASS | {"missing": "drop"}, test=str(test))
    assert prepare(job).report.rows == {"train": 54, "validation": 6}


# ------------------------------------------------------------------ the positive class


@pytest.mark.parametrize(
    ("names", "positive", "expected"),
    [
        ({0: "no", 1: "yes"}, 1, "yes"),
        ({0: "no", 1: "yes"}, "0", "no"),
        ({0: "no", 1: "yes"}, "yes", "yes"),
        ({"1.0": "no", "2.0": "yes"}, 2, "yes"),
        ({0: "1", 1: "0"}, 1, "1"),
        ({True: "yes", False: "no"}, "True", "yes"),
        (["true", "false"], "True", "true"),
    ],
)
def test_the_positive_class_by_its_label_in_the_data(
    names: Any, positive: Any, expected: str
) -> None:
    assert job_of("t.csv", CLASS | {"names": names, "positive": positive}).data.labels.positive == (
        expected
    )


def test_a_class_that_is_spelled_like_a_missing_number(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,y\n" + "".join(f"text {i},{('NA', 1, 2)[i % 3]}\n" for i in range(60)))
    found = prepare(job_of(path, CLASS | {"names": ["NA", 1, 2]}))
    assert total(found) == {"NA": 20, "1": 20, "2": 20}
    assert refused(prepare, job_of(path, CLASS | {"names": [1, 2]})).path.endswith("column y")


@pytest.mark.parametrize(
    "labels",
    [CLASS, LIST, {"kind": "indicators", "columns": ["x", "y"]}],
    ids=lambda spec: spec["kind"],
)
def test_a_label_is_no_text(labels: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        job_of("t.csv", labels, text=["text", "y"])
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("data.labels", "y")
    assert problem.remedy == "Remove it from data.text."


def test_vectors_of_counts_are_warned_of_once_for_all_tables(tmp_path: Path) -> None:
    cells = [[0, 3, 1], [2, 0, 0], [0, 0, 1]]
    path = written(tmp_path / "train.parquet", y=cells * 20)
    own = written(tmp_path / "own.parquet", y=cells * 4)
    job = job_of(path, LIST, split="random", validation=str(own))
    (line,) = prepare(job).report.label_warnings
    assert line.startswith("column y: all lists have 3 numbers, some of them twice, such as [0, 3")
