"""Describe a path: a run, a search, a bundle, a score table, a job file or a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from clftask.commands.inspect_run import inspect_run, last_written, state
from clftask.commands.inspect_table import inspect_table
from clftask.components.score_table import COUNTS, checksum, count_rows, read_footer
from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.data.readers.hf_datasets import HUB
from clftask.data.readers.registry import open_source
from clftask.errors import ClftaskError, ConfigError, DataError, JobError, Problem
from clftask.io import filesystems, storage
from clftask.io.parallel import map_in_threads
from clftask.messages import are, counted
from clftask.models import bundle
from clftask.scoring.manifest import (
    PLAN,
    Counts,
    Manifest,
    Receipt,
    ScorePlan,
    ScoreTableStore,
    Shard,
)
from clftask.training import run_dir
from clftask.tuning.trial_store import TrialStore, ranked
from clftask.yaml_io import parse_job, read_yaml


def inspect(path: str, verify: bool = False, overrides: Iterable[str] = ()) -> dict[str, Any]:
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
    if is_hub:
        return _data_table(path, place)
    if storage.exists(storage.join(place, bundle.META)):
        return _bundle(place)
    if storage.exists(storage.join(place, run_dir.SEARCH)):
        return _search(place)
    if storage.exists(storage.join(place, run_dir.JOB)):
        return inspect_run(place)
    if storage.exists(storage.join(place, PLAN)):
        return _table(place, verify)
    return _data_table(path, place)


def _data_table(path: str, place: str) -> dict[str, Any]:
    try:
        sources = open_source(place, "path")
    except DataError as error:
        allowed = "must be a run, a search, a bundle, a score table, a job file or a table"
        reason = error.problems[0].allowed
        raise DataError(Problem("path", path, f"{allowed}; {reason}", "Check the path.")) from None
    return inspect_table(path, sources)


def _job(place: str, overrides: Iterable[str]) -> dict[str, Any]:
    document = read_yaml(place)
    if "space" in document:
        search = TuneJob.load(place, overrides)
        return {"kind": "search job", "trials": search.num_trials, "space": list(search.space)}
    if "bundle" in document:
        score = ScoreJob.load(place, overrides)
        return {
            "kind": "score job",
            "bundle": score.bundle,
            "input": score.input.path,
            "output": score.output.path,
        }
    job = TrainJob.load(place, overrides)
    return {"kind": "train job", "task": job.task, "base": job.model.base, "data": job.data.train}


def _table(place: str, verify: bool) -> dict[str, Any]:
    store = ScoreTableStore(place)
    plan, manifest = store.plan(), store.manifest()
    assert plan is not None
    done = store.stored_receipts() & store.stored_parts()
    missing = [shard.index for shard in plan.shards if shard.index not in done]
    is_complete = manifest is not None and not missing
    found: dict[str, Any] = {"kind": "score table", "state": _state(manifest, missing)}
    found["complete"] = is_complete
    if missing:
        found["missing parts"] = missing[:20]
    if not is_complete:
        found["last written"] = last_written(place)
    counts = sum((receipt.counts for receipt in store.receipts()), Counts())
    found |= {"rows planned": plan.num_rows, "parts": len(plan.shards)}
    found |= {k: v for k, v in counts.dump().items() if k.startswith("rows_")}
    settings = plan.settings
    found |= {"bundle": settings.get("bundle"), "layout": settings.get("output.layout")}
    if plan.where is not None:
        found["where"] = plan.where
    if plan.precision is not None:
        found["precision"] = str(plan.precision)
    if verify:
        found["verified"] = _verify(store, plan, manifest)
    return found


def _state(manifest: Manifest | None, missing: list[int]) -> str:
    if manifest is not None and not missing:
        return "complete"
    parts = f"{counted(len(missing), 'part')} {are(len(missing))}"
    what = f"{parts if missing else 'only the manifest is'} missing"
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


def _bundle(place: str) -> dict[str, Any]:
    meta = bundle.read_meta(place)
    return {
        "kind": "bundle",
        "task": meta.task,
        "labels": len(meta.label_names),
        "text": list(meta.text.columns),
        "read": meta.truncation.words(meta.max_length),
        "calibration": meta.decision.calibration.kind,
        "labels given": meta.decision.rule(meta.task),
        "fingerprint": meta.fingerprint,
        "metrics": meta.metrics,
        "warnings": list(meta.warnings),
        "versions": meta.versions,
    }


def _search(place: str) -> dict[str, Any]:
    """Return the state of a search: numbers of trials by state, and the best so far."""
    text = storage.read_bytes(storage.join(place, run_dir.SEARCH))
    job = TuneJob.load(parse_job(text, run_dir.SEARCH))
    trials = TrialStore(place).all()
    states = [trial.state for trial in trials if not trial.is_finalist]
    is_finished = storage.exists(storage.join(place, run_dir.RESULT))
    found: dict[str, Any] = {
        "kind": "search",
        **({"state": "finished"} if is_finished else state(place, run_dir.SEARCH, "tune")),
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "planned": job.num_trials,
        "finalists": len(trials) - len(states),
    }
    for best in ranked(trials, job.goal)[:1]:
        found |= {"best": best.score(job.goal), "metric": job.goal.metric, "params": best.params}
    return found | ({"bundle": storage.join(place, "bundle")} if is_finished else {})
