"""The first layers of a base: which architectures allow it, and which weights the model has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from clftask.components.labels import LabelSpace
from clftask.config.sections import ModelSpec
from clftask.errors import ConfigError
from clftask.models.base_checks import check_base, check_base_files
from clftask.models.layers import check_layers, keep_layers
from clftask.models.loading import build_model, num_parameters

pytestmark = pytest.mark.model

SMALL = {"vocab_size": 60, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
SPACE = LabelSpace("multiclass", ("a", "b"))


def config_of(name: str, **fields: Any) -> Any:
    return getattr(transformers, f"{name}Config")(**{**SMALL, **fields})


STACKED = [
    config_of("Bert", num_hidden_layers=4),
    config_of("Roberta", num_hidden_layers=4),
    config_of("DistilBert", n_layers=4, dim=16, n_heads=2, hidden_dim=32),
    config_of("GPT2", n_layer=4, n_embd=16, n_head=2),
    config_of("ModernBert", num_hidden_layers=4, pad_token_id=0),
    config_of("Longformer", num_hidden_layers=4, attention_window=[4, 4, 8, 8]),
    config_of("Qwen3", num_hidden_layers=4, num_key_value_heads=2, head_dim=8),
]
OTHERS = [
    config_of("Albert", num_hidden_layers=4, embedding_size=8),
    config_of("T5", num_layers=4, d_model=16, d_kv=8, d_ff=32, num_heads=2),
    config_of("Bart", encoder_layers=4, decoder_layers=4, d_model=16),
    config_of("Funnel", block_sizes=[1, 1, 2], d_model=16, n_head=2, d_head=8, d_inner=32),
]


@pytest.mark.parametrize("config", STACKED, ids=lambda config: config.model_type)
def test_a_stack_of_layers_is_cut(config: Any) -> None:
    spec = ModelSpec(base="base", layers=2)
    check_layers(spec, config)
    assert config.num_hidden_layers == 4  # it is only looked at
    keep_layers(config, 2)
    with torch.device("meta"):
        transformers.AutoModel.from_config(config)
    assert config.num_hidden_layers == 2
    with pytest.raises(ConfigError, match=r"model\.layers.*must be at most 2, the layers of base"):
        check_layers(ModelSpec(base="base", layers=3), config)


@pytest.mark.parametrize("config", OTHERS, ids=lambda config: config.model_type)
def test_others_are_refused_by_name(config: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        check_layers(ModelSpec(base="base", layers=2), config)
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("model.layers", 2)
    assert problem.allowed.startswith(f"is not supported for {config.model_type}")


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_model_has_the_weights_of_the_first_layer(tiny_base: Path, head: Any) -> None:
    spec = ModelSpec(base=str(tiny_base), layers=1, max_length=32, head=head)
    check_base(spec)
    prior = np.array([0.5, 0.5])
    whole, _ = build_model(str(tiny_base), spec.model_copy(update={"layers": None}), SPACE, prior)
    part, _ = build_model(str(tiny_base), spec, SPACE, prior)
    states = [dict(model.base_model.named_parameters()) for model in (whole, part)]
    assert 0 < len(states[1]) < len(states[0])
    assert all(torch.equal(p, states[0][n]) for n, p in states[1].items() if "pooler" not in n)
    assert len(part.base_model.encoder.layer) == 1
    counts = [num_parameters(s, 2).all for s in (spec, spec.model_copy(update={"layers": 2}))]
    assert counts[0] < counts[1]


def test_more_layers_than_the_base_has_are_refused_at_once(tiny_base: Path) -> None:
    spec = ModelSpec(base=str(tiny_base), layers=3, max_length=32)
    for check in (check_base_files, check_base):
        with pytest.raises(ConfigError) as caught:
            check(spec)
        (problem,) = caught.value.problems
        assert (problem.path, problem.value) == ("model.layers", 3)
        assert problem.allowed == f"must be at most 2, the layers of {tiny_base}"
