"""Keeps the first layers of a base: a smaller model that begins as the larger one does."""

from __future__ import annotations

import copy
from typing import Any

from clftask.components.adapt import encoder_layers
from clftask.config.sections import ModelSpec
from clftask.errors import ConfigError, Problem


def keep_layers(config: Any, layers: int | None) -> None:
    """Set a configuration's number of layers; transformers then loads the first ones only.

    Settings of each layer, such as `layer_types`, are cut to the same length.

    Args:
        config: The base's configuration; it is changed.
        layers: The number of layers; None keeps all.
    """
    if layers is None:
        return
    whole = config.num_hidden_layers
    for name, value in list(vars(config).items()):
        is_of_layers = "layer" in name or name in _OF_EACH_LAYER
        if is_of_layers and isinstance(value, list | tuple) and len(value) == whole:
            setattr(config, name, value[:layers])
    config.num_hidden_layers = layers


# Longformer's and Gemma's settings of each layer, whose names do not say so.
_OF_EACH_LAYER = {"attention_window", "intermediate_size", "activation_sparsity_pattern"}


def check_layers(spec: ModelSpec, config: Any) -> None:
    """Check that the first layers of a base can be kept.

    Args:
        spec: The job's model section.
        config: The base's whole configuration.

    Raises:
        ConfigError: The base has fewer layers, or they cannot be found.
    """
    if spec.layers is None:
        return
    whole = getattr(config, "num_hidden_layers", None)
    if config.is_encoder_decoder or not isinstance(whole, int):
        raise refuse_layers(spec.layers, _cannot(config))
    check_number(spec, whole)
    part = copy.deepcopy(config)
    try:
        keep_layers(part, spec.layers)
        is_cut = _is_beginning(part, config)
    except Exception:  # transformers raises all classes for a configuration that it cannot build
        is_cut = False
    if not is_cut:
        raise refuse_layers(spec.layers, _cannot(config))


def check_number(spec: ModelSpec, whole: int) -> None:
    """Refuse more layers than a base has.

    Raises:
        ConfigError: It has fewer.
    """
    if spec.layers is not None and spec.layers > whole:
        raise refuse_layers(spec.layers, f"must be at most {whole}, the layers of {spec.base}")


def refuse_layers(layers: int, allowed: str) -> ConfigError:
    """Return the error that refuses a job's number of layers."""
    return ConfigError(Problem("model.layers", layers, allowed))


def _cannot(config: Any) -> str:
    return f"is not supported for {config.model_type}; leave it out to train all layers"


def _is_beginning(part: Any, whole: Any) -> bool:
    """Tell whether a model has the parameters of a larger one, except those of its last layers."""
    (small, few), (large, many) = map(_shapes, (part, whole))
    if (few, many) != (part.num_hidden_layers, whole.num_hidden_layers):
        return False
    return small.items() <= large.items() and (few == many) == (len(small) == len(large))


def _shapes(config: Any) -> tuple[dict[str, Any], int]:
    """Return the shape of each parameter of a model, and the length of its stack of layers."""
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    return shapes, len(encoder_layers(model))
