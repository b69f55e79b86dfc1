"""One of a thing is no plural, wherever it is counted."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from clftask.data.summary import describe_left_out
from clftask.distributed.capacity import Capacity, WorkerPlan
from clftask.messages import are, counted
from clftask.redaction import masked

PACKAGE = Path(__file__).parents[1] / "clftask"


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (0, "row", "0 rows"),
        (1, "row", "1 row"),
        (2, "row", "2 rows"),
        (1_234_567, "row", "1,234,567 rows"),
        (1.0, "CPU", "1 CPU"),
        (0.5, "CPU", "0.5 CPUs"),
        (2.0, "new CPU", "2 new CPUs"),
    ],
)
def test_counted(number: float, noun: str, words: str) -> None:
    assert counted(number, noun) == words


def test_are() -> None:
    assert [are(number) for number in (0, 1, 2)] == ["are", "is", "are"]


def test_messages_count_one_and_many() -> None:
    assert str(WorkerPlan(1, False, 1.0)) == "1 CPU worker, 1 CPU each"
    assert str(WorkerPlan(2, True, 4.0)) == "2 GPU workers, 4 CPUs each"
    assert str(Capacity(((1.0, 2.0),))) == "1 CPU and 2 GPUs"
    assert describe_left_out(["a.docx"]) == "1 file of unknown format skipped: a.docx"


def template(node: ast.AST) -> str | None:
    """Return the text of a string literal; a word stands for what an f-string fills in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "word" for v in node.values)
    return None


def templates() -> Iterator[tuple[str, str]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            text = template(node)
            if text:
                yield f"{file.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}", text


def test_masking_changes_none_of_our_own_words() -> None:
    found = list(templates())
    assert len(found) > 3000
    assert any("put the token into ~/.ray/auth_token" in text for _, text in found)
    assert [(place, text) for place, text in found if masked(text) != text] == []
