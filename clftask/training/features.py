"""Features: the states of a frozen encoder that the head reads, computed once for all epochs.

A head reads one state of a text: that of the first token (BERT, RoBERTa), of the last one
(decoders), or the mean (clftask's MLP head). To train it without the encoder, the model runs on
one token, and its encoder gives the kept state: all else is the model's own code. Whether that
gives the model's logits, and for which state, is tried on a few texts.

The encoder runs without dropout; the head has its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from clftask.array_types import Float32
from clftask.data.batching import FlatTokens, feature_inputs
from clftask.data.tokenization import sequences
from clftask.messages import counted, first_line
from clftask.models.padding import least_width
from clftask.training.arguments import precision_of
from clftask.training.collectives import array_from_first, broadcast_from_first
from clftask.training.inference import Inference

MAX_BYTES = 4 * 2**30  # of features on a worker
NUM_TRIED = 8  # texts
TOLERANCE = 1e-5  # of the logits, which are computed in fp32
_ROWS = 4096  # of one forward pass of the head

State = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _first(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states[:, 0]


def _last(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    places = torch.arange(mask.shape[1], device=mask.device)
    rows = torch.arange(len(mask), device=mask.device)
    return states[rows, (places * mask).argmax(1)]


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


# From (texts, tokens, size) states and the (texts, tokens) mask to the (texts, size) state read.
STATES: dict[str, State] = {"first": _first, "last": _last, "mean": _mean}


@dataclass(frozen=True)
class Features:
    """The features of train and validation, on every worker.

    Attributes:
        splits: (model inputs, size) float32 features of each split.
        precision: In which they were computed: fp32, bf16 or fp16.
    """

    splits: dict[str, Float32]
    precision: str

    def cover(self, split: str, is_exact: bool) -> bool:
        """Tell whether the logits of a split, in fp32 if `is_exact`, can be computed from them."""
        return split in self.splits and (self.precision == "fp32" or not is_exact)

    def logits(self, inference: Inference, tokens: pa.Table, split: str) -> Float32 | None:
        """Return (rows, labels) float32 logits of a split on the first worker, else None."""
        is_first = inference.args.process_index == 0
        if not is_first and not inference.is_sharded:  # a sharded model needs all workers
            return None
        whole = self.splits[split]
        parts = [
            _head_logits(inference, whole[i : i + _ROWS], is_exact=False).cpu().numpy()
            for i in range(0, len(whole), _ROWS)
        ]
        pooled = inference.job.transformer.long_text.pooled
        return pooled(np.concatenate(parts), sequences(tokens)[1]) if is_first else None


def features_of(
    inference: Inference,
    tables: dict[str, pa.Table],
    note: Callable[[str], None],
    known: Features | None = None,
) -> Features | None:
    """Return the features of train and validation; every worker must call it.

    Args:
        inference: Has the model, whose encoder is frozen.
        tables: Tokenised splits.
        note: Receives what was done, or why the encoder has to run in each epoch: then the result
            is None.
        known: Features of the same encoder and rows, returned if they have this precision.
    """
    if known is not None and known.precision == precision_of(inference.args):
        return known
    splits = {name: sequences(tables[name])[0] for name in ("train", "validation")}
    num_inputs = sum(len(table) for table in splits.values())
    try:
        state, size, reason = _state_read(inference, splits["train"])
        reason = reason or _too_large(num_inputs, size)
    except Exception as error:  # models raise all classes on inputs that they do not expect
        state, size, reason = "", 0, first_line(error)
    state, size, reason = broadcast_from_first((state, size, reason))
    if reason:
        note(f"the frozen encoder runs in each epoch: {reason}")
        return None
    encoder = _Encoder(inference, STATES[state], size)
    found = {name: encoder.everywhere(table) for name, table in splits.items()}
    inputs = counted(num_inputs, "model input")
    note(f"the frozen encoder ran once over {inputs}, without dropout; the epochs train the head")
    return Features(found, precision_of(inference.args))


def _too_large(num_inputs: int, size: int) -> str:
    gib = num_inputs * size * 4 / 2**30
    if gib * 2**30 <= MAX_BYTES:
        return ""
    return f"its features need {gib:.1f} GiB per worker, more than {MAX_BYTES / 2**30:g}"


def _state_read(inference: Inference, inputs: pa.Table) -> tuple[str, int, str]:
    """Return the name of the state that the head reads, its size, and why there is none, or ""."""
    model, tokenizer = inference.model, inference.tokenizer
    flat = FlatTokens(inputs, least_width(model))
    order = np.argsort(-flat.lengths, kind="stable")
    rows = order[np.linspace(0, len(order) - 1, NUM_TRIED).astype(int)]  # of all lengths
    batch = flat.padded(rows, tokenizer)
    with torch.no_grad(), _states(model) as seen, _own_dtypes(model):
        expected = inference.forward(batch, is_exact=True)
    states, mask = seen[0].float(), batch["attention_mask"].to(seen[0].device)
    if (expected - expected[0]).abs().max() <= TOLERANCE:
        return "", 0, "the new head gives the same logits for all texts, so it cannot be tried"
    for name, read in STATES.items():
        found = _head_logits(inference, read(states, mask).cpu().numpy(), is_exact=True)
        is_same = found.shape == expected.shape
        if is_same and torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
            return name, states.shape[-1], ""
    return "", 0, "the head does not read the state of the first or last token, or the mean"


class _Encoder(Inference):
    """Forward passes that give features instead of logits."""

    def __init__(self, inference: Inference, read: State, size: int) -> None:
        tokenizer, job, args = inference.tokenizer, inference.job, inference.args
        super().__init__(inference.model, tokenizer, job, args, size)
        self.read = read

    @torch.no_grad()
    def forward(self, batch: dict[str, torch.Tensor], is_exact: bool) -> torch.Tensor:
        with _states(self.model) as seen:
            super().forward(batch, is_exact)
        return self.read(seen[0], batch["attention_mask"].to(seen[0].device)).float()

    def everywhere(self, inputs: pa.Table) -> Float32:
        """Return the (model inputs, size) features on every worker."""
        return array_from_first(self.gathered(inputs, is_exact=False), (len(inputs), self.size))


def _head_logits(inference: Inference, features: Float32, is_exact: bool) -> torch.Tensor:
    """Return the (rows, labels) float32 logits of the model on features, on its device."""
    inputs = feature_inputs(features, inference.tokenizer)
    states = inputs.pop("features").to(inference.args.device)
    with encoder_gives(inference.model, states):
        return inference.forward(inputs, is_exact)


@contextlib.contextmanager
def _own_dtypes(model: Any) -> Iterator[None]:
    """Give each layer inputs of its weights' type: a frozen encoder may be in bf16, a head not."""

    def cast(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        own = next(module.parameters(recurse=False)).dtype
        return tuple(
            x.to(own) if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs
        )

    layers = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
    hooks = [layer.register_forward_pre_hook(cast) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _states(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collect the last states (texts, tokens, size) of a model's encoder."""
    seen: list[torch.Tensor] = []
    hook = model.base_model.register_forward_hook(lambda _, __, output: seen.append(output[0]))
    try:
        yield seen
    finally:
        hook.remove()


@contextlib.contextmanager
def encoder_gives(model: Any, states: torch.Tensor | None) -> Iterator[None]:
    """Let a model's encoder return these states (texts, tokens, size); None: its own.

    A pooler, which is trained with the head, reads them.
    """
    if states is None:
        yield
        return
    from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

    base = model.base_model
    pooler = getattr(base, "pooler", None)

    def forward(*_: Any, **__: Any) -> Any:
        pooled = None if pooler is None else pooler(states)
        # The class with the most fields: heads read some of them, to return them.
        return BaseModelOutputWithPoolingAndCrossAttentions(states, pooled)

    base.forward = forward
    try:
        yield
    finally:
        del base.forward
