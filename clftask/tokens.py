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
        input_ids and, for pairs, token_type_ids (list<int32>); length; full_length, which
        counts the tokens that were cut off, too.
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
    full = length.to_numpy(zero_copy_only=False).copy()
    for i in np.flatnonzero(full >= max_length) if encoded.encodings else ():
        full[i] += sum(len(part.ids) for part in encoded.encodings[i].overflowing)
    return pa.table({**columns, "length": length, "full_length": pa.array(full, pa.int32())})
