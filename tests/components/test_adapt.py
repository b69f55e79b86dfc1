"""LoRA's settings, and the layers of architectures from the bottom up."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    FunnelConfig,
    XLMConfig,
)

from clftask.components.adapt import Adapt, Lora, layer_numbers
from clftask.config.sections import TrainingSpec
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.errors import ConfigError
from clftask.training.parameter_groups import parameter_groups

BERT = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=3, num_attention_heads=2,
                  intermediate_size=16, max_position_embeddings=16)  # fmt: skip
SIZES = {"vocab_size": 50, "d_model": 8, "encoder_layers": 2, "decoder_layers": 2,
         "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16,
         "decoder_ffn_dim": 16}  # fmt: skip


def test_defaults_and_refusals():
    adapter = TypeAdapter(Adapt)
    lora = adapter.validate_python("lora")
    assert lora == Lora(r=16, alpha=32, dropout=0.05, targets="auto", merge=True)
    for wrong in (
        {"r": 0},
        {"r": -1},
        {"alpha": 0},
        {"dropout": 1},
        {"targets": []},
        {"targets": "("},
    ):
        with pytest.raises(ValidationError):
            adapter.validate_python({"kind": "lora", **wrong})


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        ("auto", 18),
        (["query", "value"], 6),
        (["self.query"], 3),
        (r"encoder\.layer\.2\..*dense", 3),
        (["layer.1.intermediate.dense"], 1),
    ],
)
def test_targets_are_chosen_by_the_ends_of_names_or_by_an_expression(targets, count):
    model = AutoModelForSequenceClassification.from_config(BERT)
    Lora(r=2, targets=targets).apply(model.bert)
    adapted = [n for n, _ in model.named_parameters() if ".lora_A" in n]
    assert len(adapted) == count
    trained = {n for n, p in model.named_parameters() if p.requires_grad and ".lora_" not in n}
    assert trained == {f"{n}.{kind}" for n in ("bert.pooler.dense", "classifier")
                       for kind in ("weight", "bias")}  # fmt: skip


def number_of(config: Any) -> Any:
    model = AutoModelForSequenceClassification.from_config(config)
    numbers = layer_numbers(model.base_model)
    return lambda part: {n for name, n in numbers.items() if re.search(part, name)}


def test_layers_are_numbered_from_the_bottom_up():
    bert = number_of(BERT)
    assert bert("^embeddings") == {0}
    assert [bert(rf"layer\.{i}\.") for i in range(3)] == [{1}, {2}, {3}]
    assert bert("pooler") == {3}
    bart = number_of(BartConfig(**SIZES))
    assert bart("shared|embed_positions|layernorm_embedding") == {0}
    parts = [rf"{part}\.layers\.{i}" for part in ("encoder", "decoder") for i in (0, 1)]
    assert [bart(part) for part in parts] == [{1}, {2}, {3}, {4}]
    xlm = number_of(XLMConfig(vocab_size=50, emb_dim=8, n_layers=2, n_heads=2))
    assert [xlm(rf"(attentions|ffns|layer_norm\d)\.{i}\.") for i in (0, 1)] == [{1}, {2}]
    assert xlm("embeddings|layer_norm_emb") == {0}
    funnel = number_of(FunnelConfig(vocab_size=50, block_sizes=[2, 1], d_model=8, n_head=2,
                                    d_head=4, d_inner=16, num_decoder_layers=1))  # fmt: skip
    blocks = [r"encoder\.blocks\.0\.0\.", r"encoder\.blocks\.0\.1\.", r"encoder\.blocks\.1\.0\."]
    assert [funnel(part) for part in blocks] == [{1}, {2}, {3}]


def test_layers_that_share_weights_have_no_numbers():
    albert = AlbertConfig(vocab_size=50, hidden_size=8, embedding_size=8, num_attention_heads=2,
                          intermediate_size=16, num_hidden_layers=2)  # fmt: skip
    assert layer_numbers(AutoModel.from_config(albert)) == {}


def test_each_layer_learns_at_a_share_of_the_rate_above_it():
    model = AutoModelForSequenceClassification.from_config(BERT)
    names = {parameter: name for name, parameter in model.named_parameters()}
    fresh = {n for n in names.values() if not n.startswith("bert.") or "pooler" in n}
    decayed = {n for n in names.values() if n.endswith("weight")}
    training = TrainingSpec(
        learning_rate=0.01, head_learning_rate=0.5, layer_decay=0.1, weight_decay=0.2
    )
    rates = {}
    for group in parameter_groups(model, fresh, decayed, training):
        for parameter in group["params"]:
            rates[names[parameter]] = group["lr"]
            assert group["weight_decay"] == (0.2 if names[parameter] in decayed else 0)
    assert rates.keys() == set(names.values())
    assert {rates[n] for n in fresh} == {0.5}
    for part, rate in {
        "embeddings": 1e-5,
        "layer.0.": 1e-4,
        "layer.1.": 1e-3,
        "layer.2.": 1e-2,
    }.items():
        assert {round(rates[n], 12) for n in rates if part in n} == {rate}
    plain = parameter_groups(model, fresh, decayed, TrainingSpec(learning_rate=0.01))
    assert [group["lr"] for group in plain] == [0.01] * 4  # fresh or not, decayed or not


def test_layer_decay_without_trained_layers_is_refused():
    document = {
        "task": "multiclass",
        "data": {"train": "x.csv", "text": "text", "labels": {"kind": "class", "column": "y"}},
        "model": {"base": "x", "adapt": "head_only"},
        "training": {"layer_decay": 0.9},
    }
    with pytest.raises(ConfigError, match=r"has no effect with model\.adapt head_only") as caught:
        TrainJob.load(document)
    assert caught.value.problems[0].path == "training.layer_decay"
    assert TrainJob.load(document, ["model.adapt=lora"]).training.layer_decay == 0.9


def test_a_search_varies_the_rank_but_not_during_a_training():
    data = {"train": "/x.csv", "text": "text", "labels": {"kind": "class", "column": "y"}}
    train = {"task": "multiclass", "data": data, "model": {"base": "x", "adapt": "lora"}}
    space = {"model.adapt.r": {"kind": "choice", "values": [4, 8]}}
    job = TuneJob.load({"train": train, "space": space})
    assert {trial.model.adapt.r for trial in job.probed()} == {4, 8}
    with pytest.raises(ConfigError, match="pbt can only change rates, decay and the loss"):
        TuneJob.load({"train": train, "space": space, "scheduler": "pbt"})
