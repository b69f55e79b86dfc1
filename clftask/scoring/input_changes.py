"""What changed in the input since a table was planned: files added, changed or gone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, count

from clftask.components.text import TextRecipe
from clftask.config.score import ScoreJob
from clftask.data.readers.base import Source
from clftask.errors import DataError, Problem
from clftask.io.parallel import map_in_threads
from clftask.scoring.input import MAX_SHOWN, cut, decode_schema, refuse_too_many, survey
from clftask.scoring.manifest import InputFile, ScorePlan, Shard, shards_of
from clftask.scoring.table_store import ScoreTableStore

MAX_PARTS = 5  # that a message names


@dataclass(frozen=True)
class Changes:
    """The input compared with the plans of all generations.

    Attributes:
        added: Files to score in a further generation.
        anew: Indices of files of the last plan that changed before any of their rows was scored.
        num_gone: Number of files that are gone; their rows stay.
    """

    added: tuple[str, ...]
    anew: frozenset[int]
    num_gone: int


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def changes_of(
    job: ScoreJob,
    sources: Sequence[Source],
    store: ScoreTableStore,
    plans: Sequence[ScorePlan],
    parts: Collection[int],
) -> Changes:
    """Compare the input with the plans of all generations; `parts`: the stored parts.

    Raises:
        DataError: Files changed after some of their rows were scored, are gone before all of
            them were, or were added although the table does not grow; names them.
    """
    there = {file: source for source in sources for file in source.files}
    # A file that was empty may be planned again: the later plan counts.
    known = {file.path: (plan, i) for plan in plans for i, file in enumerate(plan.files)}
    gone = [path for path in known if path not in there]
    changed = _rewritten(there, known)
    added = there.keys() - known.keys()
    if job.input.grow:  # an empty file has no shard: what it has now is new
        filled = {path for path in changed if not _file(known[path]).num_rows}
        added, changed = added | filled, [path for path in changed if path not in filled]
    problems = [] if job.input.grow else [_added(path) for path in sorted(added)]
    anew = set()
    shards = _shards_by_file(plans) if gone or changed else {}
    for path in [*gone, *changed]:
        plan, number = known[path]
        own = shards.get((plan.generation, number), [])
        done = [store.part(index) for index in own if index in parts]
        is_last = plan is plans[-1]
        if path not in there:
            problems += [_deleted(path)] if len(done) < len(own) else []
        elif done or not is_last:
            problems.append(_changed_after(path, done if is_last else []))
        else:
            anew.add(number)
    if problems:
        raise DataError(*problems)
    return Changes(tuple(sorted(added)), frozenset(anew), len(gone))


_Place = tuple[ScorePlan, int]


def _file(place: _Place) -> InputFile:
    plan, number = place
    return plan.files[number]


def _rewritten(there: dict[str, Source], known: dict[str, _Place]) -> list[str]:
    """Return the planned files that are there in another version."""
    paths = [path for path in known if path in there]
    versions = map_in_threads(lambda path: there[path].version(path), paths)
    pairs = zip(paths, versions, strict=True)
    return [path for path, version in pairs if version != _file(known[path]).version]


def _shards_by_file(plans: Sequence[ScorePlan]) -> dict[tuple[int, int], list[int]]:
    """Return the shards of each file by the generation and the index of the file."""
    found: dict[tuple[int, int], list[int]] = {}
    for plan in plans:
        for shard in plan.shards:
            for number in {piece.file for piece in shard.pieces}:
                found.setdefault((plan.generation, number), []).append(shard.index)
    return found


def _added(path: str) -> Problem:
    remedy = "Set input.grow: true to score it as well, or use another output, or remove it."
    return Problem(path, None, "was added after the job was planned", remedy)


def _deleted(path: str) -> Problem:
    allowed = "was deleted before all of its rows were scored"
    return Problem(path, None, allowed, "Restore it, or use another output.")


def _changed_after(path: str, parts: list[str]) -> Problem:
    shown = ", ".join(parts[:MAX_PARTS]) + (" …" if len(parts) > MAX_PARTS else "")
    allowed = "was changed after some of its rows were scored"
    remedy = f"delete {shown} to score it again" if parts else "use another output"
    return Problem(path, None, allowed, f"Restore it, or {remedy}.")


# ------------------------------------------------------------------ plans


def grown(
    job: ScoreJob,
    recipe: TextRecipe,
    sources: Sequence[Source],
    plans: Sequence[ScorePlan],
    added: Collection[str],
) -> ScorePlan | None:
    """Return the plan of the next generation: added files, further shards; None without rows.

    Raises:
        DataError: An added file cannot be read, does not fit the table, or is a planned one under
            another path.
    """
    last = plans[-1]
    corpus = survey(job, recipe, sources, added, decode_schema(last.columns))
    refuse_too_many(job, [file for plan in plans for file in plan.files] + list(corpus.files))
    _refuse_moved(sources, plans, corpus.files)
    pieces = cut(list(enumerate(corpus.files)), job.shard_rows)
    first = 1 + max(shards_of(plans))
    changed = {
        "generation": last.generation + 1,
        "planned_at": now(),
        "files": corpus.files,
        "shards": tuple(Shard(index=i, pieces=p) for i, p in enumerate(pieces, start=first)),
    }
    return last.model_copy(update=changed) if pieces else None


def _refuse_moved(
    sources: Sequence[Source], plans: Sequence[ScorePlan], added: Sequence[InputFile]
) -> None:
    """Refuse files that are planned ones under another path: their rows would be scored twice."""
    there = {file for source in sources for file in source.files}
    gone = {
        (file.version, file.num_rows): file.path
        for plan in plans
        for file in plan.files
        if file.num_rows and file.path not in there
    }
    problems = [
        _moved(file.path, old) for file in added if (old := gone.get((file.version, file.num_rows)))
    ]
    if problems:
        raise DataError(*problems[:MAX_SHOWN])


def _moved(path: str, old: str) -> Problem:
    allowed = f"is {old}, which was scored and is gone: its rows would be scored twice"
    remedy = "Use the former input.path, move it back or out of the input, or use another output."
    return Problem(path, None, allowed, remedy)


def replanned(
    job: ScoreJob,
    recipe: TextRecipe,
    sources: Sequence[Source],
    found: ScorePlan,
    changed: Collection[int],
) -> tuple[ScorePlan, set[int]]:
    """Split changed files of the last plan, and files in the same shards, again.

    Returns:
        The plan, and the numbers of the shards whose rows changed; others keep their numbers.
    """
    touched = [s for s in found.shards if any(p.file in changed for p in s.pieces)]
    numbers = sorted({piece.file for shard in touched for piece in shard.pieces} | set(changed))
    paths = {found.files[n].path for n in numbers}
    corpus = survey(job, recipe, sources, paths, decode_schema(found.columns))
    now_there = {file.path: file for file in corpus.files}
    files = tuple(now_there.get(file.path, file) for file in found.files)
    refuse_too_many(job, files)
    pieces = cut([(n, files[n]) for n in numbers], job.shard_rows)
    old = {shard.index for shard in touched}
    free = chain(sorted(old), count(1 + max(shards_of([found]))))
    fresh = [Shard(index=index, pieces=p) for index, p in zip(free, pieces)]  # noqa: B905
    kept = [shard for shard in found.shards if shard.index not in old]
    shards = tuple(sorted([*kept, *fresh], key=lambda shard: shard.index))
    plan = found.model_copy(update={"files": files, "shards": shards})
    return plan, old | {shard.index for shard in fresh}
