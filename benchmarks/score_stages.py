"""CPU time of each host stage of scoring, in microseconds a row on one thread, without the model.

Stages: finding equal texts, tokenising, handing texts and tokens over to a process and back,
padding batches (of a CPU's and of a GPU's size), deciding, building the table, writing Parquet.
Rows per second of a core are a million divided by the sum.

    python benchmarks/score_stages.py --bundle BUNDLE --input TABLE [--rows 5000] [--rounds 5]
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import torch
from score import read_texts

from clftask.components.score_table import ScoreColumns, Wide, write_part
from clftask.data.batching import FlatTokens, token_batches
from clftask.data.token_processes import _bytes, _packed, _unpacked
from clftask.data.tokenization import distinct
from clftask.models import bundle
from clftask.models.predictor import TOKENISE_ROWS, Scorer
from clftask.models.token_budget import MAX_TOKENS


class Clock:
    """Microseconds of this thread per row, by stage; one entry a round."""

    def __init__(self, rows: int) -> None:
        self.rows, self.found = rows, {}

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        began = time.thread_time()
        yield
        self.found.setdefault(stage, []).append(1e6 * (time.thread_time() - began) / self.rows)


def measure(scorer: Scorer, texts: pa.Array, clock: Clock) -> None:
    meta = scorer.meta
    with clock.of("equal texts"):
        distinct(texts)
    with clock.of("tokenise"):
        tokens = scorer.tokenise(texts, None)
    with clock.of("hand over"):
        for start in range(0, len(texts), TOKENISE_ROWS):
            _unpacked(_packed((texts[start : start + TOKENISE_ROWS], None)))
            _unpacked(_bytes(tokens.slice(start, TOKENISE_ROWS)))
    flat = FlatTokens(tokens)
    for device, most in MAX_TOKENS.items():
        with clock.of(f"pad for {device}"):
            for rows in token_batches(flat.lengths, most):
                flat.padded(rows, scorer.tokenizer)
    rng = np.random.default_rng(0)
    probabilities = rng.random((len(texts), len(meta.label_names)), np.float32)
    with clock.of("decide"):
        meta.decision.decide(probabilities, meta.task)
    decided = probabilities > 0.99
    ids = pa.table({"id": [str(i) for i in range(len(texts))]})
    with clock.of("table"):
        columns = ScoreColumns(meta.task, meta.label_names, Wide())
        table = columns.table(ids, probabilities, decided)
    with clock.of("write"):
        write_part(table, {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread, whose CPU time is measured
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder, meta = bundle.fetch(args.bundle, scratch)
        scorer = Scorer(*bundle.open_model(folder, meta), meta)
    texts = read_texts(args.input, meta)
    order = np.random.default_rng(0).permutation(len(texts))[: args.rows]
    texts = texts.take(pa.array(order))
    clock = Clock(len(texts))
    for _ in range(args.rounds):
        measure(scorer, texts, clock)
    for stage, times in clock.found.items():
        print(f"{stage:12} median {statistics.median(times):7.2f} µs a row, "
              f"{min(times):.2f} to {max(times):.2f}")  # fmt: skip
    print(json.dumps({stage: min(times) for stage, times in clock.found.items()}))


if __name__ == "__main__":
    main()
