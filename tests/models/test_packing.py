"""Packed batches give the logits of padded ones, and of each text alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from test_architectures import ARCHITECTURES, MLP, base_of
from toy_scorers import MAX_LENGTH, TEXTS, loud
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from clftask.components.heads import MlpHead
from clftask.models.mlp import build
from clftask.models.packing import Packing, can_pack, layout, row_by_row
from clftask.models.predictor import load

PACKED = {
    "Albert", "Bert", "Camembert", "Data2VecText", "DistilBert", "Electra", "Ernie", "LayoutLM",
    "Roberta", "RobertaPreLayerNorm", "XLMRoberta",
}  # fmt: skip
CASES = [*((n, "linear") for n in ARCHITECTURES), *((n, "mlp") for n in MLP)]
QUICK = [("Bert", "linear"), ("DistilBert", "linear"), ("Roberta", "linear"), ("Bert", "mlp"),
         ("FNet", "linear"), ("ModernBert", "linear")]  # fmt: skip


def model_of(name: str, head: str, folder: Any) -> tuple[Any, Any]:
    base = base_of(name, folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    if head == "linear":
        return loud(plain), tokenizer
    return loud(build(str(base), MlpHead(), plain.config)[0]), tokenizer


def row_by_row_or_fail(query, key, value, starts, longest, scale):
    if len(starts) == 3:
        raise RuntimeError("no kernel for two rows")
    return row_by_row(query, key, value, starts, longest, scale)


@pytest.mark.parametrize(
    ("name", "head"),
    [*QUICK, *(pytest.param(*c, marks=pytest.mark.slow) for c in CASES if c not in QUICK)],
)
def test_a_model_that_can_be_packed_gives_the_same_logits(name, head, tmp_path):
    model, tokenizer = model_of(name, head, tmp_path)
    model.to(torch.float32)
    before = model.base_model.config._attn_implementation
    is_packed = can_pack(model, tokenizer, 64)
    assert model.base_model.config._attn_implementation == before
    assert is_packed == (name in PACKED)
    if not is_packed:
        return
    texts = ["a", "b c", "d e f", " ".join("abcdefghij" * 6), "g h i"]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        alone = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
        padded = model(**inputs).logits
        packing = Packing(model, 64, row_by_row)
        packed = packing.forward(**inputs, **layout(inputs["attention_mask"])).logits
        packing.stop()
        again = model(**inputs).logits
    np.testing.assert_allclose(packed, padded, atol=1e-4)
    np.testing.assert_allclose(packed, torch.stack(alone), atol=1e-4)
    np.testing.assert_array_equal(again, padded)
    assert np.ptp(packed[:, 0]) > 1e-3


def test_packed_batches_of_several_threads_keep_apart(tmp_path):
    model, tokenizer = model_of("Bert", "linear", tmp_path)
    texts = [[" ".join("abcdefgh"[: 1 + (i + j) % 8]) for j in range(i + 1)] for i in range(6)]
    inputs = [tokenizer(some, padding=True, return_tensors="pt") for some in texts]
    packing = Packing(model, 64, row_by_row)

    def logits(number: int) -> np.ndarray:
        given = inputs[number % 6]
        with torch.inference_mode():
            return packing.forward(**given, **layout(given["attention_mask"])).logits.numpy()

    wanted = [logits(i) for i in range(6)]
    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(logits, range(120))):
            np.testing.assert_allclose(found, wanted[number % 6], atol=1e-5)


def test_a_scorer_packs_and_after_a_failure_pads(make_bundle, caplog):
    folder = make_bundle("multilabel")
    scorer = load(folder, "cpu", "fp32")
    tokens = scorer.tokenise(pa.array(TEXTS), None)
    wanted = scorer.logits(tokens)
    widths: list[int] = []
    layer = scorer.model.bert.encoder.layer[0]
    layer.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[1]))
    scorer.packing = Packing(scorer.model, MAX_LENGTH, row_by_row)
    np.testing.assert_allclose(scorer.logits(tokens), wanted, atol=1e-4)
    assert widths == [int(tokens["length"].to_numpy().sum())]  # one batch, no padding
    scorer.packing.stop()
    scorer.packing = Packing(scorer.model, MAX_LENGTH, row_by_row_or_fail)
    np.testing.assert_allclose(scorer.logits(tokens.slice(0, 2)), wanted[:2], atol=1e-4)
    np.testing.assert_allclose(scorer.logits(tokens), wanted, atol=1e-4)
    assert scorer.packing is None
    assert caplog.messages == [
        "batches are padded instead of packed: RuntimeError: no kernel for two rows"
    ]


def test_the_layout_of_a_batch():
    found = layout(torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1]]))
    assert found["packed_places"].tolist() == [0, 1, 4, 5, 6, 7, 8]
    assert found["cu_seq_lens_q"].tolist() == [0, 2, 4, 7]
    assert found["cu_seq_lens_q"].dtype == torch.int32
