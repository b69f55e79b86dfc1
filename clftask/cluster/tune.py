"""A search on Ray Tune: what the driver does. The trials themselves are in `cluster.trial`.

Tune proposes, schedules and stops; what was found lies in the trials' own records. A search
that goes on starts a new Tune run, in which each trial tells again what it found before it
trains on: schedulers keep no state of their own over a restart, and so get it back whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from clftask import runs, storage
from clftask.cluster.capacity import capacity
from clftask.cluster.checking import (
    check_concurrency,
    check_packages,
    check_trials,
    named_as_in,
)
from clftask.cluster.metering import TuneMeter
from clftask.cluster.session import connected
from clftask.cluster.slots import Slots, slots
from clftask.config import TrainJob, TuneJob
from clftask.data import Prepared, prepare, tokenise
from clftask.diskplan import check_disk
from clftask.errors import ClftaskError, ConfigError, DataError, JobError, Problem, StorageError
from clftask.precision import bf16_pays, check_precision, resolve_precision
from clftask.report.tuning import tuning_page
from clftask.search.searchers import Goal
from clftask.search.waking import TRIAL
from clftask.trials import Trial, Trials, finalists, mean_scores, ranked, table, winner
from clftask.wording import counted

SEARCHED = "searched.json"
Say = Callable[[str], None]
Show = Callable[[dict[str, Any]], None]


def tune(job: TuneJob, say: Say, show: Show) -> dict[str, Any]:
    """Run a search to its end.

    Args:
        job: The search; all that a user can mend is refused before a worker starts.
        say: Takes lines for the user.
        show: Takes a record of each trial's evaluations and ends.

    Returns:
        run, best (params, seed, metrics by split, and of its finalists), job, bundle,
        trials (done, stopped, failed), failures (reasons by trial), finalists, seconds.

    Raises:
        ConfigError, DataError, StorageError: What a user can mend; nothing was written.
        JobError: No trial could be used, or the winner could not be measured.
    """
    started = time.perf_counter()
    run = runs.find(job.run, "tune", runs.SEARCH)
    if run.exists:
        runs.same_job(run, job)
    is_finished = storage.exists(storage.join(run.path, runs.RESULT))
    found = _finished(run, say) if is_finished else _searched(job, run, say, show)
    return {**found, "seconds": round(time.perf_counter() - started, 1)}


def _finished(run: runs.Run, say: Say) -> dict[str, Any]:
    """Return what a finished search found; what its driver had no time to remove is removed."""
    say(f"the search is finished: {run.path}")
    books = Trials(run.path)
    runs.tidy(run)
    with contextlib.suppress(ClftaskError):
        for trial in books.all():
            books.forget_state(trial)
            books.forget_weights(trial)
    return storage.read_json(storage.join(run.path, runs.RESULT), "Delete the run, search anew.")


def _searched(job: TuneJob, run: runs.Run, say: Say, show: Show) -> dict[str, Any]:
    tokenizers, prepared = read_all(job, run)
    with runs.resumable(run) as claim, connected(say), TuneMeter(run.path, show, job) as show:
        chosen = check_room(job, len(prepared.space.names))
        named = _named(job, run)
        claim(named, prepared.rows, prepared.fingerprint)
        say(f"search {run.path}: {counted(job.num_trials, 'trial')}, {chosen}")
        try:
            shared = _shared(named, run, prepared, tokenizers, chosen)
            return _Search(named, run.path, shared, chosen, say, show).run()
        except (ConfigError, DataError, StorageError) as error:  # no refusal: it had begun
            raise JobError(*error.problems) from None


def read_all(job: TuneJob, run: runs.Run) -> tuple[dict[str, Any], Prepared]:
    """Return the tokenizer of each base, and the rows.

    Raises:
        ConfigError, DataError: What a search is refused for before it needs a cluster.
    """
    check_packages(job)
    with named_as_in(job):
        tokenizers = check_trials(job)
        prepared = prepare(job.train)
        if run.exists:
            runs.same_data(run, prepared.fingerprint)
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


def _named(job: TuneJob, run: runs.Run) -> TuneJob:
    """Return the job with the name that its run got."""
    name = run.path.rpartition("/")[2]
    return job.model_copy(update={"run": job.run.model_copy(update={"name": name})})


def _shared(job: TuneJob, run: runs.Run, prepared: Prepared, tokenizers: Any, chosen: Slots) -> Any:
    """Tokenise once for every base and length, and put it where all trials read it."""
    import ray

    from clftask.cluster.trial import Shared

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
        precision=_precision(job.train, chosen, Trials(run.path)),
        workers=chosen.workers,
        resources=chosen.resources,
        device=chosen.device,
        keeps_weights=job.finalists is None,
    )


def _precision(job: TrainJob, chosen: Slots, books: Trials) -> str:
    """Return the precision of all trials: measured once in a search, where they run."""
    import ray

    for trial in books.all():
        return trial.precision
    wanted = job.training.precision
    if wanted != "auto" or not chosen.gpus:
        return resolve_precision(wanted, chosen.device, wanted == "auto" and bf16_pays("cpu"))
    measure = ray.remote(num_cpus=chosen.cpus, num_gpus=chosen.gpus)(bf16_pays)
    return resolve_precision(wanted, "cuda", ray.get(measure.remote("cuda")))


# ------------------------------------------------------------------ the search


@dataclass
class _Search:
    """A search under way.

    Attributes:
        job: The search.
        path: Its folder.
        shared: What trials share.
        chosen: Where they run.
    """

    job: TuneJob
    path: str
    shared: Any
    chosen: Slots
    say: Say
    show: Show
    best: Trial | None = None

    @property
    def books(self) -> Trials:
        """The trials' records."""
        return Trials(self.path)

    @property
    def goal(self) -> Goal:
        """What is optimised."""
        return self.job.goal

    def run(self) -> dict[str, Any]:
        """Search, run the finalists, ship the winner."""
        marker = storage.join(self.path, SEARCHED)
        if not storage.exists(marker):
            self._reopen_lost(is_final=False)
            self._phase(self._configs(), self.job.num_trials, is_final=False)
            if not ranked(self.books.all(), self.goal):
                self._reopen()
                raise _all_failed(self.path, self.books.all())
            storage.put(marker, b"{}")
        if self.job.finalists is not None:
            self._reopen_lost(is_final=True)
            self._run_finalists(self.job.finalists.top, self.job.finalists.seeds)
        trials = self.books.all()
        best = winner(trials, self.goal)
        if best is None:
            raise _all_failed(self.path, trials)
        self._tidy(trials, {best.key})
        return self._ship(best, trials)

    def _configs(self) -> Any:
        """Return the trials in order, or a searcher that proposes them, the known ones first."""
        from clftask.cluster.proposals import Learner

        known = {t.number: t.picks for t in self.books.all() if not t.is_finalist}
        points = self.job.points()
        if points is not None:
            return [{TRIAL: i, **known.get(i, picks)} for i, picks in enumerate(points)]
        picks = list(known.values())
        seed = (self.job.train.seed + len(known)) % 2**32  # else it would draw the known ones again
        inner = self.job.searcher.build(self.job.searched, self.goal, seed, picks)
        return Learner(inner, list(known))

    def _run_finalists(self, top: int, seeds: int) -> None:
        first = self.job.train.seed + 1
        again = finalists(self.books.all(), self.goal, top, list(range(first, first + seeds)))
        waiting = [t for t in again if self.books.read(t).state == "running"]
        if not waiting:
            return
        names = ", ".join(f"#{t.number}" for t in again[::seeds])
        self.say(f"finalists: {names}, each with {counted(seeds, 'new seed')}")
        configs = [{TRIAL: t.number, "seed": t.seed, **t.picks} for t in waiting]
        self._phase(configs, len(configs), is_final=True)

    def _phase(self, configs: Any, count: int, is_final: bool) -> None:
        """Run trials to their ends, and write down how those ended that could not say it."""
        from clftask.cluster.tuner import Phase, run_trials
        from clftask.cluster.watching import Watch

        shared = dataclasses.replace(self.shared, keeps_weights=True) if is_final else self.shared
        watch = Watch(self.show, None if is_final else self._ended, self.goal, is_final)
        phase = Phase(self.job, self.path, self.chosen, shared, configs, count, is_final)
        for config, reason in run_trials(phase, watch):
            self._end(self._record(config), "failed", reason, is_lost=True)
        for trial in self.books.all():
            if trial.is_finalist == is_final:
                self._end(trial, "stopped")

    def _record(self, config: dict[str, Any]) -> Trial:
        """Return what is known of the trial that Ray Tune was given as a configuration."""
        from clftask.cluster.trial import new_trial

        return self.books.read(new_trial(self.job, config, self.shared.precision))

    def _end(self, trial: Trial, state: str, reason: str = "", is_lost: bool = False) -> None:
        """Write down how a trial ended that could not say it itself."""
        if trial.state == "running":
            ended = {"state": state, "reason": reason, "is_lost": is_lost}
            self.books.write(trial.model_copy(update=ended))
            if not (is_lost or self.job.scheduler.mutates):  # else it, or another, may go on
                self.books.forget_state(trial)

    def _reopen_lost(self, is_final: bool) -> None:
        """Let trials run again whose workers had died too often when the search was left."""
        for trial in self.books.all():
            if trial.is_lost and trial.is_finalist == is_final:
                again = {"state": "running", "reason": "", "is_lost": False}
                self.books.write(trial.model_copy(update=again))

    def _reopen(self) -> None:
        """Let trials that were stopped before they were measured run when the search goes on."""
        for trial in self.books.all():
            if trial.state == "stopped":
                self.books.write(trial.model_copy(update={"state": "running"}))

    def _ended(self, config: dict[str, Any]) -> None:
        """Remove what a trial that has ended leaves and nobody needs; `_tidy` does the rest."""
        with contextlib.suppress(ClftaskError):
            trial = self._record(config)
            if self.job.scheduler.resumes:  # it may have been stopped while it was paused
                self._end(trial, "stopped")
            if self.shared.keeps_weights:
                self._keep_best(trial)

    def _keep_best(self, trial: Trial) -> None:
        """Keep the weights of the better one of a trial and the best so far."""
        both = [known for known in (self.best, trial) if known is not None]
        self.best = next(iter(ranked(both, self.goal)), self.best)
        for known in both:
            if known is not self.best:
                self.books.forget_weights(known)

    def _tidy(self, trials: list[Trial], keep: set[str]) -> None:
        for trial in trials:
            self.books.forget_state(trial)
            if trial.key not in keep:
                self.books.forget_weights(trial)

    def _ship(self, best: Trial, trials: list[Trial]) -> dict[str, Any]:
        """Measure the winner once, and write what the user gets; the result last."""
        best = self._as_at_its_best(best)
        job = self.job.trial(best.picks, best.seed)
        named = job.run.model_copy(update={"name": None, "resume": False})
        job = job.model_copy(update={"run": named})
        outcome = _publish(self, job, best)
        put = functools.partial(storage.join, self.path)
        storage.put(put("job.yaml"), job.to_yaml().encode())
        buffer = io.BytesIO()
        pq.write_table(table(trials, self.goal), buffer)
        storage.put(put("trials.parquet"), buffer.getvalue())
        found = self._result(best, trials, outcome["metrics"])
        storage.put(put("report.html"), tuning_page(self.job, trials, found).encode())
        storage.put(put(runs.RESULT), json.dumps(found).encode())
        self._tidy(trials, set())
        return found

    def _as_at_its_best(self, trial: Trial) -> Trial:
        """Return a trial with the settings that it had at its best evaluation, which ships."""
        evaluation = trial.best(self.goal)
        if evaluation is None or evaluation.picks is None:
            return trial
        picks = evaluation.picks
        return trial.model_copy(update={"picks": picks, "params": self.job.searched.params(picks)})

    def _result(self, best: Trial, trials: list[Trial], metrics: Any) -> dict[str, Any]:
        states = [t.state for t in trials if not t.is_finalist]
        scores = mean_scores(trials, self.goal)
        return {
            "run": self.path,
            "best": {
                "trial": best.number,
                "params": best.params,
                "seed": best.seed,
                "metrics": metrics,
            },
            "job": storage.join(self.path, "job.yaml"),
            "bundle": storage.join(self.path, "bundle"),
            "trials": {
                "done": states.count("finished"),
                "stopped": states.count("stopped"),
                "failed": states.count("failed"),
            },
            "failures": {str(t.number): t.reason for t in trials if t.reason and not t.is_finalist},
            "finalists": [{"trial": n, self.goal.metric: s} for n, s in scores.items()],
        }


def _publish(search: _Search, job: TrainJob, best: Trial) -> dict[str, Any]:
    """Let a worker with a trial's resources measure the winner and write its bundle."""
    import ray

    from clftask.trying import publish_winner

    def task(shared: Any) -> dict[str, Any]:
        return publish_winner(shared.work(job), job, best, shared.device, shared.workers)

    chosen = search.chosen
    options = {"num_cpus": chosen.cpus, "num_gpus": chosen.gpus, "name": "clftask-tune:publish"}
    remote = ray.remote(**options, max_retries=2)(task)
    try:
        found: dict[str, Any] = ray.get(remote.remote(search.shared))
    except ray.exceptions.RayTaskError as error:
        cause = error.as_instanceof_cause()
        raise (cause if isinstance(cause, ClftaskError) else _failed(search.path, error)) from None
    except ray.exceptions.RayError as error:
        raise _failed(search.path, error) from None
    return found


def _failed(path: str, error: Exception) -> JobError:
    reason = str(error).strip().splitlines()[-1]
    remedy = "run.resume: true goes on from there."
    return JobError(Problem(path, None, f"the winner could not be measured: {reason}", remedy))


def _all_failed(path: str, trials: list[Trial]) -> JobError:
    reasons = list(dict.fromkeys(t.reason for t in trials if t.reason))
    if not reasons:
        remedy = "Raise it, and go on with run.resume: true."
        return JobError(Problem(path, None, "time_budget ended before any evaluation", remedy))
    remedy = "Narrow the space, or lower the rates; then search under a new name."
    if any(trial.is_lost for trial in trials):
        remedy = "run.resume: true tries those again whose workers died."
    return JobError(
        Problem(path, None, f"no trial could be used: {'; '.join(reasons[:3])}", remedy)
    )
