"""A search on Ray Tune: what the driver does. The trials are in `trial_actor`.

Tune proposes, schedules and stops; what was found lies in the trials' own records. A search
that goes on starts a new Tune run, in which each trial tells again what it found before it
trains on: schedulers keep no state of their own over a restart, and so get it back whole.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from clftask.config.results import TuneResult
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.data.prepare import Prepared, prepare, tokenise
from clftask.distributed.capacity import capacity
from clftask.distributed.metrics import TuneMetricsExporter
from clftask.distributed.session import connected
from clftask.distributed.tune.placement import Slots, slots
from clftask.distributed.tune.search import Say, SearchRun, Show
from clftask.distributed.tune.validation import (
    check_concurrency,
    check_packages,
    check_trials,
    named_as_in,
)
from clftask.errors import ClftaskError, ConfigError, DataError, JobError, StorageError
from clftask.io import storage
from clftask.messages import counted
from clftask.models.precision import bf16_pays, check_precision, resolve_precision
from clftask.training import run_dir
from clftask.tuning.storage_budget import check_disk
from clftask.tuning.trial_store import TrialStore


def tune(job: TuneJob, say: Say, show: Show) -> TuneResult:
    """Run a search to its end.

    Args:
        job: The search; every user error is refused before a worker starts.
        say: Takes lines for the user.
        show: Takes a record of each trial's evaluations and ends.

    Raises:
        ConfigError, DataError, StorageError: A user error; nothing was written.
        JobError: No trial could be used, or the winner could not be measured.
    """
    started = time.perf_counter()
    run = run_dir.find(job.run, "tune", run_dir.SEARCH)
    if run.exists:
        run_dir.same_job(run, job)
    is_finished = storage.exists(storage.join(run.path, run_dir.RESULT))
    found = _finished(run, say) if is_finished else _searched(job, run, say, show)
    seconds = round(time.perf_counter() - started, 1)
    return TuneResult.of(found, metric=job.goal.metric, seconds=seconds)


def _finished(run: run_dir.Run, say: Say) -> dict[str, Any]:
    """Return what a finished search found; what its driver had no time to remove is removed."""
    say(f"the search is finished: {run.path}")
    store = TrialStore(run.path)
    run_dir.tidy(run)
    with contextlib.suppress(ClftaskError):
        for trial in store.all():
            store.forget_state(trial)
            store.forget_weights(trial)
    return storage.read_json(storage.join(run.path, run_dir.RESULT), "Delete the run, search anew.")


def _searched(job: TuneJob, run: run_dir.Run, say: Say, show: Show) -> dict[str, Any]:
    tokenizers, prepared = read_all(job, run)
    with (
        run_dir.resumable(run) as create,
        connected(say),
        TuneMetricsExporter(run.path, show, job) as show,
    ):
        chosen = check_room(job, len(prepared.space.names))
        named = _named(job, run)
        create(named, prepared.rows, prepared.fingerprint)
        say(f"search {run.path}: {counted(job.num_trials, 'trial')}, {chosen}")
        try:
            shared = _shared(named, run, prepared, tokenizers, chosen)
            return SearchRun(named, run.path, shared, chosen, say, show).run()
        except (ConfigError, DataError, StorageError) as error:  # no refusal: it had begun
            raise JobError(*error.problems) from None


def read_all(job: TuneJob, run: run_dir.Run) -> tuple[dict[str, Any], Prepared]:
    """Return the tokenizer of each base, and the rows.

    Raises:
        ConfigError, DataError: What a search is refused for before it needs a cluster.
    """
    check_packages(job)
    with named_as_in(job):
        tokenizers = check_trials(job)
        prepared = prepare(job.train)
        if run.exists:
            run_dir.same_data(run, prepared.fingerprint)
    return tokenizers, prepared


def check_room(job: TuneJob, num_labels: int) -> Slots:
    """Return the places that trials get on the connected cluster.

    Raises:
        ConfigError: It can never hold them, or storage cannot.
    """
    with named_as_in(job):
        chosen = slots(job.train.scaling, job.concurrency, job.num_trials, capacity())
        for precision in {trial.training.precision for trial in job.probed()}:
            check_precision(precision, chosen.gpus > 0)
    check_concurrency(job, chosen)
    check_disk(job, chosen.concurrency, num_labels)
    return chosen


def _named(job: TuneJob, run: run_dir.Run) -> TuneJob:
    """Return the job with the name that its run got."""
    name = run.path.rpartition("/")[2]
    return job.model_copy(update={"run": job.run.model_copy(update={"name": name})})


def _shared(
    job: TuneJob, run: run_dir.Run, prepared: Prepared, tokenizers: Any, chosen: Slots
) -> Any:
    """Tokenise once for every base and length, and put it where all trials read it."""
    import ray

    from clftask.distributed.tune.trial_actor import Shared

    tables = {}
    for model in job.token_models:
        tokens = tokenise(prepared, tokenizers[model.base], model)
        tables[model.tokens] = {split: ray.put(table) for split, table in tokens.items()}
    return Shared(
        job=job.dump(),
        run=run.path,
        tables=tables,
        label_names=prepared.space.names,
        data={"fingerprint": prepared.fingerprint, "report": prepared.report.as_json()},
        precision=_precision(job.train, chosen, TrialStore(run.path)),
        workers=chosen.workers,
        resources=chosen.resources,
        device=chosen.device,
        keeps_weights=job.finalists is None,
    )


def _precision(job: TrainJob, chosen: Slots, store: TrialStore) -> str:
    """Return the precision of all trials: measured once in a search, where they run."""
    import ray

    for trial in store.all():
        return trial.precision
    wanted = job.training.precision
    if wanted != "auto" or not chosen.gpus:
        return resolve_precision(wanted, chosen.device, wanted == "auto" and bf16_pays("cpu"))
    measure = ray.remote(num_cpus=chosen.cpus, num_gpus=chosen.gpus)(bf16_pays)
    return resolve_precision(wanted, "cuda", ray.get(measure.remote("cuda")))
