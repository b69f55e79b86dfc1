"""`--estimate`: reads the cluster's resources, times a worker's start, measures a sample here."""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING

from clftask.config.score import ScoreJob
from clftask.config.tune import TuneJob
from clftask.distributed.score.driver import checked_bundle
from clftask.distributed.score.sizing import chosen_workers
from clftask.distributed.session import connected
from clftask.distributed.tune.driver import check_room, read
from clftask.distributed.tune.validation import check_trials
from clftask.errors import ConfigError, Problem
from clftask.estimate.measure import Say, Workers, check_device
from clftask.io import storage
from clftask.models.precision import check_precision
from clftask.scoring import plan as planning
from clftask.training import run_dir
from clftask.tuning.storage_budget import needed_bytes
from clftask.tuning.trial_store import TrialStore

if TYPE_CHECKING:
    from clftask.estimate.score import ScoreEstimate
    from clftask.estimate.tune import TuneEstimate

SCORE_WORKER, TUNE_WORKER = "clftask.scoring.worker", "clftask.distributed.tune.trial_workers"


def estimate_score(job: ScoreJob, say: Say) -> ScoreEstimate:
    """Estimate the time and disk space of a scoring job; write nothing.

    Raises:
        ConfigError, DataError, StorageError: The job or the measurement cannot start.
    """
    began = time.perf_counter()
    from clftask.estimate.score import estimate, remaining

    meta = checked_bundle(job)
    planned = planning.plan(job, meta)
    if not planned.missing:
        return remaining(job, planned)
    with connected(say):
        chosen = chosen_workers(job, meta, planned)
        check_precision(job.precision, chosen.use_gpu, "precision")
        workers = Workers(chosen.workers, chosen.cpus_per_worker, chosen.gpus)
        check_device(workers, job.scaling.use_gpu, "scaling.use_gpu")
        start_s = time.perf_counter() - began + worker_start_s(SCORE_WORKER)
    return estimate(job, meta, planned, workers, start_s, say)


def estimate_tune(job: TuneJob, say: Say) -> TuneEstimate:
    """Estimate the time and disk space of a search; write nothing.

    Raises:
        ConfigError, DataError, StorageError: The search or the measurement cannot start.
        JobError: No trial can be trained on this machine.
    """
    began = time.perf_counter()
    if job.train.is_linear:
        allowed = "is not for model.base: tfidf, whose trials have no steps to measure"
        raise ConfigError(Problem("--estimate", None, allowed, "Remove it."))
    from clftask.estimate.tune import Search, TuneEstimate, estimate

    run = run_dir.find(job.run, "tune", run_dir.SEARCH)
    if run.exists:
        run_dir.same_job(run, job)
    if storage.exists(storage.join(run.path, run_dir.RESULT)):
        return TuneEstimate(run.path)
    prepared, tokenizers = read(job, run), check_trials(job)
    num_labels = len(prepared.space.names)
    with connected(say):
        chosen = check_room(job, num_labels)
        workers = Workers(chosen.workers, chosen.cpus, chosen.gpus)
        check_device(workers, job.train.scaling.use_gpu, "train.scaling.use_gpu")
        importlib.import_module("clftask.distributed.tune.search")  # as the job's driver does
        start_s, worker_s = time.perf_counter() - began, worker_start_s(TUNE_WORKER)
    need = needed_bytes(job, chosen.concurrency, num_labels)
    known = TrialStore(run.path).all() if run.exists else []
    search = Search(
        job, prepared, tokenizers, workers, chosen.concurrency, need, start_s, worker_s, known
    )
    return estimate(search, run.path, say)


def worker_start_s(module: str) -> float:
    """Return the seconds in which a worker process starts and imports its module.

    The task requests no CPU, so that an autoscaler adds no node for it.
    """
    import ray

    def load() -> None:
        from clftask.logs import quiet_libraries

        quiet_libraries()
        importlib.import_module(module)

    began = time.perf_counter()
    ray.get(ray.remote(num_cpus=0)(load).remote())
    return time.perf_counter() - began
