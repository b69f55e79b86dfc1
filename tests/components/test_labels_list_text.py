from __future__ import annotations

import pytest

from clftask.components.labels.list_text import is_written, parse_written


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ('["a", "b"]', ["a", "b"]),
        ("['a', 'b']", ["a", "b"]),
        (" ['a','b',] ", ["a", "b"]),
        ("""["it's", 'he said "no"']""", ["it's", 'he said "no"']),
        (r"['it\'s', 'a\\b']", ["it's", "a\\b"]),
        (r'["\u00e9", "\ud83d\ude00"]', ["é", "😀"]),
        ("['a, b', '[c]']", ["a, b", "[c]"]),
        ("('a', 'b')", ["a", "b"]),
        ("('a',)", ["a"]),
        ("{'a', 'b'}", ["a", "b"]),
        ("[3, 17.0, -1]", ["3", "17", "-1"]),
        ("[True, None, 'a', nan, '']", ["true", None, "a", None, None]),
        ("[true, null, NaN]", ["true", None, None]),
        ("[3 17]", ["3", "17"]),
        ("[0. 1.]", ["0", "1"]),
        ("[ True False]", ["true", "false"]),
        ("[]", []),
        ("()", []),
        ("<python><c++>", ["python", "c++"]),
        ("<a>", ["a"]),
        ("'a', 'b'", ["a", "b"]),
        ('"a","b, c"', ["a", "b, c"]),
        ("0 1 0", ["0", "1", "0"]),
        ("1.0, 0.0", ["1", "0"]),
        ("1|0", ["1", "0"]),
    ],
)
def test_written_lists(cell: str, labels: list[str | None]) -> None:
    assert parse_written(cell) == labels


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "a",
        "a, b",
        "10",
        "0 1 2",
        "'a' 'b'",
        "'a', b",
        "'tis, it's",
        "set()",
        "array(['a', 'b'], dtype=object)",
        "[{'id': 28, 'name': 'Action'}]",
        "['a' 'b']",
        "['a'\n 'b']",
        "[a, b]",
        "{a,b}",
        "{}",
        "('a')",
        "(a)",
        "['a', ...]",
        "['a', f('b')]",
        "[['a'], ['b']]",
        '[{"label": "a"}]',
        '{"a": 1}',
        "[0.5, 0.5]",
        "[1e400]",
        "['a'",
        "'a']",
        "<a> <b>",
        "<a",
        "[1b]",
        "[" * 100_000,
        "[" + "1" * 5000 + "]",
    ],
)
def test_what_is_no_list_beyond_doubt(cell: str) -> None:
    assert parse_written(cell) is None


@pytest.mark.parametrize("cell", ["['a']", "['a' 'b']", '["a", ...]', "[]", "[1]", "<a><b>"])
def test_what_is_meant_as_a_list(cell: str) -> None:
    assert is_written(cell)


@pytest.mark.parametrize("cell", ["a", "<a>", "[A]", "(1)", "(a, b)", "0 1", "'a'", ""])
def test_what_may_be_a_label(cell: str) -> None:
    assert not is_written(cell)


@pytest.mark.parametrize("cell", ["0 ", "0, ", "'a' ", "'a', ", "1 ", "'\\", "<a>", "[", "'"])
@pytest.mark.parametrize("ends", ["[x]", "(x)", "{x}", "x"])
def test_long_cells_are_read_without_backtracking(cell: str, ends: str) -> None:
    """Backtracking over a million characters would take hours."""
    text = f"{ends[0]}{cell * 300_000}{ends[1:]}"
    assert parse_written(text) is None
    assert is_written(text) == (cell[0] == "'" and ends != "x")
