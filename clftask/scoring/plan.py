"""Plans a scoring job: creates a new plan, or resumes the stored one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from clftask.components.score_table import why_unfit
from clftask.config.score import ScoreJob
from clftask.data.readers.base import FILE, ROW, Source
from clftask.data.readers.cells import BAD
from clftask.errors import ConfigError, DataError, Problem
from clftask.io import listing, storage
from clftask.models.bundle_meta import BundleMeta
from clftask.models.linear_scorer import check_linear
from clftask.scoring import delta
from clftask.scoring.columns import columns_of, origin_columns
from clftask.scoring.input import cut, encode_schema, refuse_too_many, source_of, survey
from clftask.scoring.input_changes import changes_of, grown, now, replanned
from clftask.scoring.manifest import (
    Counts,
    Manifest,
    Precision,
    ScorePlan,
    Shard,
    shards_of,
)
from clftask.scoring.table_store import ScoreTableStore
from clftask.spec import fingerprint


@dataclass(frozen=True)
class Planned:
    """The plan of the first generation that is not complete, and its progress.

    Attributes:
        plan: The plan; if all generations are complete, that of the last one.
        done: Numbers of the shards whose part and receipt are stored.
        counts: Counts of their rows; empty if the generation is complete.
        is_new: Whether it is not stored yet.
        touched: Numbers of the shards whose rows differ from the stored plan.
        orphans: Numbers of receipts whose part was deleted.
        is_replanned: Whether the plan differs from the stored plan.
        left_out: Input files of unknown format, which are skipped.
        before: The manifest of the complete generations.
        is_spoiled: Whether parts of a complete generation were deleted: the manifest has to go.
        num_plans: Number of stored plans.
        num_waiting: Number of added files that only the next generation has.
        num_gone: Number of input files of the table that are gone.
    """

    plan: ScorePlan
    done: frozenset[int] = frozenset()
    counts: Counts = field(default_factory=Counts)
    is_new: bool = False
    touched: frozenset[int] = frozenset()
    orphans: frozenset[int] = frozenset()
    is_replanned: bool = False
    left_out: tuple[str, ...] = ()
    before: Manifest | None = None
    is_spoiled: bool = False
    num_plans: int = 1
    num_waiting: int = 0
    num_gone: int = 0

    @property
    def missing(self) -> list[Shard]:
        """The shards that are not done."""
        return [shard for shard in self.plan.shards if shard.index not in self.done]

    @property
    def is_finished(self) -> bool:
        """Whether all generations are complete and nothing is to be added."""
        return self.before is not None and self.before.num_generations == self.plan.generation

    @property
    def rewritten(self) -> tuple[ScorePlan | None, frozenset[int], frozenset[int], bool]:
        """What a resumed run replaces or removes of the stored table before it scores."""
        plan = self.plan if self.is_replanned else None
        return plan, self.touched, self.orphans, self.is_spoiled

    def is_followed(self, grows: bool) -> bool:
        """Tell whether a run looks for another generation after this one.

        A run scores the files that were there when it began. If it planned them itself, files
        that are added meanwhile are for the next run.
        """
        return self.plan.generation < self.num_plans or (grows and not self.is_new)


def plan(job: ScoreJob, meta: BundleMeta) -> Planned:
    """Plan a job, resume it, or plan the files that were added since; writes nothing.

    Raises:
        ConfigError: The output belongs to a job with other settings; names them.
        DataError: The input cannot be read, or changed since it was planned.
        StorageError: The output cannot be written.
    """
    share = job.scaling.gpus_per_worker
    gpu = {"use_gpu": job.scaling.use_gpu, "gpus_per_worker": share if share < 1 else None}
    check_linear(meta, job.precision, {f"scaling.{name}": value for name, value in gpu.items()})
    store = ScoreTableStore(job.output.path)
    storage.check_writable(job.output.path, "output.path")
    plans, manifest = store.generations()
    sources = source_of(job, may_be_empty=job.input.grow and bool(plans))
    _refuse_own_input(job)
    if not plans:
        _refuse_taken(store)
        left_out = tuple(file for source in sources for file in source.left_out)
        new = _new(job, meta, sources)
        if meta.is_linear:  # there is nothing to compare
            new = new.agreed(Precision(asked=job.precision, used="fp32"))
        return Planned(new, is_new=True, left_out=left_out)
    _refuse_other_settings(job, meta, plans[0])
    return _resumed(job, meta, sources, store, plans, manifest)


def create(job: ScoreJob, meta: BundleMeta, planned: Planned) -> Planned:
    """Write the plan before the first part; if another run was first, return its plan.

    Raises:
        ConfigError, DataError: As `plan`, if another run was first.
    """
    store = ScoreTableStore(job.output.path)
    if planned.is_new:
        is_first = store.write_plan(planned.plan)
        return planned if is_first else create(job, meta, plan(job, meta))
    if planned.rewritten == (None, frozenset(), frozenset(), False):
        return planned
    # Another run may have completed the generation since it was planned here.
    now = plan(job, meta)
    if now.rewritten != planned.rewritten:
        return create(job, meta, now)
    if planned.touched or planned.orphans or planned.is_spoiled:
        again = planned.touched | planned.orphans
        store.forget(planned.orphans, again, keep_manifest=not planned.is_spoiled)
    if planned.is_replanned:
        store.replace_plan(planned.plan)
    return planned


def _resumed(
    job: ScoreJob, meta: BundleMeta, sources: Sequence[Source], store: ScoreTableStore,
    plans: Sequence[ScorePlan], manifest: Manifest | None,
) -> Planned:  # fmt: skip
    """Return the first generation that is not complete; else the files that were added.

    Raises:
        DataError: As `changes_of`; or an added file cannot be read.
    """
    recipe, parts = job.input.recipe(meta.text), store.stored_parts()
    changes = changes_of(job, sources, store, plans, parts)
    last, touched = plans[-1], set[int]()
    if changes.anew:
        last, touched = replanned(job, recipe, sources, last, changes.anew)
    covered = manifest.num_generations if manifest else 0
    whole = parts & store.stored_receipts()
    was_whole = bool(touched) and covered == len(plans)
    if is_spoiled := was_whole or not whole >= shards_of(plans[:covered]):
        covered, manifest = 0, None
    waiting = len(changes.added)
    found = Planned(
        plans[-1], before=manifest, is_spoiled=is_spoiled, num_plans=len(plans),
        num_waiting=waiting, num_gone=changes.num_gone,
    )  # fmt: skip
    if covered == len(plans):
        found = replace(found, num_waiting=0)
        new = grown(job, recipe, sources, plans, changes.added) if waiting else None
        if new is None:
            return replace(found, done=shards_of(plans[-1:]))
        left_out = tuple(file for source in sources for file in source.left_out)
        return replace(found, plan=new, is_new=True, left_out=left_out)
    current = plans[covered]
    besides = shards_of(plan for plan in plans if plan is not current)
    if current is plans[-1]:
        is_replanned = last != current
        found = replace(found, touched=frozenset(touched), is_replanned=is_replanned)
        current = last
    return _with_progress(store, replace(found, plan=current), besides)


def _with_progress(store: ScoreTableStore, found: Planned, besides: Collection[int]) -> Planned:
    """Find the completed shards of a generation; `besides`: the shards of the others.

    Raises:
        DataError: A part contains rows that are no longer in the plan; names the part.
    """
    wanted = {shard.index: found.plan.input_of(shard) for shard in found.plan.shards}
    counts, receipts, strangers = Counts(), set(), []
    for receipt in store.receipts(besides):
        receipts.add(receipt.shard)
        if wanted.get(receipt.shard) != receipt.input:
            strangers.append(receipt.shard)
        else:
            counts += receipt.counts
    parts = store.stored_parts()  # listed last: a part is written before its receipt
    if stale := [index for index in strangers if index in parts]:
        allowed = "contains rows of an input that changed since"
        problems = [Problem(store.part(i), None, allowed, "Delete it.") for i in stale[:20]]
        raise DataError(*problems)
    orphans = frozenset(receipts - parts)
    if orphans:
        left = [r.counts for r in store.receipts({*besides, *orphans})]
        counts = sum(left, Counts())
    return replace(found, done=frozenset(receipts & parts), counts=counts, orphans=orphans)


def _refuse_own_input(job: ScoreJob) -> None:
    part = storage.join(job.output.path, "part-00000.parquet")
    if listing.stands_for(job.input.path, part):
        allowed = f"is within the input {job.input.path}: its parts would be scored, too"
        raise ConfigError(Problem("output.path", job.output.path, allowed, "Use another folder."))


def _refuse_taken(store: ScoreTableStore) -> None:
    if store.is_taken():
        remedy = "Use an empty folder or prefix."
        allowed = "contains parts of a table but no plan: it was not written by a scoring job"
        raise ConfigError(Problem("output.path", store.output, allowed, remedy))


def _new(job: ScoreJob, meta: BundleMeta, sources: Sequence[Source]) -> ScorePlan:
    recipe = job.input.recipe(meta.text)
    corpus = survey(job, recipe, sources, {file for s in sources for file in s.files})
    if not any(file.num_rows for file in corpus.files):
        raise DataError(
            Problem("input.path", job.input.path, "contains no rows", "Check the path.")
        )
    _refuse_columns(job, meta, corpus.schema)
    refuse_too_many(job, corpus.files)
    pieces = cut(list(enumerate(corpus.files)), job.shard_rows)
    settings = job.settings(meta.fingerprint, meta.text)
    found = ScorePlan(
        fingerprint=fingerprint(settings),
        settings=settings,
        files=corpus.files,
        shards=tuple(Shard(index=i, pieces=p) for i, p in enumerate(pieces)),
        columns=encode_schema(corpus.schema),
        planned_at=now(),
    )
    is_known = job.precision == "fp32" and job.agreement is None
    return found.agreed(Precision(asked="fp32", used="fp32")) if is_known else found


def _refuse_columns(job: ScoreJob, meta: BundleMeta, schema: pa.Schema) -> None:
    """Refuse columns whose names would occur twice or whose types the score table cannot store."""
    taken = [name for name in schema.names if name in (FILE, ROW, BAD)]
    if taken:
        allowed = f"{FILE}, {ROW} and {BAD} are reserved for clftask"
        raise ConfigError(Problem("input.keep", taken, allowed, "Rename it."))
    places = [pa.field(FILE, pa.string()), pa.field(ROW, pa.int64())]
    known = {field.name: field for field in [*schema, *places]}
    origin = [known[name] for name in origin_columns(job)]
    whole = columns_of(job, meta).schema(origin)
    problems = [_unfit(job, field, why) for field in origin if (why := why_unfit(field))]
    if problems:
        raise ConfigError(*problems)
    if job.output.format == "delta":
        delta.refuse_unfit(whole)


def _unfit(job: ScoreJob, field: pa.Field, why: str) -> Problem:
    setting = "input.id" if field.name == job.input.id else "input.keep"
    remedy = "Remove it, or convert it to a plain type."
    return Problem(setting, f"{field.name}: {field.type}", f"contains {why}", remedy)


def _refuse_other_settings(job: ScoreJob, meta: BundleMeta, found: ScorePlan) -> None:
    mine = job.settings(meta.fingerprint, meta.text)
    remedy = "Use another output.path, or the settings of the existing table."
    differing = [
        Problem(
            name, mine.get(name), f"the existing table has {found.settings.get(name)!r}", remedy
        )
        for name in dict.fromkeys([*mine, *found.settings])
        if mine.get(name) != found.settings.get(name)
    ]
    if differing:
        raise ConfigError(*differing)
