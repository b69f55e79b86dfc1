"""Adapters on tiny random models of transformers' architectures: trained, folded, reloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_architectures import ARCHITECTURES, TEXTS, base_of

from clftask.components.labels import LabelSpace
from clftask.config.sections import ModelSpec
from clftask.errors import ConfigError
from clftask.models import trial_step
from clftask.models.base_checks import check_base
from clftask.models.loading import build_model, num_parameters
from clftask.models.tokenizers import load_tokenizer
from clftask.models.weights import own_weights

pytestmark = pytest.mark.model

LORA = {"kind": "lora", "r": 2, "alpha": 4, "dropout": 0.0}  # a rank that is the number of labels
NO_LINEAR_LAYERS = {"IBert"}
QUICK = ("Bert", "GPT2", "SqueezeBert", "T5")
OTHERS = sorted(ARCHITECTURES.keys() - {"Perceiver", *QUICK})
CASES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]


def built(base: Path, **settings: Any) -> tuple[Any, Any]:
    """Return a model as prepared for training, and two padded texts."""
    spec = ModelSpec(base=str(base), max_length=32, **settings)
    model, _ = build_model(
        str(base), spec, LabelSpace("multiclass", ("no", "yes")), np.array([0.5, 0.5])
    )
    tokenizer = load_tokenizer(str(base), model.config)
    trial_step.prepare(model, tokenizer, spec, has_pairs=False)
    return model, tokenizer(TEXTS[3:5], padding=True, return_tensors="pt")


def trained_of(model: Any) -> set[str]:
    return {name for name, weights in model.named_parameters() if weights.requires_grad}


@pytest.mark.parametrize("name", CASES)
def test_all_linear_layers_are_adapted_and_the_head_is_trained_in_full(name, tmp_path):
    base = base_of(name, tmp_path)
    spec = ModelSpec(base=str(base), max_length=32, adapt=LORA)
    if name in NO_LINEAR_LAYERS:
        with pytest.raises(ConfigError, match=f"adapts linear layers, and {name}Model has none"):
            check_base(spec)
        return
    check_base(spec)
    model, inputs = built(base, adapt=LORA)
    own, trained = own_weights(model), trained_of(model)
    assert trained <= own.keys()
    assert {n for n in own.keys() - trained if ".lora_" not in n and "pooler" not in n} == set()
    assert num_parameters(spec, 2).all > sum(p.numel() for p in own.values())
    with torch.no_grad():  # as if trained
        untrained = model.eval()(**inputs).logits
        for weights in (p for n, p in own.items() if ".lora_B" in n):
            weights.normal_(std=0.3)
    logits = model(**inputs).logits
    assert (logits - untrained).abs().max() > 1e-4
    logits.square().sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == trained
    idle = [n for n in trained if ".lora_A" in n and own[n].grad.abs().sum() == 0]
    assert idle == [] or name == "Longformer"  # the first token of its last layer looks globally
    spec.adapt.fold(model.base_model)
    assert not any("lora" in n or "base_layer" in n for n, _ in model.named_modules())
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, logits, atol=1e-5, rtol=1e-4)
