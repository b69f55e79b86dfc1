"""`input.where`: an SQL condition on the columns of a row; sqlglot parses it.

Only the operators and functions below exist: none reads a file, another row, or the clock. Text,
numbers and dates are not converted into each other, so that a condition fails before the first row
or not at all.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from clftask.components.row_filter.evaluation import (
    ARITHMETIC,
    COMPARISONS,
    FUNCTIONS,
    Dialect,
    column_of,
    evaluated,
    shown,
)
from clftask.errors import ConfigError, Problem
from clftask.messages import did_you_mean

# sqlglot logs a warning before it raises an error.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

FIELD = "input.where"
_MAX_SHOWN = 40


def parse(text: str) -> exp.Expr:
    """Parse a condition.

    Raises:
        ValueError: What is wrong, and after "; " the remedy.
    """
    try:
        tree = sqlglot.parse_one(text, dialect=Dialect, into=exp.Condition)
        for node in tree.walk():
            _refuse_unknown(node)
    except SqlglotError as error:
        raise ValueError(f"is not an SQL condition: {_reason(error)}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except (AttributeError, IndexError, KeyError, TypeError):  # sqlglot 30, for nonsense
        raise ValueError("is not an SQL condition") from None
    return tree


def _reason(error: SqlglotError) -> str:
    first: dict[str, Any] = next(iter(getattr(error, "errors", [])), {})
    if not first:
        return " ".join(str(error).split())
    reason = "a value is missing" if "missing" in first["description"] else "unexpected"
    near = first.get("highlight") or "the end"
    return f"{reason} at line {first['line']}, column {first['col']}, near {near!r}"


def _refuse_unknown(node: exp.Expr) -> None:
    """Refuse what is not evaluated, also unknown options of known operators."""
    known = _arguments().get(type(node))
    if type(node) is exp.Cast and not isinstance(node.this, exp.Literal):
        raise ValueError(f"{shown(node)} may fail for a row; Use try_cast, which gives null.")
    if known is None or {k for k, v in node.args.items() if v} - known:
        remedy = (
            "Use and, or, not, is null, in, between, like, ilike, comparisons, + - * /, lower, "
            "upper, trim, length, year, month, day, abs, coalesce, list_contains, try_cast."
        )
        raise ValueError(f"{shown(node)} is not supported; {remedy}")
    if node.args.get("this") is None and "this" in known and type(node) is not exp.Null:
        raise ValueError(f"is not an SQL condition: {type(node).__name__} has no value")
    is_equality = isinstance(node, exp.EQ | exp.NEQ)
    if is_equality and any(isinstance(node.args[k], exp.Null) for k in ("this", "expression")):
        raise ValueError(f"{shown(node)} is never true; Write is null, or is not null.")


@functools.cache
def _arguments() -> dict[type[exp.Expr], set[str]]:
    """Return the supported nodes, and the arguments of each that are evaluated."""
    one = {"this"}
    two = {*one, "expression"}
    found: dict[type[exp.Expr], set[str]] = {
        exp.Column: {*one, "table", "db", "catalog"},
        exp.Identifier: {*one, "quoted"},
        exp.Literal: {*one, "is_string"},
        exp.DataType: {*one, "expressions"},
        exp.In: {*one, "expressions"},
        exp.Coalesce: {*one, "expressions"},
        exp.Between: {*one, "low", "high"},
        exp.Like: {*two, "negate"},
        exp.ILike: {*two, "negate"},
        exp.Cast: {*one, "to"},
        exp.TryCast: {*one, "to", "safe"},
        exp.DataTypeParam: one,
    }
    for kind in (exp.Boolean, exp.Null, exp.Paren, exp.Not, exp.Neg, *FUNCTIONS):
        found[kind] = one
    for kind in (exp.And, exp.Or, exp.Is, exp.Dot, exp.ArrayContains, *COMPARISONS, *ARITHMETIC):
        found[kind] = two
    return found


# ------------------------------------------------------------------ columns


def columns_of(text: str, names: Sequence[str]) -> list[str]:
    """Return the columns that a condition reads.

    Args:
        text: The condition.
        names: The columns of the table.

    Raises:
        ConfigError: A column does not exist.
    """
    places = {tuple(p.name for p in node.parts): node for node in _columns(parse(text))}
    problems, found = [], []
    for parts, node in places.items():
        name = column_of(parts, names)
        found.append(name)
        if name not in names:
            problems.append(Problem(FIELD, text, *_unknown(node, name, names)))
    if problems:
        raise ConfigError(*problems)
    return list(dict.fromkeys(found))


def _columns(node: exp.Expr) -> Iterator[Any]:
    if isinstance(node, exp.Column | exp.Dot):
        yield node
        return
    for child in node.iter_expressions():
        yield from _columns(child)


def _unknown(node: Any, name: str, names: Sequence[str]) -> tuple[str, str]:
    remedies = [did_you_mean(name, names)]
    if any(part.args.get("quoted") for part in node.parts):
        remedies.append(f"Write a text in single quotes: '{name}'.")
    known = ", ".join(names[:_MAX_SHOWN])
    return f"{name} is not a column of the input: {known}", " ".join(filter(None, remedies))


def check(text: str, schema: pa.Schema) -> None:
    """Check that the types of a condition fit.

    Raises:
        ConfigError: They do not; names the operation.
    """
    try:
        matching(text, schema.empty_table())
    except (ValueError, pa.ArrowException) as error:
        allowed, _, remedy = " ".join(str(error).split()).partition("; ")
        raise ConfigError(Problem(FIELD, text, allowed, remedy)) from None


def matching(text: str, table: pa.Table) -> pa.ChunkedArray:
    """Return (rows,) bool: whether each row matches; null if unknown, as in SQL."""
    return evaluated(parse(text), table)
