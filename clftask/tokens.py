"""Texts to tokens: the same call in training and in scoring."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def tokenise(texts: Any, pairs: Any | None, tokenizer: Any, max_length: int) -> pa.Table:
    """Tokenise texts, in parallel by the tokenizer's own threads.

    Args:
        texts: (rows,) Arrow strings without nulls.
        pairs: (rows,) the second texts of a pair task, or None.
        tokenizer: A transformers tokenizer.
        max_length: Tokens kept of a row.

    Returns:
        input_ids and, for pairs, token_type_ids (list<int32>); length (int32); is_truncated.
    """
    second = None if pairs is None else pairs.to_pylist()
    encoded = tokenizer(
        texts.to_pylist(),
        second,
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
