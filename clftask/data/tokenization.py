"""Texts to tokens: the same call in training and in scoring."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.truncation import LongTextSpec, whole_ids

CHARS_A_TOKEN = 10  # more than texts have on average
_KEEP_ALL = {"Lowercase", "NFC", "NFD", "NFKC", "NFKD"}
_LEAVE_OUT = {"BertNormalizer", "StripAccents"}  # control characters or marks
_DROP_BLANKS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_BLANK = re.compile(r"(?<=\S)[ \t\r\n]")


def tokenise(
    texts: Any, pairs: Any | None, tokenizer: Any, max_length: int, long_text: LongTextSpec
) -> pa.Table:
    """Tokenise texts, in parallel by the tokenizer's own threads.

    Of a long text only the beginning is looked at, where that gives the very same tokens.

    Args:
        texts: (rows,) Arrow strings without nulls.
        pairs: (rows,) the second texts of a pair task, or None.
        tokenizer: A transformers tokenizer.
        max_length: Tokens that the model takes at once.
        long_text: What is read of longer texts.

    Returns:
        What `LongTextSpec.encoded` returns.
    """
    first = texts.to_pylist()
    if pairs is not None:
        # Whole: which of two long texts keeps one token more depends on both lengths.
        return long_text.encoded(first, pairs.to_pylist(), tokenizer, max_length)
    num_read = long_text.num_read(max_length)
    most = CHARS_A_TOKEN * (num_read or 0)
    is_any_long = num_read is not None and any(len(text) > most for text in first)
    if not is_any_long or not splits_at_blanks(tokenizer):
        return long_text.encoded(first, None, tokenizer, max_length)
    heads = [_head(text, most) for text in first]
    found = long_text.encoded(heads, None, tokenizer, max_length)
    is_head = np.array([len(h) < len(text) for h, text in zip(heads, first, strict=True)])
    too_short = np.flatnonzero(is_head & ~found["is_truncated"].to_numpy())
    if not len(too_short):
        return found
    whole = long_text.encoded([first[i] for i in too_short], None, tokenizer, max_length)
    order = np.arange(len(first))
    order[too_short] = len(first) + np.arange(len(too_short))
    return pa.concat_tables([found, whole]).take(pa.array(order)).combine_chunks()


def sequences(tokens: pa.Table) -> tuple[pa.Table, npt.NDArray[np.int64] | None]:
    """Return what the model takes one by one.

    Args:
        tokens: What `tokenise` returned.

    Returns:
        A row for each window: input_ids and length; and (rows,) how many windows each row has.
        Without windows: the tokens as they are, and None.
    """
    if "windows" not in tokens.column_names:
        return tokens, None
    windows = one_array(tokens["windows"])
    length = windows.flatten().to_numpy()
    ends = np.concatenate([[0], np.cumsum(length, dtype=np.int64)])
    ids = one_array(tokens["input_ids"]).flatten()
    table = {"input_ids": pa.LargeListArray.from_arrays(pa.array(ends), ids), "length": length}
    return pa.table(table), pc.list_value_length(windows).to_numpy().astype(np.int64)


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


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


def full_lengths(texts: Any, pairs: Any | None, tokens: pa.Table, tokenizer: Any) -> pa.Array:
    """Return (rows,) int32: how many tokens each row has, those that were cut off, too.

    Args:
        texts: As for `tokenise`.
        pairs: As for `tokenise`.
        tokens: What `tokenise` returned for them.
        tokenizer: The same one.
    """
    cut = np.flatnonzero(tokens["is_truncated"].to_numpy())
    lengths = tokens["num_tokens"].to_numpy().copy()
    if len(cut):
        second = None if pairs is None else pairs.take(pa.array(cut)).to_pylist()
        whole = whole_ids(texts.take(pa.array(cut)).to_pylist(), tokenizer, second)
        lengths[cut] = [len(ids) for ids in whole]
    return pa.array(lengths, pa.int32())
