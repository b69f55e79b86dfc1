"""Describe a training run: whether it runs, which epoch ships, how to resume it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from clftask.commands.description import Description, Measured
from clftask.components.labels import Task
from clftask.config.results import Shipped
from clftask.config.train import TrainJob
from clftask.io import listing, storage
from clftask.messages import counted
from clftask.training import driver_mark, run_dir
from clftask.yaml_io import parse_job

UNITS = {"day": 86400, "h": 3600, "min": 60, "s": 1}


@dataclass(frozen=True, kw_only=True)
class Progress(Description):
    """The state of a run or a search, in words."""

    state: str


@dataclass(frozen=True, kw_only=True)
class Unfinished(Progress):
    """No result yet; `running`: None if this machine cannot tell; `resume`: the command."""

    NAMES = {
        "resume_if_dead": "if it no longer runs, resume it with",
        "last_line": "last line of log.txt",
    }
    running: bool | None
    resume_if_dead: str | None = None
    resume: str | None = None
    last_line: str | None = None


@dataclass(frozen=True, kw_only=True)
class FinishedRun(Measured):
    """A run with its bundle; training: which epoch's weights it has, in words."""

    kind = "run"
    base: str
    progress: Progress = field(default_factory=lambda: Progress(state="finished"))
    bundle: str
    training: str | None = None


@dataclass(frozen=True, kw_only=True)
class UnfinishedRun(Description):
    """A run without a result; `last_record`: of `metrics.jsonl`."""

    kind = "run"
    NAMES = {"best": "best so far", "last_record": "last record"}
    task: Task
    base: str
    progress: Unfinished
    best: str | None = None
    trained: str | None = None
    last_record: dict[str, Any]


def inspect_run(place: str) -> FinishedRun | UnfinishedRun:
    """Return a run's state, its epochs, and the metrics of the shipped or best epoch."""
    run = run_dir.Run(place, exists=True)
    text = storage.read_bytes(storage.join(place, run_dir.JOB))
    job = TrainJob.load(parse_job(text, run_dir.JOB))
    base, metric = job.model.base, job.training.metric
    if run.is_finished():
        result = run.result()
        shipped = Shipped.of(result)
        return FinishedRun(
            task=job.task,
            base=base,
            bundle=run.bundle,
            training=shipped.line() if shipped else None,
            metric=metric,
            metrics=result.get("metrics", {}),
            warnings=result.get("warnings", []),
        )
    records = [record for record in run_dir.records(place) if _is_number(record.get("epoch"))]
    best = _best(job, records)
    score = best and f"epoch {best['epoch']:g}: validation {metric} {best[f'eval_{metric}']:.4f}"
    last = records[-1] if records else {}
    return UnfinishedRun(
        task=job.task,
        base=base,
        progress=unfinished(place, run_dir.JOB, "train"),
        best=score or None,
        trained=f"{last['epoch']:g} of {counted(job.epochs, 'epoch')}" if last else None,
        last_record=last,
    )


def unfinished(place: str, job_file: str, command: str) -> Unfinished:
    """Return whether an unfinished run or search is running, and how to resume it.

    Args:
        place: Its folder.
        job_file: The name of its job file.
        command: The command that resumes it.
    """
    mark = driver_mark.find(place)
    is_running = mark.is_alive() if mark else False
    written = f"last written {last_written(place)}"
    resume = f"clftask {command} {storage.join(place, job_file)} run.resume=true"
    if mark is not None and is_running:
        text = f"running: process {mark.pid} on this machine; no result yet, {written}"
        return Unfinished(state=text, running=True)
    if mark is not None and is_running is None:
        begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(mark.started))
        text = f"unfinished: no result yet, {written}; a driver on {mark.host} started {begun}"
        return Unfinished(state=text, running=None, resume_if_dead=resume)
    end = "interrupted" if mark else "stopped or failed"
    text = f"unfinished: {end}, {written}; resume it with run.resume=true"
    return Unfinished(state=text, running=False, resume=resume, last_line=_last_line(place))


def last_written(place: str) -> str:
    """Return how long ago a file below a folder was written: `12 s ago`."""
    newest = max((file.mtime for file in listing.list_files(place)), default=0.0)
    age = max(0.0, time.time() - newest)
    unit, seconds = next((u, s) for u, s in UNITS.items() if age >= s or u == "s")
    number = int(age / seconds)
    return f"{counted(number, unit) if unit == 'day' else f'{number} {unit}'} ago"


def _last_line(place: str) -> str | None:
    log = storage.join(place, "log.txt")
    text = storage.read_bytes(log).decode(errors="replace") if storage.exists(log) else ""
    lines = [line for line in text.split("\n") if line.strip()]
    return lines[-1][:300] if lines else None


def _best(job: TrainJob, records: list[dict[str, Any]]) -> dict[str, Any] | None:
    name, sign = f"eval_{job.training.metric}", 1 if job.training.greater_is_better else -1
    measured = [record for record in records if _is_number(record.get(name))]
    return max(measured, key=lambda record: sign * float(record[name]), default=None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
