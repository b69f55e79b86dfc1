"""Label columns of lists and of delimited text."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from label_columns import lists, refused, spec


def test_lists_lose_nulls_and_repetitions() -> None:
    values = [["b", "a", "b"], [], None, [None, "", "c", "c"], [None]]
    assert lists(spec("list", column="y"), y=values) == [["b", "a"], [], None, ["c"], []]


def test_lists_of_numbers_have_names() -> None:
    assert lists(spec("list", column="y"), y=[[10, 2], [2]]) == [["10", "2"], ["2"]]
    assert lists(spec("list", column="y"), y=[[10.0], [2.0]]) == [["10"], ["2"]]


def test_large_lists_are_lists() -> None:
    values = pa.array([["a"], None, ["b", "a"]], pa.large_list(pa.large_string()))
    assert lists(spec("list", column="y"), y=values) == [["a"], None, ["b", "a"]]


@pytest.mark.parametrize(
    ("values", "row"), [(["a", "b"], ", row 0"), (["['a']", "a|b"], ", row 1"), ([1, 2], "")]
)
def test_what_is_no_list(values: list[Any], row: str) -> None:
    problem = refused(spec("list", column="tags"), tags=values)
    assert problem.path == f"data.labels: column tags{row}"
    assert problem.allowed == "must contain lists"
    assert problem.remedy == "Use kind class for one label per row, delimited for 'a|b'."


def test_fractions_in_lists_are_no_labels() -> None:
    problem = refused(spec("list", column="y"), y=[[], None, [1.0], [3.0, 0.5]])
    assert (problem.path, problem.value) == ("data.labels: column y, row 3", "[3.0, 0.5]")
    assert problem.remedy == "Use whole numbers."


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string(), 2), pa.large_list(pa.string()), pa.list_view(pa.string())]
)
def test_lists_of_every_layout(kind: pa.DataType) -> None:
    values = pa.array([["a", "b"], None, ["b", None], ["c", "c"]], kind)
    found = [["a", "b"], None, ["b"], ["c"]]
    assert lists(spec("list", column="y"), y=values) == found
    assert lists(spec("list", column="y"), y=values.slice(2)) == found[2:]


def test_arrays_of_numpy_are_lists() -> None:
    values = [np.array([3, 17]), np.array([], np.int64), None]
    assert lists(spec("list", column="y"), y=values) == [["3", "17"], [], None]


@pytest.mark.parametrize(
    "values",
    [
        pa.array(['["a"]', '["b", "a"]']).dictionary_encode(),
        pa.RunEndEncodedArray.from_arrays(pa.array([1, 2]), pa.array(['["a"]', '["b", "a"]'])),
        pa.ExtensionArray.from_storage(pa.json_(), pa.array(['["a"]', '["b", "a"]'])),
    ],
    ids=["dictionary", "run ends", "extension"],
)
def test_columns_of_every_encoding(values: pa.Array) -> None:
    assert lists(spec("list", column="y"), y=values) == [["a"], ["b", "a"]]
    problem = refused(spec("indicators", columns=["y", "z"]), y=values, z=[1, 0])
    assert (problem.path, problem.value) == ("data.labels: column y, row 0", '["a"]')


def test_lists_of_a_dictionary_are_lists() -> None:
    values = pa.ListArray.from_arrays([0, 1, 3], pa.array(["a", "b", "a"]).dictionary_encode())
    assert lists(spec("list", column="y"), y=values) == [["a"], ["b", "a"]]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([[{"label": 0, "user": 1}]], "lists of objects with the fields label, user"),
        ([[[0, 5]], [[2, 3]]], "list<item: list<item: int64>>"),
    ],
)
def test_lists_of_something_else(values: list[Any], found: str) -> None:
    problem = refused(spec("list", column="y"), y=values)
    assert (problem.value, problem.allowed) == (found, "must contain lists of labels")
    assert "kind list" not in problem.remedy


def test_lists_that_are_written_as_text() -> None:
    cells = ["['a', 'b']", '["a"]', "<a><c>", "[]", "[1, 2]", "[3 4]", None, "", "  "]
    found = [["a", "b"], ["a"], ["a", "c"], [], ["1", "2"], ["3", "4"], None, None, None]
    assert lists(spec("list", column="y"), y=cells) == found
    assert lists(spec("list", column="y"), y=pa.array(cells, pa.large_string())) == found
    assert lists(spec("list", column="y"), y=pa.array(cells).dictionary_encode()) == found
    assert lists(spec("list", column="y"), y=pa.array(cells).cast(pa.binary())) == found
    assert lists(spec("list", column="y"), y=pa.nulls(2)) == [None, None]


@pytest.mark.parametrize(
    "cell", ["['a' 'b']", "{a,b}", "('a')", "[a, b]", "['a', ...]", "[0.5]", "set()"]
)
@pytest.mark.parametrize("kind", ["list", "delimited"])
def test_an_ambiguous_list_is_refused(kind: str, cell: str) -> None:
    problem = refused(spec(kind, column="y"), y=[None, cell, cell])
    assert (problem.path, problem.value) == ("data.labels: column y, row 1", cell)
    assert problem.remedy.startswith('Write it as JSON, such as ["a", "b"]')


def test_delimited_reads_written_lists_if_all_cells_are() -> None:
    cells = ["['a', 'b']", '["a"]', "<a><c>", "[]", None, ""]
    found = [["a", "b"], ["a"], ["a", "c"], [], None, []]
    assert lists(spec("delimited", column="y", delimiter=","), y=cells) == found
    problem = refused(spec("delimited", column="y"), y=["a|b", "['a', 'b']"])
    assert (problem.path, problem.value) == ("data.labels: column y, row 1", "['a', 'b']")
    assert problem.allowed == "must contain labels separated by '|'; this looks like a list"


def test_brackets_can_be_part_of_a_delimited_label() -> None:
    cells = ["[x]|y", "(other)", "a|(b, c)"]
    found = [["[x]", "y"], ["(other)"], ["a", "(b, c)"]]
    assert lists(spec("delimited", column="y"), y=cells) == found


def test_delimited_labels_are_trimmed_and_blank_means_none() -> None:
    values = ["a| b |a", "", " | ", None, "c", "  "]
    found = lists(spec("delimited", column="y"), y=values)
    assert found == [["a", "b"], [], [], None, ["c"], []]


def test_a_delimiter_is_taken_literally() -> None:
    values = ["x.y . z", "a"]
    assert lists(spec("delimited", column="y", delimiter=" . "), y=values) == [["x.y", "z"], ["a"]]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([3, 17, None], [["3"], ["17"], None]),
        ([3.0, None, float("nan")], [["3"], None, None]),
        ([True, False], [["true"], ["false"]]),
        ([date(2026, 11, 27), None], [["2026-11-27"], None]),
        (pa.nulls(2), [None, None]),
        (pa.array(["a|b", "c"]).dictionary_encode(), [["a", "b"], ["c"]]),
    ],
)
def test_single_values_are_delimited_labels(values: Any, found: list[Any]) -> None:
    assert lists(spec("delimited", column="y"), y=values) == found


def test_lists_are_not_delimited() -> None:
    problem = refused(spec("delimited", column="y"), y=[["a"], ["b"]])
    assert (problem.path, problem.remedy) == ("data.labels: column y", "Use kind list for lists.")
