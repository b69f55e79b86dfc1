"""Fixed names of labels, and mappings of labels to names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from label_columns import MEMBERS, lists, refused, spec
from pydantic import TypeAdapter, ValidationError

from clftask.components.labels import Labels, LabelSpace


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
