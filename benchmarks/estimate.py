"""Estimates: the predictions of `--estimate` compared with the jobs that follow.

A training run creates a bundle. Each round estimates and then runs `clftask score` on some
thousand texts with one and two workers, and a small `clftask tune` with one and two concurrent
trials. Printed: predicted (typical) and actual seconds and their ratio, and bytes likewise. Both
include the start of Ray and of its workers, but not the imports of the command itself.

    python benchmarks/estimate.py [--rows 4000] [--train-rows 640] [--rounds 2]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from train import clftask as trained
from train import cut, default_job

from clftask.cli import demo_corpus
from clftask.config.train import TrainJob

NUM_TRIALS, EPOCHS = 4, 2
Ratios = dict[str, list[float]]


def run(kind: str, job: dict, folder: Path, *options: str) -> dict:
    """Run a command; return its result."""
    file = folder / f"{kind}.yaml"
    file.write_text(json.dumps(job))
    command = [sys.executable, "-m", "clftask", kind, str(file), *options, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def score_job(bundle: str, corpus: Path, workers: int, output: Path) -> dict:
    return {
        "bundle": bundle,
        "input": {"path": str(corpus), "text": "text"},
        "output": {"path": str(output)},
        "shard_rows": 200,
        "scaling": {"workers": workers, "use_gpu": False, "cpus_per_worker": 1},
    }


def tune_job(document: dict, concurrency: int, name: str) -> dict:
    rates = {"kind": "loguniform", "low": 5e-5, "high": 5e-4}
    scaling = {"workers": 1, "use_gpu": False, "cpus_per_worker": 1}
    training = document["training"] | {"epochs": EPOCHS, "early_stopping": None}
    return {
        "train": document | {"training": training, "scaling": scaling},
        "space": {"training.learning_rate": rates},
        "trials": NUM_TRIALS,
        "scheduler": "fifo",
        "finalists": None,
        "concurrency": concurrency,
        "run": document["run"] | {"name": name},
    }


def score(bundle: str, corpus: Path, folder: Path, ratios: Ratios) -> None:
    for workers in (1, 2):
        output = Path(tempfile.mkdtemp(dir=folder), "scores")
        job = score_job(bundle, corpus, workers, output)
        predicted, found = run("score", job, folder, "--estimate"), run("score", job, folder)
        what = f"score, {workers} workers"
        add_ratio(f"{what}: seconds", predicted["seconds"]["typical"], found["seconds"], ratios)
        size = sum(file.stat().st_size for file in output.glob("part-*.parquet"))
        add_ratio(f"{what}: bytes", predicted["bytes_written"], size, ratios)


def tune(document: dict, folder: Path, ratios: Ratios) -> None:
    for concurrency in (1, 2):
        name = Path(tempfile.mkdtemp(dir=folder)).name
        job = tune_job(document, concurrency, name)
        predicted, found = run("tune", job, folder, "--estimate"), run("tune", job, folder)
        what = f"tune, {concurrency} trials at once: seconds"
        add_ratio(what, predicted["seconds"]["typical"], found["seconds"], ratios)


def add_ratio(what: str, predicted: float, actual: float, ratios: Ratios) -> None:
    ratio = predicted / actual
    ratios.setdefault(what, []).append(ratio)
    print(
        f"{what}: {predicted:,.0f} predicted, {actual:,.0f} actual, ratio {ratio:.2f}", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4_000)
    parser.add_argument("--train-rows", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        document, _ = cut(TrainJob.load(default_job(folder)), args.train_rows, folder, 320)
        bundle = trained(document, folder)["bundle"]
        corpus = folder / "corpus.parquet"
        texts = demo_corpus.aws_operations().select(["text"]).drop_null()
        pq.write_table(texts.slice(0, args.rows), corpus)
        ratios: Ratios = {}
        for _ in range(args.rounds):
            score(bundle, corpus, folder, ratios)
            tune(document, folder, ratios)
    for what, found in ratios.items():
        print(f"{what}: predicted over actual {min(found):.2f} to {max(found):.2f}")


if __name__ == "__main__":
    main()
