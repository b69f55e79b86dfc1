"""Describe a path: a run, a search, a bundle, a score table, a job file or a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clftask.commands.description import Description, Measured
from clftask.commands.inspect_run import Progress, inspect_run, last_written, unfinished
from clftask.commands.inspect_table import TableSummary, inspect_table
from clftask.components.labels import Task
from clftask.components.score_table import COUNTS, PLAN, checksum, count_rows, read_footer
from clftask.config.jobs import load_any_job
from clftask.config.score import ScoreJob
from clftask.config.tune import TuneJob
from clftask.data.readers.hf_datasets import HUB
from clftask.data.readers.registry import open_source
from clftask.errors import ClftaskError, ConfigError, DataError, JobError, Problem
from clftask.io import filesystems, storage
from clftask.io.parallel import map_in_threads
from clftask.messages import are, counted
from clftask.models import bundle
from clftask.models.bundle_meta import BundleMeta
from clftask.scoring.manifest import (
    Counts,
    Manifest,
    Receipt,
    ScorePlan,
    ScoreTableStore,
    Shard,
)
from clftask.training import run_dir
from clftask.tuning.trial_store import TrialStore, ranked
from clftask.yaml_io import parse_job


@dataclass(frozen=True, kw_only=True)
class TrainJobFile(Description):
    """A training job."""

    kind = "train job"
    task: Task
    base: str
    data: Any


@dataclass(frozen=True, kw_only=True)
class SearchJobFile(Description):
    """A search; `space`: the fields that it varies."""

    kind = "search job"
    trials: int
    space: list[str]


@dataclass(frozen=True, kw_only=True)
class ScoreJobFile(Description):
    """A scoring job: its paths; `bundle`: of a cascade, both and the promised agreement."""

    kind = "score job"
    bundle: Any
    input: str
    output: str


@dataclass(frozen=True, kw_only=True)
class Bundle(Measured):
    """A bundle; in words: what is `read` of a long text, and the `rule` that gives labels.

    Attributes:
        adapted: How the base was adapted, in words; None if all of it was trained.
        needs_base: The base, if the bundle does not contain its weights.
    """

    kind = "bundle"
    NAMES = {"rule": "labels given", "needs_base": "needs base"}
    model: str
    labels: int
    text: list[str]
    read: str
    adapted: str | None = None
    needs_base: str | None = None
    calibration: str
    rule: str
    fingerprint: str
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Search(Description):
    """A search; `trials`: their number by state; of the best one its score and params."""

    kind = "search"
    progress: Progress
    trials: dict[str, int]
    planned: int
    finalists: int
    best: float | None = None
    metric: str | None = None
    params: dict[str, Any] | None = None
    bundle: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreTable(Description):
    """A score table: what is planned, the counts of its receipts, settings of its job.

    Attributes:
        missing: The first of the parts that are missing.
        last_written: How long ago; None if it is complete.
        verified: What `--verify` checked.
    """

    kind = "score table"
    NAMES = {
        "missing": "missing parts",
        "last_written": "last written",
        "rows_planned": "rows planned",
        "answered_by": "answered by",
    }
    state: str
    complete: bool
    missing: list[int] | None = None
    last_written: str | None = None
    rows_planned: int
    parts: int
    rows_in: int
    rows_scored: int
    rows_quarantined: int
    rows_filtered: int
    rows_truncated: int
    bundle: Any
    layout: Any
    format: str | None = None
    where: str | None = None
    precision: str | None = None
    cascade: str | None = None
    answered_by: dict[str, int] | None = None
    verified: str | None = None


def inspect(
    path: str, verify: bool = False, overrides: Iterable[str] = ()
) -> Description | TableSummary:
    """Return the kind of a path and its main figures.

    Args:
        path: A run, a search, a bundle, a score table, a job file or a table.
        verify: Read and check each part of a score table.
        overrides: Of a job file: `field.path=value`.

    Raises:
        ConfigError: There are overrides, but the path is not a job file.
        DataError: The path is none of these.
        JobError: Parts of a score table are missing or changed.
    """
    is_hub = path.startswith(HUB)
    place = path if is_hub else filesystems.absolute(path)
    if place.endswith((".yaml", ".yml")) and not storage.is_folder(place):
        return _job(place, overrides)
    if overrides:
        allowed = "overrides are for job files"
        raise ConfigError(Problem("overrides", list(overrides), allowed, "Remove them."))
    by_file: dict[str, Callable[[str], Description]] = {
        bundle.META: _bundle,
        run_dir.SEARCH: _search,
        run_dir.JOB: inspect_run,
        PLAN: lambda place: _table(place, verify),
    }
    for name, describe in by_file.items():
        if not is_hub and storage.exists(storage.join(place, name)):
            return describe(place)
    return _data_table(path, place)


def _data_table(path: str, place: str) -> TableSummary:
    try:
        sources = open_source(place, "path")
    except DataError as error:
        allowed = "must be a run, a search, a bundle, a score table, a job file or a table"
        reason = error.problems[0].allowed
        raise DataError(Problem("path", path, f"{allowed}; {reason}", "Check the path.")) from None
    return inspect_table(path, sources)


def _job(place: str, overrides: Iterable[str]) -> Description:
    job = load_any_job(place, overrides)
    if isinstance(job, TuneJob):
        return SearchJobFile(trials=job.num_trials, space=list(job.space))
    if isinstance(job, ScoreJob):
        paths = {"input": job.input.path, "output": job.output.path}
        return ScoreJobFile(bundle=job.dump()["bundle"], **paths)
    return TrainJobFile(task=job.task, base=job.model.base, data=job.data.train)


def _table(place: str, verify: bool) -> ScoreTable:
    store = ScoreTableStore(place)
    plan, manifest = store.plan(), store.manifest()
    assert plan is not None
    done = store.stored_receipts() & store.stored_parts()
    missing = [shard.index for shard in plan.shards if shard.index not in done]
    is_complete = manifest is not None and not missing
    counts = sum((receipt.counts for receipt in store.receipts()), Counts())
    return ScoreTable(
        state=_state(is_complete, len(missing)),
        complete=is_complete,
        missing=missing[:20] or None,
        last_written=None if is_complete else last_written(place),
        rows_planned=plan.num_rows,
        parts=len(plan.shards),
        **{name: n for name, n in counts.dump().items() if name.startswith("rows_")},
        bundle=plan.settings.get("bundle"),
        layout=plan.settings.get("output.layout"),
        format=plan.settings.get("output.format"),
        where=plan.where,
        precision=None if plan.precision is None else str(plan.precision),
        cascade=None if plan.cascade is None else str(plan.cascade),
        answered_by=counts.answered_by or None,
        verified=_verify(store, plan, manifest) if verify else None,
    )


def _state(is_complete: bool, num_missing: int) -> str:
    if is_complete:
        return "complete"
    parts = f"{counted(num_missing, 'part')} {are(num_missing)}"
    what = f"{parts if num_missing else 'only the manifest is'} missing"
    return f"incomplete, {what}: run the same job again"


def _verify(store: ScoreTableStore, plan: ScorePlan, manifest: Manifest | None) -> str:
    """Check each part against its receipt and the manifest; without a receipt, against the plan.

    Returns:
        The numbers of checked parts.

    Raises:
        JobError: Parts are missing, changed or from another table.
    """
    entries = {entry.name: entry.sha256 for entry in manifest.parts} if manifest else {}
    receipts, stored = list(store.receipts()), store.stored_parts()
    bare = stored - {receipt.shard for receipt in receipts}
    shards = [shard for shard in plan.shards if shard.index in bare]
    results = map_in_threads(lambda receipt: _check_receipt(store, receipt, entries), receipts)
    results += map_in_threads(lambda shard: _check_plan(store, plan, shard), shards)
    problems = [problem for found in results for problem in found]
    foreign = sorted(stored - {shard.index for shard in plan.shards})
    problems += [_unsound(store.part(index), "does not belong to this table") for index in foreign]
    if problems:
        raise JobError(*problems)
    checked = [f"{counted(len(receipts), 'part')} as written"] if receipts else []
    if shards:
        checked.append(f"{counted(len(shards), 'part')} without a receipt, complete and as planned")
    return "; ".join(checked) or "no parts yet"


def _check_receipt(
    store: ScoreTableStore, receipt: Receipt, entries: dict[str, str]
) -> list[Problem]:
    """Return the problems of a part with a receipt; `entries`: the manifest's checksums."""
    place = store.part(receipt.shard)
    wanted = {receipt.sha256, entries.get(place.rpartition("/")[2], receipt.sha256)}
    found = []
    if not storage.exists(place) or {checksum(storage.read_bytes(place))} != wanted:
        found.append(_unsound(place, "is missing, or its content was changed"))
    return [*found, *_missing_quarantine(store, receipt.shard, receipt.counts)]


def _check_plan(store: ScoreTableStore, plan: ScorePlan, shard: Shard) -> list[Problem]:
    """Return the problems of a part without a receipt: its worker was killed before writing it."""
    place = store.part(shard.index)
    data = storage.read_bytes(place)
    try:
        footer, num_rows = read_footer(data), count_rows(data)
        counts = Counts.load(footer.get(COUNTS, {}))
    except (pa.ArrowException, OSError, ValueError, RecursionError, ClftaskError):
        return [_unsound(place, "is damaged")]
    if not plan.mark(shard).items() <= footer.items():
        return [_unsound(place, "belongs to another job, or to an input that was changed")]
    if (counts.rows_read, counts.rows_scored) != (shard.num_rows, num_rows):
        return [_unsound(place, "has another number of rows than its footer states")]
    return _missing_quarantine(store, shard.index, counts)


def _missing_quarantine(store: ScoreTableStore, index: int, counts: Counts) -> list[Problem]:
    place = store.quarantine(index)
    is_gone = counts.rows_quarantined and not storage.exists(place)
    return [_unsound(place, "is missing", store.part(index))] if is_gone else []


def _unsound(place: str, problem: str, part: str | None = None) -> Problem:
    return Problem(place, None, problem, f"Delete {part or place}, and run the job again.")


def _bundle(place: str) -> Bundle:
    meta = bundle.read_meta(place)
    return Bundle(
        task=meta.task,
        labels=len(meta.label_names),
        text=list(meta.text.columns),
        model=meta.origin,
        read=meta.read,
        adapted=None if meta.adapt.kind == "full" else meta.adapt.words,
        needs_base=meta.job["model"]["base"] if meta.adapt.is_apart else None,
        calibration=meta.decision.calibration.kind,
        rule=meta.decision.rule(meta.task),
        fingerprint=meta.fingerprint,
        metric=meta.shipped.metric if meta.shipped else _metric_of(meta),
        metrics=meta.metrics,
        warnings=list(meta.warnings),
        versions=meta.versions,
    )


def _metric_of(meta: BundleMeta) -> str | None:
    """Return the metric of a linear model's job; others of version 0.1.0 have none."""
    return meta.job["training"]["metric"] if meta.is_linear else None


def _search(place: str) -> Search:
    """Return the state of a search: numbers of trials by state, and the best so far."""
    text = storage.read_bytes(storage.join(place, run_dir.SEARCH))
    job = TuneJob.load(parse_job(text, run_dir.SEARCH))
    trials = TrialStore(place).all()
    states = [trial.state for trial in trials if not trial.is_finalist]
    is_finished = storage.exists(storage.join(place, run_dir.RESULT))
    best = next(iter(ranked(trials, job.goal)), None)
    progress = Progress(state="finished")
    return Search(
        progress=progress if is_finished else unfinished(place, run_dir.SEARCH, "tune"),
        trials={state: states.count(state) for state in sorted(set(states))},
        planned=job.num_trials,
        finalists=len(trials) - len(states),
        best=best.score(job.goal) if best else None,
        metric=job.goal.metric if best else None,
        params=best.params if best else None,
        bundle=storage.join(place, "bundle") if is_finished else None,
    )
