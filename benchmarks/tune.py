"""Search: early stopping compared with full training of each trial and with a plain search.

Runs all trials to their end and saves their learning curves, then ASHA, with the same rows,
configurations and seeds. Printed: epochs trained, best validation score, wall time; the time
from a trial's end to the next one's first step on the same slot; the peak storage of the search
in bundles; ASHA simulated on the curves with other orders of the trials; and, for
`Trainer.hyperparameter_search` on the same space, the seconds until each search reaches the
baseline's final score.

    python benchmarks/tune.py [--rows 1200] [--job JOB.yaml] [--curves FILE]

With `--gpus 1`, trials share a GPU (`--concurrency 4`), which the plain search uses, too; without
it, none is used.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
from train import cut, default_job

from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.models.loading import find_base

HERE = Path(__file__).parent
LOW, HIGH, BATCH_SIZES = 3e-5, 1e-3, [16, 32]


def searched(document: dict, trials: int, **options) -> dict:
    rate = {"kind": "loguniform", "low": LOW, "high": HIGH}
    sizes = {"kind": "choice", "values": BATCH_SIZES}
    space = {"training.learning_rate": rate, "training.batch_size": sizes}
    return {"train": document, "space": space, "trials": trials, "finalists": None,
            "run": document["run"], **options}  # fmt: skip


def folder_bytes(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def run(job: dict, folder: Path) -> dict:
    """Run the command; add the seconds at which its best score rose, and its peak storage."""
    file = folder / "search.yaml"
    file.write_text(json.dumps(job))
    command = [sys.executable, "-m", "clftask", "tune", str(file), "--json"]
    started, ended, peak = time.perf_counter(), threading.Event(), [0]

    def watch() -> None:
        while not ended.wait(0.5):
            peak[0] = max(peak[0], folder_bytes(Path(job["run"]["storage"])))

    before = folder_bytes(Path(job["run"]["storage"]))
    thread = threading.Thread(target=watch)
    thread.start()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    rises: list[tuple[float, float]] = []
    for line in process.stderr:
        if "; best 0." in line:
            best = float(line.rsplit("; best ", 1)[1])
            if not rises or best > rises[-1][1]:
                rises.append((time.perf_counter() - started, best))
    result = json.loads(process.stdout.read().splitlines()[-1])
    wall = time.perf_counter() - started
    ended.set()
    thread.join()
    return {**result, "wall": wall, "rises": rises, "peak": peak[0] - before}


def records(run: str) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted(Path(run, "trials").glob("*/trial.json"))]


def gaps(trials: list[dict]) -> list[float]:
    """Return the seconds from each trial's end to the next first step on the same slot."""
    ends = sorted(t["ended_at"] for t in trials)
    found = []
    for start in sorted(t["first_step_at"] for t in trials):
        before = [end for end in ends if end <= start]
        if before:
            found.append(start - before[-1])
            ends.remove(before[-1])
    return found


def summary(name: str, found: dict, all_epochs: int) -> float:
    table = pq.read_table(Path(found["run"], "trials.parquet"))
    epochs = sum(table["epochs"].to_pylist())
    best = max(x for x in table["micro_f1"].to_pylist() if x is not None)
    size = folder_bytes(Path(found["bundle"]))
    waits = gaps(records(found["run"]))
    print(f"{name}: {epochs:.0f} of {all_epochs} epochs ({epochs / all_epochs:.0%}), best "
          f"{best:.4f}, {found['wall']:.0f} s; between trials median "
          f"{statistics.median(waits):.1f} s, most {max(waits):.1f} s; "
          f"peak on disk {found['peak'] / size:.1f} bundles", flush=True)  # fmt: skip
    return best


def replay(job: TuneJob, curves: list[list[float]], slots: int, order: list[int]) -> tuple:
    """Simulate ASHA on recorded curves, without training; each epoch takes the same time."""
    goal, epochs = job.goal, job.train.training.epochs
    scheduler = job.scheduler.build(job.searched, goal, epochs, 0)
    waiting, running, spent, best = list(order), {}, 0, 0.0
    while waiting or running:
        while waiting and len(running) < slots:
            number = waiting.pop(0)
            running[number] = 0
            scheduler.on_trial_add(None, SimpleNamespace(trial_id=str(number)))
        for number in list(running):
            running[number] += 1
            spent += 1
            value = curves[number][running[number] - 1]
            best = max(best, value)
            trial = SimpleNamespace(trial_id=str(number))
            result = {"epoch": running[number], goal.metric: value}
            is_over = running[number] == epochs
            if scheduler.on_trial_result(None, trial, result) == "STOP" or is_over:
                scheduler.on_trial_complete(None, trial, result)
                del running[number]
    return spent, best


def replays(job: TuneJob, file: Path) -> None:
    table = pq.read_table(file)
    curves = table["curve"].to_pylist()
    all_epochs, top = sum(map(len, curves)), max(max(c) for c in curves)
    found = [
        replay(job, curves, 2, np.random.default_rng(seed).permutation(len(curves)).tolist())
        for seed in range(200)
    ]
    shares = sorted(spent / all_epochs for spent, _ in found)
    losses = np.array([top - best for _, best in found])
    print(
        f"ASHA replayed in 200 orders: epochs median {statistics.median(shares):.0%} "
        f"({shares[0]:.0%} to {shares[-1]:.0%}); lost to the best: median "
        f"{np.median(losses):.4f}, within 0.01 in {np.mean(losses <= 0.01):.0%}"
    )


def run_baseline(
    document: dict, num_labels: int, folder: Path, trials: int
) -> list[tuple[float, float]]:
    """Return the seconds at which the plain search's best score rose, and the score."""
    model = document["model"]
    options = [
        str(folder), "--base", find_base(model["base"], str(folder)),
        "--num-labels", str(num_labels), "--max-length", str(model["max_length"]),
        "--epochs", str(document["training"]["epochs"]), "--trials", str(trials),
        "--low", str(LOW), "--high", str(HIGH), "--batch-sizes", *map(str, BATCH_SIZES),
    ]  # fmt: skip
    command = [sys.executable, str(HERE / "plain_search.py"), *options]
    started, rises = time.perf_counter(), []
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    for line in process.stdout:
        if line.startswith('{"epoch"'):
            score = json.loads(line)["score"]
            if not rises or score > rises[-1][1]:
                rises.append((time.perf_counter() - started, score))
    rises.append((time.perf_counter() - started, rises[-1][1]))
    return rises


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--max-length", type=int, default=48)
    parser.add_argument("--peer-trials", type=int, default=3)
    parser.add_argument("--job", help="a multilabel training job instead of the AWS errors")
    parser.add_argument("--curves", type=Path, help="where the learning curves are kept")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--concurrency", type=int, help="trials at once")
    args = parser.parse_args()
    if not args.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the plain search takes what it sees
    more = {"concurrency": args.concurrency} if args.concurrency else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = [f"training.epochs={args.epochs}", f"model.max_length={args.max_length}"]
        options += ["training.early_stopping=null"]
        train = TrainJob.load(args.job or default_job(folder), options)
        document, num_labels = cut(train, args.rows, folder, args.rows // 2)
        document |= {"scaling": {"workers": 1, "use_gpu": args.gpus > 0}}
        all_epochs = args.trials * args.epochs
        full = run(searched(document, args.trials, scheduler="fifo", **more), folder)
        top = summary("all to their end", full, all_epochs)
        if args.curves:
            args.curves.write_bytes(Path(full["run"], "trials.parquet").read_bytes())
        asha = run(searched(document, args.trials, **more), folder)
        best = summary("ASHA", asha, all_epochs)
        print(f"ASHA against all: best {best - top:+.4f}, time {asha['wall'] / full['wall']:.0%}")
        job = TuneJob.load(searched(document, args.trials))
        replays(job, Path(full["run"], "trials.parquet"))
        if args.peer_trials:
            few = searched(document, args.peer_trials, searcher="optuna", scheduler="fifo", **more)
            ours = run(few, folder)
            theirs = run_baseline(document, num_labels, folder, args.peer_trials)
            score = theirs[-1][1]
            reached = next((at for at, best in ours["rises"] if best >= score), None)
            print(f"plain search, {args.peer_trials} trials: {score:.4f} after "
                  f"{theirs[-2][0]:.0f} s, ended after {theirs[-1][0]:.0f} s; clftask got there "
                  f"after {reached and round(reached)} s, ended with {ours['rises'][-1][1]:.4f} "
                  f"after {ours['wall']:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
