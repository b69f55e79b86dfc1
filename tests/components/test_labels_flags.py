"""Labels as zeros and ones: multi-hot vectors, and indicator columns."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from label_columns import lists, refused, spec

from clftask.components.labels import LabelColumns
from clftask.errors import DataError

VECTORS = [[0, 1, 0], [1, 1, 0], None, [0, 0, 0]]
TEXTS = ["[0 1 0]", "[1 1 0]", None, "[0 0 0]"]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("list", VECTORS),
        ("list", pa.array(VECTORS, pa.list_(pa.int8(), 3))),
        ("list", pa.array(VECTORS, pa.large_list(pa.float32()))),
        ("list", pa.array(VECTORS, pa.list_(pa.float64(), 3))),
        ("list", [v and np.array(v) for v in VECTORS]),
        ("list", [v and list(map(bool, v)) for v in VECTORS]),
        ("list", [v and list(map(str, v)) for v in VECTORS]),
        ("list", [v and [str(bool(c)) for c in v] for v in VECTORS]),
        *((kind, TEXTS) for kind in ("list", "delimited")),
        *((kind, [t and t.strip("[]") for t in TEXTS]) for kind in ("list", "delimited")),
        *((kind, [t and t.replace(" ", ", ") for t in TEXTS]) for kind in ("list", "delimited")),
        ("list", [v and str(np.array(v, np.float32)) for v in VECTORS]),
        ("list", [v and str(np.array(v, np.bool_)) for v in VECTORS]),
        ("delimited", [v and "|".join(map(str, v)) for v in VECTORS]),
        ("delimited", [v and "|".join(str(bool(c)) for c in v) for v in VECTORS]),
    ],
)
def test_multi_hot_vectors_need_names(kind: str, values: Any) -> None:
    problem = refused(spec(kind, column="y"), y=values)
    assert problem.path == "data.labels: column y, row 0"
    expected = "are multi-hot (3 zeros and ones each); use indicators, or lists of names"
    assert problem.allowed == f"the lists {expected}"
    assert problem.remedy == "Or set data.labels.names: 3 names in the vectors' order."
    problem = refused(spec(kind, column="y", names=["b", "a"]), y=values)
    assert problem.remedy.endswith("3 names in the vectors' order, not 2.")
    labels = spec(kind, column="y", names=["b", "c", "a"])
    assert lists(labels, y=values) == [["c"], ["b", "c"], None, []]


def test_positions_of_a_vector_can_be_numbered() -> None:
    labels = spec("list", column="y", names={1: "b", 0: "a", 2: "a"})
    assert lists(labels, y=[[1, 0, 1], [0, 1, 0]]) == [["a"], ["b"]]
    assert labels.fixed_names == ("b", "a")
    labels = spec("list", column="y", names={"x": "b", "y": "a", "z": "c"})
    assert lists(labels, y=[[1, 0, 1], [0, 1, 0]]) == [["b", "c"], ["a"]]


def test_vectors_of_signs_are_no_lists_of_labels() -> None:
    values = [[-1, 1, -1], [1, 1, -1]]
    assert "multi-hot" in refused(spec("list", column="y"), y=values).allowed
    problem = refused(spec("list", column="y", names=["a", "b", "c"]), y=values)
    assert problem.allowed == "must have 3 entries of 0 and 1, as other rows have"


def test_a_blank_position_makes_a_vector_missing() -> None:
    labels = spec("list", column="y", names=["a", "b", "c"])
    assert lists(labels, y=[[1, None, 1], [0, 1, 0], []]) == [None, ["b"], []]


@pytest.mark.parametrize("strange", [[0, 2, 0], [0, 1], [-1, 0, 1]])
def test_a_damaged_vector_is_refused(strange: list[int]) -> None:
    values = [[0, 1, 0]] * 30 + [strange]
    for names in (None, ["a", "b", "c"]):
        assert "3" in refused(spec("list", column="y", names=names), y=values).allowed
    assert problem_row(spec("list", column="y", names=["a", "b", "c"]), values) == 30


def problem_row(labels: LabelColumns, values: list[Any]) -> int:
    return int(refused(labels, y=values).path.rpartition(" ")[2])


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([[0], [1]], [["0"], ["1"]]),
        ([[0], [1], [0, 1], []], [["0"], ["1"], ["0", "1"], []]),
        ([[0, 1, 1], [2, 2, 1], [0, 2, 1]], [["0", "1"], ["2", "1"], ["0", "2", "1"]]),
        ([[0, 1], [1, 2]], [["0", "1"], ["1", "2"]]),
    ],
)
def test_lists_of_numbered_labels_are_no_vectors(values: Any, found: Any) -> None:
    assert lists(spec("list", column="y"), y=values) == found


@pytest.mark.parametrize("kind", ["list", "delimited"])
@pytest.mark.parametrize("as_text", [False, True])
def test_vectors_of_counts_are_warned_of(kind: str, as_text: bool) -> None:
    values: list[Any] = [None, [], [0, 3, 1], [2, 0, 0]]
    if as_text or kind == "delimited":
        values = [None if v is None else str(v) for v in values]
    labels = spec(kind, column="y")
    (line,) = labels.warnings(pa.table({"y": values}))
    assert line == (
        "column y: all lists have 3 numbers, some of them twice, such as [0, 3, 1]; if they are "
        "counts, write lists of the labels, or use columns of kind indicators"
    )
    assert lists(labels, y=values)[2:] == [["0", "3", "1"], ["2", "0"]]


@pytest.mark.parametrize(
    "values",
    [
        [[0, 3, 1], [2, 0, 4]],
        [[0, 3, 1], [2, 0]],
        [[2, 2], [0, 3]],
        [["a", "b", "b"], ["a", "c", "d"]],
        [[0, 1, 0], [1, 1, 0]],
        [None, []],
    ],
)
def test_other_lists_are_no_vectors_of_counts(values: list[Any]) -> None:
    assert spec("list", column="y").warnings(pa.table({"y": values})) == []


def test_pairs_are_labels_if_there_are_other_names() -> None:
    labels = spec("list", column="y", names=["0", "1", "2"])
    assert lists(labels, y=[[0, 1], [1, 0]]) == [["0", "1"], ["1", "0"]]
    assert "multi-hot" in refused(labels, y=[[0, 1], [1, 1]]).allowed


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


@pytest.mark.parametrize(
    ("yes", "no", "blank"),
    [
        ("1", "0", ""),
        ("1.0", "0.0", None),
        ("True", "False", " "),
        ("YES", "no", None),
        ("y", "N", None),
        (Decimal(1), Decimal(0), None),
        ("1", "0", "NaN"),
    ],
)
def test_indicators_in_words(yes: Any, no: Any, blank: Any) -> None:
    found = lists(spec("indicators", columns=["a", "b"]), a=[yes, no, blank], b=[1, 0, 1])
    assert found == [["a", "b"], [], None]


@pytest.mark.parametrize("mark", ["x", "X", "✓"])
def test_marks_and_blanks_are_indicators(mark: str) -> None:
    columns = {"a": [mark, None, ""], "b": ["", mark, " "], "c": pa.nulls(3)}
    found = lists(spec("indicators", columns=["a", "b", "c"]), **columns)
    assert found == [["a"], ["b"], []]


@pytest.mark.parametrize(
    ("cells", "row"), [(["1", "maybe"], 1), (["x", "0"], 0), (["ja", "nein"], 0), (["1", "b"], 1)]
)
def test_other_words_are_no_indicators(cells: list[str], row: int) -> None:
    problem = refused(spec("indicators", columns=["a", "b"]), a=[1, 0], b=cells)
    assert (problem.path, problem.value) == (f"data.labels: column b, row {row}", cells[row])
    assert problem.allowed == "must be 0 or 1"
    assert "true/false, yes/no, y/n; or x and blank" in problem.remedy


def test_lists_are_no_indicators() -> None:
    problem = refused(spec("indicators", columns=["a", "b"]), a=[[1], [0]], b=[1, 0])
    assert (problem.path, problem.allowed) == ("data.labels: column a", "must contain 0 and 1")
