"""JSON that every reader takes: no NaN, no Infinity."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clftask.io.strict_json import strict, to_json


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_null_replaces_nan_and_infinity_at_any_depth():
    value = {"a": float("nan"), "b": [float("inf"), (1.5, -float("inf"))], "c": np.float64("nan")}
    found = json.loads(to_json(value), parse_constant=refuse)
    assert found == {"a": None, "b": [None, [1.5, None]], "c": None}


def test_other_values_are_those_of_json():
    value = {"a": 1, "b": True, "c": None, "d": "é", "e": 0.1, "f": []}
    assert to_json(value) == json.dumps(value)
    options = {"indent": 1, "ensure_ascii": False}
    assert to_json(value, **options) == json.dumps(value, **options)
    assert strict(value) == value


def test_objects_are_converted_and_checked_too():
    assert to_json({"a": 1j}, lambda found: {"real": float("nan")}) == '{"a": {"real": null}}'
    with pytest.raises(TypeError):
        to_json({"a": 1j})
