"""A scoring job that runs in the tests' own process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from clftask.config.score import ScoreJob
from clftask.distributed.score.dispatcher import Dispatcher
from clftask.distributed.score.driver import ScoreRun
from clftask.errors import JobError
from clftask.models import bundle
from clftask.models.predictor import open_scorer
from clftask.scoring import plan as planning
from clftask.scoring.manifest import Manifest
from clftask.scoring.worker import Done, Failure, ScoreWork, ShardScorer


class World:
    """A bundle, a folder of input and a job on them; `run` scores in this process."""

    def __init__(self, folder: Path, tiny_bundle: str) -> None:
        self.input = folder / "in"
        self.input.mkdir()
        self.output = folder / "out"
        self.document: dict[str, Any] = {
            "bundle": tiny_bundle,
            "input": {"path": str(self.input), "id": "id", "keep": ["source"]},
            "output": {"path": str(self.output)},
            "shard_rows": 10,
            "precision": "fp32",
        }
        local, self.meta = bundle.fetch(tiny_bundle, "")
        self.scorer = open_scorer(local, self.meta, "cpu")
        self.num_scored = 0
        self.records: list[dict[str, Any]] = []

    def write(self, name: str, num_rows: int, first: int = 0, **columns: Any) -> Path:
        """Write a table of toy texts; `columns` replace some."""
        rows = range(first, first + num_rows)
        table: dict[str, Any] = {
            "id": [f"row-{i}" for i in rows],
            "text": [f"fast audio tool {i % 7}" for i in rows],
            "source": pa.array([i % 3 for i in rows], pa.int16()),
        }
        path = self.input / name
        parquet.write_table(pa.table(table | columns), path)
        return path

    def run(self, stop_after: int | None = None, show: Any = None, **settings: Any) -> Manifest:
        """Run the job; `stop_after`: receipts after which the driver dies."""
        job = ScoreJob.load(self.document | settings)
        planned = planning.create(job, self.meta, planning.plan(job, self.meta))
        self.last = run = ScoreRun(job, self.meta, planned, show or self.records.append)
        worker = ShardScorer(ScoreWork(job, planned.plan, self.meta), self.scorer)

        def work(dispatcher: Dispatcher) -> Iterator[Done]:
            while shards := dispatcher.next():
                open_ = list(shards)
                for found in worker.run(shards):
                    open_ = [s for s in open_ if s.index != found.shard]
                    if isinstance(found, Failure):
                        if found.ends_job:
                            raise JobError(*found.error.problems)
                        failed = [s for s in shards if s.index == found.shard]
                        dispatcher.take_back([*failed, *open_], found.error)
                        continue
                    self.num_scored += found.receipt.counts.rows_in if found.is_new else 0
                    yield found
                    if self.num_scored == stop_after:
                        raise KeyboardInterrupt

        run.score(work, 1)
        return run.close()

    def table(self) -> pa.Table:
        """Return the score table."""
        parts = sorted(self.output.glob("part-*.parquet"))
        return pa.concat_tables([parquet.read_table(part) for part in parts])

    def ids(self) -> list[str]:
        return sorted(self.table()["id"].to_pylist())
