"""The driver's cost per shard of a scoring job, with workers that do no work.

The workers write a receipt for each shard and neither read nor score. The time to score a shard
divided by the driver's cost per shard is the number of workers that one driver can keep busy.

    python benchmarks/score_driver.py [--shards 2000 20000] [--workers 2]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clftask.components.decision.decision import Decision
from clftask.components.text import TextRecipe
from clftask.config.score import ScoreJob
from clftask.distributed.capacity import WorkerPlan
from clftask.distributed.score import actor_pool
from clftask.distributed.score.driver import ScoreRun
from clftask.distributed.session import connected
from clftask.models.bundle_meta import BundleMeta
from clftask.scoring import plan as planning
from clftask.scoring.manifest import Counts, Receipt
from clftask.scoring.table_store import ScoreTableStore
from clftask.scoring.worker import Done, ScoreWork

SHARD_ROWS = 10
NAMES = tuple(f"label-{i}" for i in range(263))


class IdleActor(actor_pool.ScoreActor):
    """Has no model and reports each shard as done."""

    def _open(self):
        return self

    def run(self, shards, rows_ahead):
        work = self.work
        store = ScoreTableStore(work.job.output.path)
        for shard in shards:
            counts = Counts(
                rows_in=shard.num_rows, rows_scored=shard.num_rows, labels=dict.fromkeys(NAMES, 1)
            )
            rows = work.plan.input_of(shard)
            receipt = Receipt(
                shard=shard.index, input=rows, counts=counts, sha256="", num_bytes=0, seconds=0.0
            )
            store.write_receipt(receipt)
            yield Done(receipt, True)


class Clock:
    """Wall time and the driver's CPU time, in milliseconds per shard."""

    def __init__(self, shards):
        self.shards = shards
        self.lap()

    def lap(self):
        now = np.array([time.perf_counter(), time.process_time()])
        since = now - getattr(self, "last", now)
        self.last = now
        wall, cpu = 1000 * since / self.shards
        return f"{wall:7.2f} ms ({cpu:5.2f} ms CPU)"


def measure(folder: Path, shards: int, workers: int) -> None:
    rows = shards * SHARD_ROWS
    table = pa.table({"id": np.arange(rows), "text": ["a"] * rows})
    pq.write_table(table, folder / "in.parquet", row_group_size=100_000)
    job = ScoreJob.load(
        {
            "bundle": str(folder / "none"),
            "input": {"path": str(folder / "in.parquet"), "id": "id"},
            "output": {"path": str(folder / "out")},
            "shard_rows": SHARD_ROWS,
        }
    )
    meta = BundleMeta(
        task="multilabel",
        label_names=NAMES,
        text=TextRecipe(text="text"),
        max_length=8,
        decision=Decision(),
        job={},
        data={},
        versions={},
        metrics={},
        fingerprint="0" * 16,
    )
    clock = Clock(shards)
    planned = planning.create(job, meta, planning.plan(job, meta))
    print(f"{shards:>7,} shards: plan {clock.lap()}", end="", flush=True)
    run = ScoreRun(job, meta, planned, lambda record: None)
    chosen = WorkerPlan(workers, False, 1)
    with actor_pool.Pool(ScoreWork(job, run.plan, meta), chosen, print) as actors:
        run.score(actors.done, workers)
    print(f", score {clock.lap()}", end="", flush=True)
    run.close()
    print(f", manifest {clock.lap()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, nargs="*", default=[2_000, 20_000])
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    actor_pool.ScoreActor = IdleActor
    with connected():
        for shards in args.shards:
            with tempfile.TemporaryDirectory() as name:
                measure(Path(name), shards, args.workers)


if __name__ == "__main__":
    main()
