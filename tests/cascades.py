"""A cascade of a random bundle and a copy of it that sometimes decides otherwise."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import torch
from toy_scorers import WORDS

from clftask.config.train import TrainJob
from clftask.models import bundle
from clftask.models.linear import Vectorizer
from clftask.models.linear_fit import fit_linear
from clftask.models.predictor import open_scorer


def noisy_copy(large: str, folder: Path, std: float = 0.05) -> str:
    """Write a bundle whose weights differ from those of another one by noise."""
    meta = bundle.read_meta(large)
    model, tokenizer = bundle.open_model(large, meta)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            weights += std * torch.randn(weights.shape, generator=generator)
    folder.mkdir()
    bundle.write(folder, model, tokenizer, meta, {"per_label": {"validation": []}})
    return str(folder)


def linear_copy(large: str, folder: Path) -> str:
    """Write a linear bundle that was fitted to the decisions of another one on varied texts."""
    meta, texts = bundle.read_meta(large), varied_texts(200, seed=1)
    labels = {"kind": {"multilabel": "list", "multiclass": "class"}[meta.task], "column": "y"}
    data = {"train": "x.csv", "text": "text", "labels": labels}
    job = TrainJob.load({"task": meta.task, "data": data, "model": {"base": "tfidf"}})
    vectorizer, vectors = Vectorizer.fit(job.model, texts)
    scorer = open_scorer(large, meta, "cpu")
    found = scorer.answers(scorer.tokenise(pa.array(texts), None)).outcome.decided
    model, _ = fit_linear(job, job.model.C, vectorizer, vectors, found.astype("float32"))
    folder.mkdir()
    known = {"model": "tfidf", "job": job.dump(), "files": {}}
    own = meta.model_copy(update=known)
    bundle.write(folder, model, None, own, {"per_label": {"validation": []}})
    return str(folder)


def varied_texts(count: int, seed: int = 0) -> list[str]:
    lot = random.Random(seed)
    return [" ".join(lot.choices(WORDS, k=lot.randint(1, 12))) for _ in range(count)]
