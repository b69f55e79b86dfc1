"""Every kind of label columns, classes, and label spaces."""

from __future__ import annotations

import typing
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from label_columns import MEMBERS, lists, refused, spec

from clftask.components.labels import ClassColumn, Labels, LabelSpace, multi_hot
from clftask.errors import DataError

# ------------------------------------------------------------------ every kind


def test_every_kind_is_tried_here() -> None:
    union = typing.get_args(typing.get_args(Labels)[0])
    kinds = {member.model_fields["kind"].default for member in union}
    assert kinds == {*MEMBERS, "probabilities"}  # these: test_labels_probabilities.py


@pytest.mark.parametrize("kind", MEMBERS)
def test_every_kind_goes_from_columns_to_codes_and_back(kind: str) -> None:
    fields, columns = MEMBERS[kind]
    labels, table = spec(kind, **fields), pa.table(columns)
    assert set(labels.columns(["x", *columns])) == set(columns)
    found = labels.lists(table)
    found.validate(full=True)
    last = ["a"] if kind == "class" else ["a", "b"]
    names = [row and sorted(row) for row in found.to_pylist()]
    assert names == [["b"], ["a"], ["c"], None, last]
    space = LabelSpace.from_lists(labels, found.drop_null())
    assert (space.task, space.names) == (labels.task, ("a", "b", "c"))
    codes = space.encode(found)
    assert codes.type == pa.list_(pa.int32())
    assert [row and space.decode(row) for row in codes.to_pylist()] == found.to_pylist()


@pytest.mark.parametrize("kind", MEMBERS)
def test_every_kind_reads_tables_in_pieces(kind: str) -> None:
    fields, columns = MEMBERS[kind]
    whole = pa.table(columns)
    pieces = pa.concat_tables([whole.slice(0, 2), whole.slice(2, 1), whole.slice(3)])
    labels = spec(kind, **fields)
    assert labels.lists(pieces).to_pylist() == labels.lists(whole).to_pylist()
    assert labels.lists(whole.slice(2)).to_pylist() == labels.lists(whole).to_pylist()[2:]


@pytest.mark.parametrize("kind", MEMBERS)
def test_every_kind_leaves_rare_labels_out(kind: str) -> None:
    fields, columns = MEMBERS[kind]
    rows = {name: values * 2 + values[:1] for name, values in columns.items()}
    labels = spec(kind, min_count=3, **fields)
    assert LabelSpace.from_lists(labels, labels.lists(pa.table(rows))).names == ("a", "b")


@pytest.mark.parametrize("kind", MEMBERS)
def test_every_kind_takes_fixed_names_in_their_order(kind: str) -> None:
    fields, columns = MEMBERS[kind]
    labels = spec(kind, names=["z", "b", "a"], **fields)
    found = labels.lists(pa.table(columns))
    space = LabelSpace.from_lists(labels, found)
    assert space.names == ("z", "b", "a")
    assert space.unknown(found) == {"c": 1}
    last = [2] if kind == "class" else [1, 2]
    codes = [row and sorted(row) for row in space.encode(found).to_pylist()]
    assert codes == [[1], [2], [], None, last]


@pytest.mark.parametrize("kind", MEMBERS)
def test_every_kind_needs_two_labels(kind: str) -> None:
    fields, columns = MEMBERS[kind]
    first = {name: values[:1] for name, values in columns.items()}
    problem = refused(spec(kind, **fields), **first)
    assert (problem.path, problem.value) == ("data.labels", ["b"])
    problem = refused(spec(kind, min_count=4, **fields), **columns)
    assert problem.remedy == "Check the column, or lower min_count."


# ------------------------------------------------------------------ class


@pytest.mark.parametrize(
    ("values", "names", "codes"),
    [
        ([10, -1, 2, 0, None], ("-1", "0", "2", "10"), [[3], [0], [2], [1], None]),
        ([2, 1, 0, -1], ("-1", "0", "1", "2"), [[3], [2], [1], [0]]),
        ([1.0, 2.0, None, float("nan")], ("1", "2"), [[0], [1], None, None]),
        ([True, False, None], ("false", "true"), [[1], [0], None]),
        (["10", "9", "b"], ("10", "9", "b"), [[0], [1], [2]]),
        (["", "é", None, "A", "a"], ("A", "a", "é"), [None, [2], None, [0], [1]]),
        (["a", " ", "b"], ("a", "b"), [[0], None, [1]]),
        (pa.array(["b", "a", None]).dictionary_encode(), ("a", "b"), [[1], [0], None]),
    ],
)
def test_classes(values: Any, names: tuple[str, ...], codes: list[Any]) -> None:
    labels = spec("class", column="y")
    found = labels.lists(pa.table({"y": values}))
    space = LabelSpace.from_lists(labels, found)
    assert space.names == names
    assert space.encode(found).to_pylist() == codes


@pytest.mark.parametrize("names", [("1", "01", "001", "0001"), ("001", "01", "0001", "1")])
def test_the_order_of_names_does_not_depend_on_the_rows(names: tuple[str, ...]) -> None:
    labels = spec("class", column="y")
    space = LabelSpace.from_lists(labels, labels.lists(pa.table({"y": list(names)})))
    assert space.names == ("0001", "001", "01", "1")


def test_fixed_bools_are_named_as_the_column_has_them() -> None:
    labels = spec("class", column="y", names=[True, False])
    found = labels.lists(pa.table({"y": [False, True]}))
    assert LabelSpace.from_lists(labels, found).encode(found).to_pylist() == [[1], [0]]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([["a"], ["b"]], "Use kind list for lists."),
        (pa.array([["a"], ["b"]], pa.list_(pa.string(), 1)), "Use kind list for lists."),
        ([{"a": 1}], "contains the label only"),
        ([[{"a": 1}]], "contains the label only"),
    ],
)
def test_what_is_no_class(values: Any, word: str) -> None:
    problem = refused(spec("class", column="topic"), topic=values)
    assert problem.path == "data.labels: column topic"
    assert word in problem.remedy


@pytest.mark.parametrize(
    ("values", "found"), [([1.0, 2.5], 2.5), ([1.0, float("inf"), 0.5], "inf")]
)
def test_a_fraction_is_no_class(values: list[float], found: Any) -> None:
    problem = refused(spec("class", column="topic"), topic=values)
    assert (problem.path, problem.value) == ("data.labels: column topic, row 1", found)
    assert problem.remedy == "Use whole numbers."


def test_a_message_names_the_row_of_the_file() -> None:
    columns = {"topic": [1.0, 2.5], "_file": ["a.csv", "b.csv"], "_row": [7, 0]}
    problem = refused(spec("class", column="topic"), **columns)
    assert problem.path == "b.csv, row 0, column topic"


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["['a']", "['b', 'c']", None], "lists"),
        (['["a"]', "[]"], "lists"),
        (["<a><b>", "<a>"], "lists"),
        (["[1]", "[0]"], "lists"),
        (["{a,b}", "{c,d}"], "lists"),
        (["0 1 0", "1 0 0"], "multi-hot vectors"),
        (["0,1", "1,0"], "multi-hot vectors"),
    ],
)
def test_written_lists_are_no_classes(cells: list[Any], found: str) -> None:
    problem = refused(spec("class", column="topic"), topic=[None, "", *cells])
    assert (problem.path, problem.value) == ("data.labels: column topic, row 2", cells[0])
    assert problem.allowed == f"must contain one label per row; all cells look like {found}"
    assert problem.remedy.startswith("Use kind list in a multilabel task")


@pytest.mark.parametrize(
    "cells", [["<pos>", "<neg>"], ["[A]", "(1)"], ["['a']", "b"], ["(a, b)", "(c)"], ["0101", "11"]]
)
def test_brackets_can_be_part_of_a_class(cells: list[str]) -> None:
    assert lists(spec("class", column="y"), y=cells) == [[cell] for cell in cells]


# ------------------------------------------------------------------ spaces


def test_unknown_labels_are_counted() -> None:
    space = LabelSpace("multilabel", ("a", "b"))
    found = pa.array([["a", "q"], None, ["q", "r", "b"], []])
    assert space.unknown(found) == {"q": 2, "r": 1}
    assert space.encode(found).to_pylist() == [[0], None, [1], []]


def test_the_type_of_a_column_does_not_matter() -> None:
    space = LabelSpace("multiclass", ("0", "1", "True"))
    found = pa.array([["0.0"], ["1"], ["true"], ["01"], ["1.00"]])
    assert space.encode(found).to_pylist() == [[0], [1], [2], [], []]
    assert space.unknown(found) == {"01": 1, "1.00": 1}
    assert space.known(found).to_pylist() == [["0"], ["1"], ["True"], [], []]
    both = LabelSpace("multiclass", ("1", "1.0"))
    assert both.encode(pa.array([["1"], ["1.0"]])).to_pylist() == [[0], [1]]


def test_numbers_are_sorted_by_value() -> None:
    labels = spec("class", column="y")
    found = labels.lists(pa.table({"y": ["10.0", "9.0", "-1.0", "0.5"]}))
    assert LabelSpace.from_lists(labels, found).names == ("-1.0", "0.5", "9.0", "10.0")


def test_multi_hot() -> None:
    codes = pa.array([[1], [], None, [2, 0]], pa.list_(pa.int32()))
    found = multi_hot(codes, 3)
    assert found.dtype == np.float32
    assert found.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 1]]


def test_who_keeps_rows_without_labels() -> None:
    kept = {kind: spec(kind, **fields).keep_empty for kind, (fields, _) in MEMBERS.items()}
    assert kept == {"class": False, "list": True, "delimited": True, "indicators": True}
    assert not spec("list", column="y", empty="drop").keep_empty


@pytest.mark.parametrize(
    "column",
    [pa.array([b"\xff", b"b"]), pa.array([1e20, 1.0])],
    ids=["bytes that are no text", "floats beyond whole numbers"],
)
def test_what_cannot_be_a_name_is_refused(column: pa.Array) -> None:
    with pytest.raises(DataError, match="column l: must contain classes"):
        ClassColumn(column="l").lists(pa.table({"l": column}))
