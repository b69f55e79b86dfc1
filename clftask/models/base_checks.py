"""Checks that a job's base can be trained, before any worker starts."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

from clftask.components.adapt import layer_numbers
from clftask.components.heads import MlpHead
from clftask.config.sections import ModelSpec, TrainingSpec
from clftask.errors import ConfigError, Problem
from clftask.io import filesystems
from clftask.io.tempdirs import temporary_folder
from clftask.messages import first_line
from clftask.models.file_checks import check_files
from clftask.models.layers import check_layers, check_number, keep_layers
from clftask.models.loading import (
    find_base,
    import_transformers,
    open_base,
    quiet_loading,
    refuse_base,
    refuse_lost,
)
from clftask.models.tokenizers import load_tokenizer


def check_base_files(spec: ModelSpec) -> None:
    """Check what the files of a base tell without a model library, if they are on this machine.

    Raises:
        ConfigError: A package, the folder or a file is missing, a file is damaged, or the
            configuration has fewer positions than `max_length` or fewer layers than `layers`.
    """
    _check_package(spec)
    if filesystems.is_url(spec.base) and not spec.base.startswith("pkg://"):
        return
    folder = Path(find_base(spec.base, ""))
    if folder.is_dir():
        config = check_files(folder, functools.partial(refuse_base, spec.base))
        limit = config.get("max_position_embeddings")
        if isinstance(limit, int) and limit > 0:
            _check_length(spec, limit)
        layers = config.get("num_hidden_layers")
        if isinstance(layers, int):
            check_number(spec, layers)


def _check_package(spec: ModelSpec) -> None:
    needed = spec.adapt.package
    if needed is not None and importlib.util.find_spec(needed[1]) is None:
        allowed = f"needs the package {needed[1]}, which is not installed"
        remedy = f"pip install 'clftask[{needed[0]}]'"
        raise ConfigError(Problem("model.adapt.kind", spec.adapt.kind, allowed, remedy))


def _check_length(spec: ModelSpec, limit: int) -> None:
    if limit < spec.max_length:
        allowed = f"must be at most {limit}, the positions of {spec.base}"
        raise ConfigError(Problem("model.max_length", spec.max_length, allowed))


def check_base(
    spec: ModelSpec,
    has_pairs: bool = False,
    training: TrainingSpec | None = None,
    is_sharded: bool = False,
) -> Any:
    """Check that a model can be trained, before any worker starts.

    Args:
        spec: The job's model section.
        has_pairs: Whether the job has second texts.
        training: The job's training section; by default, what every base supports.
        is_sharded: Whether workers share the model.

    Returns:
        Its tokenizer. A temporary download is removed.

    Raises:
        ConfigError: The model is missing or incomplete, needs remote code, does not support
            sequence classification, does not work with its tokenizer, has fewer positions
            than `max_length`, or its first `layers` cannot be kept.
    """
    _check_package(spec)
    with temporary_folder() as scratch, quiet_loading():
        tokenizer, model = _check_base(spec, find_base(spec.base, scratch), has_pairs)
        _check_training(model, training or TrainingSpec())
        if is_sharded:
            _check_sharding(model, tokenizer, spec, has_pairs)
        return tokenizer


def _check_base(spec: ModelSpec, base: str, has_pairs: bool) -> tuple[Any, Any]:
    """Return the tokenizer, and the model without its weights."""
    transformers = import_transformers()
    if Path(base).is_dir():
        check_files(Path(base), functools.partial(refuse_base, spec.base))
    try:
        config = transformers.AutoConfig.from_pretrained(base, trust_remote_code=False)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and more
        reason = " ".join(str(error).split())[:300]
        remedy = "Use a reachable hub id, a folder, s3:// or pkg://package/folder."
        raise refuse_base(spec.base, f"cannot be opened: {reason}", remedy) from None
    if isinstance(spec.head, MlpHead) and type(config) not in transformers.AutoModel._model_mapping:
        remedy = "Use head: linear, the model's own head."
        raise refuse_base(spec.base, f"{config.model_type} does not support another head", remedy)
    if getattr(config, "quantization_config", None):
        remedy = "Use the weights before quantisation."
        raise refuse_base(spec.base, "has quantised weights, which cannot be trained", remedy)
    mapping = transformers.AutoModelForSequenceClassification._model_mapping
    if type(config) not in mapping and not isinstance(spec.head, MlpHead):
        raise refuse_base(
            spec.base, f"{config.model_type} has no sequence classification in transformers"
        )
    check_layers(spec, config)
    keep_layers(config, spec.layers)
    if Path(base).is_dir():  # those of a hub id are downloaded by the workers
        _check_weights(spec, base, config)
    tokenizer = _check_tokenizer(spec.base, base, config)
    return tokenizer, _check_model(spec, config, tokenizer, has_pairs)


def _check_training(model: Any, training: TrainingSpec) -> None:
    """Check that the model's layers are found, if the job treats them one by one."""
    kind = model.base_model.config.model_type
    if training.layer_decay is not None and not layer_numbers(model.base_model):
        allowed = f"needs a stack of layers with weights of their own, which {kind} lacks"
        raise ConfigError(
            Problem("training.layer_decay", training.layer_decay, allowed, "Remove it.")
        )
    if training.gradient_checkpointing and not model.base_model.supports_gradient_checkpointing:
        allowed = f"is not supported by {kind} in transformers"
        raise ConfigError(Problem("training.gradient_checkpointing", True, allowed, "Remove it."))


def _check_sharding(model: Any, tokenizer: Any, spec: ModelSpec, has_pairs: bool) -> None:
    """Check that the model calls its layers as modules: FSDP's hooks gather their weights."""
    from clftask.models import trial_step

    if not trial_step.calls_layers(model, tokenizer, spec, has_pairs):
        allowed = f"is not supported by {model.base_model.config.model_type} in transformers"
        raise ConfigError(Problem("scaling.shard", "fsdp", allowed, "Remove it."))


def _check_model(spec: ModelSpec, config: Any, tokenizer: Any, has_pairs: bool) -> Any:
    """Return the model, without its weights."""
    from clftask.models import trial_step

    refuse = functools.partial(refuse_base, spec.base)
    try:
        model = trial_step.untrained(config, spec)
    except Exception as error:  # invalid sizes, a missing package, no hidden_size for an MLP head
        reason = f"has no classifier with head {spec.head.kind}: {first_line(error)}"
        raise refuse(reason, trial_step.other_choice(spec)) from None
    trial_step.check_vocabulary(model, tokenizer, refuse)
    limit = trial_step.num_positions(model)
    if limit is not None:
        _check_length(spec, limit)
    special = tokenizer.num_special_tokens_to_add(pair=has_pairs)
    least = special + 1 + has_pairs  # a token of each text
    if spec.max_length < least:
        allowed = f"must be at least {least}: the tokenizer adds {special} special tokens"
        raise ConfigError(Problem("model.max_length", spec.max_length, allowed))
    trial_step.check_step(model, tokenizer, spec, has_pairs, refuse)
    return model


def _check_tokenizer(name: str, base: str, config: Any) -> Any:
    try:
        tokenizer = load_tokenizer(base, config)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        reason = " ".join(str(error).split())[:300]
        remedy = "Download the model again."
        raise refuse_base(name, f"the tokenizer cannot be opened: {reason}", remedy) from None
    if tokenizer.pad_token is None:
        remedy = "Save the tokenizer with a pad_token."
        raise refuse_base(name, "its tokenizer has no padding or end-of-text token", remedy)
    return tokenizer


def _check_weights(spec: ModelSpec, base: str, config: Any) -> None:
    """Check that a local base has the weights of its configuration, without reading them."""
    from clftask.models import mlp

    try:
        if isinstance(spec.head, MlpHead):
            refuse_lost(base, mlp.open_encoder(base, spec.layers, device_map="meta")[1])
        else:
            open_base(base, config, device_map="meta")
    except ConfigError:
        raise
    except Exception as error:  # transformers and safetensors raise many classes
        reason = f"the weights cannot be opened: {first_line(error)}"
        raise refuse_base(spec.base, reason, "Download the model again.") from None
