"""Driver of a scoring job on Ray: plan, elastic pool of workers, manifest."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from clftask.config.results import ScoreResult
from clftask.config.score import ScoreJob
from clftask.data.summary import describe_left_out
from clftask.distributed.capacity import WorkerPlan
from clftask.distributed.metrics import ScoreMetricsExporter
from clftask.distributed.score.actor_pool import Pool
from clftask.distributed.score.dispatcher import Dispatcher
from clftask.distributed.score.sizing import chosen_workers
from clftask.distributed.session import connected
from clftask.errors import (
    ClftaskError,
    ConfigError,
    DataError,
    JobError,
    Problem,
    StorageError,
    interruption_hint,
)
from clftask.io.tempdirs import temporary_folder
from clftask.messages import are, counted
from clftask.models.bundle_meta import BundleMeta
from clftask.models.cascade import as_one, fetch
from clftask.models.precision import check_precision
from clftask.scoring import delta
from clftask.scoring import plan as planning
from clftask.scoring.manifest import (
    Counts,
    Generation,
    Manifest,
    PartEntry,
    ScorePlan,
    Shard,
    shards_of,
)
from clftask.scoring.plan import Planned
from clftask.scoring.table_store import ScoreTableStore
from clftask.scoring.worker import Done, ScoreWork

MAX_SHOWN = 20
Show = Callable[[dict[str, Any]], None]


def score(job: ScoreJob, say: Callable[[str], None], show: Show) -> ScoreResult:
    """Run a scoring job to its end.

    Args:
        job: The job; user errors are raised before a worker starts.
        say: Receives lines for the user.
        show: Receives progress records: rows, total, scored_now, quarantined, skipped.

    Raises:
        ConfigError, DataError, StorageError: A user error; no part was written.
        JobError: Shards failed, or too many rows are bad; the same job resumes.
    """
    started = time.perf_counter()
    meta = checked_bundle(job)
    planned, runs = planning.plan(job, meta), list[ScoreRun]()
    manifest = planned.before
    if planned.is_finished:
        say(f"the table is complete: {job.output.path}{_unchanged(job, planned)}")
        if manifest is not None:
            _commit_delta(job, manifest)
    while not planned.is_finished:
        run = _scored(job, meta, planned, say, show)
        runs.append(run)
        with _mid_job():
            manifest = run.close()
            if not run.planned.is_followed(job.input.grow):
                break
            planned = planning.plan(job, meta)
            manifest = planned.before or manifest
    assert manifest is not None  # a finished generation has one
    return _result(job, manifest, runs, started)


def _commit_delta(job: ScoreJob, manifest: Manifest) -> None:
    """Let the Delta log, if one is wanted, name the parts of complete generations."""
    if job.output.format == "delta":
        with _mid_job():
            delta.commit(job.output.path, manifest.parts, manifest.fingerprint)


def _scored(
    job: ScoreJob, meta: BundleMeta, planned: Planned, say: Callable[[str], None], show: Show
) -> ScoreRun:
    """Score a generation."""
    _announce(planned, say)
    if planned.missing:
        return _score_missing(job, meta, planned, say, show)
    return ScoreRun(job, meta, planning.create(job, meta, planned), show)


def _score_missing(
    job: ScoreJob, meta: BundleMeta, planned: Planned, say: Callable[[str], None], show: Show
) -> ScoreRun:
    exporter = ScoreMetricsExporter(job.output.path, show)
    with interruption_hint("Run the job again to resume."), connected(say), exporter:
        chosen = chosen_workers(job, meta, planned)
        check_precision(job.precision, chosen.use_gpu, "precision")
        _check_begun(planned, chosen)
        with Pool(ScoreWork(job, planned.plan, meta), chosen, say) as pool:
            if planned.is_new and not planned.plan.is_agreed:
                if job.agreement is not None:
                    say("both bundles of the cascade score a sample of the rows")
                found = pool.agree(len(planned.missing))
                agreed = planned.plan.agreed(found.precision, found.cascade)
                planned = replace(planned, plan=agreed)
            # If another run was first, its plan with its precision is used.
            run = ScoreRun(job, meta, planning.create(job, meta, planned), exporter)
            used = run.plan.precision or run.plan.used_precision
            say(f"output {job.output.path}: {chosen}; {used}")
            if run.plan.cascade is not None:
                say(f"cascade: {run.plan.cascade}")
            with _mid_job():
                pool.use(ScoreWork(job, run.plan, meta))
                run.score(exporter.watching(pool), chosen.most)
    return run


def _check_begun(planned: Planned, chosen: WorkerPlan) -> None:
    """Refuse to resume a table of GPUs in fp16 without a GPU."""
    if planned.plan.used_precision == "fp16" and not chosen.use_gpu:
        allowed = "the existing table is in fp16, which needs a GPU"
        remedy = "Use workers with a GPU, or another output.path."
        raise ConfigError(Problem("scaling.use_gpu", chosen.use_gpu, allowed, remedy))


def _announce(planned: Planned, say: Callable[[str], None]) -> None:
    found, num_done = planned.plan, len(planned.done)
    already = f"; {num_done:,} already done" if num_done else ""
    if planned.left_out:
        say(f"warning: {describe_left_out(list(planned.left_out))}")
    rows, files = counted(found.num_rows, "row"), counted(len(found.files), "file")
    which = f"generation {found.generation}: " if found.generation > 1 else ""
    say(f"{which}{rows} in {files}, {counted(len(found.shards), 'shard')}{already}")
    if num := planned.num_waiting:
        say(f"{counted(num, 'file')} that {are(num)} not in this plan will be scored after that")


def _unchanged(job: ScoreJob, planned: Planned) -> str:
    """Return what a growing job finds if there is nothing to score."""
    if not job.input.grow:
        return ""
    num = planned.num_gone
    gone = f"; {counted(num, 'file')} of it {are(num)} gone, the rows stay" if num else ""
    return f"; no rows were added{gone}"


@contextmanager
def _mid_job() -> Iterator[None]:
    """Turn user errors into JobError: the job has started writing."""
    try:
        yield
    except (ConfigError, DataError, StorageError) as error:
        raise JobError(*error.problems) from None


def checked_bundle(job: ScoreJob) -> BundleMeta:
    """Check that a job's bundles are complete and fit each other; return their metadata as one."""
    with temporary_folder() as scratch:
        return as_one(job, [found.meta for found in fetch(job, scratch)])


def _result(
    job: ScoreJob, manifest: Manifest, runs: Sequence[ScoreRun], started: float
) -> ScoreResult:
    """Return the totals of the table; `runs`: what this invocation did."""
    seconds = time.perf_counter() - started
    counts, rows_done = manifest.counts, sum(run.counts.rows_in for run in runs)
    return ScoreResult(
        output=job.output.path,
        rows_in=counts.rows_in,
        rows_scored=counts.rows_scored,
        rows_quarantined=counts.rows_quarantined,
        rows_filtered=counts.rows_filtered,
        shards=len(manifest.parts),
        shards_skipped=len(manifest.parts) - sum(run.num_scored for run in runs),
        seconds=round(seconds, 1),
        rows_per_s=round(rows_done / seconds, 1),
        rows_truncated=counts.rows_truncated,
        mean_confidence=counts.confidence_sum / max(counts.rows_scored, 1),
        labels={name: counts.labels.get(name, 0) for name in manifest.label_names},
        precision=manifest.precision.used if manifest.precision else "",
        agreement=manifest.precision.agreement if manifest.precision else None,
        precision_note=str(manifest.precision or ""),
        answered_by=counts.answered_by,
        cascade=manifest.cascade,
        generations=manifest.num_generations,
    )


@dataclass(frozen=True)
class _Receipts:
    """Sums of the receipts of a generation; `bad_in`: its shards with bad rows."""

    counts: Counts
    parts: tuple[PartEntry, ...]
    seconds: float
    bad_in: set[int]


class ScoreRun:
    """One run of a generation: its counts, its failures and the manifest."""

    def __init__(self, job: ScoreJob, meta: BundleMeta, planned: Planned, show: Show) -> None:
        self.job, self.meta, self.planned, self.show = job, meta, planned, show
        self.plan, self.store = planned.plan, ScoreTableStore(job.output.path)
        self.num_rows = planned.plan.num_rows
        self.before, self.counts = planned.counts, Counts()
        self.num_skipped, self.num_scored = len(planned.done), 0
        self.seen: set[int] = set()
        self.failed: dict[int, ClftaskError] = {}

    def score(self, work: Callable[[Dispatcher], Iterable[Done]], num_workers: int) -> None:
        """Score the missing shards.

        Args:
            work: Scores the shards of a dispatcher, as a pool of actors does.
            num_workers: The maximum number of workers.

        Raises:
            JobError: Too many rows are bad, or the workers fail.
        """
        self._refuse_too_many_bad()
        missing = self.planned.missing
        # A second run starts at a random shard, so that concurrent runs do different shards.
        ordered = missing if self.planned.is_new else _rotated(missing)
        dispatcher = Dispatcher(ordered, num_workers)
        for done in work(dispatcher):
            self._take(done)
        self.failed = dispatcher.failed

    def _take(self, done: Done) -> None:
        if done.shard in self.seen:
            return
        self.seen.add(done.shard)
        if done.is_new:
            self.counts += done.receipt.counts
            self.num_scored += 1
        else:
            self.before += done.receipt.counts
            self.num_skipped += 1
        record = {"scored_now": self.counts.rows_read, "skipped": self.before.rows_read}
        record |= {"total": self.num_rows, "rows": sum(record.values())}
        bad = self.before.rows_quarantined + self.counts.rows_quarantined
        self.show(record | {"quarantined": bad})
        self._refuse_too_many_bad()

    def _refuse_too_many_bad(self) -> None:
        self._refuse_bad(self.before + self.counts)

    def _refuse_bad(self, counts: Counts) -> None:
        bad, num_rows = counts.rows_quarantined, self.num_rows - counts.rows_filtered
        if bad > self.job.max_bad_rows * num_rows:
            share = f"{bad:,} of {counted(num_rows, 'row')} {are(bad)} bad"
            remedy = f"See {self.job.output.path}/_quarantine, or raise max_bad_rows."
            problem = f"{share}, more than max_bad_rows"
            raise JobError(Problem("max_bad_rows", self.job.max_bad_rows, problem, remedy))

    def close(self) -> Manifest:
        """Write the Delta log, if wanted, and the manifest, if every row is accounted for.

        Raises:
            JobError: Shards failed, or the receipts are inconsistent.
        """
        if self.failed:
            shown = sorted(self.failed.items())[:MAX_SHOWN]
            raise JobError(*(self._failure(index, error) for index, error in shown))
        before, own = self.store.manifest(), self.plan.generation
        num_complete = before.num_generations if before else 0
        plans = self.store.plans()
        if before is not None and num_complete >= own and plans[own - 1 : own] == [self.plan]:
            return before  # another run was first
        if num_complete < own - 1 or len(plans) < own:
            raise self._unsound("the manifest of earlier generations was deleted during the job")
        if plans[own - 1] != self.plan:
            raise self._unsound("another run replanned changed files")
        found = self._summed(plans)
        self._refuse_bad(found.counts)
        self._refuse_strange_files(plans, found.bad_in)
        manifest = self._manifest(before, plans[0], found)
        _commit_delta(self.job, manifest)
        self.store.write_manifest(manifest)
        return manifest

    def _refuse_strange_files(self, plans: Sequence[ScorePlan], bad_in: set[int]) -> None:
        """Refuse missing parts and parts that are in no plan.

        Args:
            plans: The plans of all generations; another run may be ahead.
            bad_in: The shards with bad rows, whose quarantine files must exist.

        Raises:
            JobError: Names them.
        """
        wanted, there = shards_of(plans[: self.plan.generation]), self.store.stored_parts()
        if wanted - there:
            raise self._unsound(f"{counted(len(wanted - there), 'part')} deleted during the job")
        listed = self.store.stored_quarantines()
        problems = [(i, "belongs to another plan") for i in sorted(there - shards_of(plans))]
        problems += [
            (i, "has bad rows, but its quarantine file is missing") for i in sorted(bad_in - listed)
        ]
        if problems:
            remedy = "Delete it and run the same job again."
            found = [Problem(self.store.part(i), None, why, remedy) for i, why in problems]
            raise JobError(*found[:MAX_SHOWN])

    def _failure(self, index: int, error: ClftaskError) -> Problem:
        shard = next(s for s in self.plan.shards if s.index == index)
        piece = shard.pieces[0]
        where = f"{self.plan.files[piece.file].path}, rows from {piece.start}"
        problem = error.problems[0]
        remedy = "Fix it and run the same job again; it scores only the missing shards."
        return Problem(f"part-{index:05d} ({where})", None, f"failed: {problem}", remedy)

    def _summed(self, plans: Sequence[ScorePlan]) -> _Receipts:
        """Return the sums of the receipts of this generation."""
        wanted = {shard.index: shard for shard in self.plan.shards}
        counts, parts, seconds, bad_in = Counts(), [], 0.0, set()
        for receipt in self.store.receipts(shards_of(p for p in plans if p != self.plan)):
            shard = wanted.pop(receipt.shard, None)
            mine = (shard.num_rows, self.plan.input_of(shard)) if shard else None
            if mine != (receipt.counts.rows_read, receipt.input):
                raise self._unsound(f"the receipt of part {receipt.shard} does not match the plan")
            counts += receipt.counts
            seconds += receipt.seconds
            bad_in |= {receipt.shard} if receipt.counts.rows_quarantined else set()
            name = self.store.part(receipt.shard).rpartition("/")[2]
            num_rows = receipt.counts.rows_scored
            parts.append(PartEntry(name=name, num_rows=num_rows, sha256=receipt.sha256))
        if wanted or counts.rows_in != counts.rows_scored + counts.rows_quarantined:
            bare = counted(len(wanted), "part")
            raise self._unsound(f"{bare} without a receipt, or rows are missing")
        return _Receipts(counts, tuple(parts), seconds, bad_in)

    def _manifest(self, before: Manifest | None, first: ScorePlan, found: _Receipts) -> Manifest:
        """Add this generation to the manifest of those before; `first`: the plan of the first."""
        counts, seconds, parts = found.counts, found.seconds, found.parts
        generations: tuple[Generation, ...] = ()
        if before is not None:
            counts, seconds = before.counts + counts, before.seconds + seconds
            parts = (*before.parts, *parts)
            # Tables of older versions have one generation, which their manifest does not list.
            generations = before.generations or (Generation.of(first, before.counts),)
        manifest = Manifest(
            fingerprint=self.plan.fingerprint,
            bundle=self.meta.fingerprint,
            task=self.meta.task,
            label_names=self.meta.label_names,
            counts=counts,
            parts=parts,
            seconds=round(seconds, 3),
            precision=self.plan.precision,
            cascade=self.plan.cascade,
            generations=(*generations, Generation.of(self.plan, found.counts)),
        )
        if not manifest.adds_up:
            remedy = "Delete the manifest and run the same job again."
            allowed = "has generations whose rows do not add up to its own"
            raise JobError(Problem(self.job.output.path, None, allowed, remedy))
        return manifest

    def _unsound(self, reason: str) -> JobError:
        return JobError(Problem(self.job.output.path, None, reason, "Run the same job again."))


def _rotated(shards: Sequence[Shard]) -> list[Shard]:
    """Return the shards rotated to a random start."""
    start = random.randrange(max(len(shards), 1))
    return [*shards[start:], *shards[:start]]
