"""Driver of a search on Ray Tune; `trial_actor` runs the trials.

Tune proposes, schedules and stops trials; clftask stores their evaluations in its own records.
`Tuner.restore` loses the state of schedulers, so a resumed search starts a new Tune run, in which
each trial first replays its recorded evaluations.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from clftask.config.results import SearchOutcome, TuneResult
from clftask.config.tfidf import TfidfSpec
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.data.prepare import Prepared, check_metric, prepare, tokenise
from clftask.distributed.capacity import capacity
from clftask.distributed.metrics import TuneMetricsExporter
from clftask.distributed.session import connected
from clftask.distributed.train.driver import data_of
from clftask.distributed.tune.placement import Slots, slots
from clftask.distributed.tune.validation import (
    check_concurrency,
    check_packages,
    check_trial_files,
    check_trials,
    named_as_in,
)
from clftask.errors import ClftaskError, ConfigError, DataError, JobError, StorageError
from clftask.io import storage
from clftask.io.parallel import beside
from clftask.messages import counted
from clftask.models.precision import bf16_pays, check_precision, resolve_precision
from clftask.training import run_dir
from clftask.tuning.storage_budget import check_disk
from clftask.tuning.trial_store import TrialRecord, TrialStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from clftask.distributed.tune.shared import Shared

Say = Callable[[str], None]
Show = Callable[[TrialRecord], None]


def tune(job: TuneJob, say: Say, show: Show) -> TuneResult:
    """Run a search to its end.

    Args:
        job: The search; user errors are raised before a worker starts.
        say: Receives lines for the user.
        show: Receives a record for each evaluation and each end of a trial.

    Raises:
        ConfigError, DataError, StorageError: A user error; nothing was written.
        JobError: No trial succeeded, or the evaluation of the winner failed.
    """
    started = time.perf_counter()
    run = run_dir.find(job.run, "tune", run_dir.SEARCH)
    if run.exists:
        run_dir.same_job(run, job)
    is_finished = storage.exists(storage.join(run.path, run_dir.RESULT))
    found = _finished(run, say) if is_finished else _searched(job, run, say, show)
    seconds = round(time.perf_counter() - started, 1)
    about = {"metric": job.goal.metric, "task": job.train.task}
    return TuneResult.of(found, **about, seconds=seconds)


def _finished(run: run_dir.Run, say: Say) -> SearchOutcome:
    """Return the result of a finished search; delete what an interrupted driver left."""
    say(f"the search is finished: {run.path}")
    store = TrialStore(run.path)
    run_dir.tidy(run)
    with contextlib.suppress(ClftaskError):
        for trial in store.all():
            store.forget_state(trial)
            store.forget_weights(trial)
    place = storage.join(run.path, run_dir.RESULT)
    return cast(SearchOutcome, storage.read_json(place, "Delete the run and retry."))


def _searched(job: TuneJob, run: run_dir.Run, say: Say, show: Show) -> SearchOutcome:
    prepared = read(job, run)
    check_trial_files(job)
    with (
        run_dir.resumable(run) as create,
        beside(lambda: check_trials(job)) as checked,
        connected(say),
        TuneMetricsExporter(run.path, show, job) as show,
    ):
        chosen = check_room(job, len(prepared.space.names))
        from clftask.distributed.tune.search import SearchRun  # with Ray Tune

        tokenizers = checked.result()
        named = _named(job, run)
        create(named, prepared.rows, prepared.fingerprint)
        say(f"search {run.path}: {counted(job.num_trials, 'trial')}, {chosen}")
        try:
            shared = _shared(named, run, prepared, tokenizers, chosen, say)
            return SearchRun(shared, say, show).run()
        except (ConfigError, DataError, StorageError) as error:  # the search has started
            raise JobError(*error.problems) from None


def read(job: TuneJob, run: run_dir.Run) -> Prepared:
    """Return the rows.

    Raises:
        ConfigError, DataError: User errors that need no model to be found.
    """
    check_packages(job)
    with named_as_in(job):
        prepared = prepare(job.train)
        if run.exists:
            run_dir.same_data(run, prepared.fingerprint)
    check_metric("metric", job.goal.metric, prepared.space)
    return prepared


def check_room(job: TuneJob, num_labels: int) -> Slots:
    """Return the concurrency and resources of trials on the connected cluster.

    Raises:
        ConfigError: The trials never fit the cluster, or not the storage.
    """
    with named_as_in(job):
        scaling = job.train.scaling
        if job.train.is_linear:
            scaling = scaling.model_copy(update={"use_gpu": False})
        chosen = slots(scaling, job.concurrency, job.num_trials, capacity())
        for precision in {trial.training.precision for trial in job.probed()}:
            check_precision(precision, chosen.gpus > 0)
    check_concurrency(job, chosen)
    check_disk(job, chosen.concurrency, num_labels)
    return chosen


def _named(job: TuneJob, run: run_dir.Run) -> TuneJob:
    """Return the job with the name of its run."""
    name = run.path.rpartition("/")[2]
    return job.model_copy(update={"run": job.run.model_copy(update={"name": name})})


def _shared(
    job: TuneJob,
    run: run_dir.Run,
    prepared: Prepared,
    tokenizers: dict[str, PreTrainedTokenizerBase],
    chosen: Slots,
    say: Say,
) -> Shared:
    """Tokenise once per base and length, and put the tables into Ray's object store."""
    import ray

    from clftask.distributed.tune.shared import Shared
    from clftask.training.linear import texts_of

    tables = {}
    for model in job.token_models:
        if isinstance(model, TfidfSpec):
            tokens = texts_of(prepared)
        else:
            tokens = tokenise(prepared, tokenizers[model.base], model)
        tables[model.tokens] = {split: ray.put(table) for split, table in tokens.items()}
    return Shared(
        job=job,
        run=run.path,
        tables=tables,
        label_names=prepared.space.names,
        data=data_of(job.train, run.path, prepared, say),
        precision=_precision(job.train, chosen, TrialStore(run.path)),
        slots=chosen,
        keeps_weights=job.finalists is None,
    )


def _precision(job: TrainJob, chosen: Slots, store: TrialStore) -> str:
    """Return the precision of all trials; measured once per search, on a trial's resources."""
    import ray

    for trial in store.all():
        return trial.precision
    if job.is_linear:
        return "fp32"
    wanted, deterministic = job.training.precision, job.training.deterministic
    if wanted != "auto" or not chosen.gpus:
        pays = wanted == "auto" and bf16_pays("cpu")
        return resolve_precision(wanted, chosen.device, pays, deterministic)
    measure = ray.remote(num_cpus=chosen.cpus, num_gpus=chosen.gpus)(bf16_pays)
    return resolve_precision(wanted, "cuda", ray.get(measure.remote("cuda")))
