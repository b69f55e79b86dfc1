"""What a job will cost on the cluster: here it is asked what it has, and nothing is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clftask.config.score import ScoreJob
from clftask.config.tune import TuneJob
from clftask.distributed.capacity import capacity, plan
from clftask.distributed.score.driver import checked_bundle
from clftask.distributed.session import connected
from clftask.distributed.tune.driver import check_room, read_all
from clftask.io import storage
from clftask.models.precision import check_precision
from clftask.scoring import plan as planning
from clftask.training import run_dir
from clftask.tuning.storage_budget import needed_bytes
from clftask.tuning.trial_store import TrialStore

Say = Callable[[str], None]


def estimate_score(job: ScoreJob, say: Say) -> dict[str, Any]:
    """Say what a scoring job will take; see `estimate.score.estimate`.

    Args:
        job: The job.
        say: Takes lines for the user.

    Returns:
        What `--json` prints; of a job that is done the counts alone.

    Raises:
        ConfigError, DataError, StorageError: What would refuse the job, or the measurement.
    """
    from clftask.estimate.machine import WorkerResources, check_device
    from clftask.estimate.score import estimate, progress

    meta = checked_bundle(job.bundle)
    planned = planning.plan(job, meta)
    if not planned.missing:
        return progress(job, planned)
    with connected(say):
        chosen = plan(job.scaling, capacity(), len(planned.missing))
    check_precision(job.precision, chosen.use_gpu, "precision")
    asked = WorkerResources(chosen.workers, chosen.cpus_per_worker, float(chosen.use_gpu))
    check_device(asked, job.scaling.use_gpu, "scaling.use_gpu")
    return estimate(job, meta, planned, asked, say)


def estimate_tune(job: TuneJob, say: Say) -> dict[str, Any]:
    """Say what a search will take; see `estimate.tune.estimate`.

    Args:
        job: The search.
        say: Takes lines for the user.

    Returns:
        What `--json` prints; of a search that is finished its run alone.

    Raises:
        ConfigError, DataError, StorageError: What would refuse the search, or the measurement.
        JobError: No trial can be trained on this machine.
    """
    from clftask.estimate.machine import WorkerResources, check_device
    from clftask.estimate.spending import Search
    from clftask.estimate.tune import estimate

    run = run_dir.find(job.run, "tune", run_dir.SEARCH)
    if run.exists:
        run_dir.same_job(run, job)
    if storage.exists(storage.join(run.path, run_dir.RESULT)):
        return {"run": run.path, "trials_left": 0, "finalists_left": 0}
    tokenizers, prepared = read_all(job, run)
    num_labels = len(prepared.space.names)
    with connected(say):
        chosen = check_room(job, num_labels)
    asked = WorkerResources(chosen.workers, chosen.cpus, chosen.gpus)
    check_device(asked, job.train.scaling.use_gpu, "train.scaling.use_gpu")
    need = needed_bytes(job, chosen.concurrency, num_labels)
    known = TrialStore(run.path).all() if run.exists else []
    search = Search(job, prepared, tokenizers, asked, chosen.concurrency, need, known)
    return estimate(search, say)
