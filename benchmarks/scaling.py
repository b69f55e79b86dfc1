"""Scaling: training and scoring with 1 and 2 workers of one CPU each, alternating.

Efficiency is the speed with 2 workers divided by twice the speed with 1. Measured: training
steps without start and evaluations; scoring between 20 % and 90 % of the rows; and both jobs
as a whole, from call to return. The global batch size is the same.

    python benchmarks/scaling.py [--train-rows 1280] [--score-rows 6000] [--rounds 3]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from train import cut, default_job

from clftask.cli import demo_corpus
from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob
from clftask.distributed.score.driver import score
from clftask.distributed.session import connected
from clftask.distributed.train.driver import train

SHARD_ROWS = 200
PRECISION = "fp32"
WHATS = ("training, steps", "training, whole job", "scoring, middle", "scoring, whole job")


def train_speeds(document: dict, workers: int, name: str) -> tuple[float, float, str]:
    """Return rows per second of the steps and of the whole job, and the bundle."""
    document["run"] |= {"name": name}
    document["training"] |= {"precision": PRECISION}
    document["scaling"] = {"workers": workers, "use_gpu": False, "cpus_per_worker": 1}
    started = time.perf_counter()
    found = train(TrainJob.load(document), lambda line: None, lambda record: None)
    rows = found.steps * document["training"]["batch_size"]
    return found.samples_per_s, rows / (time.perf_counter() - started), found.bundle


def score_speeds(bundle: str, path: Path, workers: int, output: Path) -> tuple[float, float]:
    """Return rows per second of the middle part and of the whole job."""
    job = {
        "bundle": bundle,
        "input": {"path": str(path), "text": "text"},
        "output": {"path": str(output)},
        "shard_rows": SHARD_ROWS,
        "precision": PRECISION,
        "scaling": {"workers": workers, "use_gpu": False, "cpus_per_worker": 1},
    }
    stamps: list[tuple[float, int]] = []
    found = score(
        ScoreJob.load(job),
        lambda line: None,
        lambda record: stamps.append((time.perf_counter(), record["rows"])),
    )
    total = found.rows_in
    middle = [stamp for stamp in stamps if 0.2 * total <= stamp[1] <= 0.9 * total]
    (begin, before), (end, after) = middle[0], middle[-1]
    return (after - before) / (end - begin), found.rows_per_s


def tell(what: str, found: list[tuple[float, float]]) -> None:
    ratios = [two / (2 * one) for one, two in found]
    one, two = (statistics.median(speeds) for speeds in zip(*found, strict=True))
    print(
        f"{what}: {one:.1f} and {two:.1f} rows/s, efficiency {statistics.median(ratios):.0%}, "
        f"{min(ratios):.0%} to {max(ratios):.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train-rows", type=int, default=1280)
    parser.add_argument("--score-rows", type=int, default=6_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    speeds: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as name, connected():
        folder = Path(name)
        job = TrainJob.load(default_job(folder))
        document, _ = cut(job, args.train_rows, folder)
        corpus = folder / "corpus.parquet"
        texts = demo_corpus.aws_operations().select(["text"]).drop_null()
        pq.write_table(texts.slice(0, args.score_rows), corpus)
        for number in range(args.rounds):
            for workers in (1, 2):
                label = f"{number}-{workers}"
                *trained, bundle = train_speeds(document, workers, label)
                scored = score_speeds(bundle, corpus, workers, folder / f"out-{label}")
                print(f"round {number + 1}, {workers} workers: training {trained[0]:.1f} rows/s, "
                      f"scoring {scored[0]:.1f}", flush=True)  # fmt: skip
                for what, speed in zip(WHATS, (*trained, *scored), strict=True):
                    speeds.setdefault(what, [[] for _ in range(args.rounds)])[number].append(speed)
    for what, found in speeds.items():
        tell(what, [(one, two) for one, two in found])


if __name__ == "__main__":
    main()
