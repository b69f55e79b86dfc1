from __future__ import annotations

import typing
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from clftask.components.labels import ClassColumn, LabelColumns, Labels, LabelSpace, multi_hot
from clftask.errors import DataError, Problem

# One table a kind: the labels of five rows, the fourth of which is missing.
MEMBERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "class": ({"column": "y"}, {"y": ["b", "a", "c", None, "a"]}),
    "list": ({"column": "y"}, {"y": [["b"], ["a"], ["c"], None, ["a", "b"]]}),
    "delimited": ({"column": "y"}, {"y": ["b", "a", "c", None, "a|b"]}),
    "indicators": (
        {"columns": ["b", "c", "a"]},
        {"a": [0, 1, 0, 0, 1], "b": [1, 0, 0, None, 1], "c": [0, 0, 1, 0, 0]},
    ),
}


def spec(kind: str, **fields: Any) -> LabelColumns:
    return TypeAdapter(Labels).validate_python({"kind": kind, **fields})


def lists(labels: LabelColumns, **columns: Any) -> list[list[str] | None]:
    found = labels.lists(pa.table(columns))
    found.validate(full=True)
    return found.to_pylist()  # type: ignore[no-any-return]


def refused(labels: LabelColumns, **columns: Any) -> Problem:
    """Return why rows cannot be read, or be made into a label space."""
    with pytest.raises(DataError) as caught:
        LabelSpace.from_lists(labels, labels.lists(pa.table(columns)).drop_null())
    assert caught.value.exit_code == 2
    (problem,) = caught.value.problems
    return problem


# ------------------------------------------------------------------ every kind


def test_every_kind_is_tried_here() -> None:
    union = typing.get_args(typing.get_args(Labels)[0])
    assert {member.model_fields["kind"].default for member in union} == set(MEMBERS)


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
        ([1.0, 2.5], "Use whole numbers."),
        ([1.0, float("inf")], ""),
        ([["a"], ["b"]], "Use kind list for lists."),
        (pa.array([["a"], ["b"]], pa.list_(pa.string(), 1)), ""),
        ([{"a": 1}], "Use kind list for lists."),
    ],
)
def test_what_is_no_class(values: Any, word: str) -> None:
    problem = refused(spec("class", column="topic"), topic=values)
    assert problem.path == "data.labels: column topic"
    assert word in problem.remedy


# ------------------------------------------------------------------ list, delimited


def test_lists_lose_nulls_and_repetitions() -> None:
    values = [["b", "a", "b"], [], None, [None, "", "c", "c"], [None]]
    assert lists(spec("list", column="y"), y=values) == [["b", "a"], [], None, ["c"], []]


def test_lists_of_numbers_have_names() -> None:
    assert lists(spec("list", column="y"), y=[[10, 2], [2]]) == [["10", "2"], ["2"]]
    assert lists(spec("list", column="y"), y=[[10.0], [2.0]]) == [["10"], ["2"]]


def test_large_lists_are_lists() -> None:
    values = pa.array([["a"], None, ["b", "a"]], pa.large_list(pa.large_string()))
    assert lists(spec("list", column="y"), y=values) == [["a"], None, ["b", "a"]]


@pytest.mark.parametrize("values", [["a", "b"], ["['a']", "['b']"], [1, 2]])
def test_what_is_no_list(values: list[Any]) -> None:
    problem = refused(spec("list", column="tags"), tags=values)
    assert (problem.path, problem.allowed) == ("data.labels: column tags", "must contain lists")


def test_fractions_in_lists_are_no_labels() -> None:
    assert refused(spec("list", column="y"), y=[[0.5], [1.0]]).remedy == "Use whole numbers."


def test_delimited_labels_are_trimmed_and_blank_means_none() -> None:
    values = ["a| b |a", "", " | ", None, "c", "  "]
    found = lists(spec("delimited", column="y"), y=values)
    assert found == [["a", "b"], [], [], None, ["c"], []]


def test_a_delimiter_is_taken_literally() -> None:
    values = ["x.y . z", "a"]
    assert lists(spec("delimited", column="y", delimiter=" . "), y=values) == [["x.y", "z"], ["a"]]


@pytest.mark.parametrize("values", [[1, 2], [["a"], ["b"]]])
def test_what_is_not_delimited(values: list[Any]) -> None:
    problem = refused(spec("delimited", column="y"), y=values)
    assert (problem.path, problem.allowed) == ("data.labels: column y", "must contain strings")


# ------------------------------------------------------------------ indicators


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1, 0, 0, None], [1, 1, 0, 1]),
        ([1.0, 0.0, 0.0, float("nan")], [1.0, 1.0, 0.0, 1.0]),
        ([True, False, False, None], [True, True, False, True]),
        (pa.chunked_array([[1], [0, 0, None]]), pa.chunked_array([[1, 1, 0], [1]])),
    ],
)
def test_indicators(a: Any, b: Any) -> None:
    found = lists(spec("indicators", columns=["a", "b"]), a=a, b=b)
    assert found == [["a", "b"], ["b"], [], None]


def test_a_pattern_finds_the_indicators_in_the_order_of_the_table() -> None:
    labels = spec("indicators", pattern="^4 -")
    names = ["text", "4 - y", "14 - q", "4 - x"]
    assert labels.columns(names) == ["4 - y", "4 - x"]
    columns = {"text": ["s", "t"], "4 - y": [1, 1], "4 - x": [0, 1], "14 - q": [7, 7]}
    assert lists(labels, **columns) == [["4 - y"], ["4 - y", "4 - x"]]


def test_a_pattern_finds_none_of_our_own_columns() -> None:
    columns = {"is_a": [1, 0], "is_b": [1, 1], "_file": ["f", "f"], "_row": [0, 1]}
    assert lists(spec("indicators", pattern="_"), **columns) == [["is_a", "is_b"], ["is_b"]]


def test_a_pattern_that_finds_less_than_two_is_refused() -> None:
    with pytest.raises(DataError, match="must match two or more columns") as caught:
        spec("indicators", pattern="^4").columns(["text", "4 - a"])
    assert caught.value.problems[0].path == "data.labels.pattern"


@pytest.mark.parametrize("strange", [2, -1, 0.5])
def test_an_indicator_that_is_neither_0_nor_1_names_its_row(strange: float) -> None:
    values = [1, None, 0, strange, 5]
    problem = refused(spec("indicators", columns=["a", "b"]), a=[0, 0, 1, 1, 1], b=values)
    assert (problem.path, problem.value) == ("data.labels: column b, row 3", strange)


def test_indicators_of_strings_are_refused() -> None:
    problem = refused(spec("indicators", columns=["a", "b"]), a=["1", "0"], b=[1, 0])
    assert (problem.path, problem.allowed) == ("data.labels: column a", "must contain 0 and 1")


# ------------------------------------------------------------------ spaces


def test_unknown_labels_are_counted() -> None:
    space = LabelSpace("multilabel", ("a", "b"))
    found = pa.array([["a", "q"], None, ["q", "r", "b"], []])
    assert space.unknown(found) == {"q": 2, "r": 1}
    assert space.encode(found).to_pylist() == [[0], None, [1], []]


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
