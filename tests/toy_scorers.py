"""Scorers and texts for tests of predictions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from clftask.components.decision.decision import Decision
from clftask.components.labels import LabelSpace
from clftask.components.text import TextRecipe
from clftask.config.sections import ModelSpec
from clftask.models import bundle
from clftask.models.bundle_meta import BundleMeta
from clftask.models.loading import build_model
from clftask.models.predictor import Scorer, load

NAMES = ("network", "a label: of its own", "größe")
MAX_LENGTH = 32
WORDS = ("the", "tool", "library", "fast", "simple", "shader", "pixel", "audio", "socket", "for")
# 1 to 60 words: from 3 tokens up to more than are read.
TEXTS = tuple(
    " ".join(WORDS[(7 * i + j * (i + 1)) % len(WORDS)] for j in range(n))
    for i, n in enumerate([1, 60, 2, 5, 17, 29, 30, 31, 3, 3, 11, 40])
)


PAIRS = tuple(zip(TEXTS, reversed(TEXTS), strict=True))
TASKS = ["multiclass", "multilabel"]
META = BundleMeta(
    task="multiclass",
    label_names=NAMES,
    text=TextRecipe(text="text"),
    max_length=MAX_LENGTH,
    decision=Decision(),
    job={"model": {"base": "tiny", "head": {"kind": "linear"}}, "data": {"train": "x.csv"}},
    data={"fingerprint": "0" * 16, "report": {"rows": {"train": 3}, "tokens": {}}},
    versions={},
    metrics={"validation": {"micro_f1": 0.5}},
)


Make = Callable[..., str]


def bundles_of(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a factory of bundles of a random model that tells texts apart, cached."""

    @functools.cache
    def make(task="multiclass", head="linear", text=("text",), text_pair=None, threshold=0.5):
        spec = ModelSpec(base=str(tiny_base), max_length=MAX_LENGTH, head=head)
        prior = np.full(3, 1 / 3)
        model, _ = build_model(str(tiny_base), spec, LabelSpace(task, NAMES), prior)
        loud(model)
        job = {**META.job, "model": {"base": "tiny", "head": {"kind": head}}}
        recipe = TextRecipe(text=text, text_pair=text_pair, separator=" ")
        decision = Decision(threshold=threshold)
        known = {"task": task, "text": recipe, "decision": decision, "job": job}
        folder = tmp_path_factory.mktemp("bundle")
        tokenizer = AutoTokenizer.from_pretrained(tiny_base)
        meta = META.model_copy(update=known)
        bundle.write(folder, model, tokenizer, meta, {"per_label": {"validation": []}})
        return str(folder)

    return make


def loud(model: Any) -> Any:
    """Give a model weights with which its logits differ from text to text."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.4, generator=generator)
    return model.eval()


@functools.cache
def plain(folder: str, rows: tuple[Any, ...], **options: Any) -> np.ndarray:
    """Return the logits of plain transformers, one text (or pair) at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for row in rows:
        texts = row if isinstance(row, tuple) else (row,)
        inputs = tokenizer(
            *texts, truncation=True, max_length=MAX_LENGTH, return_tensors="pt", **options
        )
        with torch.inference_mode():
            found.append(model(**inputs).logits[0].numpy())
    return np.array(found)


def expected(folder: str, rows: tuple[Any, ...], task: str) -> np.ndarray:
    logits = torch.from_numpy(plain(folder, rows))
    found = logits.sigmoid() if task == "multilabel" else logits.softmax(1)
    assert found.std(0).max() > 0.05, "the texts can hardly be told apart"
    return found.numpy()


@functools.cache
def opened(folder: str, max_tokens: int = 4096) -> Scorer:
    scorer = load(folder, "cpu", "fp32")
    scorer.max_tokens = max_tokens
    return scorer
