"""How fast a worker scores: its own stages, in this process, on a sample."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.score_table import read_footer, write_part
from clftask.config.score import ScoreJob
from clftask.data.batching import token_batches
from clftask.data.tokenization import sequences
from clftask.estimate.machine import WorkerResources, as_worker
from clftask.estimate.pace import Pace, pace_of
from clftask.estimate.sampling import SEED, Sample, beginning
from clftask.io import storage
from clftask.io.tempdirs import temporary_folder
from clftask.models.bundle_meta import BundleMeta
from clftask.models.predictor import Scorer, load
from clftask.scoring.input import ShardRows
from clftask.scoring.manifest import Counts, Receipt, ScorePlan, Shard
from clftask.scoring.plan import Planned
from clftask.scoring.worker import Failure, ScoreWork, ShardScorer

WARM_UP_ROWS, WARM_UP_S = 8, 1.0
CHUNK_S, MIN_CHUNK_ROWS = 3.0, 4
MIN_CHUNKS = 8


@dataclass(frozen=True)
class Measured:
    """What a worker did with a sample.

    Attributes:
        pace: Of one worker, once it is under way.
        counts: What became of the rows.
        startup_s: To open the bundle, for a first batch, and to compile if that pays.
        precision: That the worker chose.
        is_compiled: Whether it compiled the model.
        cpus: That it had.
        part_bytes: Bytes of a part without rows, as it were, and of each row.
    """

    pace: Pace
    counts: Counts
    startup_s: float
    precision: str
    is_compiled: bool
    cpus: int
    part_bytes: tuple[float, float]


def measure(
    job: ScoreJob, meta: BundleMeta, planned: Planned, sample: Sample, asked: WorkerResources
) -> Measured:
    """Let a worker score a sample in this process; its parts go into a folder that is removed.

    Raises:
        ClftaskError: What would end the job.
    """
    rows_ahead = sum(shard.num_rows for shard in planned.missing) // asked.workers
    with temporary_folder() as scratch, as_worker(asked.cpus) as cpus:
        began = time.perf_counter()
        scorer = load(job.bundle, asked.device, job.precision)
        loading_s = time.perf_counter() - began
        first_s, chunk_rows = _warm_up(scorer, max(sample.chunks, key=_num_good))
        output = job.output.model_copy(update={"path": f"{scratch}/table"})
        update = {"output": output, "on_bad_row": "quarantine"}
        work = ScoreWork(job.model_copy(update=update), planned.plan, meta)
        chunks = [beginning(sample.chunks[i], chunk_rows) for i in spread(len(sample.chunks))]
        worker = ShardScorer(work, scorer, partial(_given, chunks))
        receipts, times = _timed(worker, chunks, rows_ahead)
        pace, done = _pace(chunks, times), chunks[: len(receipts)]
        return Measured(
            pace=pace.faster(1 / _padding_of_shards(scorer, done, job.shard_rows)),
            counts=sum((receipt.counts for receipt in receipts), Counts()),
            startup_s=loading_s + first_s + _compiling_s(scorer, chunks, times, pace),
            precision=scorer.precision,
            is_compiled=scorer.is_compiled,
            cpus=cpus,
            part_bytes=_part_bytes([worker.store.part(r.shard) for r in receipts]),
        )


def spread(count: int) -> list[int]:
    """Return the first `count` numbers in an order whose beginnings are spread over all of them.

    That of their reversed bits (van der Corput, 1935): measuring may stop after any of them.
    """
    bits = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda number: f"{number:0{bits}b}"[::-1])


def _compiling_s(
    scorer: Scorer, chunks: Sequence[ShardRows], times: Sequence[float], pace: Pace
) -> float:
    """Return how much longer the first two chunks took than two others."""
    if not scorer.is_compiled:
        return 0.0
    rows = sum(chunk.table.num_rows for chunk in chunks[:2])
    return max(0.0, times[1] - times[0] - float(rows) / pace.rows_per_s)


def _num_good(rows: ShardRows) -> int:
    return int(rows.reasons.null_count)


def _warm_up(scorer: Scorer, rows: ShardRows) -> tuple[float, int]:
    """Return the seconds of a first batch, and how many rows to time at once from then on."""
    first_s, size = _seconds(scorer, beginning(rows, WARM_UP_ROWS)), WARM_UP_ROWS
    while True:
        seconds = min(_seconds(scorer, beginning(rows, size)) for _ in range(2))
        if seconds >= WARM_UP_S or size >= rows.table.num_rows:
            break
        size *= 8
    speed = min(size, rows.table.num_rows) / seconds
    return first_s, max(MIN_CHUNK_ROWS, int(speed * CHUNK_S))


def _seconds(scorer: Scorer, rows: ShardRows) -> float:
    began = time.perf_counter()
    scorer.probabilities(_tokens(scorer, rows))
    return time.perf_counter() - began


def _tokens(scorer: Scorer, rows: ShardRows) -> pa.Table:
    good = pc.indices_nonzero(rows.reasons.is_null())
    pair = None if rows.text_pair is None else rows.text_pair.take(good)
    return scorer.tokenise(rows.text.take(good), pair)


def _padding_of_shards(scorer: Scorer, chunks: Sequence[ShardRows], shard_rows: int) -> float:
    """Return how many tokens a shard goes through the model with, as a share of those of chunks.

    Rows are batched by their lengths: the fewer there are, the more is padded.
    """
    lengths = [sequences(_tokens(scorer, rows))[0]["length"].to_numpy() for rows in chunks]
    pooled = np.random.default_rng(SEED).permutation(np.concatenate(lengths))
    if not len(pooled):
        return 1.0
    shards = np.array_split(pooled, math.ceil(len(pooled) / shard_rows))
    of_shards, of_chunks = (
        sum(_num_padded(part, scorer.max_tokens) for part in parts) for parts in (shards, lengths)
    )
    return float(of_shards / of_chunks)


def _num_padded(lengths: npt.NDArray[np.int64], max_tokens: int) -> int:
    batches = token_batches(lengths.astype(np.int64), max_tokens)
    return sum(len(batch) * int(lengths[batch].max()) for batch in batches)


def _given(
    chunks: Sequence[ShardRows], _: ScorePlan, shards: Sequence[Shard], __: Any
) -> Iterator[ShardRows]:
    """Stand for `read_shards` with rows that are read already."""
    wanted = {shard.index for shard in shards}
    yield from (chunk for chunk in chunks if chunk.shard.index in wanted)


def _timed(
    worker: ShardScorer, chunks: Sequence[ShardRows], rows_ahead: int
) -> tuple[list[Receipt], list[float]]:
    """Score chunks until the pace is steady.

    Returns:
        Their receipts, and the times: of the start, and of when each was done.
    """
    receipts: list[Receipt] = []
    times = [time.perf_counter()]
    with contextlib.closing(worker.run([c.shard for c in chunks], rows_ahead)) as stream:
        for found in stream:
            if isinstance(found, Failure):
                raise found.error
            receipts.append(found.receipt)
            times.append(time.perf_counter())
            if len(receipts) > MIN_CHUNKS and _pace(chunks, times).is_steady:
                break
    return receipts, times


def _pace(chunks: Sequence[ShardRows], times: Sequence[float]) -> Pace:
    """Return the pace; a chunk is told of when the one after it is scored.

    The first two are left out: what happens once in a job would count too much.
    """
    rows = [chunk.table.num_rows for chunk in chunks]
    seconds = np.diff(times)
    measured = [(rows[i + 1], seconds[i]) for i in range(1, len(seconds)) if i + 1 < len(rows)]
    if len(measured) < 2:
        return pace_of([sum(rows[: len(seconds)])], [float(seconds.sum())])
    return pace_of(*zip(*measured, strict=True))


def _part_bytes(parts: Sequence[str]) -> tuple[float, float]:
    """Return what a part takes without rows, and a row: from one part, and all as one."""
    from pyarrow import parquet

    data = [storage.read_bytes(part) for part in parts]
    tables = [parquet.read_table(pa.BufferReader(part)) for part in data]
    whole = pa.concat_tables(tables)
    size = len(write_part(whole, read_footer(data[0])))
    more = whole.num_rows - tables[0].num_rows
    if more <= 0:
        return 0.0, size / max(whole.num_rows, 1)
    a_row = (size - len(data[0])) / more
    return max(0.0, len(data[0]) - a_row * tables[0].num_rows), a_row
