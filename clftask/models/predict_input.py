"""What `predict` takes: texts, pairs, rows or tables of several libraries, as Arrow strings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from clftask.components.text import TextRecipe
from clftask.errors import DataError, Problem

_TEXTS = (
    "must be one text, a list or Series of texts, a list of dicts, a dict of columns, a DataFrame "
    "(pandas, Polars), an Arrow table or a datasets.Dataset"
)
_PAIRS = (
    "must be (text, second text) tuples, a list of dicts, a dict of columns, a DataFrame (pandas, "
    "Polars), an Arrow table or a datasets.Dataset"
)


def as_columns(texts: Any, recipe: TextRecipe) -> tuple[Any, Any | None]:
    """Return texts (and second texts) as Arrow strings, null where blank.

    Args:
        texts: What `predict` takes.
        recipe: The bundle's columns.

    Raises:
        DataError: The texts are not strings or pairs of strings, or a column is missing.
    """
    if hasattr(texts, "collect"):  # of Polars and Spark
        raise DataError(Problem("texts", type(texts).__name__, "is lazy", "Collect it first."))
    names = _column_names(texts)
    if names is None:
        rows = _rows(texts, recipe)
        if not rows or not isinstance(rows[0], Mapping):
            return _pairs(rows) if recipe.text_pair else _singles(rows)
        texts, names = _of_dicts(rows, recipe)
    missing = [name for name in recipe.columns if name not in names]
    if missing:
        allowed = "must be a column of the table"
        remedy = f"Its columns: {', '.join(map(str, names[:40])) or 'none'}."
        raise DataError(*(Problem("texts", name, allowed, remedy) for name in missing))
    columns = {name: _strings(texts[name], f"column {name}") for name in recipe.columns}
    if len({len(column) for column in columns.values()}) > 1:
        lengths = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise DataError(Problem("texts", lengths, "must be columns of the same length"))
    return recipe.apply(pa.table(columns))


def _column_names(texts: Any) -> list[Any] | None:
    """Return the names of a table's columns, None for rows; a dict of strings is one row."""
    if isinstance(texts, pa.RecordBatch):
        return list(texts.schema.names)
    if isinstance(texts, Mapping):  # a dict of columns, but also a DatasetDict
        if any(hasattr(part, "column_names") for part in texts.values()):
            remedy = "Choose one of its splits."
            raise DataError(Problem("texts", [*texts], "must not have several splits", remedy))
        is_row = texts and all(isinstance(value, str) for value in texts.values())
        return None if is_row else list(texts)
    for attribute in ("column_names", "columns"):  # of Arrow and datasets; of pandas and Polars
        names = getattr(texts, attribute, None)
        if names is not None and hasattr(texts, "__getitem__"):
            return list(names)
    return None


def _rows(texts: Any, recipe: TextRecipe) -> list[Any]:
    """Return rows: texts, pairs or dicts; a single text or pair is one row."""
    if isinstance(texts, str | Mapping):
        return [texts]
    is_pair = isinstance(texts, tuple) and len(texts) == 2 and isinstance(texts[0], str)
    if is_pair and recipe.text_pair:
        return [texts]
    is_ordered = isinstance(texts, Iterable) and not isinstance(texts, bytes | set | frozenset)
    try:
        if is_ordered:
            return texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)
    except TypeError:  # such as an array without dimensions
        pass
    found = type(texts).__name__
    raise DataError(Problem("texts", found, _PAIRS if recipe.text_pair else _TEXTS))


def _of_dicts(rows: list[Any], recipe: TextRecipe) -> tuple[dict[str, list[Any]], list[str]]:
    """Return the columns of dicts, null where a dict lacks a key, and their names."""
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            found = type(row).__name__
            raise DataError(Problem(f"texts, row {i}", found, "must be a dict like the first row"))
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in recipe.columns}, names


def _singles(rows: list[Any]) -> tuple[Any, None]:
    text, _ = TextRecipe(text=("text",)).apply(pa.table({"text": _strings(rows, "texts")}))
    return text, None


def _pairs(rows: list[Any]) -> tuple[Any, Any]:
    for i, row in enumerate(rows):
        if isinstance(row, str | Mapping) or not hasattr(row, "__len__") or len(row) != 2:
            allowed = "must be (text, second text): the bundle reads pairs"
            raise DataError(Problem(f"texts, row {i}", type(row).__name__, allowed))
    pairs = {name: _strings([row[i] for row in rows], name) for i, name in enumerate("ab")}
    text, second = TextRecipe(text=("a",), text_pair="b").apply(pa.table(pairs))
    return text, second


def _strings(values: Any, name: str) -> Any:
    """Return values as Arrow strings; Arrow values of other types unchanged.

    Raises:
        DataError: They are not strings; names the first row that is not.
    """
    if isinstance(values, pa.Array | pa.ChunkedArray):
        kind = getattr(values.type, "value_type", values.type)  # of a dictionary
        is_text = pa.types.is_string(kind) or pa.types.is_string_view(kind)
        return values.cast(pa.large_string()) if is_text else values
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        found = type(values).__name__
        raise DataError(Problem(name, found, "must be strings: a list, an array or a Series"))
    rows = list(values)
    try:
        return pa.array(rows, pa.large_string(), from_pandas=True)
    except (pa.ArrowException, TypeError, UnicodeError) as error:
        wrong = (i for i, row in enumerate(rows) if not _is_string(row))
        reason = next((f"row {i} is {rows[i]!r:.40}" for i in wrong), str(error))
        raise DataError(Problem(name, None, f"must be strings: {reason}")) from None


def _is_string(value: Any) -> bool:
    """Return whether Arrow reads a value as a string or as missing."""
    try:
        return bool(pa.array([value], pa.large_string(), from_pandas=True))
    except (pa.ArrowException, TypeError, UnicodeError):
        return False
