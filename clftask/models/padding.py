"""Whether a model's logits for a text depend on the padding of its batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from clftask.components.truncation import KeepHead
from clftask.data.batching import FlatTokens
from clftask.data.tokenization import tokenise

Forward = Callable[[dict[str, torch.Tensor]], torch.Tensor]
# CANINE pools groups of four characters: one of the first two is padded within a group.
_TEXTS = pa.array(["a text", "any text", "a longer text of a few more words"])
_TOLERANCE = 1e-5  # the rounding of fp32 is far below, the effect of padding above


def depends_on_padding(forward: Forward, tokenizer: Any, max_length: int) -> bool:
    """Tell whether padding changes a text's logits, although it is masked.

    FNet mixes all positions of a batch; MobileBERT, ConvBERT, CANINE, Nystromformer and YOSO have
    convolutions, pooling or hashes over them. The rows of a batch must then have equal lengths.

    Args:
        forward: Returns the logits of model inputs, in fp32 and without dropout.
        tokenizer: The model's tokenizer.
        max_length: Maximum number of tokens of one model input.
    """
    try:
        flat = FlatTokens(tokenise(_TEXTS, None, tokenizer, max_length, KeepHead()))
        padded = forward(flat.padded(np.arange(len(_TEXTS)), tokenizer))
        alone = [forward(flat.padded(np.array([row]), tokenizer))[0] for row in range(2)]
    except Exception:  # models raise all classes; the first batch will raise it, too
        return False
    scale = max(1.0, float(padded.abs().max()))
    return not torch.allclose(torch.stack(alone), padded[:2], rtol=0, atol=_TOLERANCE * scale)


def least_width(model: Any) -> int:
    """Return the least number of tokens of a model input: CANINE pools groups of characters."""
    config = getattr(getattr(model, "base_model", model), "config", None)
    return int(getattr(config, "downsampling_rate", 1))
