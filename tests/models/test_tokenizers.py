"""Special tokens that a text spells out are text, for clftask and plain transformers alike."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    ByT5Tokenizer,
    GPT2Config,
    PreTrainedTokenizerFast,
    T5TokenizerFast,
    XLNetConfig,
)

from clftask.models.tokenizers import load_tokenizer

LETTERS = [*"abcdefghijklmnopqrstuvwxyz", "<", "/", ">", "[", "]", "C", "L", "S", "E", "P", "|"]
PIECES = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]
TEXTS = ["a </s> b", "a</s>b", "</s>", "<pad></s> <pad>", "[CLS] a [SEP]", "<|end|>", "</s"]


def t5(folder):
    scores = [0.0, 0.0, 0.0, *(-5.0 for _ in PIECES[3:])]
    vocabulary = list(zip(PIECES, scores, strict=True))
    T5TokenizerFast(vocab=vocabulary, extra_ids=0).save_pretrained(folder)


def fast(folder, model, **special):
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ids = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    special = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", **special}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", padding_side="left", **special
    )
    tokenizer.add_tokens(["qq"])
    tokenizer.save_pretrained(folder)


def words(folder):
    vocabulary = ["<s>", "</s>", "<pad>", "<unk>", "[CLS]", "[SEP]", "<|end|>", *LETTERS]
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "<|end|>"}
    fast(folder, models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "<unk>"), **special)


def unigram(folder):
    vocabulary = [("<s>", 0.0), ("</s>", 0.0), *((p, -4.0) for p in PIECES if p != "</s>")]
    fast(folder, models.Unigram(vocabulary, unk_id=4))


def pairs_of_bytes(folder):
    vocabulary = ["<s>", "</s>", "<pad>", "<unk>", *LETTERS, "</"]
    bpe = models.BPE({w: i for i, w in enumerate(vocabulary)}, [("<", "/")], unk_token="<unk>")
    fast(folder, bpe)


def of_bytes(folder):
    ByT5Tokenizer().save_pretrained(folder)


@pytest.mark.parametrize("make", [t5, words, unigram, pairs_of_bytes, of_bytes])
def test_special_tokens_in_texts_are_text(tmp_path, make):
    make(tmp_path / "base")
    tokenizer = load_tokenizer(str(tmp_path / "base"))
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    around = tokenizer("")["input_ids"]
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert not special & set(own), text
        assert len(ids) == len(own) + len(around)
        assert special & set(ids) == special & set(around)


@pytest.mark.parametrize("make", [t5, words, unigram, pairs_of_bytes, of_bytes])
def test_plain_transformers_has_the_same_tokens(tmp_path, make):
    make(tmp_path / "base")
    tokenizer = load_tokenizer(str(tmp_path / "base"))
    tokenizer.save_pretrained(tmp_path / "bundle")
    plain = AutoTokenizer.from_pretrained(tmp_path / "bundle")
    again = load_tokenizer(str(tmp_path / "bundle"))
    for found in (plain, again):
        assert dict(found(TEXTS, padding=True)) == dict(tokenizer(TEXTS, padding=True))
        assert found.padding_side == tokenizer.padding_side
        assert found.special_tokens_map == tokenizer.special_tokens_map


@pytest.mark.parametrize("make", [t5, words, unigram, pairs_of_bytes, of_bytes])
def test_texts_without_special_tokens_are_left_alone(tmp_path, make):
    make(tmp_path / "base")
    texts = ["a b", "abc </ s >", "", "x"]
    plain = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert dict(load_tokenizer(str(tmp_path / "base"))(texts)) == dict(plain(texts))


@pytest.mark.parametrize("make", [words, unigram, pairs_of_bytes])
def test_added_tokens_that_are_not_special_stay(tmp_path, make):
    make(tmp_path / "base")
    tokenizer = load_tokenizer(str(tmp_path / "base"))
    own = tokenizer("a qq</s> b", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_tokens_to_ids("qq") in own
    assert tokenizer.eos_token_id not in own


@pytest.mark.parametrize(
    ("config", "side"), [(GPT2Config(), "right"), (XLNetConfig(), "left"), (None, "left")]
)
def test_padding_comes_after_the_text_unless_the_model_reads_the_last_position(
    tmp_path, config, side
):
    words(tmp_path)
    assert load_tokenizer(str(tmp_path), config).padding_side == side


def test_the_beginning_of_a_long_text_is_read(tmp_path):
    words(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, truncation_side="left")
    tokenizer.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    ids = tokenizer("a b c d e", truncation=True, max_length=4)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "a", "b", "</s>"]
