"""Plans a scoring job: creates a new plan, or resumes the stored one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count

import pyarrow as pa

from clftask.components.score_table import why_unfit
from clftask.config.score import ScoreJob
from clftask.data.readers.base import FILE, ROW, Source
from clftask.data.readers.cells import BAD
from clftask.errors import ConfigError, DataError, Problem
from clftask.io import listing, storage
from clftask.io.parallel import map_in_threads
from clftask.messages import counted
from clftask.models.bundle_meta import BundleMeta
from clftask.models.linear_scorer import check_linear
from clftask.scoring import delta
from clftask.scoring.columns import columns_of, origin_columns
from clftask.scoring.input import Corpus, cut, decode_schema, encode_schema, source_of, survey
from clftask.scoring.manifest import (
    Counts,
    InputFile,
    Precision,
    ScorePlan,
    ScoreTableStore,
    Shard,
)
from clftask.spec import fingerprint

MAX_SHARDS = 1_000_000


@dataclass(frozen=True)
class Planned:
    """A plan and its progress.

    Attributes:
        plan: The plan.
        done: Numbers of the shards whose part and receipt are stored.
        counts: Counts of their rows.
        is_new: Whether there was no stored plan.
        touched: Numbers of the shards whose rows differ from the stored plan.
        orphans: Numbers of receipts whose part was deleted.
        is_replanned: Whether the plan differs from the stored plan.
        left_out: Input files of unknown format, which are skipped.
    """

    plan: ScorePlan
    done: frozenset[int] = frozenset()
    counts: Counts = field(default_factory=Counts)
    is_new: bool = False
    touched: frozenset[int] = frozenset()
    orphans: frozenset[int] = frozenset()
    is_replanned: bool = False
    left_out: tuple[str, ...] = ()

    @property
    def missing(self) -> list[Shard]:
        """The shards that are not done."""
        return [shard for shard in self.plan.shards if shard.index not in self.done]


def plan(job: ScoreJob, meta: BundleMeta) -> Planned:
    """Plan a job, or resume the plan stored at its output; writes nothing.

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
    sources = source_of(job)
    _refuse_own_input(job)
    found = store.plan()
    if found is None:
        _refuse_taken(store)
        left_out = tuple(file for source in sources for file in source.left_out)
        new = _new(job, meta, sources)
        if meta.is_linear:  # there is nothing to compare
            new = new.agreed(Precision(asked=job.precision, used="fp32"))
        return Planned(new, is_new=True, left_out=left_out)
    _refuse_other_settings(job, meta, found)
    current, touched = _up_to_date(job, meta, sources, store, found)
    return replace(_with_progress(store, current, touched), is_replanned=current != found)


def create(job: ScoreJob, meta: BundleMeta, planned: Planned) -> Planned:
    """Write the plan before the first part; if another run was first, return its plan.

    Raises:
        ConfigError, DataError: As `plan`, if another run was first.
    """
    store = ScoreTableStore(job.output.path)
    if planned.is_new:
        return planned if store.write_plan(planned.plan) else plan(job, meta)
    if planned.touched or planned.orphans:
        store.forget(planned.orphans, planned.touched | planned.orphans)
    if planned.is_replanned:
        store.replace_plan(planned.plan)
    return planned


def _with_progress(store: ScoreTableStore, current: ScorePlan, touched: set[int]) -> Planned:
    """Find the completed shards.

    Raises:
        DataError: A part contains rows that are no longer in the plan; names the part.
    """
    wanted = {shard.index: current.input_of(shard) for shard in current.shards}
    counts, receipts, strangers = Counts(), set(), []
    for receipt in store.receipts():
        receipts.add(receipt.shard)
        if wanted.get(receipt.shard) != receipt.input:
            strangers.append(receipt.shard)
        else:
            counts += receipt.counts
    parts = store.stored_parts()  # listed last: a part is written before its receipt
    if found := [index for index in strangers if index in parts]:
        allowed = "contains rows of an input that changed since"
        problems = [Problem(store.part(i), None, allowed, "Delete it.") for i in found[:20]]
        raise DataError(*problems)
    orphans = frozenset(receipts - parts)
    if orphans:
        left = [r.counts for r in store.receipts() if r.shard not in orphans]
        counts = sum(left, Counts())
    return Planned(current, frozenset(receipts & parts), counts, False, frozenset(touched), orphans)


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
    _refuse_too_many(job, corpus.files)
    pieces = cut(list(enumerate(corpus.files)), job.shard_rows)
    settings = job.settings(meta.fingerprint, meta.text)
    found = ScorePlan(
        fingerprint=fingerprint(settings),
        settings=settings,
        files=corpus.files,
        shards=tuple(Shard(index=i, pieces=p) for i, p in enumerate(pieces)),
        columns=encode_schema(corpus.schema),
    )
    is_known = job.precision == "fp32" and job.agreement is None
    return found.agreed(Precision(asked="fp32", used="fp32")) if is_known else found


def _refuse_too_many(job: ScoreJob, files: Sequence[InputFile]) -> None:
    """Limit the number of shards: a damaged file may declare any number of rows."""
    rows = sum(file.num_rows for file in files)
    if rows > MAX_SHARDS * job.shard_rows:
        allowed = f"makes more than {MAX_SHARDS:,} shards of {counted(rows, 'row')}"
        raise ConfigError(Problem("shard_rows", job.shard_rows, allowed, "Set it higher."))


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


# ------------------------------------------------------------------ input that changed


def _up_to_date(
    job: ScoreJob,
    meta: BundleMeta,
    sources: Sequence[Source],
    store: ScoreTableStore,
    found: ScorePlan,
) -> tuple[ScorePlan, set[int]]:
    """Replan files that changed before any of their rows were scored.

    Returns:
        The plan, and the numbers of the shards whose rows changed.

    Raises:
        DataError: Files were added or deleted, or changed after some of their rows were scored.
    """
    there = {file: source for source in sources for file in source.files}
    stored = store.stored_parts()
    changed = _changed(there, found)
    problems = [_added(path) for path in sorted(there.keys() - {f.path for f in found.files})]
    shards_of: dict[int, list[Shard]] = {number: [] for number in changed}
    for shard in found.shards:
        for number in {piece.file for piece in shard.pieces} & changed:
            shards_of[number].append(shard)
    for number, own in sorted(shards_of.items()):
        path = found.files[number].path
        done = [shard for shard in own if shard.index in stored]
        if path in there and done:
            problems.append(_changed_after(path, [store.part(shard.index) for shard in done]))
        if path not in there and len(done) < len(own):
            allowed = "was deleted before all of its rows were scored"
            remedy = "Restore it, or use another output."
            problems.append(Problem(path, None, allowed, remedy))
    if problems:
        raise DataError(*problems)
    changed = {number for number in changed if found.files[number].path in there}
    return _replanned(job, meta, sources, found, changed) if changed else (found, set())


def _changed(there: dict[str, Source], found: ScorePlan) -> set[int]:
    """Return the indices of the planned files that were deleted or have another version."""

    def is_changed(file: InputFile) -> bool:
        return file.path not in there or there[file.path].version(file.path) != file.version

    changed = map_in_threads(is_changed, found.files)
    return {number for number, other in enumerate(changed) if other}


def _added(path: str) -> Problem:
    remedy = "Score it with another output, or remove it."
    return Problem(path, None, "was added after the job was planned", remedy)


def _changed_after(path: str, parts: list[str]) -> Problem:
    shown = ", ".join(parts[:5]) + (" …" if len(parts) > 5 else "")
    allowed = "was changed after some of its rows were scored"
    return Problem(path, None, allowed, f"Restore it, or delete {shown} to score it again.")


def _replanned(
    job: ScoreJob,
    meta: BundleMeta,
    sources: Sequence[Source],
    found: ScorePlan,
    changed: set[int],
) -> tuple[ScorePlan, set[int]]:
    """Split changed files, and files in the same shards, again; other shards keep their numbers."""
    touched = [s for s in found.shards if any(p.file in changed for p in s.pieces)]
    numbers = sorted({piece.file for shard in touched for piece in shard.pieces} | changed)
    recipe = job.input.recipe(meta.text)
    corpus = survey(job, recipe, sources, {found.files[n].path for n in numbers})
    _refuse_other_types(corpus, found)
    now = {file.path: file for file in corpus.files}
    files = tuple(now.get(file.path, file) for file in found.files)
    _refuse_too_many(job, files)
    pieces = cut([(n, files[n]) for n in numbers], job.shard_rows)
    old = {shard.index for shard in touched}
    free = chain(sorted(old), count(1 + max(s.index for s in found.shards)))
    fresh = [Shard(index=index, pieces=p) for index, p in zip(free, pieces)]  # noqa: B905
    kept = [shard for shard in found.shards if shard.index not in old]
    shards = tuple(sorted([*kept, *fresh], key=lambda shard: shard.index))
    plan = found.model_copy(update={"files": files, "shards": shards})
    return plan, old | {shard.index for shard in fresh}


def _refuse_other_types(corpus: Corpus, found: ScorePlan) -> None:
    planned = decode_schema(found.columns)
    try:
        unified = pa.unify_schemas([planned, corpus.schema], promote_options="permissive")
    except pa.ArrowException:
        unified = None
    if unified != planned:
        allowed = f"has other column types than planned: {corpus.schema}, planned {planned}"
        remedy = "Use another output."
        raise DataError(Problem(corpus.files[0].path, None, " ".join(allowed.split()), remedy))
