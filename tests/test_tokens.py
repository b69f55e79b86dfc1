"""Tokens: lengths before and after the cut, single texts and pairs."""

from __future__ import annotations

import pyarrow as pa
import pytest

from clftask.modeling import load_tokenizer
from clftask.tokens import full_lengths, tokenise


@pytest.fixture
def tokenizer(tiny_base):
    return load_tokenizer(str(tiny_base))


def texts(*num_words: int) -> pa.Array:
    return pa.array([" ".join(["tool"] * n) for n in num_words], pa.large_string())


def test_lengths_of_single_texts(tokenizer):
    """Two special tokens a text; one that just fits is not cut."""
    given = texts(1, 30, 31, 61)
    tokens = tokenise(given, None, tokenizer, 32)
    assert tokens["length"].to_pylist() == [3, 32, 32, 32]
    assert tokens["is_truncated"].to_pylist() == [False, False, True, True]
    assert full_lengths(given, None, tokens, tokenizer).to_pylist() == [3, 32, 33, 63]
    assert tokens.column_names == ["input_ids", "length", "is_truncated"]


def test_lengths_of_pairs(tokenizer):
    """Three special tokens a pair; the second text has a type of its own."""
    first, second = texts(2, 60), texts(3, 60)
    tokens = tokenise(first, second, tokenizer, 32)
    assert tokens["length"].to_pylist() == [8, 32]
    assert tokens["is_truncated"].to_pylist() == [False, True]
    assert full_lengths(first, second, tokens, tokenizer).to_pylist() == [8, 123]
    assert tokens["token_type_ids"][0].as_py() == [0, 0, 0, 0, 1, 1, 1, 1]
