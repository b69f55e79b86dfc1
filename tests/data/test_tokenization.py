"""Tokens: lengths before and after the cut, single texts and pairs."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from clftask.components.truncation import KeepHead
from clftask.data import tokenization as tokens_module
from clftask.data.tokenization import full_lengths, splits_at_blanks
from clftask.models.tokenizers import load_tokenizer

HEAD = KeepHead()


def tokenise(texts: Any, pairs: Any | None, tokenizer: Any, max_length: int) -> pa.Table:
    return tokens_module.tokenise(texts, pairs, tokenizer, max_length, HEAD)


@pytest.fixture(scope="session")
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
    assert tokens.column_names == ["input_ids", "length", "num_tokens", "is_truncated"]


def test_lengths_of_pairs(tokenizer):
    """Three special tokens a pair; the second text has a type of its own."""
    first, second = texts(2, 60), texts(3, 60)
    tokens = tokenise(first, second, tokenizer, 32)
    assert tokens["length"].to_pylist() == [8, 32]
    assert tokens["is_truncated"].to_pylist() == [False, True]
    assert full_lengths(first, second, tokens, tokenizer).to_pylist() == [8, 123]
    assert tokens["token_type_ids"][0].as_py() == [0, 0, 0, 0, 1, 1, 1, 1]


# ------------------------------------------------------------------ only the beginning


def of_bytes(
    *added: str | AddedToken, splitter: Any = None, normalizer: Any = None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE as RoBERTa has it; it marks neither begin nor end."""
    made = Tokenizer(models.BPE())
    nfc = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    made.normalizer = normalizer or nfc
    made.pre_tokenizer = splitter or pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["the fast audio tool's  \n\n  library é東 "] * 9, trainer)
    made.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.fixture(scope="session")
def byte_level():
    return of_bytes(AddedToken("<mask>", lstrip=True), AddedToken("[go]", rstrip=True), "    ")


WORDS = ["a", "Tool", "the", "it's", "5.5", "...", "x" * 101, "[SEP]", "[UNK]", "<mask>", "[go]"]
LETTERS = [
    "东京",
    "東",
    "𝔘",
    "ΟΔΟΣ",
    "ﷺ",
    "İ",
    "👩\u200d👩",
    "e\u0301",
    "\u0301",
    "\u0345",
    "가",
    "\u11a8",
]
BLANKS = [" ", "  ", "    ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\x85", "\x1c", "\u2028"]
OTHERS = ["\x00", "\ufeff", "\ufffd", "\u0600", "\u00ad", "\u200b"]
PIECES = st.one_of(map(st.sampled_from, (WORDS, LETTERS, BLANKS, OTHERS)))
TEXTS = st.lists(PIECES, max_size=40).map("".join)


@pytest.mark.parametrize("name", ["tokenizer", "byte_level"])
def test_beginnings_have_the_very_tokens_of_the_whole(name, request):
    tokenizer = request.getfixturevalue(name)
    assert splits_at_blanks(tokenizer)
    num_cut = 0

    @settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(TEXTS, min_size=1, max_size=4), st.integers(3, 12))
    def hold(rows: list[str], max_length: int) -> None:
        nonlocal num_cut
        whole = HEAD.encoded(rows, None, tokenizer, max_length)
        column = pa.array(rows, pa.large_string())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokens_module, "CHARS_A_TOKEN", 1)
            assert tokenise(column, None, tokenizer, max_length).equals(whole)
        num_cut += sum(len(tokens_module._head(row, max_length)) < len(row) for row in rows)

    hold()
    assert num_cut > 50


class Spy:
    """A tokenizer that remembers the length of the longest text it was given."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.longest = tokenizer, 0

    def __call__(self, texts: list[str], *arguments: Any, **options: Any) -> Any:
        self.longest = max([self.longest, *map(len, texts)])
        return self.tokenizer(texts, *arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


def test_of_a_huge_text_only_the_beginning_is_tokenised(tokenizer):
    spy = Spy(tokenizer)
    tokens = tokenise(pa.array(["fast tool " * 500_000, "a tool"]), None, spy, 32)
    assert tokens["length"].to_pylist() == [32, 4]
    assert tokens["is_truncated"].to_pylist() == [True, False]
    assert spy.longest < 400


def test_beginning_of_too_few_tokens_is_not_enough(tokenizer):
    """Words of more than 100 letters are one unknown token each."""
    rows = ["x" * 200 + " tool", "y" * 5000 + " " + "the tool " * 40, "a tool"]
    tokens = tokenise(pa.array(rows), None, tokenizer, 16)
    assert tokens["length"].to_pylist() == [4, 16, 4]
    assert tokens["is_truncated"].to_pylist() == [False, True, False]


def test_long_texts_of_a_pair_are_taken_whole(tokenizer):
    """With an odd number of places the longer text has one more."""
    spy = Spy(tokenizer)
    rows = texts(300), texts(301)
    found = tokenise(*rows, spy, 32)["token_type_ids"].to_pylist()
    swapped = tokenise(*reversed(rows), spy, 32)["token_type_ids"].to_pylist()
    assert spy.longest == 301 * 5 - 1
    assert found != swapped


@pytest.mark.parametrize(
    "other",
    [
        lambda: of_bytes("two words"),
        lambda: of_bytes("東京"),
        lambda: of_bytes(normalizer=normalizers.StripAccents()),
        lambda: of_bytes(normalizer=normalizers.Replace("a", "b")),
        lambda: of_bytes(splitter=pre_tokenizers.ByteLevel(use_regex=False)),
        lambda: of_bytes(splitter=pre_tokenizers.Metaspace()),
        lambda: of_bytes(
            splitter=pre_tokenizers.Sequence(
                [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
            )
        ),
    ],
)
def test_other_tokenizers_are_given_whole_texts(other):
    spy = Spy(other())
    assert not splits_at_blanks(spy)
    tokenise(texts(2000), None, spy, 32)
    assert spy.longest == 2000 * 5 - 1


def test_text_that_is_cut_at_its_beginning_is_taken_whole(tokenizer):
    spy = Spy(tokenizer)
    spy.truncation_side = "left"
    assert not splits_at_blanks(spy)
