"""Texts to tokens: the same call in training and in scoring."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

CHARS_A_TOKEN = 10  # more than texts have on average
_KEEP_ALL = {"Lowercase", "NFC", "NFD", "NFKC", "NFKD"}
_LEAVE_OUT = {"BertNormalizer", "StripAccents"}  # control characters or marks
_DROP_BLANKS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_BLANK = re.compile(r"(?<=\S)[ \t\r\n]")


def tokenise(texts: Any, pairs: Any | None, tokenizer: Any, max_length: int) -> pa.Table:
    """Tokenise texts, in parallel by the tokenizer's own threads.

    Of a long text only the beginning is looked at, where that gives the very same tokens.

    Args:
        texts: (rows,) Arrow strings without nulls.
        pairs: (rows,) the second texts of a pair task, or None.
        tokenizer: A transformers tokenizer.
        max_length: Tokens kept of a row.

    Returns:
        input_ids and, for pairs, token_type_ids (list<int32>); length (int32); is_truncated.
    """
    first = texts.to_pylist()
    if pairs is not None:
        # Whole: which of two long texts keeps one token more depends on both lengths.
        return _encoded(first, pairs.to_pylist(), tokenizer, max_length)
    most = CHARS_A_TOKEN * max_length
    if not any(len(text) > most for text in first) or not splits_at_blanks(tokenizer):
        return _encoded(first, None, tokenizer, max_length)
    heads = [_head(text, most) for text in first]
    found = _encoded(heads, None, tokenizer, max_length)
    is_head = np.array([len(h) < len(text) for h, text in zip(heads, first, strict=True)])
    too_short = np.flatnonzero(is_head & ~found["is_truncated"].to_numpy())
    if not len(too_short):
        return found
    whole = _encoded([first[i] for i in too_short], None, tokenizer, max_length)
    order = np.arange(len(first))
    order[too_short] = len(first) + np.arange(len(too_short))
    return pa.concat_tables([found, whole]).take(pa.array(order)).combine_chunks()


def splits_at_blanks(tokenizer: Any) -> bool:
    """Tell whether what stands before a blank has the same tokens whatever comes after it.

    So it is where normalizers look at a character and its marks alone, where pre-tokenizers
    split at every blank, and where no added token can reach over one. Normalizers that leave
    characters out may join blanks, which then must not count. Unigram models and BPE without
    a pre-tokenizer look at more than a word.
    """
    if not getattr(tokenizer, "is_fast", False) or tokenizer.truncation_side != "right":
        return False
    backend = tokenizer.backend_tokenizer
    normalizers, splitters = _parts(backend.normalizer), _parts(backend.pre_tokenizer)
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    do_blanks_count = "ByteLevel" in splitters or any(re.search(r"\s", token) for token in added)
    return (
        normalizers <= (_KEEP_ALL if do_blanks_count else _KEEP_ALL | _LEAVE_OUT)
        and bool(splitters)
        and splitters <= _DROP_BLANKS | {"ByteLevel"}
        and all(token.isascii() and not re.search(r"\S\s", token) for token in added)
    )


def _parts(component: Any) -> set[str]:
    """Return the names of what a normalizer or pre-tokenizer is made of."""
    if component is None:
        return set()
    found: dict[str, Any] = json.loads(component.__getstate__())
    parts = found.get("normalizers") or found.get("pretokenizers") or [found]
    # A ByteLevel without its pattern does not split.
    return {part["type"] if part.get("use_regex", True) else "" for part in parts}


def _head(text: str, most: int) -> str:
    """Return a text up to the first blank after `most` characters."""
    blank = _BLANK.search(text, most) if len(text) > most else None
    return text if blank is None else text[: blank.start()]


def _encoded(
    texts: list[str], pairs: list[str] | None, tokenizer: Any, max_length: int
) -> pa.Table:
    encoded = tokenizer(
        texts,
        pairs,
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,
    )
    columns = {
        name: pa.array(encoded[name], pa.list_(pa.int32()))
        for name in ("input_ids", "token_type_ids")
        if name in encoded and (name == "input_ids" or pairs is not None)
    }
    length = pc.list_value_length(columns["input_ids"])
    is_cut = length.to_numpy(zero_copy_only=False) >= max_length
    for i in np.flatnonzero(is_cut) if encoded.encodings else ():
        is_cut[i] = bool(encoded.encodings[i].overflowing)
    return pa.table({**columns, "length": length, "is_truncated": pa.array(is_cut)})


def full_lengths(texts: Any, pairs: Any | None, tokens: pa.Table, tokenizer: Any) -> pa.Array:
    """Return (rows,) int32: how many tokens each row has, those that were cut off, too.

    Args:
        texts: As for `tokenise`.
        pairs: As for `tokenise`.
        tokens: What `tokenise` returned for them.
        tokenizer: The same one.
    """
    cut = pc.indices_nonzero(tokens["is_truncated"])
    second = None if pairs is None else pairs.take(cut).to_pylist()
    lengths = tokens["length"].to_numpy().copy()
    if len(cut):
        whole = tokenizer(texts.take(cut).to_pylist(), second, return_attention_mask=False)
        lengths[cut.to_numpy()] = [len(ids) for ids in whole["input_ids"]]
    return pa.array(lengths, pa.int32())
