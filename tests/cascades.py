"""A cascade of a random bundle and a copy of it that sometimes decides otherwise."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from toy_scorers import WORDS

from clftask.models import bundle


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


def varied_texts(count: int, seed: int = 0) -> list[str]:
    lot = random.Random(seed)
    return [" ".join(lot.choices(WORDS, k=lot.randint(1, 12))) for _ in range(count)]
