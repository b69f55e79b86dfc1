"""Time and peak memory of reading and splitting a multilabel table, by kind of split and size.

Each measurement runs in its own process. Labels are drawn with frequencies like 1 / rank. Nothing
is tokenised. Printed: seconds of `prepare`, seconds of the assignment within, peak resident memory
in MB, and by how many rows the worst label misses its share of validation.

    python benchmarks/split.py [--rows 10000 100000 1000000] [--labels 300] [--kinds stratified]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SPLITS = {
    "random": {"kind": "random"},
    "stratified": {"kind": "stratified"},
    "grouped": {"kind": "grouped", "group": "group"},
    "grouped+": {"kind": "grouped", "group": "group", "stratify": True},
}
LABELS_PER_ROW = 4


def write_table(path: Path, num_rows: int, num_labels: int) -> None:
    random = np.random.default_rng(0)
    shares = 1 / np.arange(1, num_labels + 1)
    codes = random.choice(num_labels, (num_rows, LABELS_PER_ROW), p=shares / shares.sum())
    names = pa.array([f"label {i}" for i in range(num_labels)]).take(pa.array(codes.ravel()))
    ends = pa.array(np.arange(num_rows + 1, dtype=np.int32) * LABELS_PER_ROW)
    columns = {
        "text": pa.array([f"text {i}" for i in range(num_rows)]),
        "labels": pa.ListArray.from_arrays(ends, names),
        "group": pa.array(random.integers(0, max(3, num_rows // 4), num_rows)),
    }
    pq.write_table(pa.table(columns), path)


def measure(path: str, kind: str) -> dict[str, float]:
    from clftask.config.train import TrainJob
    from clftask.data.prepare import prepare

    labels = {"kind": "list", "column": "labels"}
    data = {"train": path, "text": "text", "labels": labels, "split": SPLITS[kind]}
    job = TrainJob.load({"task": "multilabel", "data": data, "model": {"base": "none"}})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = []
    cls = type(job.data.split)
    assign = cls.assign

    def timed(self, rows):
        started = time.perf_counter()
        found = assign(self, rows)
        seconds.append(time.perf_counter() - started)
        return found

    cls.assign = timed
    started = time.perf_counter()
    counts = prepare(job).report.label_counts
    whole = time.perf_counter() - started
    total = {name: sum(by.get(name, 0) for by in counts.values()) for name in counts["train"]}
    missed = max(abs(counts["validation"][n] - total[n] / 10) for n in total)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"prepare_s": whole, "assign_s": seconds[0], "before_mb": before, "peak_mb": peak,
            "worst_label": missed}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--labels", type=int, default=300)
    parser.add_argument("--kinds", nargs="+", default=list(SPLITS))
    parser.add_argument("--table", help="measure this table in this process")
    args = parser.parse_args()
    if args.table:
        print(json.dumps(measure(args.table, args.kinds[0])))
        return
    for num_rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "table.parquet")
            write_table(path, num_rows, args.labels)
            for kind in args.kinds:
                command = [sys.executable, __file__, "--table", str(path), "--kinds", kind]
                done = subprocess.run(command, capture_output=True, text=True)
                last = (done.stdout or done.stderr).splitlines()[-1]
                print(f"{num_rows:>9,} rows {kind:<11}", last, flush=True)


if __name__ == "__main__":
    main()
