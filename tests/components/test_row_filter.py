"""`input.where`: SQL's three-valued logic, strict types, nothing but the row itself."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest

from clftask.components.row_filter.condition import check, columns_of, matching, parse
from clftask.errors import ConfigError

N = None
TABLE = pa.table(
    {
        "id": ["a", "b", "c", "d", N],
        "year": pa.array([2019, 2020, 2021, N, 2024], pa.int16()),
        "big": pa.array([1, 2, 3, N, 2**63 + 5], pa.uint64()),
        "share": pa.array([0.1, 0.3, N, 0.0, 2.5], pa.float32()),
        "price": pa.array([Decimal("1.50"), Decimal("2.50"), N, Decimal(3), Decimal("0.10")]),
        "flag": [True, False, N, True, False],
        "tags": [["x", "y"], [], N, ["y", N], ["x"]],
        "day": [dt.date(2020, 1, 1), dt.date(2021, 5, 5), N, dt.date(2019, 1, 1), N],
        "seen": pa.array(
            [dt.datetime(2020, 1, 1, 10), N, dt.datetime(2021, 1, 1), dt.datetime(2022, 1, 1), N],
            pa.timestamp("us", "UTC"),
        ),
        "meta": [{"lang": "en", "n": {"k": 1}}, N, {"lang": N, "n": N}, {"lang": "de", "n": N}, N],
        "code": ["1", "+2", "abc", "", N],
        "4 - x": [N, "q", N, N, "r"],
        "INCLUDE": [N, 1, 0, N, 1],
        "empty": pa.nulls(5),
        "long": pa.array(["aa", "b", N, "d", "e"], pa.large_string()),
    }
)


def found(text: str) -> list[bool | None]:
    check(text, TABLE.schema)
    return matching(text, TABLE).to_pylist()


@pytest.mark.parametrize(
    "text",
    [
        "tags is null and year > 2020",
        "INCLUDE is null",
        '"4 - x" is null',
        "id = 'a' or not flag",
        "id not in ('a')",
        "id not in ('a', null)",
        "year in (2020, 2021.0)",
        "year in (2020, 2.5)",
        "year <> 2020",
        "year is null or year = 2020 or year = 2021",
        "meta.lang = 'en'",
        "meta.lang is null",
        "meta.n.k > 0",
        "day >= '2020-06-01'",
        "day >= date '2020-01-01'",
        "seen >= '2021-01-01'",
        "seen > timestamp '2020-01-01 09:00:00'",
        "id like 'a%'",
        "id not like 'a%'",
        "id not ilike 'A'",
        "year between 2020 and 2021",
        "year not between 2020 and 2021",
        "length(id) = 1",
        "len(tags) > 1",
        "list_contains(tags, 'x')",
        "not list_contains(tags, 'y')",
        "try_cast(code as double) > 0",
        "try_cast(code as int) = 2",
        "flag",
        "flag is true",
        "flag is not true",
        "flag = false",
        "-year < -2020",
        "year + 1 > 2021",
        "year / 2 >= 1010",
        "share = 0.3",
        "big > 2",
        "big > -1",
        "price > 1.5",
        "price in (1.5, 3)",
        "empty is null",
        "empty > 3",
        "empty = 'a'",
        "year(day) = 2020",
        "month(seen) = 1",
        "coalesce(year, 0) = 0",
        "lower(upper(id)) = 'a'",
        "year > 100000",
        "true",
        "1 = 1 and year is null",
        "long in ('b')",
        "id >= 'b' and (year < 2021 or year is null)",
    ],
)
def test_conditions_mean_what_they_mean_in_duckdb(text):
    with duckdb.connect() as connection:
        connection.register("rows", TABLE)
        wanted = [row[0] for row in connection.sql(f"select ({text}) from rows").fetchall()]
    assert found(text) == wanted


def test_unknown_is_neither_true_nor_false():
    assert found("year > 2020") == [False, False, True, None, True]
    assert found("not year > 2020") == [True, True, False, None, False]
    assert found("year > 2020 or year is null") == [False, False, True, True, True]


def test_backticks_and_dots_quote_names():
    assert found("`4 - x` is not null") == [False, True, False, False, True]
    table = pa.table({"meta.lang": ["en", "de"]})
    assert matching("meta.lang = 'de'", table).to_pylist() == [False, True]


def test_columns_are_those_that_are_read():
    names = TABLE.column_names
    text = "meta.lang = 'en' and (year > 1 or `4 - x` is null) and list_contains(tags, 'year')"
    assert columns_of(text, names) == ["meta", "year", "4 - x", "tags"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("year >", "not an SQL condition: a value is missing at line 1, column"),
        ("year is null and", "a value is missing at line 1, column 16"),
        ("a b", "unexpected at line 1, column 3"),
        ("id = 'a", "not an SQL condition"),
        ("id is null; drop table x", "not an SQL condition"),
        ("select 1", "not an SQL condition"),
        ("", "not an SQL condition"),
        ("@--a", "not an SQL condition"),
        ("year > (select max(year) from rows)", "not supported"),
        ("random() > 0.5", "not supported"),
        ("day < current_date", "not supported"),
        ("read_csv('/etc/passwd') is null", "not supported"),
        ("getenv('HOME') = 'x'", "not supported"),
        ("count(*) > 1", "not supported"),
        ("row_number() over () > 1", "not supported"),
        ("year::text = '2020'", "Use try_cast"),
        ("year = null", "is never true; Write is null"),
        ("(" * 3000 + "year" + ")" * 3000 + " = 1", "nested too deeply|not an SQL condition"),
    ],
)
def test_what_is_no_condition_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id > 3", r"cannot compare id \(text\) with 3 \(a number\)"),
        ("year = '2020'", r"cannot compare year \(a number\) with '2020' \(text\)"),
        ("year", "year must be true or false, and is a number"),
        ("not id", "id must be true or false"),
        ("flag = 1", r"cannot compare flag \(true or false\).*Write true or false"),
        ("day > '2020'", "'2020' is not a date"),
        ("tags = 'x'", "cannot compare tags"),
        ("list_contains(id, 'x')", "must be a list"),
        ("list_contains(tags, 1)", "compares"),
        ("meta.city = 'x'", "meta.city is not a column"),
        ("length(year) > 1", "year must be text"),
        ("id like year", "year must be a constant"),
        ("coalesce(id) = 'a'", "has only one value"),
        ("year in ()", "has no values"),
    ],
)
def test_types_that_do_not_fit_are_refused_before_the_first_row(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check(text, TABLE.schema)
    assert caught.value.problems[0].path == "input.where"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include is null", r"Did you mean INCLUDE\?"),
        ("yaer > 2020", r"Did you mean year\?"),
        ('id = "en"', "single quotes: 'en'"),
        ("nothing_like_it > 1", "is not a column of the input: id, year, big"),
    ],
)
def test_unknown_columns_are_named_with_close_matches(text, message):
    with pytest.raises(ConfigError, match=message):
        columns_of(text, TABLE.column_names)
