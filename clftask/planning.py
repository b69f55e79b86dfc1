"""What a scoring job has to do: a new plan, or the one that is there and what it still lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count

import pyarrow as pa

from clftask import storage
from clftask.bundle import BundleMeta
from clftask.config import ScoreJob
from clftask.corpus import Corpus, cut, decode_schema, encode_schema, in_threads, source_of, survey
from clftask.errors import ConfigError, DataError, Problem
from clftask.manifest import Books, InputFile, ScorePlan, Shard
from clftask.shards import columns_of, origin_columns
from clftask.sources import FILE, ROW, Source
from clftask.spec import fingerprint
from clftask.tables import write_part


@dataclass(frozen=True)
class Planned:
    """A plan and how far it is.

    Attributes:
        plan: The plan.
        receipts: Numbers of the shards whose part and receipt are there.
        is_new: Whether this run wrote the plan.
    """

    plan: ScorePlan
    receipts: frozenset[int]
    is_new: bool

    @property
    def missing(self) -> list[Shard]:
        """The shards that have no receipt yet."""
        return [shard for shard in self.plan.shards if shard.index not in self.receipts]


def plan(job: ScoreJob, meta: BundleMeta) -> Planned:
    """Plan a job, or take up the plan that lies at its output.

    Raises:
        ConfigError: The output belongs to a job with other settings; names them.
        DataError: The input cannot be read, or is no longer what was planned.
        StorageError: The output cannot be written.
    """
    books = Books(job.output.path)
    storage.check_writable(job.output.path, "output.path")
    sources = source_of(job)
    _refuse_own_input(job)
    found = books.plan()
    if found is None:
        _refuse_foreign(books)
        fresh = _new(job, meta, sources)
        if books.write_plan(fresh):
            return Planned(fresh, frozenset(), is_new=True)
        found = books.plan()
        assert found is not None, "a plan that exists cannot be read"
    _refuse_other_settings(job, meta, found)
    done = _done(books)
    return Planned(_up_to_date(job, meta, sources, books, found), done, is_new=False)


def _done(books: Books) -> frozenset[int]:
    """Return the shards with part and receipt; forget those whose part was taken away."""
    receipts = books.stored_receipts()
    parts = books.stored_parts()  # listed last: a part is written before its receipt
    if receipts - parts:
        books.forget(receipts - parts)
    return frozenset(receipts & parts)


def _refuse_own_input(job: ScoreJob) -> None:
    part = storage.join(job.output.path, "part-00000.parquet")
    if storage.stands_for(job.input.path, part):
        allowed = f"lies within the input {job.input.path}: its parts would be scored, too"
        raise ConfigError(Problem("output.path", job.output.path, allowed, "Use another folder."))


def _refuse_foreign(books: Books) -> None:
    if books.has_foreign_parts():
        remedy = "Use an empty folder or prefix."
        allowed = "holds parts but no plan: it belongs to something else"
        raise ConfigError(Problem("output.path", books.output, allowed, remedy))


def _new(job: ScoreJob, meta: BundleMeta, sources: Sequence[Source]) -> ScorePlan:
    recipe = job.input.recipe(meta.text)
    corpus = survey(job, recipe, sources, [file for s in sources for file in s.files])
    if not any(file.num_rows for file in corpus.files):
        raise DataError(Problem("input.path", job.input.path, "holds no row", "Check the path."))
    _refuse_columns(job, meta, corpus.schema)
    pieces = cut(list(enumerate(corpus.files)), job.shard_rows)
    settings = job.settings(meta.fingerprint, meta.text)
    return ScorePlan(
        fingerprint=fingerprint(settings),
        settings=settings,
        files=corpus.files,
        shards=tuple(Shard(index=i, pieces=p) for i, p in enumerate(pieces)),
        columns=encode_schema(corpus.schema),
    )


def _refuse_columns(job: ScoreJob, meta: BundleMeta, schema: pa.Schema) -> None:
    """Refuse names that would stand twice in the score table, and types that it cannot hold."""
    places = [pa.field(FILE, pa.string()), pa.field(ROW, pa.int64())]
    known = {field.name: field for field in [*schema, *places]}
    whole = columns_of(job, meta).schema([known[name] for name in origin_columns(job)])
    try:
        write_part(whole.empty_table(), {})
    except pa.ArrowException as error:
        allowed = f"holds what Parquet cannot: {error}"
        problem = Problem("input.keep", list(job.input.keep), allowed, "Leave it out.")
        raise ConfigError(problem) from None


def _refuse_other_settings(job: ScoreJob, meta: BundleMeta, found: ScorePlan) -> None:
    mine = job.settings(meta.fingerprint, meta.text)
    remedy = "Use another output.path, or the settings of the table that is there."
    differing = [
        Problem(name, value, f"the table there was begun with {found.settings.get(name)!r}", remedy)
        for name, value in mine.items()
        if value != found.settings.get(name)
    ]
    if differing:
        raise ConfigError(*differing)


# ------------------------------------------------------------------ input that changed


def _up_to_date(
    job: ScoreJob, meta: BundleMeta, sources: Sequence[Source], books: Books, found: ScorePlan
) -> ScorePlan:
    """Plan files anew that were changed before any of their rows was scored.

    Raises:
        DataError: Files were added, are gone, or were changed after rows of them were scored.
    """
    there = {file: source for source in sources for file in source.files}
    stored = books.stored_parts()
    changed = _changed(there, found)
    problems = [_added(path) for path in sorted(there.keys() - {f.path for f in found.files})]
    for number in sorted(changed):
        path = found.files[number].path
        own = [s for s in found.shards if any(p.file == number for p in s.pieces)]
        done = [shard for shard in own if shard.index in stored]
        if path in there and done:
            problems.append(_changed_after(path, [books.part(shard.index) for shard in done]))
        if path not in there and len(done) < len(own):
            remedy = "Bring it back, or use another output."
            problems.append(Problem(path, None, "is gone, and not all of it is scored", remedy))
    if problems:
        raise DataError(*problems)
    return _replanned(job, meta, sources, books, found, {
        number for number in changed if found.files[number].path in there
    })  # fmt: skip


def _changed(there: dict[str, Source], found: ScorePlan) -> set[int]:
    """Return the numbers of the planned files that are gone or have another version."""

    def is_changed(file: InputFile) -> bool:
        return file.path not in there or there[file.path].version(file.path) != file.version

    changed = in_threads(is_changed, found.files)
    return {number for number, other in enumerate(changed) if other}


def _added(path: str) -> Problem:
    remedy = "Score it into another output, or take it away."
    return Problem(path, None, "was added after the job was planned", remedy)


def _changed_after(path: str, parts: list[str]) -> Problem:
    shown = ", ".join(parts[:5]) + (" …" if len(parts) > 5 else "")
    allowed = "was changed after rows of it were scored"
    return Problem(path, None, allowed, f"Restore it, or delete {shown} to score it anew.")


def _replanned(
    job: ScoreJob,
    meta: BundleMeta,
    sources: Sequence[Source],
    books: Books,
    found: ScorePlan,
    changed: set[int],
) -> ScorePlan:
    """Cut changed files, and those that share a shard with them, anew; parts keep their numbers."""
    if not changed:
        return found
    touched = [s for s in found.shards if any(p.file in changed for p in s.pieces)]
    numbers = sorted({piece.file for shard in touched for piece in shard.pieces} | changed)
    recipe = job.input.recipe(meta.text)
    corpus = survey(job, recipe, sources, {found.files[n].path for n in numbers})
    _refuse_other_types(corpus, found)
    now = {file.path: file for file in corpus.files}
    files = tuple(now.get(file.path, file) for file in found.files)
    pieces = cut([(n, files[n]) for n in numbers], job.shard_rows)
    free = chain((s.index for s in touched), count(1 + max(s.index for s in found.shards)))
    fresh = [Shard(index=index, pieces=p) for index, p in zip(free, pieces)]  # noqa: B905
    kept = [shard for shard in found.shards if shard not in touched]
    shards = tuple(sorted([*kept, *fresh], key=lambda shard: shard.index))
    plan = found.model_copy(update={"files": files, "shards": shards})
    books.replace_plan(plan)
    return plan


def _refuse_other_types(corpus: Corpus, found: ScorePlan) -> None:
    planned = decode_schema(found.columns)
    unified = pa.unify_schemas([planned, corpus.schema], promote_options="permissive")
    if unified != planned:
        allowed = f"has columns of other types than planned: {corpus.schema} for {planned}"
        remedy = "Use another output."
        raise DataError(Problem(corpus.files[0].path, None, " ".join(allowed.split()), remedy))
