"""Driver of a training run on Ray Train, and the loop of its workers."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clftask import garbage, logs
from clftask.components import trackers
from clftask.config.results import Shipped, TrainResult
from clftask.config.train import TrainJob
from clftask.data.prepare import Prepared, prepare, tokenise
from clftask.distributed import spot_notice
from clftask.distributed.actor_names import named
from clftask.distributed.capacity import WorkerPlan, capacity, plan
from clftask.distributed.metrics import TrainMetricsExporter
from clftask.distributed.session import connected
from clftask.distributed.train.progress import Waiting, follow, new_progress_actor
from clftask.errors import (
    ClftaskError,
    ConfigError,
    DataError,
    JobError,
    Problem,
    StorageError,
    is_permanent,
)
from clftask.evaluation.evaluate import LINEAR_METRICS
from clftask.io import storage
from clftask.io.parallel import beside
from clftask.io.strict_json import to_json
from clftask.messages import counted, first_line
from clftask.models.base_checks import check_base, check_base_files
from clftask.models.precision import check_precision
from clftask.training import run_dir

if TYPE_CHECKING:
    from clftask.training.work import Work

_TRACKER_PREFIXES = ("MLFLOW_", "WANDB_")
Say = Callable[[str], None]
Show = Callable[[dict[str, Any]], None]


def train(job: TrainJob, say: Say, show: Show) -> TrainResult:
    """Run a training job to its end.

    Args:
        job: The job; user errors are raised before a worker starts.
        say: Receives lines for the user.
        show: Receives the first worker's progress records.

    Raises:
        ConfigError, DataError, StorageError: A user error; nothing was written.
        JobError: The workers failed more often than `scaling.max_failures`.
    """
    started = time.perf_counter()
    trackers.check(job.tracking, job.run.storage)
    run = run_dir.find(job.run, job.task)
    if run.exists:
        run_dir.same_job(run, job)
    is_finished = run.exists and run.is_finished()
    outcome = _finished(job, run, say) if is_finished else _trained(job, run, say, show)
    run_dir.tidy(run, job.training.keep_checkpoints)
    seconds = round(time.perf_counter() - started, 1)
    return TrainResult.of(
        outcome,
        run=run.path,
        bundle=run.bundle,
        task=job.task,
        metric=job.training.metric,
        shipped=Shipped.of(outcome),
        seconds=seconds,
    )


def _finished(job: TrainJob, run: run_dir.Run, say: Say) -> dict[str, Any]:
    """Return the result of a finished run; this needs its data, but not its base or Ray."""
    run_dir.same_data(run, prepare(job).fingerprint)
    say(f"the run is finished: {run.path}")
    return run.result()


def _trained(job: TrainJob, run: run_dir.Run, say: Say, show: Show) -> dict[str, Any]:
    prepared = prepare(job)
    if run.exists:
        run_dir.same_data(run, prepared.fingerprint)
    if job.is_linear:
        return _fit_here(job, run, prepared, say, show)
    check_base_files(job.transformer)
    with (
        run_dir.resumable(run) as create,
        beside(
            lambda: check_base(
                job.transformer,
                job.data.text_pair is not None,
                job.training,
                job.scaling.shard is not None,
            )
        ) as checked,
        connected(say),
        TrainMetricsExporter(run.path, show) as show,
    ):
        chosen = plan(job.scaling, capacity())
        check_precision(job.training.precision, chosen.use_gpu)
        importlib.import_module("clftask.distributed.train.ray_trainer")  # takes a second
        tokenizer = checked.result()
        say(f"reading and tokenising {counted(prepared.rows.num_rows, 'row')}")
        tables = tokenise(prepared, tokenizer, job.transformer)
        for line in prepared.report.lines():
            say(line)
        named = _named(job, run)
        create(named, prepared.rows, prepared.fingerprint)
        data = data_of(named, run.path, prepared, say)
        say(f"run {run.path}: {chosen}")
        return _fit(named, run.path, prepared, data, tables, chosen, say, show)


def _fit_here(
    job: TrainJob, run: run_dir.Run, prepared: Prepared, say: Say, show: Show
) -> dict[str, Any]:
    """Fit a linear model in this process, which has the rows in memory; without Ray."""
    from clftask.training import linear

    for line in prepared.report.lines():
        say(line)
    named = _named(job, run)
    work = linear.work_of(named, run.path, prepared)
    vectors = linear.vectorise(work)
    with run_dir.resumable(run) as create:
        create(named, prepared.rows, prepared.fingerprint)
        say(f"run {run.path}: {counted(vectors.train.shape[1], 'n-gram')}, fitted in this process")
        try:
            return linear.run(work, vectors, show)
        except (ConfigError, DataError, StorageError) as error:  # the run has started
            raise JobError(*error.problems) from None


def data_of(job: TrainJob, path: str, prepared: Prepared, say: Say) -> dict[str, Any]:
    """Return fingerprint and report of the data, and the metrics of the linear baseline.

    The baseline is fitted once in a run.
    """
    data: dict[str, Any] = {
        "fingerprint": prepared.fingerprint,
        "report": prepared.report.as_json(),
    }
    if not job.baseline:
        return data
    from clftask.training import linear

    place = storage.join(path, run_dir.BASELINE)
    if not storage.exists(place):
        say(f"fitting the linear baseline on {counted(prepared.tables['train'].num_rows, 'row')}")
        found: dict[str, Any] = {}
        try:
            found = linear.baseline(job, prepared)
        except DataError as error:
            say(f"warning: no linear baseline: {error.problems[0].allowed}")
        storage.put(place, to_json(found).encode())
    return data | {LINEAR_METRICS: storage.read_json(place, "Delete it.")}


def _named(job: TrainJob, run: run_dir.Run) -> TrainJob:
    """Return the job with the name of its run."""
    name = run.path.rpartition("/")[2]
    return job.model_copy(update={"run": job.run.model_copy(update={"name": name})})


# ------------------------------------------------------------------ the workers


def _fit(
    job: TrainJob,
    path: str,
    prepared: Prepared,
    data: dict[str, Any],
    tables: Any,
    chosen: WorkerPlan,
    say: Say,
    show: Show,
) -> dict[str, Any]:
    import ray

    from clftask.distributed.train.ray_trainer import run_workers

    progress_actor = new_progress_actor(**named("train", path, "progress_actor"))
    loop_config = {
        "job": job.dump(),
        "run": path,
        "label_names": prepared.space.names,
        "data": data,
        "preamble": "".join(f"{line}\n" for line in prepared.report.lines()),
        "tables": {split: ray.put(table) for split, table in tables.items()},
        "cpus": chosen.cpus_per_worker,
        "environment": Environment.of_trackers(),
        "progress_actor": progress_actor,
    }
    with follow(progress_actor, show, Waiting(chosen, say)):
        failures = job.scaling.max_failures
        error = run_workers(
            worker_loop, loop_config, chosen, failures, path, lambda: progress_actor.lose.remote()
        )
    outcome, failure = None, None
    with logs.errors_logged("the result of the workers cannot be read"):
        outcome, failure = ray.get(progress_actor.result.remote())
    if outcome is not None:
        found: dict[str, Any] = outcome
        return found
    if failure is not None:
        raise JobError(*failure.problems)
    raise error or JobError(Problem(path, None, "the workers ended without a result"))


@dataclass(frozen=True)
class Environment:
    """Environment variables for workers; Ray may print the config, so the repr hides them."""

    variables: dict[str, str] = field(repr=False)

    @classmethod
    def of_trackers(cls) -> Environment:
        """Return this process's variables of trackers, including their API keys."""
        return cls({k: v for k, v in os.environ.items() if k.startswith(_TRACKER_PREFIXES)})


@dataclass(frozen=True)
class _RaySink:
    """Sends a worker's records to the driver and its evaluations to Ray."""

    progress_actor: Any

    def post(self, record: dict[str, Any]) -> None:
        import ray

        submitted = self.progress_actor.post.remote(record)
        if "done" in record:
            ray.get(submitted)  # Ray drops pending calls of a worker that exits

    def report(self, metrics: dict[str, float]) -> None:
        import ray.train

        ray.train.report(metrics)

    def is_leaving(self) -> bool:
        import ray.train

        return ray.train.get_preemption_info() is not None


def _refuse_other_disk(work: Work) -> None:
    """Refuse a local run folder that is not on a disk shared with the driver.

    Raises:
        ConfigError: The folder does not contain the job file that the driver wrote.
    """
    if not storage.exists(storage.join(work.run, run_dir.JOB)):
        allowed = "does not exist on a worker's node"
        remedy = "Use S3 or a disk that all nodes share."
        raise ConfigError(Problem("run.storage", work.run, allowed, remedy))


def worker_loop(config: dict[str, Any]) -> None:
    """Train in a Ray Train worker.

    Raises:
        ClftaskError: Also stored in the progress actor, so that restarts return at once.
    """
    garbage.collect_rarely()
    import ray.train
    import torch

    from clftask.distributed.train.torch_backend import device_of_worker
    from clftask.training.worker import fit

    garbage.freeze_imports()
    progress_actor = config["progress_actor"]
    if ray.get(progress_actor.start.remote()) is not None:
        return  # a restart would fail again
    os.environ.update(config["environment"].variables)
    logs.quiet_libraries()
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    logs.work_on("train", config["run"], rank=rank)
    device = device_of_worker()
    torch.set_num_threads(max(1, int(config["cpus"])))
    work = _work(config)
    try:
        _refuse_other_disk(work)
        with spot_notice.watched():
            fit(work, _RaySink(progress_actor), rank, world, device)
    except Exception as error:
        failure = permanent_failure(
            error,
            config["run"],
            lambda reason: ray.get(progress_actor.is_known.remote(rank, reason)),
        )
        if failure is None:
            raise
        with logs.errors_logged("the error cannot be reported to the driver"):
            ray.get(progress_actor.fail.remote(failure))
        raise failure from error  # so that Ray stops the other workers


def _work(config: dict[str, Any]) -> Work:
    import ray

    from clftask.training.work import Work

    return Work(
        job=TrainJob.load(config["job"]),
        run=config["run"],
        tables={split: ray.get(ref) for split, ref in config["tables"].items()},
        label_names=tuple(config["label_names"]),
        data=config["data"],
        preamble=config["preamble"],
    )


def permanent_failure(
    error: Exception, run: str, is_known: Callable[[str], bool]
) -> ClftaskError | None:
    """Return the failure of the run if a retry cannot help, else None.

    Args:
        error: A worker's error.
        run: The run's folder or prefix.
        is_known: Tells whether this reason has occurred before after the same step; then an
            error that may pass is permanent as well.
    """
    from clftask.models.memory import is_out_of_memory
    from clftask.training.collectives import is_collective

    if isinstance(error, ClftaskError):
        return error
    reason = first_line(error)
    if not is_permanent(error) and (is_collective(error) or not is_known(reason)):
        return None
    remedy = f"See {storage.join(run, 'log.txt')}."
    if is_out_of_memory(error):
        remedy += " Use a smaller training.micro_batch_size or model.max_length."
    return JobError(Problem(run, None, f"training failed: {reason.rstrip('.')}", remedy))
