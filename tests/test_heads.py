"""Heads and ways to adapt, on random models of several architectures."""

from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError
from transformers import AutoModelForSequenceClassification, DistilBertConfig, XLNetConfig

from clftask.heads import (
    Adapt,
    FrozenEmbeddings,
    Full,
    Head,
    HeadOnly,
    LastLayers,
    LinearHead,
    MlpHead,
    encoder_layers,
)

DISTILBERT = DistilBertConfig(
    vocab_size=50, dim=8, hidden_dim=16, n_layers=3, n_heads=2, max_position_embeddings=16
)
XLNET = XLNetConfig(vocab_size=50, d_model=8, n_layer=2, n_head=2, d_inner=16)


def trainable(config, adapt):
    """Return the parts of the model, two names deep, that hold trainable parameters."""
    model = AutoModelForSequenceClassification.from_config(config)
    adapt.freeze(model.base_model)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    return {".".join(name.removesuffix(".weight").split(".")[:4]) for name in names}, model


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
    ids=str,
)
def test_freezes_whole_parts_of_distilbert(adapt, frozen):
    model = AutoModelForSequenceClassification.from_config(DISTILBERT)
    adapt.freeze(model.base_model)
    wrong = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        == any(name.startswith(f"distilbert.{part}.") for part in frozen)
    ]
    assert wrong == []


def test_an_embedding_table_without_a_parent_of_its_own_is_frozen():
    model = AutoModelForSequenceClassification.from_config(XLNET)
    FrozenEmbeddings().freeze(model.base_model)
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
