"""Tokenisation, the same for training and scoring."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.truncation import LongTextSpec, single_types, whole_ids

CHARS_A_TOKEN = 10  # above the average of usual texts
_KEEP_ALL = {"Lowercase", "NFC", "NFD", "NFKC", "NFKD"}
_LEAVE_OUT = {"BertNormalizer", "StripAccents"}  # control characters or marks
_DROP_BLANKS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_BLANK = re.compile(r"(?<=\S)[ \t\r\n]")


def tokenise(
    texts: Any, pairs: Any | None, tokenizer: Any, max_length: int, long_text: LongTextSpec
) -> pa.Table:
    """Tokenise texts; the tokenizer runs its own threads.

    Long texts are cut before tokenisation where this does not change the kept tokens: the
    tokenizers library tokenises a whole text before it truncates.

    Args:
        texts: (rows,) Arrow strings without nulls.
        pairs: (rows,) the second texts of a pair task, or None.
        tokenizer: A transformers tokenizer.
        max_length: Maximum number of tokens of one model input.
        long_text: The treatment of longer texts.

    Returns:
        The table of `LongTextSpec.encoded`; with token_type_ids if they are not all 0.
    """
    found = _encoded(texts, pairs, tokenizer, max_length, long_text)
    return found if pairs is not None else _with_types(found, tokenizer)


def _encoded(
    texts: Any, pairs: Any | None, tokenizer: Any, max_length: int, long_text: LongTextSpec
) -> pa.Table:
    first = texts.to_pylist()
    if pairs is not None:
        # Pairs are not cut: longest_first truncation depends on the lengths of both texts.
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


def _with_types(tokens: pa.Table, tokenizer: Any) -> pa.Table:
    """Add the token types of single texts, for each window, unless all are 0."""
    before, own, after = single_types(tokenizer)
    if not any((*before, own, *after)):
        return tokens
    ids = one_array(tokens["input_ids"])
    windows = "windows" in tokens.column_names
    length = one_array(tokens["windows"]).flatten() if windows else tokens["length"]
    ends = np.cumsum(length.to_numpy())
    types = np.full(ends[-1] if len(ends) else 0, own, np.int32)
    for i, kind in enumerate(before):
        types[ends - length.to_numpy() + i] = kind
    for i, kind in enumerate(reversed(after), 1):
        types[ends - i] = kind
    column = pa.ListArray.from_arrays(ids.offsets, pa.array(types))
    return tokens.append_column("token_type_ids", column)


def sequences(tokens: pa.Table) -> tuple[pa.Table, npt.NDArray[np.int64] | None]:
    """Return one row per model input.

    Args:
        tokens: The result of `tokenise`.

    Returns:
        A table with input_ids, token_type_ids if there are any, and length of each window, and
        the (rows,) number of windows of each row. Without windows: `tokens` unchanged, and None.
    """
    if "windows" not in tokens.column_names:
        return tokens, None
    windows = one_array(tokens["windows"])
    length = windows.flatten().to_numpy()
    ends = np.concatenate([[0], np.cumsum(length, dtype=np.int64)])
    names = [n for n in ("input_ids", "token_type_ids") if n in tokens.column_names]
    values = {n: one_array(tokens[n]).flatten() for n in names}
    lists = {n: pa.LargeListArray.from_arrays(pa.array(ends), v) for n, v in values.items()}
    return pa.table({**lists, "length": length}), pc.list_value_length(windows).to_numpy().astype(
        np.int64
    )


def distinct(
    texts: Any, pairs: Any | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first row of each different text (or pair), and the (rows,) place of each row's
    text among them.

    Args:
        texts: (rows,) Arrow strings without nulls, at least one.
        pairs: (rows,) the second texts of a pair task, or None.
    """
    code = np.zeros(len(texts), np.int64)
    for column in [texts] if pairs is None else [texts, pairs]:
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        codes = whole.dictionary_encode().indices.to_numpy().astype(np.int64)
        code = code * (codes.max() + 1) + codes
    _, first, place = np.unique(code, return_index=True, return_inverse=True)
    return first, place


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def splits_at_blanks(tokenizer: Any) -> bool:
    """Check whether the text before a blank has the same tokens whatever follows the blank.

    This holds if the normalizers treat each character and its marks separately, the
    pre-tokenizers split at every blank, and no added token spans a blank. Normalizers that
    remove characters may join blanks, so they are allowed only where blanks produce no tokens.
    Unigram models and BPE without a pre-tokenizer tokenise across words.
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
    """Return the type names of a normalizer's or pre-tokenizer's components."""
    if component is None:
        return set()
    found: dict[str, Any] = json.loads(component.__getstate__())
    parts = found.get("normalizers") or found.get("pretokenizers") or [found]
    # tokenizers: ByteLevel splits only if use_regex is set.
    return {part["type"] if part.get("use_regex", True) else "" for part in parts}


def _head(text: str, most: int) -> str:
    """Return a text up to the first blank after `most` characters."""
    blank = _BLANK.search(text, most) if len(text) > most else None
    return text if blank is None else text[: blank.start()]


def full_lengths(texts: Any, pairs: Any | None, tokens: pa.Table, tokenizer: Any) -> pa.Array:
    """Return (rows,) int32: the number of tokens of each row before truncation.

    Args:
        texts: As for `tokenise`.
        pairs: As for `tokenise`.
        tokens: The result of `tokenise` for these texts.
        tokenizer: The tokenizer of that call.
    """
    cut = np.flatnonzero(tokens["is_truncated"].to_numpy())
    lengths = tokens["num_tokens"].to_numpy().copy()
    if len(cut):
        second = None if pairs is None else pairs.take(pa.array(cut)).to_pylist()
        whole = whole_ids(texts.take(pa.array(cut)).to_pylist(), tokenizer, second)
        lengths[cut] = [len(ids) for ids in whole]
    return pa.array(lengths, pa.int32())
