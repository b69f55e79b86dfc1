"""Architectures of transformers, as tiny random models: trained a step, bundled, opened again.

Each is either refused before the start, or its bundle gives plain transformers the same
probabilities, whatever other texts a batch contains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from pyarrow import parquet
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, PreTrainedTokenizerFast, pipeline

import clftask
from clftask.components.decision.decision import Decision
from clftask.config.sections import ModelSpec
from clftask.config.train import TrainJob
from clftask.data.prepare import prepare, tokenise
from clftask.errors import ConfigError
from clftask.models import bundle, bundle_meta
from clftask.models.base_checks import check_base
from clftask.training.worker import Work, build_trainer

pytestmark = pytest.mark.model

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
TEXTS = ["a", "b c", "[SEP] d e [PAD] f", " ".join(LETTERS), "g h i", "j k l m n o p q"]

# What the architectures call their sizes; each takes those that it knows.
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16}
BERT = {"hidden_size": 8, "num_hidden_layers": 2, **HEADS, "max_position_embeddings": 72}
LLAMA = {**BERT, "head_dim": 4}
GPT = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 72}
T5 = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
BART = {
    "d_model": 8, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
    "max_position_embeddings": 72,
}  # fmt: skip
SQUEEZE = ("q", "k", "v", "post_attention", "intermediate", "output")
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Albert": {**BERT, "embedding_size": 8},
    "Bart": BART,
    "Bert": BERT,
    "BigBird": {**BERT, "block_size": 4, "num_random_blocks": 1},
    "BioGpt": BERT,
    "Bloom": {"hidden_size": 8, "n_layer": 2, "n_head": 2},
    "CTRL": {"n_embd": 8, "n_layer": 1, "n_head": 2, "dff": 16, "n_positions": 72},
    "Camembert": BERT,
    "Canine": {**BERT, "num_hash_buckets": 64, "max_position_embeddings": 128},
    "ConvBert": {**BERT, "embedding_size": 8, "conv_kernel_size": 3},
    "Data2VecText": BERT,
    "Deberta": BERT,
    "DebertaV2": {**BERT, "relative_attention": True, "conv_kernel_size": 3},
    "DistilBert": {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 16},
    "Electra": {**BERT, "embedding_size": 8},
    "Ernie": BERT,
    "EuroBert": LLAMA,
    "Esm": {**BERT, "mask_token_id": 4, "position_embedding_type": "rotary"},
    "FNet": BERT,
    "Falcon": BERT,
    "Flaubert": {"emb_dim": 8, "n_layers": 2, "n_heads": 2},
    "Funnel": {"block_sizes": [1, 1], "d_model": 8, "n_head": 2, "d_head": 4, "d_inner": 16},
    "GPT2": GPT,
    "GPTNeo": {
        **BERT,
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
    },
    "GPTNeoX": BERT,
    "Gemma": LLAMA,
    "Gemma2": LLAMA,
    "Gemma3Text": LLAMA,
    "GptOss": {**LLAMA, **EXPERTS},
    "IBert": BERT,
    "LayoutLM": BERT,
    "Llama": LLAMA,
    "Longformer": {**BERT, "attention_window": 8},
    "Luke": {**BERT, "entity_vocab_size": 9, "entity_emb_size": 8},
    "MBart": BART,
    "MPNet": BERT,
    "MT5": T5,
    "MegatronBert": BERT,
    "Mistral": LLAMA,
    "Mixtral": {**LLAMA, **EXPERTS},
    "MobileBert": {**BERT, "embedding_size": 8, "intra_bottleneck_size": 8},
    "ModernBert": BERT,
    "ModernBertDecoder": BERT,
    "Mpt": {"d_model": 8, "n_heads": 2, "n_layers": 2},
    "NomicBert": BERT,
    "Nystromformer": {**BERT, "num_landmarks": 4, "segment_means_seq_len": 4},
    "OPT": {**BERT, "ffn_dim": 16, "word_embed_proj_dim": 8},
    "OpenAIGPT": GPT,
    "PLBart": BART,
    "Perceiver": {
        "num_latents": 4,
        "d_latents": 8,
        "d_model": 8,
        "num_self_attends_per_block": 1,
        "num_self_attention_heads": 2,
        "num_cross_attention_heads": 2,
        "max_position_embeddings": 72,
    },
    "Phi": BERT,
    "Phi3": LLAMA,
    "Qwen2": LLAMA,
    "Qwen3": LLAMA,
    "RemBert": {**BERT, "input_embedding_size": 8, "output_embedding_size": 8},
    "RoFormer": {**BERT, "embedding_size": 8},
    "Roberta": BERT,
    "RobertaPreLayerNorm": BERT,
    "SqueezeBert": {**BERT, "embedding_size": 8, **{f"{name}_groups": 1 for name in SQUEEZE}},
    "Starcoder2": BERT,
    "T5": {**T5, "decoder_start_token_id": 0},
    "UMT5": T5,
    "XLM": {"emb_dim": 8, "n_layers": 2, "n_heads": 2},
    "XLMRoberta": BERT,
    "XLNet": {"d_model": 8, "n_layer": 2, "n_head": 2, "d_inner": 16},
    "Xmod": {**BERT, "languages": ["en"], "default_language": "en"},
    "Yoso": BERT,
}
MLP = ["Bert", "Bart", "Canine", "FNet", "GPT2", "Llama", "Longformer", "MPNet", "ModernBert",
       "SqueezeBert", "XLNet"]  # fmt: skip


def base_of(name: str, folder: Path, **changes: Any) -> Path:
    sizes = _sizes(name) | {"architectures": [f"{name}Model"]} | changes
    config = getattr(transformers, f"{name}Config")(**sizes)
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    with torch.no_grad():  # large weights: what mixes texts shows
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(std=0.2)
    model.save_pretrained(folder)
    of_characters = {"Canine": "CanineTokenizer", "Perceiver": "PerceiverTokenizer"}
    if name in of_characters:
        getattr(transformers, of_characters[name])().save_pretrained(folder)
    else:
        _tokenizer(name).save_pretrained(folder)
    return folder


def _sizes(name: str) -> dict[str, Any]:
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    if name in ("Canine", "Perceiver"):
        return ARCHITECTURES[name] | {"pad_token_id": 0}
    return ARCHITECTURES[name] | {"vocab_size": 40} | tokens


def _tokenizer(name: str) -> Any:
    backend = Tokenizer(models.WordLevel({t: i for i, t in enumerate(TOKENS)}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    around = [("[CLS]", 2), ("[SEP]", 3)]
    single = {"XLNet": "$A [SEP] [CLS]:2", "Funnel": "[CLS]:2 $A [SEP]"}.get(name, "[CLS] $A [SEP]")
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=around)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    side = "left" if name == "XLNet" else "right"
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, sep_token="[SEP]", eos_token="[SEP]", mask_token="[MASK]",
        padding_side=side, **special,
    )  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list(LETTERS), rng.integers(1, 30))) for _ in range(40)]
    path = tmp_path_factory.mktemp("data") / "table.parquet"
    parquet.write_table(pa.table({"text": texts, "label": ["no", "yes"] * 20}), path)
    return path


def step_and_bundle(base: Path, table: Path, folder: Path, **settings: Any) -> set[str]:
    """Train a base for one step, and write its bundle; return what the step did not reach."""
    document = {
        "task": "multiclass",
        "data": {
            "train": str(table),
            "text": "text",
            "labels": {"kind": "class", "column": "label"},
        },
        "model": {"base": str(base), "max_length": 32, **settings},
        "training": {"batch_size": 16, "micro_batch_size": 8, "precision": "fp32"},
        "run": {"storage": str(folder)},
    }
    job = TrainJob.load(document)
    tokenizer = check_base(job.model)
    prepared = prepare(job)
    data = {"fingerprint": "0" * 16, "report": {"rows": {"train": 3}, "tokens": {}}}
    tables = tokenise(prepared, tokenizer, job.model)
    work = Work(job, str(folder), tables, prepared.space.names, data, "")
    trainer = build_trainer(work, 1, "cpu", "fp32", str(folder / "scratch"))
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.training_step(trainer.model, batch)
    assert torch.isfinite(loss)
    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained
    lost = {name for name, p in trained.items() if p.grad is None}
    trainer.create_optimizer().step()
    with torch.no_grad():  # as if trained longer: the logits differ from text to text
        for weights in {*trainer.fresh} & {*trained}:
            trained[weights].normal_(std=0.3)
    meta = bundle_meta.BundleMeta(
        task="multiclass", label_names=prepared.space.names, text=job.data.recipe, max_length=32,
        decision=Decision(), job=job.dump(), data=data, versions=bundle.versions(),
        metrics={"validation": {"micro_f1": 0.5}},
    )  # fmt: skip
    (folder / "bundle").mkdir(parents=True)
    bundle.write(
        folder / "bundle",
        trainer.model,
        trainer.processing_class,
        meta,
        {"per_label": {"validation": []}},
    )
    return lost


def plain(folder: Path, texts: list[str]) -> np.ndarray:
    clftask.register()
    classify = pipeline("text-classification", str(folder), top_k=None)
    found = classify(texts, truncation=True)
    return np.array([[d["score"] for d in sorted(row, key=lambda d: d["label"])] for row in found])


QUICK = [("Bert", "linear"), ("FNet", "linear"), ("MobileBert", "linear"), ("XLNet", "mlp")]
ALL = [
    *((name, "linear") for name in ARCHITECTURES if name != "Perceiver"),
    *((name, "mlp") for name in MLP),
]
CASES = [*QUICK, *(pytest.param(*c, marks=pytest.mark.slow) for c in ALL if c not in QUICK)]


@pytest.mark.parametrize(("name", "head"), CASES)
def test_a_bundle_gives_plain_transformers_the_same_probabilities(name, head, table, tmp_path):
    base = base_of(name, tmp_path / "base")
    assert step_and_bundle(base, table, tmp_path, head=head) == set()
    scorer = clftask.load(str(tmp_path / "bundle"))
    together = scorer.predict(TEXTS).probabilities
    alone = np.concatenate([scorer.predict([text]).probabilities for text in TEXTS])
    assert np.isfinite(together).all()
    assert np.ptp(together[:, 0]) > 1e-3
    np.testing.assert_allclose(together, alone, atol=1e-5)
    start = 1 if name == "Canine" else 0  # plain transformers fails for a text of one character
    found = plain(tmp_path / "bundle", TEXTS[start:])
    np.testing.assert_allclose(together[start:], found, atol=1e-5)


@pytest.mark.slow
def test_one_character_is_less_than_canine_pools(table, tmp_path):
    step_and_bundle(base_of("Canine", tmp_path / "base"), table, tmp_path)
    scorer = clftask.load(str(tmp_path / "bundle"))
    assert np.isfinite(scorer.predict(["a"]).probabilities).all()


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("T5", {"decoder_start_token_id": None}, "does not work with head linear"),
        ("Perceiver", {}, "of its own weights: perceiver.decoder"),
    ],
)
def test_a_base_without_what_its_classifier_needs_is_refused(name, changes, reason, tmp_path):
    base = base_of(name, tmp_path, **changes)
    with pytest.raises(ConfigError, match=reason) as caught:
        check_base(ModelSpec(base=str(base), max_length=16))
    assert caught.value.problems[0].path == "model.base"
