"""Strict JSON: Python's own encoder writes NaN and Infinity, which other readers refuse."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any


def to_json(value: Any, default: Callable[[Any], Any] | None = None, **options: Any) -> str:
    """Return a value as JSON; null replaces NaN and infinity.

    Args:
        value: The value.
        default: Returns the JSON value of an object that is not one.
        options: Further options of `json.dumps`.
    """
    convert = None if default is None else lambda found: strict(default(found))
    return json.dumps(strict(value), allow_nan=False, default=convert, **options)


def strict(value: Any) -> Any:
    """Return a value in which None replaces NaN and infinity, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: strict(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    return value
