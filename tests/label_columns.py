"""What tests of label columns share."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from clftask.components.labels import LabelColumns, Labels, LabelSpace
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
