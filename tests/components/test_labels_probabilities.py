"""Soft labels: columns or lists of probabilities, and what is refused."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from label_columns import spec

from clftask.components.labels import LabelColumns, Task
from clftask.errors import DataError, Problem

WIDE = {"p_b": [0.7, 0.2, None], "p_a": [0.2, 0.7, 0.5], "p_c": [0.1, 0.1, 0.5]}
HARD = {"kind": "class", "column": "y"}


def soft(task: Task, available: Any, stored: Any = None, **fields: Any) -> LabelColumns:
    fields = fields if "column" in fields else {"prefix": "p_", **fields}
    return spec("probabilities", **fields).resolved(task, list(available), stored)


def read(labels: LabelColumns, table: Any) -> tuple[Any, Any]:
    """Return the labels, and the targets of rows that have some."""
    whole = pa.table(table)
    names, targets = labels.lists(whole), labels.targets(whole)
    assert targets is not None
    for array in (names, targets):
        array.validate(full=True)
    rows = targets.filter(names.is_valid()).to_pylist()
    return names.to_pylist(), [[round(x, 4) for x in row] for row in rows]


def refused(labels: LabelColumns, table: Any) -> Problem:
    with pytest.raises(DataError) as caught:
        labels.lists(pa.table(table))
    assert caught.value.exit_code == 2
    (problem,) = caught.value.problems
    return problem


def test_classes_are_the_most_probable_ones_in_the_order_of_the_columns() -> None:
    labels = soft("multiclass", ["text", "p_", *WIDE])
    assert (labels.task, labels.fixed_names) == ("multiclass", ("b", "a", "c"))
    assert labels.columns(["text", *WIDE]) == ["p_b", "p_a", "p_c"]
    found = [["b"], ["a"], None], [[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]]
    assert read(labels, WIDE) == found
    pieces = pa.concat_tables([pa.table(WIDE).slice(0, 1), pa.table(WIDE).slice(1)])
    assert read(labels, pieces) == found


def test_labels_are_those_above_a_half() -> None:
    table = {"p_a": [0.5, 0.51, 1, 0], "p_b": [0.0, 0.9, 1, 0]}
    labels = soft("multilabel", table)
    assert read(labels, table)[0] == [[], ["a", "b"], ["a", "b"], []]
    assert read(labels, {name: pa.array(map(str, table[name])) for name in table})[0][1:3] == [
        ["a", "b"],
        ["a", "b"],
    ]


def test_rows_that_nearly_sum_to_one_are_divided_by_their_sum() -> None:
    table = {"p_a": pa.array([0.5005, 0.25], pa.float32()), "p_b": [0.5, 0.75]}
    _, targets = read(soft("multiclass", table), table)
    assert [sum(row) for row in targets] == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["c", "a", "b"], [["b"], ["a"]]),
        ({"c": "sea", "b": "bee", "a": "eh"}, [["bee"], ["eh"]]),
    ],
)
def test_names_order_and_rename(names: Any, expected: Any) -> None:
    labels = soft("multiclass", WIDE, names=names)
    found, targets = read(labels, {name: cells[:2] for name, cells in WIDE.items()})
    assert found == expected
    assert targets[0] == ([0.1, 0.2, 0.7] if isinstance(names, list) else [0.1, 0.7, 0.2])


def test_lists_have_the_labels_of_their_file_or_of_names() -> None:
    table = {"p": pa.array([[0.7, 0.3], None, [0.1, 0.9]], pa.list_(pa.float32()))}
    for labels in (
        soft("multiclass", ["p"], ["x", "y"], column="p"),
        soft("multiclass", ["p"], None, column="p", names=["x", "y"]),
    ):
        assert read(labels, table) == ([["x"], None, ["y"]], [[0.7, 0.3], [0.1, 0.9]])
    with pytest.raises(DataError, match=r"the file does not name the labels.*List them in"):
        soft("multiclass", ["p"], None, column="p")
    with pytest.raises(DataError, match="must be the labels of the lists, in their order: x, y"):
        soft("multiclass", ["p"], ["x", "y"], column="p", names=["y", "x"])


def test_hard_labels_stand_for_a_row_that_has_them() -> None:
    table = {**WIDE, "y": ["c", None, "b"]}
    labels = soft("multiclass", table, hard=HARD)
    assert set(labels.columns(list(table))) == set(table)
    assert read(labels, table) == ([["c"], None, None], [[0.7, 0.2, 0.1]])
    assert not labels.keep_empty  # as of its kind: a class that is not known is left out
    without = soft("multiclass", WIDE, hard=HARD)
    assert read(without, WIDE)[0] == [["b"], ["a"], None]


@pytest.mark.parametrize(
    ("cells", "row", "found"),
    [
        ([0.5, -0.1], 1, -0.1),
        ([1.01, 0.5], 0, 1.01),
        ([0.5, float("nan")], 1, "nan"),
        ([0.5, float("inf")], 1, "inf"),
        (["0.5", "high"], 1, "high"),
        ([None, "x"], 1, "x"),
    ],
)
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_cells_that_are_no_probabilities(task: Task, cells: Any, row: int, found: Any) -> None:
    table = {"p_a": [0.5, 0.5], "p_b": cells, "_file": ["t.parquet"] * 2, "_row": [0, 1]}
    problem = refused(soft(task, ["p_a", "p_b"]), table)
    assert (problem.path, problem.value) == (f"t.parquet, row {row}, column p_b", found)
    assert problem.allowed == "must be a probability, from 0 to 1"


@pytest.mark.parametrize(
    ("cells", "row", "found", "allowed"),
    [
        ([[0.5, 0.5], [0.5, 1.5]], 1, "[0.5, 1.5]", "must be a probability, from 0 to 1"),
        ([None, [0.5, 0.5, 0]], 1, "[0.5, 0.5, 0.0]", "must be a list of 2 numbers"),
        ([[0.5, 0.5], [0.5, 0.4]], 1, 0.9, "must sum to 1, up to 0.001, in a multiclass task"),
    ],
)
def test_lists_that_are_no_probabilities(cells: Any, row: int, found: Any, allowed: str) -> None:
    table = {"p": cells, "_file": ["t.parquet"] * 2, "_row": [0, 1]}
    problem = refused(soft("multiclass", ["p"], ["x", "y"], column="p"), table)
    assert (problem.path, problem.value) == (f"t.parquet, row {row}, column p", found)
    assert problem.allowed == allowed


def test_classes_must_sum_to_one() -> None:
    table = {"p_a": [0.5, 0.6], "p_b": [0.5, 0.6], "_file": ["t.csv"] * 2, "_row": [7, 8]}
    problem = refused(soft("multiclass", ["p_a", "p_b"]), table)
    assert (problem.path, problem.value) == ("t.csv, row 8, column p_a and 1 more", 1.2)
    assert problem.remedy == "Include the columns of all labels, or use task: multilabel."
    assert read(soft("multilabel", ["p_a", "p_b"]), table)[0] == [[], ["a", "b"]]


@pytest.mark.parametrize("available", [["text", "q"], ["text", "p_only"], ["p_", "p_a"]])
def test_a_prefix_needs_two_columns(available: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        soft("multilabel", available)
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("data.labels.prefix", "p_")
    assert problem.allowed == "must be the beginning of two or more columns"
    assert problem.remedy == f"Available columns: {', '.join(available)}."
