"""Peak memory of a scoring job's driver and workers, for corpora of two sizes.

Shared memory counts in each process that maps it. Printed for each size: the peak resident set
size of the driver and of the largest worker. It should not depend on the corpus size.

    python benchmarks/score_memory.py --bundle BUNDLE --input TABLE [--rows 10000 100000]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from clftask.data.readers.registry import open_source
from clftask.models import bundle


def write_corpus(args: argparse.Namespace, num_rows: int, path: Path) -> list[str]:
    """Write the input's rows, repeated, as one row group; return the text columns."""
    meta = bundle.read_meta(args.bundle)
    columns = args.text or meta.text.columns
    table = open_source(args.input, "input")["train"].read(columns, columns).select(columns)
    repeats = -(-num_rows // table.num_rows)
    whole = pa.concat_tables([table] * repeats).slice(0, num_rows)
    pq.write_table(whole, path, row_group_size=num_rows)
    return columns


def peaks(command: list[str]) -> tuple[float, float]:
    """Run a command; return the peak memory of it and of its largest scoring actor, in MB."""
    driver = worker = 0.0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            driver = max(driver, process.memory_info().rss / 1e6)
            for child in process.children(recursive=True):
                if "ScoreActor" in " ".join(child.cmdline()):
                    worker = max(worker, child.memory_info().rss / 1e6)
        except psutil.Error:
            pass
        time.sleep(0.1)
    assert process.returncode == 0, f"{command} failed"
    return driver, worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--text", nargs="*", help="instead of the bundle's columns")
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--shard-rows", type=int, default=2_000)
    args = parser.parse_args()
    for num_rows in args.rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            columns = write_corpus(args, num_rows, folder / "in.parquet")
            job = {
                "bundle": args.bundle,
                "input": {"path": str(folder / "in.parquet"), "text": columns},
                "output": {"path": str(folder / "out")},
                "shard_rows": args.shard_rows,
            }
            (folder / "job.yaml").write_text(json.dumps(job))
            started = time.perf_counter()
            driver, worker = peaks(
                [sys.executable, "-m", "clftask", "score", str(folder / "job.yaml")]
            )
            size = (folder / "in.parquet").stat().st_size / 1e6
            print(f"{num_rows:,} rows ({size:.1f} MB), {time.perf_counter() - started:.0f} s: "
                  f"driver {driver:.0f} MB, worker {worker:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
