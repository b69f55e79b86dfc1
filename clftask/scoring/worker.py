"""The worker of a scoring job: reads, scores and commits shards. No Ray here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.score_table import (
    BUNDLES,
    COUNTS,
    LABEL_NAMES,
    SECONDS,
    ScoreColumns,
    checksum,
    read_footer,
    write_part,
)
from clftask.components.text import TextRecipe
from clftask.config.score import ScoreJob
from clftask.data.readers.base import FILE, ROW
from clftask.errors import (
    BadRowError,
    ClftaskError,
    DataError,
    JobError,
    ModelError,
    Problem,
    StorageError,
    is_permanent,
)
from clftask.io import storage
from clftask.io.strict_json import to_json
from clftask.logs import errors_logged
from clftask.messages import counted, first_line
from clftask.models.answers import Answers
from clftask.models.bundle_meta import BundleMeta
from clftask.scoring.columns import columns_of, origin_columns
from clftask.scoring.input import ShardRows, read_shards
from clftask.scoring.manifest import Counts, Receipt, ScorePlan, Shard
from clftask.scoring.table_store import ScoreTableStore

if TYPE_CHECKING:  # a driver needs no torch
    from clftask.models.cascade import CascadeScorer
    from clftask.models.prediction import Predictor

# Compiling takes about 20 s on a GPU and 60 s on a CPU, where it saves a small share.
COMPILE_PAYS_S = {"cuda": 120.0, "cpu": 600.0}
STORAGE_PAUSE_S = 10.0
COMPILE_SAMPLE_ROWS = 64
_Item = TypeVar("_Item")
_log = logging.getLogger(__name__)
Reader = Callable[[ScorePlan, Sequence[Shard], TextRecipe], Iterator[ShardRows]]


@dataclass(frozen=True)
class Failure:
    """A shard that could not be scored.

    Attributes:
        shard: Its number.
        error: The error.
        ends_job: Whether the whole job must stop: missing access, a model that fails, or a bad
            row in mode fail.
        is_permanent: Whether a retry would fail in the same way.
    """

    shard: int
    error: ClftaskError
    ends_job: bool = False
    is_permanent: bool = False


@dataclass(frozen=True)
class Done:
    """A shard whose part and receipt are stored.

    Attributes:
        receipt: The receipt.
        is_new: Whether this run scored it; False if its part existed before.
    """

    receipt: Receipt
    is_new: bool

    @property
    def shard(self) -> int:
        """Its number."""
        return self.receipt.shard


@dataclass(frozen=True)
class Ready:
    """A shard that is read and tokenised.

    Attributes:
        rows: Its rows.
        tokens: The tokens of its usable rows; None if another run has stored its part.
        good: The indices of its usable rows.
        started: When reading began, in seconds of `time.perf_counter`.
        seconds: The seconds of reading and tokenising.
    """

    rows: ShardRows
    tokens: Any
    good: pa.Array
    started: float
    seconds: float


@dataclass(frozen=True)
class ScoreWork:
    """The data that all workers of a scoring job share."""

    job: ScoreJob
    plan: ScorePlan
    meta: BundleMeta

    @property
    def columns(self) -> ScoreColumns:
        """The columns of the score table."""
        return columns_of(self.job, self.meta)


class ShardScorer:
    """Scores and commits shards; reading, computing and writing overlap.

    Two threads may call `run`: one reads its first shard while the other computes its last one.

    Args:
        work: The job.
        scorer: The model.
        read: Returns the rows of shards, like `read_shards`.
    """

    def __init__(
        self, work: ScoreWork, scorer: Predictor | CascadeScorer, read: Reader = read_shards
    ) -> None:
        self.work, self.scorer, self.read = work, scorer, read
        self.store = ScoreTableStore(work.job.output.path)
        self.has_tried_compiling = False
        self.turn = Lock()  # of the call of `run` that computes

    def run(
        self, shards: Sequence[Shard], rows_ahead: int = 0
    ) -> Generator[Done | Failure, None, None]:
        """Score shards in order; stop at the first failure.

        Args:
            shards: The shards; consecutive shards of a file are read in one pass.
            rows_ahead: Estimated number of rows for this worker; decides on compiling.

        Yields:
            The result of each shard, including those whose part already exists.
        """
        stored = _caught(shards[0].index, self.store.stored_parts)
        if isinstance(stored, Failure):
            yield stored
            return
        for shard in shards:
            if shard.index in stored:
                found = self._settled(shard)
                yield found
                if isinstance(found, Failure):
                    return
        yield from self._overlapped([s for s in shards if s.index not in stored], rows_ahead)

    def _overlapped(self, shards: Sequence[Shard], rows_ahead: int) -> Iterator[Done | Failure]:
        """Score a shard while the next one is read and the previous one is written."""
        with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as writing:
            pending: Future[Done | Failure] | None = None
            read = _ahead(self._read(shards), reading)
            first = [*islice(read, 1)]  # before its turn: reading may be slow
            with self.turn:
                for ready in chain(first, read):
                    found = ready if isinstance(ready, Failure) else self._score(ready, rows_ahead)
                    if pending is not None:
                        done, pending = pending.result(), None
                        yield done
                        if isinstance(done, Failure):
                            return
                    if isinstance(found, Failure):
                        yield found
                        return
                    pending = writing.submit(self._commit, found)
            if pending is not None:
                yield pending.result()

    # ------------------------------------------------------------------ the stages

    def _read(self, shards: Sequence[Shard]) -> Iterator[Ready | Failure]:
        recipe = self.work.job.input.recipe(self.work.meta.text)
        stream = self.read(self.work.plan, shards, recipe)
        for shard in shards:
            found = _caught(shard.index, lambda: self._next(stream))
            yield found
            if isinstance(found, Failure):
                return

    def _next(self, stream: Iterator[ShardRows]) -> Ready:
        started = time.perf_counter()
        rows = next(stream)
        about = {"shard": rows.shard.index, "rows": rows.table.num_rows}
        _log.debug("shard begins", extra=about)
        self._refuse_bad(rows)
        good = pc.indices_nonzero(rows.reasons.is_null())
        tokens = None
        if not storage.exists(self.store.part(rows.shard.index)):  # another run may be first
            pair = None if rows.text_pair is None else rows.text_pair.take(good)
            tokens = self.scorer.tokenise(rows.text.take(good), pair)
        return Ready(rows, tokens, good, started, time.perf_counter() - started)

    def _refuse_bad(self, rows: ShardRows) -> None:
        if self.work.job.on_bad_row == "fail" and rows.reasons.null_count < len(rows.reasons):
            bad = _bad_rows(rows, self.work.job)[0]
            remedy = "Fix it, or set on_bad_row: quarantine."
            where = f"{bad['file']}, row {bad['row']}"
            raise BadRowError(Problem(where, None, str(bad["reason"]), remedy))

    def _score(self, ready: Ready, rows_ahead: int) -> _Part | Failure:
        def compute() -> _Part:
            if ready.tokens is None:
                return _Part(ready, None)
            began = time.perf_counter()
            answers = self._answers(ready)
            self._compile_if_it_pays(ready, time.perf_counter() - began, rows_ahead)
            return _Part(ready, answers)

        return _caught(ready.rows.shard.index, compute)

    def _answers(self, ready: Ready) -> Answers:
        try:
            return self.scorer.answers(ready.tokens)
        except ModelError as error:
            file, row = (ready.rows.table[name][0] for name in (FILE, ROW))
            where, cause = f"{file}, rows from {row}", error.problems[0]
            raise ModelError(Problem(where, None, cause.allowed, cause.remedy)) from None

    def _compile_if_it_pays(self, ready: Ready, seconds: float, rows_ahead: int) -> None:
        """Compile if the first shard predicts that the model, not reading, makes the run long."""
        tokens = ready.tokens
        if self.has_tried_compiling or tokens is None or not tokens.num_rows:
            return
        self.has_tried_compiling = True
        could_save = max(0.0, seconds - ready.seconds) / tokens.num_rows * rows_ahead
        pays = could_save > COMPILE_PAYS_S[self.scorer.device.type]
        about = f"{counted(rows_ahead, 'row')} ahead, {could_save:.0f} s above reading"
        _log.info("the model is %scompiled: %s", "" if pays else "not ", about)
        if pays:
            with errors_logged("the model cannot be compiled"):  # the shard is computed already
                self.scorer.compile(tokens.slice(0, COMPILE_SAMPLE_ROWS))

    def _commit(self, part: _Part) -> Done | Failure:
        shard = part.ready.rows.shard
        write = (
            partial(self._derive, shard)
            if part.answers is None
            else partial(self._write, part, part.answers)
        )
        return _caught(shard.index, write)

    def _write(self, part: _Part, answers: Answers) -> Done:
        """Write the bad rows, then the part, then its receipt."""
        job, meta, ready = self.work.job, self.work.meta, part.ready
        shard = ready.rows.shard
        bad = _bad_rows(ready.rows, job)
        if bad:
            lines = "".join(to_json(row, ensure_ascii=False) + "\n" for row in bad)
            storage.put(self.store.quarantine(shard.index), lines.encode())
            about = {"shard": shard.index, "rows_quarantined": len(bad)}
            _log.warning("bad rows are quarantined", extra=about)
        origin = ready.rows.table.select(origin_columns(job)).take(ready.good).combine_chunks()
        table = self.work.columns.table(origin, *answers.outcome, answers.by_small)
        metadata = {
            "clftask.bundle": meta.fingerprint,
            "clftask.task": meta.task,
            LABEL_NAMES: list(meta.label_names),
            **self.work.plan.mark(shard),
            "clftask.precision": self.scorer.precision,
            COUNTS: self._counts(ready.rows, answers).dump(),
            SECONDS: round(time.perf_counter() - ready.started, 3),
        }
        data = write_part(table, metadata)
        if storage.put_if_absent(self.store.part(shard.index), data):
            return Done(self._receipt(shard, data), is_new=True)
        return self._derive(shard)

    def _counts(self, shard_rows: ShardRows, answers: Answers) -> Counts:
        rows, scored = shard_rows.table.num_rows, len(answers.is_truncated)
        per_label = answers.outcome.decided.sum(0)
        names = self.work.meta.label_names
        return Counts(
            rows_in=rows,
            rows_scored=scored,
            rows_quarantined=rows - scored,
            rows_filtered=shard_rows.num_filtered,
            rows_truncated=int(answers.is_truncated.sum()),
            confidence_sum=float(answers.outcome.probabilities.max(1).sum()) if scored else 0.0,
            labels={names[i]: int(per_label[i]) for i in np.flatnonzero(per_label)},
            answered_by=self._answered_by(scored, answers),
        )

    def _answered_by(self, scored: int, answers: Answers) -> dict[str, int]:
        if not self.work.columns.is_cascade:
            return {}
        small = 0 if answers.by_small is None else int(answers.by_small.sum())
        return dict(zip(BUNDLES, (scored - small, small), strict=True))

    def _settled(self, shard: Shard) -> Done | Failure:
        """Return the receipt of an existing part, derived from its bytes."""
        return _caught(shard.index, lambda: self._derive(shard))

    def _derive(self, shard: Shard) -> Done:
        path = self.store.part(shard.index)
        data = storage.read_bytes(path)
        try:
            footer = read_footer(data)
        except (pa.ArrowException, ValueError):
            footer = {}
        if not self.work.plan.mark(shard).items() <= footer.items():
            allowed = "belongs to another job, or to an input that changed"
            raise DataError(Problem(path, None, allowed, "Delete it, or use another output."))
        return Done(self._receipt(shard, data), is_new=False)

    def _receipt(self, shard: Shard, data: bytes) -> Receipt:
        footer = read_footer(data)
        receipt = Receipt(
            shard=shard.index,
            input=self.work.plan.input_of(shard),
            counts=Counts.load(footer[COUNTS]),
            sha256=checksum(data),
            num_bytes=len(data),
            seconds=footer.get(SECONDS, 0.0),
        )
        self.store.write_receipt(receipt)
        about = {"shard": shard.index, "rows": receipt.counts.rows_read, "seconds": receipt.seconds}
        _log.debug("shard ends", extra=about)
        return receipt


@dataclass(frozen=True)
class _Part:
    ready: Ready
    answers: Answers | None  # None if another run has stored the part


def _bad_rows(rows: ShardRows, job: ScoreJob) -> list[dict[str, Any]]:
    """Return id, file, row and reason of the bad rows."""
    bad = pc.indices_nonzero(rows.reasons.is_valid())
    names = {"id": job.input.id} if job.input.id else {}
    columns = {name: rows.table[column] for name, column in names.items()}
    columns |= {"file": rows.table[FILE], "row": rows.table[ROW], "reason": rows.reasons}
    found = pa.table(columns).take(bad).to_pylist()
    return [{k: v if isinstance(v, int | str | None) else str(v) for k, v in row.items()}
            for row in found]  # fmt: skip


def _caught(shard: int, call: Callable[[], _Item]) -> _Item | Failure:
    """Return the result of `call`, or a `Failure` if it raises."""
    try:
        return call()
    except ClftaskError as error:
        if isinstance(error, StorageError) and not error.is_permanent:
            time.sleep(STORAGE_PAUSE_S)  # it may recover; the shard is retried without delay
        return Failure(shard, error, ends_job=error.is_permanent)
    except Exception as error:  # errors of pyarrow or torch may be transient
        _log.warning("shard failed", exc_info=True, extra={"shard": shard})
        failed = JobError(Problem(f"shard {shard}", None, first_line(error)))
        return Failure(shard, failed, is_permanent=is_permanent(error))


def _ahead(items: Iterator[_Item], pool: ThreadPoolExecutor) -> Iterator[_Item]:
    """Return the items; `pool` prepares the first one at once, and each while one is used."""
    ended: Any = object()
    first = pool.submit(next, items, ended)

    def rest(future: Future[_Item]) -> Iterator[_Item]:
        while (item := future.result()) is not ended:
            future = pool.submit(next, items, ended)
            yield item

    return rest(first)
