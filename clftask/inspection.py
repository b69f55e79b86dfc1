"""Says what lies at a path: a run, a bundle or a job file."""

from __future__ import annotations

import json
from typing import Any

from clftask import bundle, runs, storage
from clftask.config import TrainJob
from clftask.errors import DataError, Problem


def inspect(path: str) -> dict[str, Any]:
    """Return what a path is and its main figures.

    Raises:
        DataError: It is nothing that clftask writes or reads.
    """
    place = storage.absolute(path)
    if storage.exists(storage.join(place, bundle.META)):
        return _bundle(place)
    if storage.exists(storage.join(place, runs.JOB)):
        return _run(place)
    if place.endswith((".yaml", ".yml")):
        job = TrainJob.load(place)
        return {
            "kind": "train job",
            "task": job.task,
            "base": job.model.base,
            "data": job.data.train,
        }
    allowed = "must be a run, a bundle or a job file"
    raise DataError(Problem("path", path, allowed, "Give the folder that holds clftask.json."))


def _bundle(place: str) -> dict[str, Any]:
    meta = bundle.read_meta(place)
    return {
        "kind": "bundle",
        "task": meta.task,
        "labels": len(meta.label_names),
        "text": list(meta.text.columns),
        "max_length": meta.max_length,
        "fingerprint": meta.fingerprint,
        "metrics": meta.metrics,
        "versions": meta.versions,
    }


def _run(place: str) -> dict[str, Any]:
    run = runs.Run(place, exists=True)
    log = storage.join(place, "metrics.jsonl")
    lines = storage.read_bytes(log).decode().splitlines() if storage.exists(log) else []
    last = json.loads(lines[-1]) if lines else {}
    state = "finished" if run.is_finished() else "unfinished: resume it with run.resume=true"
    return {"kind": "run", "state": state, "bundle": run.bundle, "last record": last}
