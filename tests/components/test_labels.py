from __future__ import annotations

import typing
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter, ValidationError

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


# ------------------------------------------------------------------ multi-hot vectors

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


def test_pairs_are_labels_if_there_are_other_names() -> None:
    labels = spec("list", column="y", names=["0", "1", "2"])
    assert lists(labels, y=[[0, 1], [1, 0]]) == [["0", "1"], ["1", "0"]]
    assert "multi-hot" in refused(labels, y=[[0, 1], [1, 1]]).allowed


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


# ------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("names", "values", "found"),
    [
        ({0: "no", 1: "yes"}, [0, 1, 2, None], [["no"], ["yes"], ["2"], None]),
        ({0: "no", 1: "yes"}, [0.0, 1.0, None], [["no"], ["yes"], None]),
        ({0: "no", 1: "yes"}, ["0", "1.0", "yes", "01"], [["no"], ["yes"], ["yes"], ["01"]]),
        ({0.0: "no", 1.0: "yes"}, [0, 1], [["no"], ["yes"]]),
        ({"0.0": "no", "1.0": "yes"}, [0, 1], [["no"], ["yes"]]),
        ({False: "no", True: "yes"}, [True, False], [["yes"], ["no"]]),
        ({False: "no", True: "yes"}, ["True", "FALSE"], [["yes"], ["no"]]),
        ({np.int64(0): "no", np.int64(1): "yes"}, [0, 1], [["no"], ["yes"]]),
        ({-1: "bad", 0: "so-so", 1: "good"}, [-1, 1], [["bad"], ["good"]]),
        ({"a": "b", "b": "a"}, ["a", "b"], [["b"], ["a"]]),
        ({1: "one", "01": "other"}, ["1", "01", "1.0"], [["one"], ["other"], ["one"]]),
    ],
)
def test_numbers_are_mapped_to_names(names: Any, values: Any, found: Any) -> None:
    assert lists(spec("class", column="y", names=names), y=values) == found


def test_every_kind_maps_names() -> None:
    names = {"c": "third", "a": "first", "b": "first"}
    for kind, (fields, columns) in MEMBERS.items():
        labels = spec(kind, names=names, **fields)
        last = ["first"]
        assert lists(labels, **columns) == [["first"], ["first"], ["third"], None, last]
        space = LabelSpace.from_lists(labels, labels.lists(pa.table(columns)))
        assert space.names == ("third", "first")


def test_a_mapping_survives_a_job_file() -> None:
    labels = spec("class", column="y", names={2: "two", 0: "zero", True: 1})
    again = spec(**labels.model_dump(mode="json"))
    assert again == labels
    assert again.fixed_names == labels.fixed_names == ("two", "zero", "1")


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["a"], "two or more distinct"),
        (["a", "a"], "two or more distinct"),
        ({0: "a", 1: "a"}, "two or more distinct"),
        ({0: "a", "0": "b"}, "two keys for one label"),
        ([None, "a"], "must be a string, a number or a bool"),
        ({0: None, 1: "a"}, "must be a string, a number or a bool"),
        ({0: ["b"], 1: "a"}, "must be a string, a number or a bool"),
        (["", "a"], "must not be empty"),
        ("a", "must be a list of labels, or a mapping"),
    ],
)
def test_what_is_no_set_of_names(names: Any, word: str) -> None:
    with pytest.raises(ValidationError, match=word) as caught:
        spec("class", column="y", names=names)
    assert len(caught.value.errors()) == 1


def test_the_schema_takes_what_yaml_reads() -> None:
    schema = TypeAdapter(Labels).json_schema()["$defs"]["ClassColumn"]["properties"]["names"]
    types = [{"type": kind} for kind in ("string", "boolean", "integer", "number")]
    assert schema["anyOf"] == [
        {"type": "array", "items": {"anyOf": types}},
        {"type": "object", "additionalProperties": {"anyOf": types}},
        {"type": "null"},
    ]


def test_min_count_applies_to_names() -> None:
    labels = spec("class", column="y", names=["c", "z", "b", "a"], min_count=2)
    found = labels.lists(pa.table({"y": list("aabbc")}))
    assert LabelSpace.from_lists(labels, found).names == ("b", "a")


def test_names_that_the_data_lacks_are_refused() -> None:
    problem = refused(spec("class", column="y", names=["no", "yes"]), y=[0, 1])
    assert (problem.path, problem.value) == ("data.labels", ["0", "1"])
    assert "no, yes" in problem.allowed
    assert problem.remedy == "Check the column and names."


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
