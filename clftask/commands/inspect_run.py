"""Describe a training run: whether it runs, which epoch ships, how to resume it."""

from __future__ import annotations

import math
import time
from typing import Any

from clftask.config.results import Shipped
from clftask.config.train import TrainJob
from clftask.io import listing, storage
from clftask.messages import counted
from clftask.training import driver_mark, run_dir
from clftask.yaml_io import parse_job

UNITS = {"day": 86400, "h": 3600, "min": 60, "s": 1}


def inspect_run(place: str) -> dict[str, Any]:
    """Return a run's state, its epochs, and the metrics of the shipped or best epoch."""
    run = run_dir.Run(place, exists=True)
    text = storage.read_bytes(storage.join(place, run_dir.JOB))
    job = TrainJob.load(parse_job(text, run_dir.JOB))
    records = [record for record in run_dir.records(place) if _is_number(record.get("epoch"))]
    found: dict[str, Any] = {"kind": "run", "task": job.task, "base": job.model.base}
    if run.is_finished():
        return found | {"state": "finished"} | _result(run)
    found |= state(place, run_dir.JOB, "train")
    if best := _best(job, records):
        metric = job.training.metric
        score = f"validation {metric} {best[f'eval_{metric}']:.4f}"
        found["best so far"] = f"epoch {best['epoch']:g}: {score}"
    if records:
        found["trained"] = f"{records[-1]['epoch']:g} of {job.training.epochs} epochs"
    return found | {"last record": records[-1] if records else {}}


def state(place: str, job_file: str, command: str) -> dict[str, Any]:
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
        return {"state": text, "running": True}
    if mark is not None and is_running is None:
        begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(mark.started))
        text = f"unfinished: no result yet, {written}; a driver on {mark.host} started {begun}"
        return {"state": text, "running": None, "if it no longer runs, resume it with": resume}
    end = "interrupted" if mark else "stopped or failed"
    text = f"unfinished: {end}, {written}; resume it with run.resume=true"
    return {"state": text, "running": False, "resume": resume, **_last_line(place)}


def last_written(place: str) -> str:
    """Return how long ago a file below a folder was written: `12 s ago`."""
    newest = max((file.mtime for file in listing.list_files(place)), default=0.0)
    age = max(0.0, time.time() - newest)
    unit, seconds = next((u, s) for u, s in UNITS.items() if age >= s or u == "s")
    number = int(age / seconds)
    return f"{counted(number, unit) if unit == 'day' else f'{number} {unit}'} ago"


def _last_line(place: str) -> dict[str, str]:
    log = storage.join(place, "log.txt")
    lines = (
        storage.read_bytes(log).decode(errors="replace").split("\n") if storage.exists(log) else []
    )
    last = next((line for line in reversed(lines) if line.strip()), None)
    return {"last line of log.txt": last[:300]} if last else {}


def _result(run: run_dir.Run) -> dict[str, Any]:
    """Return the epoch whose weights a finished run ships, and the metrics of its bundle."""
    result = run.result()
    shipped = Shipped.of(result)
    training = {} if shipped is None else {"training": shipped.line()}
    more = {"metrics": result.get("metrics", {}), "warnings": result.get("warnings", [])}
    return {"bundle": run.bundle, **training, **more}


def _best(job: TrainJob, records: list[dict[str, Any]]) -> dict[str, Any] | None:
    name, sign = f"eval_{job.training.metric}", 1 if job.training.greater_is_better else -1
    measured = [record for record in records if _is_number(record.get(name))]
    return max(measured, key=lambda record: sign * float(record[name]), default=None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
