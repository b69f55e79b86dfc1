"""Scoring speed: the scorer and a whole job compared with transformers' `pipeline`.

Printed for each round, on the same texts: documents per second of `pipeline` with batch sizes
1, 8 and 32, and of the scorer in the precision that `auto` selects, eager and compiled; the
ratio of the compiled scorer to the best pipeline; the agreement of decisions with fp32; the
share of the measured peak matrix product throughput; and with `--job-rows` a whole job (start,
Ray, reading, writing) compared with the best pipeline of each round, and with the scorer alone.

    python benchmarks/score.py --bundle BUNDLE --input TABLE [--rows 6000] [--rounds 3]

On a GPU: `--device cuda --rows 30000 --job-rows 200000 --shard-rows 20000`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from transformers import pipeline

from clftask.data.readers.registry import open_source
from clftask.models import bundle, bundle_meta
from clftask.models.predictor import DTYPES, Scorer, precision_for

BATCH_SIZES = (1, 8, 32)


def read_texts(path: str, meta: bundle_meta.BundleMeta) -> pa.Array:
    """Return the texts as the bundle reads them, without rows that have no text."""
    source = open_source(path, "input")["train"]
    text, _ = meta.text.apply(source.read(meta.text.columns, meta.text.columns))
    return text.drop_null().combine_chunks()


def seconds_of(call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def peak(dtype: torch.dtype, device: str) -> float:
    """Return the TFLOP/s of a large matrix product."""
    size = 2048 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device).to(dtype)

    def product() -> None:
        a @ a
        if device != "cpu":
            torch.cuda.synchronize()

    return 2 * size**3 / min(seconds_of(product) for _ in range(6)) / 1e12


def flop(scorer: Scorer, tokens: pa.Table) -> float:
    """Return the FLOPs of the linear layers and of attention, without padding."""
    config = scorer.model.config
    linear = sum(
        p.numel() for n, p in scorer.model.named_parameters() if "layer." in n and p.ndim == 2
    )
    lengths = tokens["length"].to_numpy().astype(float)
    attention = 4 * config.num_hidden_layers * config.hidden_size * (lengths**2).sum()
    return 2 * linear * lengths.sum() + attention


def spread(ratios: list[float]) -> str:
    return f"median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"


def rounds(
    args: argparse.Namespace, meta: bundle_meta.BundleMeta, folder: str
) -> tuple[Scorer, list[float]]:
    """Return the compiled scorer and the documents per second of each round's best pipeline."""
    model, tokenizer = bundle.open_model(folder, meta)
    device, precision = args.device, precision_for("auto", args.device)
    exact = Scorer(*bundle.open_model(folder, meta), meta, device)
    plain = Scorer(*bundle.open_model(folder, meta), meta, device, precision)
    fast = Scorer(*bundle.open_model(folder, meta), meta, device, precision)
    texts = read_texts(args.input, meta)
    order = pa.array(torch.randperm(len(texts), generator=torch.Generator().manual_seed(1)).numpy())
    texts = texts.take(order[: args.rows])
    sample = fast.tokenise(texts.slice(0, 64), None)
    print(
        f"auto picks {precision}; compiling took {seconds_of(lambda: fast.compile(sample)):.0f} s"
    )
    found, agreed, positive, size = [], 0, 0, args.rows // args.rounds
    pipelines = []
    for number in range(args.rounds):
        part = texts.slice(number * size, size)
        speeds = {}
        for batch_size in BATCH_SIZES:
            classify = pipeline(
                "text-classification", model=model, tokenizer=tokenizer, top_k=None,
                truncation=True, max_length=meta.max_length, batch_size=batch_size, device=device,
            )  # fmt: skip
            rows = part.to_pylist()
            speeds[f"pipeline {batch_size}"] = size / seconds_of(lambda c=classify, r=rows: c(r))
        for name, scorer in (("scorer", plain), ("scorer, compiled", fast)):
            call = lambda s=scorer, p=part: s.probabilities(s.tokenise(p, None))  # noqa: E731
            speeds[name] = size / seconds_of(call)
        best = max(speeds[f"pipeline {n}"] for n in BATCH_SIZES)
        pipelines.append(best)
        found.append((speeds["scorer"] / best, speeds["scorer, compiled"] / best))
        shown = ", ".join(f"{name} {speed:.1f}" for name, speed in speeds.items())
        print(f"round {number + 1}: {shown} docs/s; ratio {found[-1][0]:.2f}, {found[-1][1]:.2f}")
        ours, theirs = (
            meta.decision.decide(s.probabilities(s.tokenise(part, None)), meta.task)
            for s in (fast, exact)
        )
        agreed += int((ours & theirs).sum())
        positive += int((ours | theirs).sum())
    for name, ratios in zip(("scorer", "compiled"), zip(*found, strict=True), strict=True):
        print(f"{name} against the best pipeline: {spread(list(ratios))}")
    print(
        f"decisions agree with fp32 on {agreed / max(positive, 1):.2%} of {positive} positive pairs"
    )
    tokens = fast.tokenise(texts, None)
    seconds, top = seconds_of(lambda: fast.probabilities(tokens)), peak(DTYPES[precision], device)
    reached = flop(fast, tokens) / seconds / 1e12
    print(f"{reached:.3f} of {top:.3f} TFLOP/s in {precision}: {reached / top:.0%} of the peak")
    return fast, pipelines


def whole_job(
    args: argparse.Namespace,
    meta: bundle_meta.BundleMeta,
    scorer: Scorer,
    pipelines: list[float],
) -> None:
    """Score a corpus of `--job-rows` rows with the command, then with the scorer alone.

    A text that repeats within a shard is made different by a number: equal texts are computed once.
    """
    texts = read_texts(args.input, meta)
    repeats = -(-args.job_rows // len(texts))
    again = [texts] + [pc.binary_join_element_wise(f"{i}", texts, " ") for i in range(1, repeats)]
    texts = pa.concat_arrays(again).slice(0, args.job_rows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        column = meta.text.columns[0]
        pq.write_table(pa.table({column: texts}), folder / "in.parquet")
        job = {
            "bundle": args.bundle,
            "input": {"path": str(folder / "in.parquet"), "text": column},
            "output": {"path": str(folder / "out")},
            "shard_rows": args.shard_rows,
            "scaling": {"workers": "auto", "use_gpu": args.device != "cpu"},
        }
        (folder / "job.yaml").write_text(json.dumps(job))
        command = [sys.executable, "-m", "clftask", "score", str(folder / "job.yaml"), "--json"]
        started = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        wall = time.perf_counter() - started
    result = json.loads(done.stdout.splitlines()[-1])

    def bare() -> None:
        for start in range(0, len(texts), args.shard_rows):
            part = pc.drop_null(texts.slice(start, args.shard_rows))
            scorer.probabilities(scorer.tokenise(part, None))

    seconds = seconds_of(bare)
    ratios = [len(texts) / wall / pipeline for pipeline in pipelines]
    print(f"whole job, {wall:.0f} s with its start, against the best pipeline: {spread(ratios)}")
    print(f"{len(texts):,} rows: whole job {result['seconds']:.0f} s, bare scorer {seconds:.0f} s, "
          f"{result['seconds'] / seconds - 1:+.0%}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--rows", type=int, default=6_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-length", type=int, help="instead of the bundle's")
    parser.add_argument("--job-rows", type=int, default=0)
    parser.add_argument("--shard-rows", type=int, default=5_000)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, meta = bundle.fetch(args.bundle, scratch)
        length = args.max_length or meta.max_length
        scorer, pipelines = rounds(args, meta.model_copy(update={"max_length": length}), folder)
        if args.job_rows:
            scorer.meta = meta
            whole_job(args, meta, scorer, pipelines)


if __name__ == "__main__":
    main()
