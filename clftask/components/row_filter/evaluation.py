"""Evaluation of a condition with Arrow; unknown is null, as in SQL."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB


class Dialect(DuckDB):
    """DuckDB's SQL; names can also be quoted with backticks."""

    class Tokenizer(DuckDB.Tokenizer):
        """DuckDB's, with backticks."""

        IDENTIFIERS = ['"', "`"]


def shown(node: exp.Expr) -> str:
    """Return a node as SQL."""
    return node.sql(dialect=Dialect)[:200]


def column_of(parts: Sequence[str], names: Sequence[str]) -> str:
    """Return the column of a dotted name: its own, or that of the struct."""
    whole = ".".join(parts)
    return whole if whole in names or parts[0] not in names else parts[0]


def evaluated(tree: exp.Expr, table: pa.Table) -> pa.ChunkedArray:
    """Return (rows,) bool: whether each row matches; null if unknown.

    Raises:
        ValueError: Types do not fit; after "; " the remedy.
    """
    found = _boolean(tree, table)
    if isinstance(found, pa.Scalar):
        found = pa.array([found.as_py()] * table.num_rows, pa.bool_())
    return found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])


def _value(node: Any, table: pa.Table) -> Any:
    """Evaluate a node: a column, or an Arrow scalar for a constant."""
    if isinstance(node, exp.Paren):
        return _value(node.this, table)
    if isinstance(node, exp.Column | exp.Dot):
        return _cells([part.name for part in node.parts], table)
    if isinstance(node, exp.Literal):
        return _literal(node)
    if isinstance(node, exp.Null):
        return pa.scalar(None)
    if isinstance(node, exp.Boolean):
        return pa.scalar(node.this)
    return _operation(node, table)


def _operation(node: Any, table: pa.Table) -> Any:
    if isinstance(node, exp.And | exp.Or):
        combine = pc.and_kleene if isinstance(node, exp.And) else pc.or_kleene
        return functools.reduce(combine, [_boolean(part, table) for part in node.flatten()])
    if type(node) in COMPARISONS:
        return _compared(COMPARISONS[type(node)], node.left, node.right, table)
    if type(node) in ARITHMETIC:
        sides = [_number(side, table) for side in (node.left, node.right)]
        return ARITHMETIC[type(node)](*sides)
    if type(node) in FUNCTIONS:
        return FUNCTIONS[type(node)](node, table)
    return _OPERATORS[type(node)](node, table)


def _cells(parts: list[str], table: pa.Table) -> pa.ChunkedArray:
    name = column_of(parts, table.column_names)
    inner = parts[1:] if name == parts[0] else []
    cells = table[name]
    for field in inner:
        known = [f.name for f in cells.type] if pa.types.is_struct(cells.type) else []
        if field not in known:
            raise ValueError(f"{'.'.join(parts)} is not a column; {name} is {cells.type}")
        cells = pc.struct_field(cells, field)
    return cells


def _literal(node: Any) -> pa.Scalar:
    if node.is_string:
        return pa.scalar(node.this)
    is_integer = node.this.isdigit() and len(node.this) < 19
    return pa.scalar(int(node.this) if is_integer else float(node.this))


def _kind(kind: pa.DataType) -> str:
    tests = {
        "null": pa.types.is_null,
        "true or false": pa.types.is_boolean,
        "a number": lambda t: pa.types.is_integer(t) or _is_fraction(t),
        "text": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
        "a date": lambda t: pa.types.is_date(t) or pa.types.is_timestamp(t),
    }
    return next((name for name, test in tests.items() if test(kind)), str(kind))


def _is_fraction(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _of_kind(wanted: str, node: Any, table: pa.Table, otherwise: pa.DataType) -> Any:
    """Evaluate a node that must be of a kind; null becomes null of the type `otherwise`."""
    found = _value(node, table)
    if _kind(found.type) == "null":
        return found.cast(otherwise)
    if _kind(found.type) != wanted:
        raise ValueError(f"{shown(node)} must be {wanted}, and is {_kind(found.type)}")
    return found


def _boolean(node: Any, table: pa.Table) -> Any:
    return _of_kind("true or false", node, table, pa.bool_())


def _text(node: Any, table: pa.Table) -> Any:
    return _of_kind("text", node, table, pa.string())


def _number(node: Any, table: pa.Table) -> Any:
    return _of_kind("a number", node, table, pa.float64()).cast(pa.float64(), safe=False)


def _constant(node: Any, table: pa.Table) -> Any:
    found = _value(node, table)
    if not isinstance(found, pa.Scalar):
        raise ValueError(f"{shown(node)} must be a constant")
    return found


# ------------------------------------------------------------------ comparisons


def _compared(name: str, left: Any, right: Any, table: pa.Table) -> Any:
    a, b = _aligned(left, right, table)
    return getattr(pc, name)(a, b)


def _aligned(left: Any, right: Any, table: pa.Table) -> tuple[Any, Any]:
    """Return two values of comparable types; constants get the type of the other side."""
    a, b = _value(left, table), _value(right, table)
    kinds = _kind(a.type), _kind(b.type)
    if "null" in kinds:
        return (a.cast(b.type), b) if kinds[0] == "null" else (a, b.cast(a.type))
    if set(kinds) == {"text", "a date"}:
        if kinds[0] == "text" and isinstance(a, pa.Scalar):
            return _as_date(a, b.type), b
        if kinds[1] == "text" and isinstance(b, pa.Scalar):
            return a, _as_date(b, a.type)
    if kinds[0] != kinds[1] or kinds[0] not in _COMPARABLE:
        _refuse_comparison(left, right, kinds)
    if isinstance(b, pa.Scalar):
        b = _like(b, a.type)
    elif isinstance(a, pa.Scalar):
        a = _like(a, b.type)
    if pa.uint64() in (a.type, b.type) and a.type != b.type:  # Arrow compares them as int64
        return a.cast(pa.float64(), safe=False), b.cast(pa.float64(), safe=False)
    return a, b


_COMPARABLE = {"true or false", "a number", "text", "a date"}


def _refuse_comparison(left: Any, right: Any, kinds: tuple[str, str]) -> NoReturn:
    sides = " with ".join(f"{shown(s)} ({k})" for s, k in zip((left, right), kinds, strict=True))
    remedies = {
        frozenset({"text", "a number"}): "Write texts in single quotes, and numbers without. For "
        "texts of digits: try_cast(… as double).",
        frozenset({"true or false", "a number"}): "Write true or false.",
    }
    remedy = remedies.get(frozenset(kinds), "")
    raise ValueError(f"cannot compare {sides}" + (f"; {remedy}" if remedy else ""))


def _like(constant: pa.Scalar, kind: pa.DataType) -> pa.Scalar:
    """Return a constant in a type; unchanged if it does not fit, as 2.5 in an integer."""
    if pa.types.is_timestamp(kind) and constant.type != kind:
        return _as_date(constant, kind)
    try:
        return constant.cast(kind)
    except pa.ArrowInvalid:
        return constant


def _as_date(constant: pa.Scalar, kind: pa.DataType) -> pa.Scalar:
    """Return a date or time; those without a time zone have that of the column."""
    try:
        if not pa.types.is_timestamp(kind) or kind.tz is None:
            return constant.cast(kind)
        return pc.assume_timezone(constant.cast(pa.timestamp(kind.unit)), kind.tz)
    except pa.ArrowInvalid:
        example = "2020-01-31" if pa.types.is_date(kind) else "2020-01-31 12:00:00"
        raise ValueError(f"{constant.as_py()!r} is not a date; Write '{example}'.") from None


def _is(node: Any, table: pa.Table) -> Any:
    if isinstance(node.right, exp.Null):
        return pc.is_null(_value(node.left, table))
    truth = _boolean(node.left, table)
    return pc.fill_null(pc.equal(truth, pa.scalar(node.right.this)), False)


def _in(node: Any, table: pa.Table) -> Any:
    if not node.expressions:
        raise ValueError(f"{shown(node)} has no values")
    sides = [_aligned(node.this, value, table) for value in node.expressions]
    cells, constants = sides[0][0], [b for _, b in sides]
    are_alike = all(isinstance(b, pa.Scalar) and b.type == cells.type for b in constants)
    if not are_alike or any(not b.is_valid for b in constants) or isinstance(cells, pa.Scalar):
        return functools.reduce(pc.or_kleene, [pc.equal(a, b) for a, b in sides])
    known = pc.is_in(cells, value_set=pa.array([b.as_py() for b in constants], cells.type))
    return pc.if_else(pc.is_null(cells), pa.scalar(None, pa.bool_()), known)


def _between(node: Any, table: pa.Table) -> Any:
    low = _compared("greater_equal", node.this, node.args["low"], table)
    return pc.and_kleene(low, _compared("less_equal", node.this, node.args["high"], table))


def _matches(node: Any, table: pa.Table) -> Any:
    pattern = _constant(node.expression, table)
    if _kind(pattern.type) != "text":
        raise ValueError(f"{shown(node.expression)} must be text")
    ignore_case = isinstance(node, exp.ILike)
    found = pc.match_like(_text(node.this, table), pattern.as_py(), ignore_case=ignore_case)
    return pc.invert(found) if node.args.get("negate") else found


# ------------------------------------------------------------------ functions


def _contains(node: Any, table: pa.Table) -> Any:
    """Return whether a list contains a value; null for a null list."""
    lists, value = _value(node.this, table), _constant(node.expression, table)
    if not _is_list(lists.type) or isinstance(lists, pa.Scalar):
        raise ValueError(f"{shown(node.this)} must be a list, and is {_kind(lists.type)}")
    if _kind(value.type) != _kind(lists.type.value_type):
        raise ValueError(f"{shown(node)} compares {value.type} with {lists.type.value_type}")
    lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    hits = pc.equal(pc.list_flatten(lists), _like(value, lists.type.value_type))
    rows = pc.list_parent_indices(lists).filter(hits, null_selection_behavior="drop")
    numbers = pa.array(range(len(lists)), pa.int64())
    found = pc.is_in(numbers, value_set=rows.cast(pa.int64()))
    return pc.if_else(lists.is_null(), pa.scalar(None, pa.bool_()), found)


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _length(node: Any, table: pa.Table) -> Any:
    found = _value(node.this, table)
    if _is_list(found.type):
        return pc.list_value_length(found)
    return pc.utf8_length(_text(node.this, table))


def _of_text(function: Any) -> Callable[[Any, pa.Table], Any]:
    return lambda node, table: function(_text(node.this, table))


def _of_date(function: Any) -> Callable[[Any, pa.Table], Any]:
    return lambda node, table: function(_of_kind("a date", node.this, table, pa.date32()))


def _coalesce(node: Any, table: pa.Table) -> Any:
    if not node.expressions:
        raise ValueError(f"{shown(node)} has only one value")
    sides = [_aligned(node.this, other, table) for other in node.expressions]
    return pc.coalesce(sides[0][0], *(b for _, b in sides))


def _divide(a: Any, b: Any) -> Any:
    return pc.divide(a, pc.if_else(pc.equal(b, 0.0), pa.scalar(None, pa.float64()), b))


_NUMBER = r"^\s*[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,3})?\s*$"


def _try_cast(node: Any, table: pa.Table) -> Any:
    """Convert; null where it is impossible. The dates and numbers of a text, and constants."""
    name, found = node.args["to"].this.name, _value(node.this, table)
    if name in {"DATE", "TIMESTAMP", "TIMESTAMPNTZ"}:
        kind = pa.date32() if name == "DATE" else pa.timestamp("us")
        if isinstance(found, pa.Scalar):
            return _as_date(found, kind)
        if _kind(found.type) == "a date":
            return found.cast(kind, safe=False)
        day = pc.utf8_slice_codeunits(_text(node.this, table), 0, 10)
        read = functools.partial(pc.strptime, unit="us", error_is_null=True)
        return read(day, format="%Y-%m-%d").cast(kind)
    if name in {"INT", "BIGINT", "DOUBLE", "FLOAT", "DECIMAL"}:
        if _kind(found.type) == "a number":
            return found.cast(pa.float64(), safe=False)
        text = _text(node.this, table)
        is_number = pc.match_substring_regex(text, _NUMBER)
        text = pc.if_else(is_number, pc.utf8_trim_whitespace(text), pa.scalar(None, text.type))
        return pc.utf8_ltrim(text, characters="+").cast(pa.float64())
    if name in {"TEXT", "VARCHAR"}:
        return found.cast(pa.string())
    raise ValueError(f"{shown(node)} is not supported; Use double, date, timestamp or text.")


COMPARISONS: dict[Any, str] = {
    exp.EQ: "equal",
    exp.NEQ: "not_equal",
    exp.GT: "greater",
    exp.GTE: "greater_equal",
    exp.LT: "less",
    exp.LTE: "less_equal",
}
ARITHMETIC: dict[Any, Any] = {
    exp.Add: pc.add,
    exp.Sub: pc.subtract,
    exp.Mul: pc.multiply,
    exp.Div: _divide,
}
FUNCTIONS: dict[Any, Callable[[Any, pa.Table], Any]] = {
    exp.Lower: _of_text(pc.utf8_lower),
    exp.Upper: _of_text(pc.utf8_upper),
    exp.Trim: _of_text(pc.utf8_trim_whitespace),
    exp.Length: _length,
    exp.ArraySize: _length,
    exp.Year: _of_date(pc.year),
    exp.Month: _of_date(pc.month),
    exp.Day: _of_date(pc.day),
    exp.Abs: lambda node, table: pc.abs(_number(node.this, table)),
}
_OPERATORS: dict[Any, Callable[[Any, pa.Table], Any]] = {
    exp.Not: lambda node, table: pc.invert(_boolean(node.this, table)),
    exp.Neg: lambda node, table: pc.negate(_of_kind("a number", node.this, table, pa.float64())),
    exp.Is: _is,
    exp.In: _in,
    exp.Between: _between,
    exp.Like: _matches,
    exp.ILike: _matches,
    exp.ArrayContains: _contains,
    exp.Coalesce: _coalesce,
    exp.Cast: _try_cast,  # of a constant
    exp.TryCast: _try_cast,
}
