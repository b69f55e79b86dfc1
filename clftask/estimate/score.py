"""Estimate of a scoring job: a worker scores a sample into a temporary folder."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from clftask.components.score_table import read_footer, write_part
from clftask.config.score import ScoreJob
from clftask.data.readers.base import FILE, ROW
from clftask.errors import DataError, Problem
from clftask.estimate import measure
from clftask.estimate.measure import Clock, Range, Say, Workers
from clftask.io import storage
from clftask.io.tempdirs import temporary_folder
from clftask.messages import are, counted
from clftask.models.bundle_meta import BundleMeta
from clftask.models.cascade import Opener, fetch
from clftask.models.loading import quiet_loading
from clftask.scoring.cascade import agree
from clftask.scoring.input import ShardRows, read_shards
from clftask.scoring.manifest import ScorePlan, Shard
from clftask.scoring.plan import Planned
from clftask.scoring.sample import places
from clftask.scoring.worker import Failure, ScoreWork, ShardScorer

NUM_PLACES, ROWS_OF_PLACE = 24, {"cpu": 1_000, "cuda": 5_000}
_SHARED_GPU = "what workers gain that share a GPU"
NUM_CHUNKS, MEASURED_S, WARM_UP_ROWS, BLOCK_ROWS = 6, 20.0, 32, 32


@dataclass(frozen=True)
class ScoreEstimate:
    """The remaining rows of a scoring job, its time and disk space; zeros if none remain.

    Attributes:
        rows_left: Rows that are not scored yet; with `input.where`, as many as the sample lets
            expect to match.
        rows_read, rows_bad, rows_measured: Rows of the sample.
        rows_filtered: Rows of the sample that `input.where` leaves out; not in `rows_read`.
        rows_per_s: Throughput of one worker; of workers that share a GPU, if that has no gain.
        start_s: Seconds until the first row is scored (Ray, workers, model); part of `seconds`.
        seconds: Seconds of the job with `workers` workers.
        by_workers: Typical seconds by number of workers.
        bytes_written: Bytes of the remaining parts.
    """

    output: str
    rows_done: int
    rows_left: int
    shards_left: int
    rows_read: int = 0
    rows_bad: int = 0
    rows_filtered: int = 0
    rows_measured: int = 0
    rows_per_s: float = 0.0
    start_s: float = 0.0
    workers: int = 0
    device: str = ""
    seconds: Range = measure.NOTHING
    by_workers: dict[int, float] = field(default_factory=dict)
    bytes_written: int = 0
    warnings: tuple[str, ...] = ()
    not_measured: tuple[str, ...] = measure.NOT_MEASURED


def remaining(job: ScoreJob, planned: Planned, share: float = 1.0) -> ScoreEstimate:
    """Return the remaining rows of a job, without measuring; `share`: that `where` matches."""
    num_left = math.ceil(share * sum(shard.num_rows for shard in planned.missing))
    before = planned.before.counts.rows_in if planned.before else 0
    done = before + planned.counts.rows_in
    return ScoreEstimate(job.output.path, done, num_left, len(planned.missing))


def estimate(
    job: ScoreJob,
    meta: BundleMeta,
    planned: Planned,
    workers: Workers,
    start_s: float,
    say: Say,
    clock: Clock = time.perf_counter,
) -> ScoreEstimate:
    """Score a sample of the remaining rows, and extrapolate.

    Args:
        job: The job.
        meta: Metadata of its bundle.
        planned: The plan; at least one shard is missing.
        workers: The job's workers.
        start_s: Seconds until a worker opens the bundle.
        say: Receives lines for the user.
        clock: Returns seconds.

    Raises:
        ClftaskError: No sampled row can be scored, or an error that would end the job.
    """
    sample = _sample(job, meta, planned, workers.device)
    num_read, left = sample.table.num_rows, remaining(job, planned, _share_kept(sample))
    say(f"measuring up to {counted(num_read, 'row')}, sampled from all files")
    with temporary_folder() as scratch, measure.as_worker(workers) as warnings:
        output = job.output.model_copy(update={"path": f"{scratch}/table"})
        began, plan = clock(), _agreed(job, planned.plan, workers.device, say)
        start_s += clock() - began if job.agreement is not None else 0.0  # of the sample
        work = ScoreWork(job.model_copy(update={"output": output}), plan, meta)
        pace = _measured(work, sample, workers, left, clock)
    return replace(
        extrapolate(left, pace, workers, start_s),
        rows_read=num_read,
        rows_bad=num_read - sample.reasons.null_count,
        rows_filtered=sample.num_filtered,
        bytes_written=round(left.shards_left * pace.part_bytes),
        warnings=(*_bad_rows(job, planned, sample), *_not_counted(planned), *warnings),
    )


@dataclass(frozen=True)
class Pace:
    """Measurements of a sample.

    Attributes:
        num_rows: Number of rows.
        row_s: Seconds per row.
        open_s: Seconds until the first row.
        part_bytes: Bytes of a part with as many rows as the job's parts have.
    """

    num_rows: int
    row_s: float
    open_s: float
    part_bytes: float


def extrapolate(left: ScoreEstimate, pace: Pace, workers: Workers, start_s: float) -> ScoreEstimate:
    """Return the time of the remaining shards; a worker scores whole shards."""
    start_s += pace.open_s
    # The sample had a whole GPU. At worst, workers that share one score in turn; at best, they
    # use what one alone leaves idle.
    row_s = pace.row_s / workers.gpu_share

    def seconds(count: int, row_s: float = row_s) -> float:
        shards = math.ceil(left.shards_left / count)  # of the worker with the most shards
        return round(start_s + shards * left.rows_left / left.shards_left * row_s, 1)

    low, whole = seconds(workers.count, pace.row_s), seconds(workers.count)
    shared = (_SHARED_GPU,) if workers.gpu_share < 1 else ()

    return replace(
        left,
        rows_measured=pace.num_rows,
        rows_per_s=round(1 / row_s, 2),
        start_s=round(start_s, 1),
        workers=workers.count,
        device=workers.device,
        seconds=replace(measure.within(whole), low=measure.within(low).low),
        by_workers={n: seconds(n) for n in sorted({*measure.WORKER_COUNTS, workers.count})},
        not_measured=(*left.not_measured, *shared),
    )


def _sample(job: ScoreJob, meta: BundleMeta, planned: Planned, device: str) -> ShardRows:
    pieces = places(planned.missing, NUM_PLACES, min(ROWS_OF_PLACE[device], job.shard_rows))
    recipe = job.input.recipe(meta.text)
    sample = next(read_shards(planned.plan, [Shard(index=0, pieces=pieces)], recipe))
    if not sample.table.num_rows:
        allowed = f"none of {counted(sample.num_filtered, 'sampled row')} matches"
        raise DataError(Problem("input.where", job.input.where, allowed, "Check the condition."))
    if not sample.reasons.null_count:
        count = counted(len(sample.reasons), "sampled row")
        allowed = f"none of {count} can be scored: {_first_bad(sample)}"
        raise DataError(Problem("input.path", job.input.path, allowed, "Check input.text."))
    return sample


def _first_bad(rows: ShardRows) -> str:
    index = pc.indices_nonzero(rows.reasons.is_valid())[0].as_py()
    file, row = rows.table[FILE][index], rows.table[ROW][index]
    return f"{file}, row {row}: {rows.reasons[index]}"


def _agreed(job: ScoreJob, plan: ScorePlan, device: str, say: Say) -> ScorePlan:
    """Return the plan with precision and limit, chosen here if the job has not started."""
    if plan.is_agreed:
        return plan
    found = agree(job, plan, Opener(device))
    say(f"precision {found.precision}")
    if found.cascade is not None:
        say(f"cascade: {found.cascade}")
    return plan.agreed(found.precision, found.cascade)


def _share_kept(sample: ShardRows) -> float:
    """Return the share of rows that match `input.where`."""
    return float(sample.table.num_rows / (sample.table.num_rows + sample.num_filtered))


def _bad_rows(job: ScoreJob, planned: Planned, sample: ShardRows) -> list[str]:
    """Return a warning if bad rows would end the job."""
    kept = _share_kept(sample)
    total = len(sample.reasons)
    num_bad = total - sample.reasons.null_count
    num_left = kept * sum(shard.num_rows for shard in planned.missing)
    expected = planned.counts.rows_quarantined + num_bad / total * num_left
    fails = job.on_bad_row == "fail"
    is_within = not fails and expected <= job.max_bad_rows * kept * planned.plan.num_rows
    if not num_bad or is_within:
        return []
    limit = "on_bad_row: fail" if fails else f"max_bad_rows ({job.max_bad_rows:g})"
    found = f"{num_bad:,} of {total:,} sampled rows are bad; {limit} would end the job"
    return [f"{found}. The first: {_first_bad(sample)}"]


def _not_counted(planned: Planned) -> list[str]:
    """Return a warning of files that only the generation after the unfinished one has."""
    num = planned.num_waiting
    return (
        [f"{counted(num, 'file')} added since the last plan {are(num)} not counted"] if num else []
    )


def _measured(
    work: ScoreWork, sample: ShardRows, workers: Workers, left: ScoreEstimate, clock: Clock
) -> Pace:
    began = clock()
    with temporary_folder() as scratch, quiet_loading():
        bundles = fetch(work.job, scratch)
        precision, limit = work.plan.used_precision, work.plan.cascade
        scorer = Opener(workers.device).open_all(bundles, precision, limit)
    order = _shuffled_blocks(pc.indices_nonzero(sample.reasons.is_null()).to_numpy())
    few = _taken(sample, order[:WARM_UP_ROWS], 0)
    times = [clock()]
    for _ in range(2):  # the first batch is slower: torch warms up
        scorer.answers(scorer.tokenise(few.text, few.text_pair))
        times.append(clock())
    open_s, row_s = times[1] - began, (times[2] - times[1]) / few.table.num_rows
    parts = np.array_split(order[: max(NUM_CHUNKS, int(MEASURED_S / row_s))], NUM_CHUNKS)
    chunks = [_taken(sample, part, i) for i, part in enumerate(parts) if len(part)]
    worker = ShardScorer(work, scorer, lambda plan, shards, recipe: iter(chunks))
    times = [clock()]
    ahead = left.rows_left // workers.count
    for done in worker.run([chunk.shard for chunk in chunks], ahead):
        if isinstance(done, Failure):
            raise done.error
        times.append(clock())
    # A chunk is reported when the next one is scored: the first interval holds two chunks.
    sizes = [len(part) for part in parts]
    if len(chunks) > 2:
        row_s = (times[-1] - times[1]) / sum(sizes[2:])
    if scorer.is_compiled:
        open_s += max(0.0, times[1] - times[0] - sum(sizes[:2]) * row_s)
    stored = [worker.store.part(chunk.shard.index) for chunk in chunks]
    part_rows = left.rows_left / left.shards_left * len(order) / sample.table.num_rows
    part_bytes = _part_bytes(stored, np.argsort(np.concatenate(parts)), part_rows)
    return Pace(sum(sizes), row_s, open_s, part_bytes)


def _shuffled_blocks(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return row numbers in random order; neighbours stay together, as in a real part."""
    blocks = np.array_split(rows, max(1, len(rows) // BLOCK_ROWS))
    return np.concatenate([blocks[i] for i in np.random.default_rng(0).permutation(len(blocks))])


def _taken(rows: ShardRows, order: npt.NDArray[np.int64], index: int) -> ShardRows:
    """Return some rows as a separate shard."""
    chosen, shard = pa.array(order), rows.shard.model_copy(update={"index": index})
    pair = None if rows.text_pair is None else rows.text_pair.take(chosen)
    columns = rows.table.take(chosen), rows.text.take(chosen), pair, rows.reasons.take(chosen)
    return ShardRows(shard, *columns)


def _part_bytes(parts: Sequence[str], order: npt.NDArray[np.int64], num_rows: float) -> float:
    """Return the bytes of a part with so many rows.

    Bytes are not proportional to rows: a part has a footer, and its columns have dictionaries.
    So a part of this size is written, or extrapolated from the sample and half of it.

    Args:
        parts: The measured parts.
        order: (rows,) their rows in the order of the input, in which ids compress better.
        num_rows: Rows of the part.
    """
    data = [storage.read_bytes(part) for part in parts]
    tables = [parquet.read_table(pa.BufferReader(part)) for part in data]
    table, footer = pa.concat_tables(tables).take(pa.array(order)), read_footer(data[0])
    known = min(table.num_rows, math.ceil(num_rows))
    size, half = (len(write_part(table.slice(0, n), footer)) for n in (known, known // 2))
    row_bytes = (size - half) / (known - known // 2)
    return float(size + (num_rows - known) * row_bytes)
