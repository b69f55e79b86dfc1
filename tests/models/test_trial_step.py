"""What a classifier uses of its base, on tiny random models of several architectures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModel, PreTrainedTokenizerFast

from clftask.components.labels import LabelSpace
from clftask.config.sections import ModelSpec
from clftask.errors import ConfigError
from clftask.models import trial_step
from clftask.models.base_checks import check_base
from clftask.models.loading import build_model
from clftask.models.tokenizers import load_tokenizer

pytestmark = pytest.mark.model

SPACE, PRIOR = LabelSpace("multiclass", ("no", "yes")), np.array([0.5, 0.5])
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
SIZES = {
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 36,
    "pad_token_id": 0,
}
BART = {
    "vocab_size": 40,
    "d_model": 8,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "max_position_embeddings": 36,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
T5 = {
    "vocab_size": 40, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2,
    "decoder_start_token_id": 0,
}  # fmt: skip
MORE = {
    "XLNet": {"vocab_size": 40, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8},
    "BigBird": {**SIZES, "block_size": 4, "num_random_blocks": 1},
    "Luke": {**SIZES, "entity_vocab_size": 9, "entity_emb_size": 8},
    "Longformer": {**SIZES, "attention_window": 8},
    "IBert": SIZES,
    "XLMRobertaXL": SIZES,
    "RobertaPreLayerNorm": SIZES,
    "Xmod": {**SIZES, "languages": ["en"], "default_language": "en"},
    "Flaubert": {"vocab_size": 40, "emb_dim": 8, "n_layers": 4, "n_heads": 2, "layerdrop": 0.5},
    "Bart": {**BART, "encoder_layerdrop": 0.5},
    "T5": {**T5, "pad_token_id": 0, "eos_token_id": 3},
    "GPT2": {"vocab_size": 40, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 36},
    "SqueezeBert": {
        **{k: v for k, v in SIZES.items() if k != "pad_token_id"},
        **{f"{k}_groups": 1 for k in ("q", "k", "v", "post_attention", "intermediate", "output")},
        "embedding_size": 8,
    },
    "Reformer": {
        **{k: v for k, v in SIZES.items() if k not in ("num_hidden_layers", "intermediate_size")},
        "attn_layers": ["local"],
        "axial_pos_shape": [6, 6],
        "axial_pos_embds_dim": [4, 4],
        "local_attn_chunk_length": 4,
        "attention_head_size": 4,
        "feed_forward_size": 8,
        "is_decoder": False,
    },
}


@pytest.fixture
def base(tmp_path):
    """A factory of bases: `base(name, ...)` returns the folder of a tiny random model."""

    def make(name: str, **changes) -> Path:
        config = getattr(transformers, f"{name}Config")(**{**MORE.get(name, SIZES), **changes})
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(tmp_path / name)
        special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[SEP]"}
        backend = Tokenizer(models.WordLevel(dict(zip(WORDS, range(99), strict=False)), "[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


def prepared(base: Path, **settings):
    spec = ModelSpec(base=str(base), max_length=16, **settings)
    model, _ = build_model(str(base), spec, SPACE, PRIOR)
    tokenizer = load_tokenizer(str(base))
    trial_step.prepare(model, tokenizer, spec, has_pairs=False)
    return model, tokenizer


@pytest.fixture
def one_worker():
    """A process group of this process alone: as in a run with one worker."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("name", "settings", "frozen"),
    [
        ("XLNet", {}, "transformer.mask_emb"),
        ("XLNet", {"head": "mlp"}, "encoder.mask_emb"),
        ("BigBird", {}, "bert.pooler.weight"),
        ("BigBird", {"adapt": "head_only"}, "bert.pooler.weight"),
        ("Luke", {}, "luke.entity_embeddings.entity_embeddings.weight"),
        ("Luke", {"head": "mlp"}, "encoder.entity_embeddings.entity_embeddings.weight"),
        ("Longformer", {"head": "mlp"}, "encoder.encoder.layer.0.attention.self.query_global.bias"),
        ("Bart", {"adapt": "last_layers"}, "model.shared.weight"),
        ("Flaubert", {}, None),
        ("SqueezeBert", {"head": "mlp"}, None),
    ],
)
def test_ddp_trains_what_is_left(base, one_worker, name, settings, frozen):
    """DDP refuses the second step if a trained parameter had no gradient in the first."""
    model, tokenizer = prepared(base(name), **settings)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert frozen not in trained
    assert any(name.startswith(("classif", "logits_proj", "sequence_summary")) for name in trained)
    parallel = DistributedDataParallel(model.train())
    for texts in (["a b", "c"], ["d"], ["a b c d e f g", "h", "i j"]):
        model.zero_grad()
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        parallel(**inputs).logits.sum().backward()
        grads = {n for n, p in model.named_parameters() if p.grad is not None}
        assert grads == trained


def test_a_model_that_uses_all_of_its_parameters_keeps_them(base):
    model, _ = prepared(base("Bert"))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_the_trial_step_leaves_random_states_alone(base):
    folder = base("Bert")
    states = []
    for is_tried in (False, True):
        torch.manual_seed(3)
        spec = ModelSpec(base=str(folder), max_length=16)
        model, _ = build_model(str(folder), spec, SPACE, PRIOR)
        if is_tried:
            trial_step.prepare(model, load_tokenizer(str(folder)), spec, has_pairs=False)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_the_model_learns_its_tokenizers_padding(base):
    """GPT2 has no padding token, and needs it to find the last token of a text."""
    folder = base("GPT2")
    model, tokenizer = prepared(folder)
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("Bert", 36),
        ("Roberta", 35),
        ("Data2VecText", 35),
        ("IBert", 35),
        ("Xmod", 35),
        ("Luke", 35),
        ("RobertaPreLayerNorm", 35),
        ("XLMRobertaXL", 35),
        ("Camembert", 35),
        ("MPNet", 34),
        ("Longformer", 35),
        ("Bart", 36),
        ("GPT2", 36),
        ("T5", None),
        ("XLNet", None),
    ],
)
def test_positions_are_those_that_the_model_takes(base, name, limit):
    folder = base(name)
    spec = ModelSpec(base=str(folder), max_length=16)
    model, _ = build_model(str(folder), spec, SPACE, PRIOR)
    assert trial_step.num_positions(model) == limit
    model.config.pad_token_id = 0

    def run(num_tokens: int) -> None:
        ids = torch.full((1, num_tokens), 9)
        ids[:, -1] = 3
        model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))

    run(limit or 50)
    if limit is not None:
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            run(limit + 1)
        check_base(ModelSpec(base=str(folder), max_length=limit))
        with pytest.raises(ConfigError, match=f"must be at most {limit}, the positions of"):
            check_base(ModelSpec(base=str(folder), max_length=limit + 1))


@pytest.mark.parametrize(("name", "limit"), [("Nystromformer", 36), ("Roberta", 35), ("T5", None)])
def test_positions_of_a_base_with_another_head(base, name, limit):
    spec = ModelSpec(base=str(base(name)), max_length=16, head="mlp")
    model, _ = build_model(spec.base, spec, SPACE, PRIOR)
    assert trial_step.num_positions(model) == limit


def refusal(folder: Path, **settings):
    with pytest.raises(ConfigError) as caught:
        check_base(ModelSpec(base=str(folder), max_length=16, **settings))
    (problem,) = caught.value.problems
    return problem.path, problem.allowed, problem.remedy


@pytest.mark.parametrize(
    ("name", "changes", "settings", "reason", "remedy"),
    [
        ("T5", {}, {"head": "mlp"}, "exactly one of input_ids or inputs_embeds", "head: linear"),
        ("MT5", T5, {"head": "mlp"}, "exactly one of input_ids or inputs_embeds", "head: linear"),
        ("Reformer", {}, {}, "config.axial_pos_shape", "another base"),
        ("Xmod", {"default_language": None}, {}, "language", "another base"),
    ],
)
def test_what_cannot_be_trained_is_refused(base, name, changes, settings, reason, remedy):
    path, allowed, told = refusal(base(name, **changes), **settings)
    assert path == "model.base"
    assert allowed.startswith("does not work with head")
    assert reason in allowed
    assert remedy in told


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 3}, "lacks 16 of its own weights: "),
        ({"vocab_size": 50}, "weights"),
        ({"hidden_size": 10}, "weights"),
    ],
)
def test_a_configuration_of_other_weights_is_refused(base, head, changes, message):
    folder = base("Bert")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    assert message in refusal(folder, head=head)[1]


def test_an_input_has_room_for_a_token_of_each_text(base):
    folder = base("Bert")
    backend = load_tokenizer(str(folder))
    backend.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    backend.save_pretrained(folder)
    check_base(ModelSpec(base=str(folder), max_length=4))
    check_base(ModelSpec(base=str(folder), max_length=6), has_pairs=True)
    with pytest.raises(ConfigError, match=r"model\.max_length: must be at least 6: the tokenizer"):
        check_base(ModelSpec(base=str(folder), max_length=5), has_pairs=True)


def test_the_tokenizers_end_of_text_counts(base):
    """BART looks for its configuration's eos_token_id in each text."""
    check_base(ModelSpec(base=str(base("Bart", eos_token_id=30)), max_length=16))


def test_tokens_without_an_embedding_are_refused(base):
    folder = base("GPT2", vocab_size=29)
    path, allowed, remedy = refusal(folder)
    assert path == "model.base"
    assert allowed == "its tokenizer has 30 tokens, the model 29 embeddings"
    assert remedy == "Call model.resize_token_embeddings(30) and save the model again."
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    tokenizer.save_pretrained(folder)
    assert "or save the tokenizer with its eos_token as pad_token." in refusal(folder)[2]
