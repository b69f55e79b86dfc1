"""Heads and ways to adapt, on random models of several architectures."""

from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from transformers import AutoModelForSequenceClassification, DistilBertConfig, XLNetConfig

from clftask.components.adapt import (
    Adapt,
    FrozenEmbeddings,
    Full,
    HeadOnly,
    LastLayers,
    encoder_layers,
)
from clftask.components.heads import Head, LinearHead, MlpHead
from clftask.components.labels import LabelSpace
from clftask.config.sections import ModelSpec
from clftask.models.loading import build_model

DISTILBERT = DistilBertConfig(
    vocab_size=50, dim=8, hidden_dim=16, n_layers=3, n_heads=2, max_position_embeddings=16
)
XLNET = XLNetConfig(vocab_size=50, d_model=8, n_layer=2, n_head=2, d_inner=16)

EMBEDDINGS = {
    "bert.embeddings.word_embeddings.weight",
    "bert.embeddings.position_embeddings.weight",
    "bert.embeddings.token_type_embeddings.weight",
    "bert.embeddings.LayerNorm.weight",
    "bert.embeddings.LayerNorm.bias",
}
PARTS = (
    "attention.self.query", "attention.self.key", "attention.self.value",
    "attention.output.dense", "attention.output.LayerNorm",
    "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip
LAYERS = [
    {f"bert.encoder.layer.{i}.{part}.{kind}" for part in PARTS for kind in ("weight", "bias")}
    for i in (0, 1)
]
HEAD = {
    "bert.pooler.dense.weight",
    "bert.pooler.dense.bias",
    "classifier.weight",
    "classifier.bias",
}


def build(base, **settings):
    space = LabelSpace("multilabel", ("a", "b", "c"))
    spec = ModelSpec(base=str(base), **settings)
    return build_model(str(base), spec, space, np.array([0.5, 0.1, 0.9]))


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def logits(model, rows=((2, 70, 71, 3), (2, 72, 3, 0))):
    ids = torch.tensor(rows)
    model.eval()
    return model(input_ids=ids, attention_mask=(ids != 0).long()).logits


@pytest.mark.parametrize(
    ("adapt", "frozen"),
    [
        (Full(), set()),
        (HeadOnly(), {"embeddings", "transformer"}),
        (FrozenEmbeddings(), {"embeddings"}),
        (LastLayers(layers=1), {"embeddings", "transformer.layer.0", "transformer.layer.1"}),
        (LastLayers(layers=2), {"embeddings", "transformer.layer.0"}),
        (LastLayers(layers=3), {"embeddings"}),
    ],
    ids=lambda value: "" if isinstance(value, set) else str(value),
)
def test_freezes_whole_parts_of_distilbert(adapt, frozen):
    model = AutoModelForSequenceClassification.from_config(DISTILBERT)
    adapt.apply(model.base_model)
    wrong = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad == any(name.startswith(f"distilbert.{part}.") for part in frozen)
    ]
    assert wrong == []


def test_an_embedding_table_without_a_parent_of_its_own_is_frozen():
    model = AutoModelForSequenceClassification.from_config(XLNET)
    FrozenEmbeddings().apply(model.base_model)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"transformer.word_embedding.weight"}


def test_encoder_layers_are_the_stack():
    model = AutoModelForSequenceClassification.from_config(DISTILBERT)
    assert encoder_layers(model.base_model) is model.distilbert.transformer.layer


@pytest.mark.parametrize("union", [Head, Adapt])
def test_every_kind_is_known_by_its_bare_name(union):
    members = get_args(get_args(union)[0])
    kinds = {member.model_fields["kind"].default: member for member in members}
    assert len(kinds) == len(members)
    adapter = TypeAdapter(union)
    assert {kind: type(adapter.validate_python(kind)) for kind in kinds} == kinds


def test_defaults_and_refusals():
    assert LinearHead().bias == "prior"
    assert (MlpHead().hidden, MlpHead().dropout, LastLayers().layers) == (512, 0.1, 2)
    for wrong in ({"kind": "mlp", "hidden": 0}, {"kind": "mlp", "dropout": 1.0}, "lstm"):
        with pytest.raises(ValidationError):
            TypeAdapter(Head).validate_python(wrong)
    with pytest.raises(ValidationError):
        TypeAdapter(Adapt).validate_python({"kind": "last_layers", "layers": 0})


# ------------------------------------------------------------------ on a BERT


@pytest.mark.parametrize(
    ("adapt", "expected"),
    [
        ("full", EMBEDDINGS | LAYERS[0] | LAYERS[1] | HEAD),
        ("head_only", HEAD),
        ("frozen_embeddings", LAYERS[0] | LAYERS[1] | HEAD),
        ({"kind": "last_layers", "layers": 1}, LAYERS[1] | HEAD),
        ({"kind": "last_layers", "layers": 2}, LAYERS[0] | LAYERS[1] | HEAD),
    ],
    ids=lambda value: "" if isinstance(value, set) else str(value),
)
def test_adapt_leaves_exactly_these_trainable(tiny_base, adapt, expected):
    model, fresh = build(tiny_base, adapt=adapt)
    assert trainable(model) == expected
    assert fresh == HEAD


def test_mlp_is_fresh_and_opens_in_transformers(tiny_base, tmp_path):
    model, fresh = build(tiny_base, head={"kind": "mlp", "hidden": 5})
    assert fresh == {"dense.weight", "dense.bias", "classifier.weight", "classifier.bias"}
    assert model.dense.weight.shape == (5, 16)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again), logits(model))


@pytest.mark.parametrize("adapt", ["full", "head_only"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_every_trainable_parameter_gets_a_gradient(tiny_base, head, adapt):
    # Distributed training waits for the gradient of each of them, and fails without.
    model, _ = build(tiny_base, head=head, adapt=adapt)
    logits(model).sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == trainable(model)


def test_mlp_ignores_padding(tiny_base):
    model, _ = build(tiny_base, head="mlp")
    alone = logits(model, [[2, 72, 3]])
    padded = logits(model, [[2, 72, 3, 0, 0]])
    torch.testing.assert_close(alone, padded)
