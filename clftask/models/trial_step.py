"""One step before training: does the classifier work with its tokenizer, and what does it use?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import AutoModelForSequenceClassification
from transformers.initialization import no_init_weights
from transformers.trainer_utils import align_special_tokens

from clftask.components.adapt import stacked_layers
from clftask.components.heads import MlpHead
from clftask.config.sections import ModelSpec
from clftask.data.batching import FlatTokens, widths
from clftask.data.tokenization import sequences, tokenise
from clftask.errors import ClftaskError, ConfigError
from clftask.messages import first_line
from clftask.models import mlp
from clftask.models.padding import least_width

Refuse = Callable[[str, str], ClftaskError]
_TEXTS = pa.array(["a", "a short text of a few words"])  # of two lengths: one is padded


def untrained(config: Any, spec: ModelSpec) -> Any:
    """Return a job's model with uninitialised weights; the system allocates no memory for them."""
    with no_init_weights():
        if isinstance(spec.head, MlpHead):
            return mlp.MlpClassifier(mlp.configuration(config, spec.head, config))
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)


def prepare(model: Any, tokenizer: Any, spec: ModelSpec, has_pairs: bool) -> None:
    """Freeze the parameters that the loss does not reach.

    DDP fails if a trained parameter has no gradient: poolers and query streams that only
    pretraining uses, entity embeddings, the token types of a text without any.

    Args:
        model: The job's model.
        tokenizer: Its tokenizer, whose special tokens the model's configuration receives.
        spec: The job's model section.
        has_pairs: Whether the job has second texts.
    """
    align_special_tokens(model, tokenizer)
    reached = set()

    def reach(parameter: torch.Tensor) -> None:
        reached.add(parameter)
        parameter.grad = None

    trained = [p for p in model.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(reach) for p in trained]
    torch.autograd.backward(_logits(model, tokenizer, spec, has_pairs).sum())
    for hook in hooks:
        hook.remove()
    for parameter in trained:
        parameter.requires_grad = parameter in reached


def check_step(
    model: Any, tokenizer: Any, spec: ModelSpec, has_pairs: bool, refuse: Refuse
) -> None:
    """Check on the CPU that a forward pass works, with the inputs of training.

    Args:
        model: The result of `untrained`.
        tokenizer: Its tokenizer.
        spec: The job's model section.
        has_pairs: Whether the job has second texts.
        refuse: Returns the error to raise for a problem and its remedy.
    """
    remedy = other_choice(spec)
    try:
        align_special_tokens(model, tokenizer)
        spec.adapt.apply(model.base_model)
        with torch.no_grad():
            shape = tuple(_logits(model, tokenizer, spec, has_pairs).shape)
    except ConfigError:
        raise
    except Exception as error:  # anything that a model raises
        kind = spec.head.kind
        reason = f"does not work with head {kind} and this tokenizer: {first_line(error)}"
        raise refuse(reason, remedy) from None
    if len(shape) != 2 or shape[1] != model.config.num_labels:
        raise refuse(f"gives logits of shape {shape} instead of one row per text", remedy)


def calls_layers(model: Any, tokenizer: Any, spec: ModelSpec, has_pairs: bool) -> bool:
    """Tell whether a forward pass calls each layer as a module, not its `forward`: with hooks."""
    names = {name for layer in stacked_layers(model.base_model) for name in layer}
    left = {model.base_model.get_submodule(name) for name in names}
    hooks = [layer.register_forward_hook(lambda own, *_: left.discard(own)) for layer in left]
    with torch.no_grad():
        _logits(model, tokenizer, spec, has_pairs)
    for hook in hooks:
        hook.remove()
    return not left


def other_choice(spec: ModelSpec) -> str:
    """Return the remedy for a base that does not work with a job's head."""
    is_mlp = isinstance(spec.head, MlpHead)
    return "Use head: linear, the model's own head." if is_mlp else "Use another base."


def _logits(model: Any, tokenizer: Any, spec: ModelSpec, has_pairs: bool) -> torch.Tensor:
    """Return the logits of two short texts, in training mode; random states are kept."""
    pairs = _TEXTS if has_pairs else None
    tokens, _ = sequences(tokenise(_TEXTS, pairs, tokenizer, spec.max_length, spec.long_text))
    flat = FlatTokens(tokens)
    width = int(widths(flat.lengths, spec.max_length, least_width(model)).max())
    inputs = flat.padded(np.arange(tokens.num_rows), tokenizer, width)
    with torch.random.fork_rng(devices=[]):
        logits: torch.Tensor = model.train()(**inputs).logits
    return logits.float()


def num_positions(model: Any) -> int | None:
    """Return the maximum number of tokens of the model's positions, None if unlimited.

    Tables of positions may begin with rows that no token uses: RoBERTa's begin after the padding
    index, BART's have an offset.
    """
    config = model.base_model.config.get_text_config()
    limits = [getattr(config, "max_position_embeddings", None)]
    for table, first in _position_tables(model):
        limits.append(table.weight.shape[0] - first)
    known = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    return min(known, default=None)


def _position_tables(model: Any) -> list[tuple[Any, int]]:
    """Return the tables of position embeddings, and the first row that a token uses."""
    found = []
    for name, module in model.named_modules():
        own = name.rpartition(".")[2]
        is_table = own == "wpe" or own in _POSITIONS
        if is_table and getattr(getattr(module, "weight", None), "ndim", 0) == 2:
            padding = getattr(module, "padding_idx", None)
            first = getattr(module, "offset", 0 if padding is None else padding + 1)
            found.append((module, first))
    return found


_POSITIONS = {
    "position_embeddings",
    "positions_embed",
    "embed_positions",
    "char_position_embeddings",
}


def check_vocabulary(model: Any, tokenizer: Any, refuse: Refuse) -> None:
    """Check that each token has an embedding."""
    try:
        rows = model.get_input_embeddings().weight.shape[0]
    except (NotImplementedError, AttributeError):
        return  # CANINE hashes characters
    size = max(tokenizer.get_vocab().values(), default=-1) + 1
    if size > rows:
        remedy = f"Call model.resize_token_embeddings({size}) and save the model again"
        if tokenizer.pad_token_id >= rows and tokenizer.eos_token is not None:
            remedy += ", or save the tokenizer with its eos_token as pad_token"
        raise refuse(f"its tokenizer has {size} tokens, the model {rows} embeddings", f"{remedy}.")
