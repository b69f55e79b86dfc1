from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from clftask.components.text import TextRecipe
from clftask.errors import DataError


def made(recipe: TextRecipe, **columns: Any) -> tuple[list[str | None], list[str | None] | None]:
    text, pair = recipe.apply(pa.table(columns))
    assert text.type == pa.large_string()
    return text.to_pylist(), None if pair is None else pair.to_pylist()


def test_one_column_is_taken_as_it_is() -> None:
    recipe = TextRecipe(text="a")
    assert recipe.columns == ["a"]
    assert made(recipe, a=["x", " y ", "two\nlines"], b=[1, 2, 3]) == (
        ["x", " y ", "two\nlines"],
        None,
    )


def test_blank_texts_are_null() -> None:
    values = ["", " ", "\t\r\n", "\u00a0\u3000", None, "."]
    assert made(TextRecipe(text="a"), a=values)[0] == [None, None, None, None, None, "."]


def test_columns_are_joined_in_the_order_of_the_recipe() -> None:
    recipe = TextRecipe(text=["b", "a", "c"], separator=" | ")
    assert recipe.columns == ["b", "a", "c"]
    assert made(recipe, a=["1"], b=["2"], c=["3"])[0] == ["2 | 1 | 3"]
    assert made(TextRecipe(text=["a", "b"]), a=["1"], b=["2"])[0] == ["1\n\n2"]


def test_null_and_blank_columns_are_skipped_in_joining() -> None:
    a = ["1", None, "3", " ", "5"]
    b = ["p", "q", None, "s", ""]
    c = ["x", None, None, "y", "z"]
    found, _ = made(TextRecipe(text=["a", "b", "c"], separator="-"), a=a, b=b, c=c)
    assert found == ["1-p-x", "q", "3", "s-y", "5-z"]


def test_a_row_of_which_nothing_remains_is_null_in_its_place() -> None:
    a = ["1", None, " ", None, "5"]
    b = ["p", None, "", "s", None]
    assert made(TextRecipe(text=["a", "b"]), a=a, b=b)[0] == ["1\n\np", None, None, "s", "5"]


@pytest.mark.parametrize("separator", ["", " "])
def test_separators_may_be_blank(separator: str) -> None:
    found, _ = made(TextRecipe(text=["a", "b"], separator=separator), a=["x", None], b=["y", "z"])
    assert found == [f"x{separator}y", "z"]


def test_a_column_of_nulls_counts_as_blank() -> None:
    found, _ = made(TextRecipe(text=["a", "b"]), a=pa.nulls(2), b=["x", "y"])
    assert found == ["x", "y"]
    assert made(TextRecipe(text="a"), a=pa.nulls(2))[0] == [None, None]


def test_the_second_text_of_a_pair_stands_apart() -> None:
    recipe = TextRecipe(text=["a", "b"], text_pair="c")
    assert recipe.columns == ["a", "b", "c"]
    text, pair = made(recipe, a=["1", "2"], b=["p", None], c=[" ", "z"])
    assert (text, pair) == (["1\n\np", "2"], [None, "z"])


def test_large_strings_and_pieces_are_texts() -> None:
    a = pa.chunked_array([["1"], [None, "3"]], pa.large_string())
    b = pa.chunked_array([["p", "q"], ["r"]], pa.string())
    assert made(TextRecipe(text=["a", "b"], separator="-"), a=a, b=b)[0] == ["1-p", "q", "3-r"]


@pytest.mark.parametrize(
    "values", [[1, 2], [1.5, None], [["x"], ["y"]], [True, False], [b"x", b"y"]]
)
@pytest.mark.parametrize(
    "recipe", [TextRecipe(text=["ok", "y"]), TextRecipe(text="ok", text_pair="y")]
)
def test_what_is_no_string_is_refused(values: list[Any], recipe: TextRecipe) -> None:
    with pytest.raises(DataError) as caught:
        recipe.apply(pa.table({"ok": ["1", "2"], "y": values}))
    (problem,) = caught.value.problems
    assert (problem.path, problem.allowed) == ("text column y", "must be strings")
    assert caught.value.exit_code == 2


def test_a_recipe_needs_a_column() -> None:
    with pytest.raises(ValidationError):
        TextRecipe(text=[])
