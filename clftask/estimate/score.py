"""What scoring a corpus will take: time, workers, bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clftask.config.score import ScoreJob
from clftask.estimate.machine import WorkerResources, not_as_large
from clftask.estimate.sampling import Sample, draw
from clftask.estimate.timing import Measured, measure
from clftask.io import storage
from clftask.io.parallel import map_in_threads
from clftask.messages import counted
from clftask.models.bundle_meta import BundleMeta
from clftask.scoring.plan import Planned

COLUMNS_OF_WORKERS = (1, 2, 4, 8, 16)
HOUR_S = 3600.0
NOT_MEASURED = (
    "the start of workers, and the installation of what they need",
    "how fast the corpus is read, and the table written over a network",
    "machines other than this one",
)
NOT_COMPILED = "workers with less than ten minutes of work, which do not compile"
Say = Callable[[str], None]


def estimate(
    job: ScoreJob, meta: BundleMeta, planned: Planned, asked: WorkerResources, say: Say
) -> dict[str, Any]:
    """Measure a sample of what is still to be scored, and say what all of it will take.

    Args:
        job: The job.
        meta: Of its bundle.
        planned: What is to be scored; at least one shard is missing.
        asked: The job's workers.
        say: Takes lines for the user.

    Returns:
        What `--json` prints.
    """
    sample = draw(job, meta, planned, asked.device)
    where = counted(len(sample.chunks), "place")
    say(f"measuring up to {counted(sample.num_rows, 'row')} from {where} of the corpus")
    found = measure(job, meta, planned, sample, asked)
    return {
        **progress(job, planned),
        **_measured(found, sample, asked.device),
        **_needed(planned, found, sample, asked.workers),
        "warnings": [*_bad_warnings(job, planned, sample), *not_as_large(asked, found.cpus)],
        "not_measured": [*NOT_MEASURED, *([NOT_COMPILED] if found.is_compiled else [])],
    }


def _measured(found: Measured, sample: Sample, device: str) -> dict[str, Any]:
    return {
        "sample": {
            "places": len(sample.chunks),
            "rows_read": sample.num_rows,
            "rows_bad": sample.num_bad,
            "rows_measured": found.counts.rows_in,
            "truncated": found.counts.rows_truncated / max(found.counts.rows_scored, 1),
        },
        "device": device,
        "precision": found.precision,
        "cpus": found.cpus,
        "compiled": found.is_compiled,
        "rows_per_s": round(found.pace.rows_per_s, 2),
        "rows_per_s_interval": [found.pace.low, found.pace.high],
        "startup_s": round(found.startup_s, 1),
    }


def _needed(planned: Planned, found: Measured, sample: Sample, workers: int) -> dict[str, Any]:
    bad = sample.num_bad / sample.num_rows
    rows = sum(shard.num_rows for shard in planned.missing)
    left = Load(rows, len(planned.missing), found.pace.rows_per_s, found.startup_s)
    of_part, of_row = found.part_bytes
    written = left.shards * of_part + rows * (1 - bad) * of_row
    return {
        "worker_hours": round(rows / found.pace.rows_per_s / HOUR_S, 3),
        "workers": workers,
        "seconds": left.seconds(workers),
        "by_workers": left.by_workers(workers),
        "workers_for_one_hour": left.workers_within(HOUR_S),
        "bytes_read": _bytes_read(planned),
        "bytes_written": round(written),
        "bytes_per_row": round(written / rows, 1),
        "rows_quarantined": round(planned.counts.rows_quarantined + bad * rows),
    }


def progress(job: ScoreJob, planned: Planned) -> dict[str, Any]:
    """Return what of a job is done and what is left, as `--json` prints it."""
    return {
        "output": job.output.path,
        "files": len(planned.plan.files),
        "rows": planned.plan.num_rows,
        "rows_done": planned.counts.rows_in,
        "rows_left": sum(shard.num_rows for shard in planned.missing),
        "shards": len(planned.plan.shards),
        "shards_left": len(planned.missing),
    }


@dataclass(frozen=True)
class Load:
    """What is left to be scored, and how fast a worker does it.

    Attributes:
        rows: That are left.
        shards: That are left: no worker does less than one.
        rows_per_s: Of a worker.
        startup_s: Of each worker.
    """

    rows: int
    shards: int
    rows_per_s: float
    startup_s: float

    def seconds(self, workers: int) -> float:
        """Return how long it takes that many workers."""
        most = math.ceil(self.shards / min(workers, self.shards))
        return round(self.startup_s + most * self.rows / self.shards / self.rows_per_s, 1)

    def by_workers(self, workers: int) -> list[dict[str, float]]:
        """Return the seconds at some numbers of workers, that one among them."""
        counts = sorted({*COLUMNS_OF_WORKERS, workers})
        return [{"workers": count, "seconds": self.seconds(count)} for count in counts]

    def workers_within(self, seconds: float) -> int | None:
        """Return the fewest workers that need no longer than that, None if no number does."""
        left = seconds - self.startup_s
        most = int(left * self.rows_per_s * self.shards / self.rows) if left > 0 else 0
        return math.ceil(self.shards / most) if most else None


def _bytes_read(planned: Planned) -> int:
    """Return the bytes of the files, each by its share of rows that are left."""
    left: dict[int, int] = {}
    for piece in (piece for shard in planned.missing for piece in shard.pieces):
        left[piece.file] = left.get(piece.file, 0) + piece.num_rows
    files = [planned.plan.files[number] for number in left]
    sizes = map_in_threads(lambda file: storage.size(file.path), files)
    shares = (rows / file.num_rows for rows, file in zip(left.values(), files, strict=True))
    return round(sum(size * share for size, share in zip(sizes, shares, strict=True)))


def _bad_warnings(job: ScoreJob, planned: Planned, sample: Sample) -> list[str]:
    """Warn of bad rows that would end the job."""
    if not sample.num_bad:
        return []
    share = sample.num_bad / sample.num_rows
    found = f"{sample.num_bad:,} of {sample.num_rows:,} sampled rows are bad"
    if job.on_bad_row == "fail":
        return [f"{found}, and on_bad_row: fail ends the job at the first: {sample.first_bad}"]
    expected = planned.counts.rows_quarantined + share * sum(s.num_rows for s in planned.missing)
    if expected <= job.max_bad_rows * planned.plan.num_rows:
        return []
    allowed = f"more than max_bad_rows ({job.max_bad_rows:g}) would end the job"
    return [f"{found}: {allowed}. The first: {sample.first_bad}"]
