"""Run folders: a new run needs an unused name, a resumed one the same job and data.

Ray Train itself reports success without training if the name and storage path of a finished
run are used again; hence names are unique and resuming is explicit.
"""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from clftask.config.sections import RunSpec
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.data import training_rows
from clftask.data.readers.base import readable
from clftask.errors import ConfigError, DataError, Problem, StorageError, interruption_hint
from clftask.io import storage
from clftask.models import bundle
from clftask.spec import Spec
from clftask.training import driver_mark
from clftask.yaml_io import parse_job

JOB, SEARCH, SPLIT = "job.yaml", "search.yaml", "split.parquet"
BASELINE = "baseline.json"  # metrics of the linear baseline, with `baseline: true`
RESULT = "result.json"  # of a search, written last
_DATA = b"clftask.data"


@dataclass(frozen=True)
class Run:
    """A run's folder or prefix, and whether it exists already."""

    path: str
    exists: bool
    job_file: str = JOB

    @property
    def bundle(self) -> str:
        """The path of the bundle."""
        return storage.join(self.path, "bundle")

    def is_finished(self) -> bool:
        """Return whether the bundle is complete."""
        return storage.exists(storage.join(self.bundle, bundle.META))

    def result(self) -> dict[str, Any]:
        """Return `metrics.json` of the finished run."""
        return storage.read_json(storage.join(self.bundle, "metrics.json"), bundle.AGAIN)


def records(path: str) -> list[dict[str, Any]]:
    """Return the records of a run's `metrics.jsonl`, losses and evaluations, sorted by step.

    Raises:
        DataError: It is damaged.
    """
    place = storage.join(path, "metrics.jsonl")
    lines = storage.read_bytes(place).splitlines() if storage.exists(place) else []
    try:
        found = [json.loads(line) for line in lines]
        return sorted(found, key=lambda record: int(record["step"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        raise DataError(Problem(place, None, "is damaged", "Delete it.")) from None


@contextlib.contextmanager
def resumable(run: Run) -> Iterator[Callable[[Spec, pa.Table, str], None]]:
    """Yield a function that creates the run; an interruption prints how to resume it.

    Once the run is created, partial files of killed workers are removed at the end. Until then,
    the folder may belong to a concurrent run of the same name, whose files must stay.

    Raises:
        ConfigError: Another driver writes to the run.
    """
    name, created = run.path.rpartition("/")[2], []

    def create_run(job: Spec, rows: pa.Table, fingerprint: str) -> None:
        if run.exists:
            driver_mark.check(run.path)  # again: it may have come since
        create(run, job, rows, fingerprint)
        created.append(run)
        driver_mark.leave(run.path)

    try:
        with interruption_hint(f"Resume with run.name={name} run.resume=true."):
            yield create_run
    finally:
        if created:
            driver_mark.remove(run.path)
            with contextlib.suppress(StorageError):
                storage.clear_partial(run.path)


def tidy(run: Run, keep_checkpoints: int = 1) -> None:
    """Remove what a finished run does not keep; ignore storage errors.

    Args:
        run: Its bundle is complete: the driver calls this when the workers have ended, because a
            worker that is restarted needs the checkpoints.
        keep_checkpoints: Of the job; 0 removes all checkpoints.
    """
    with contextlib.suppress(StorageError):
        storage.delete(storage.join(run.path, driver_mark.DRIVER))  # also a killed driver's
        if keep_checkpoints == 0:
            storage.delete(storage.join(run.path, "checkpoints"))
        storage.delete(storage.join(run.path, ".ray"))
        storage.clear_partial(run.path)


def find(spec: RunSpec, prefix: str, job_file: str = JOB) -> Run:
    """Return a new or existing run; fail early if the name is taken.

    Args:
        spec: The job's run section.
        prefix: The prefix of a generated name.
        job_file: The run's job file; if it exists, the name is taken.

    Raises:
        ConfigError: The name is taken and `resume` is false, or another driver writes to the run.
        StorageError: The storage is not writable.
    """
    storage.check_writable(spec.storage, "run.storage")
    path = storage.join(spec.storage, spec.name or _new_name(prefix))
    # A finished search also contains the winner's job.yaml, so search.yaml comes first.
    there = [name for name in (SEARCH, JOB) if storage.exists(storage.join(path, name))]
    if there and (there[0] != job_file or not spec.resume):
        raise _taken(path, spec.name)
    if there:
        driver_mark.check(path)
    return Run(path, bool(there), job_file)


def _taken(path: str, name: str | None) -> ConfigError:
    remedy = "Set run.resume: true to resume it, or choose another name."
    return ConfigError(Problem("run.name", name, f"is taken: {path}", remedy))


def _new_name(prefix: str) -> str:
    return f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def same_job(run: Run, job: TrainJob | TuneJob) -> None:
    """Check that a resumed run has the same settings.

    Raises:
        ConfigError: Settings differ; one problem per setting.
    """
    place = storage.join(run.path, run.job_file)
    document = parse_job(storage.read_bytes(place), run.job_file)
    before, now = _flat(type(job).load(document).identity()), _flat(job.identity())
    differing = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    remedy = "Restore it, or start a new run."
    if differing:
        raise ConfigError(
            *(
                Problem(k, now.get(k), f"was {before.get(k)!r} in the run", remedy)
                for k in differing
            )
        )


def same_data(run: Run, fingerprint: str) -> None:
    """Check that a resumed run has the same rows.

    Raises:
        ConfigError: The data's fingerprint differs.
    """
    place = storage.join(run.path, SPLIT)
    if not storage.exists(place):
        return
    with readable(place):
        schema = parquet.read_schema(io.BytesIO(storage.read_bytes(place)))
    before = (schema.metadata or {}).get(_DATA, b"").decode()
    if before != fingerprint:
        allowed = f"must be the run's data (fingerprint {before})"
        remedy = "Restore the tables, or start a new run."
        raise ConfigError(Problem("data", fingerprint, allowed, remedy))


def rows(path: str) -> pa.Table | None:
    """Return a run's `split.parquet`; None if it has none, or one of version 0.1.0."""
    place = storage.join(path, SPLIT)
    if not storage.exists(place):
        return None
    with readable(place):
        found = parquet.read_table(io.BytesIO(storage.read_bytes(place)))
    return found if training_rows.HASH in found.column_names else None


def create(run: Run, job: Spec, rows: pa.Table, fingerprint: str) -> None:
    """Create the run: write its job file, if absent, and its split.

    Raises:
        ConfigError: A concurrent run has taken the name.
    """
    if not run.exists:
        text = f"# clftask run {secrets.token_hex(8)}\n{job.to_yaml()}"
        if not storage.put_if_absent(storage.join(run.path, run.job_file), text.encode()):
            raise _taken(run.path, run.path.rpartition("/")[2])
    buffer = io.BytesIO()
    parquet.write_table(rows.replace_schema_metadata({_DATA: fingerprint}), buffer)
    storage.put(storage.join(run.path, SPLIT), buffer.getvalue())


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        found |= _flat(value, f"{path}.") if isinstance(value, dict) and value else {path: value}
    return found
