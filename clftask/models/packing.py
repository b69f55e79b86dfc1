"""Packed batches: the layers of an encoder run without padding.

Before the first layer the tokens of all rows are put after one another, and behind the last one
back into their rows; attention stays within a row. Embeddings, pooling and head run on padded
rows as before. It works for models whose layers are in a module of their own and attend through
transformers' AttentionInterface: BERT, RoBERTa, ELECTRA, DistilBERT … Whether it gives a model's
logits is tried on a few texts.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional

from clftask.components.adapt import encoder_layers
from clftask.components.truncation import KeepHead
from clftask.data.batching import FlatTokens
from clftask.data.tokenization import tokenise

TOLERANCE = 1e-5  # of the logits in fp32, as for `depends_on_padding`
PLACES, STARTS = "packed_places", "cu_seq_lens_q"  # the second is transformers' name
# Arguments with which a layer asks for more than plain attention within a row.
_REFUSED = ("sliding_window", "softcap", "position_bias", "s_aux")

Attend = Callable[..., torch.Tensor]


def varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
    scale: float | None,
) -> torch.Tensor:
    """Return the attention of packed rows by torch's flash kernel: on GPUs, in half precision.

    Args:
        query: (tokens, heads, size).
        key: As `query`.
        value: As `query`.
        starts: (rows + 1,) int32 where each row starts, and the end of the last one.
        longest: At least the tokens of the longest row.
        scale: Of the scores; None: one by the root of `size`.
    """
    from torch.nn.attention.varlen import varlen_attn

    found = varlen_attn(query, key, value, starts, starts, longest, longest, scale=scale)
    return torch.as_tensor(found)


def row_by_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
    scale: float | None,
) -> torch.Tensor:
    """Return what `varlen` does, on any device and in any precision, slowly."""
    parts = []
    for start, end in itertools.pairwise(starts.tolist()):
        own = (states[start:end].transpose(0, 1) for states in (query, key, value))
        found = functional.scaled_dot_product_attention(*own, scale=scale)  # type: ignore[misc, arg-type]
        parts.append(found.transpose(0, 1))
    return torch.cat(parts)


def _attention(
    attend: Attend,
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function of a layer; states are (1, heads, tokens, size)."""
    if getattr(module, "is_causal", False) or any(more.get(n) is not None for n in _REFUSED):
        raise ValueError("this attention cannot be packed")
    states = (part[0].transpose(0, 1) for part in (query, key, value))
    found = attend(*states, more[STARTS], more["max_length_q"], scaling)
    return found.unsqueeze(0), None


class Packing:
    """Packs the batches of a model until `stop`.

    Args:
        model: A classifier.
        longest: The most tokens of a row.
        attend: `varlen` or `row_by_row`, by whose name transformers knows it.

    Raises:
        ValueError: Its layers are in no module of their own.
    """

    def __init__(self, model: Any, longest: int, attend: Attend = varlen) -> None:
        from transformers import AttentionInterface

        self.model, self.longest = model, longest
        encoder, name = _encoder(model.base_model), f"clftask_{attend.__name__}"
        AttentionInterface.register(name, partial(_attention, attend))
        self.config = model.base_model.config
        self.before = self.config._attn_implementation
        # A name for which transformers makes no mask: making one waits for the GPU.
        self.config._attn_implementation = name
        self.hooks = [
            encoder.register_forward_pre_hook(self._pack, with_kwargs=True),
            encoder.register_forward_hook(self._unpack),
        ]
        self.lock = threading.Lock()  # a batch's layout is kept here while the layers run
        self.places = self.starts = torch.zeros(0)
        self.shape = torch.Size()

    def stop(self) -> None:
        """Let the model run on padded rows again."""
        with self.lock:
            self.config._attn_implementation = self.before
            for hook in self.hooks:
                hook.remove()

    def forward(self, **inputs: torch.Tensor) -> Any:
        """Return the output of the model for padded inputs and their `layout`."""
        with self.lock:
            self.places, self.starts = inputs.pop(PLACES), inputs.pop(STARTS)
            return self.model(**inputs)

    def _pack(self, _: Any, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        states = args[0] if args else options["hidden_states"]
        self.shape = states.shape
        packed = states.flatten(0, 1).index_select(0, self.places).unsqueeze(0)
        more = {**options, STARTS: self.starts, "max_length_q": self.longest}
        return ((packed, *args[1:]), more) if args else ((), {**more, "hidden_states": packed})

    def _unpack(self, _: Any, __: Any, output: Any) -> Any:
        packed = output[0]
        rows, width, _ = self.shape
        padded = packed.new_zeros(rows * width, packed.shape[-1])
        padded = padded.index_copy_(0, self.places, packed[0]).view(rows, width, -1)
        if isinstance(output, tuple):
            return padded, *output[1:]
        output.last_hidden_state = padded
        return output


def layout(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what `Packing.forward` needs beside padded inputs.

    Args:
        mask: (rows, width) their attention mask, in the memory of the host.
    """
    starts = functional.pad(mask.sum(1).cumsum(0), (1, 0))
    return {PLACES: mask.flatten().nonzero()[:, 0], STARTS: starts.to(torch.int32)}


def _encoder(base: Any) -> torch.nn.Module:
    """Return the module of a pretrained model that owns the layers."""
    layers = encoder_layers(base)
    owner: torch.nn.Module = next(
        m for m in base.modules() if any(child is layers for child in m.children())
    )
    if owner is base:
        raise ValueError("the layers are in no module of their own")
    return owner


@torch.inference_mode()
def can_pack(model: Any, tokenizer: Any, max_length: int) -> bool:
    """Tell whether a model's logits in fp32 are the same for packed rows.

    Args:
        model: A classifier in fp32, without dropout.
        tokenizer: Its tokenizer.
        max_length: Maximum number of tokens of one model input.
    """
    device = next(model.parameters()).device
    try:
        texts = pa.array(["a text", "any", " ".join(["a longer text"] * max_length)])
        flat = FlatTokens(tokenise(texts, None, tokenizer, max_length, KeepHead()))
        host = flat.padded(np.arange(len(texts)), tokenizer)
        inputs = {name: tensor.to(device) for name, tensor in host.items()}
        more = {name: tensor.to(device) for name, tensor in layout(host["attention_mask"]).items()}
        padded = model(**inputs).logits
        packing = Packing(model, max_length, row_by_row)
    except Exception:  # models raise all classes
        return False
    try:
        packed = packing.forward(**inputs, **more).logits
    except Exception:
        return False
    finally:
        packing.stop()
    scale = max(1.0, float(padded.abs().max()))
    return torch.allclose(packed, padded, rtol=0, atol=TOLERANCE * scale)
