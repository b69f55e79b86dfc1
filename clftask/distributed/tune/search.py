"""The phases of a search: trials, finalists, the winner's bundle."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import ray

from clftask.components.search.ray_schedulers import TRIAL
from clftask.config.results import SearchOutcome
from clftask.config.train import TrainJob
from clftask.distributed.ray_errors import reason_of
from clftask.distributed.tune.callback import TuneProgressCallback
from clftask.distributed.tune.features import with_features
from clftask.distributed.tune.ray_tuner import Phase, run_trials
from clftask.distributed.tune.search_adapter import Proposals
from clftask.distributed.tune.shared import Shared, new_trial
from clftask.errors import ClftaskError, JobError, Problem
from clftask.io import storage
from clftask.io.strict_json import to_json
from clftask.logs import errors_logged
from clftask.messages import counted
from clftask.training import run_dir
from clftask.tuning.linear_trial import publish_linear
from clftask.tuning.report import tuning_page
from clftask.tuning.trial_store import (
    Trial,
    TrialRecord,
    TrialStore,
    finalists,
    mean_scores,
    ranked,
    table,
    winner,
)

SEARCHED = "searched.json"


class SearchRun:
    """One invocation of a search.

    Args:
        shared: Data that all trials share.
        say: Receives lines for the user.
        show: Receives progress records.
    """

    def __init__(
        self, shared: Shared, say: Callable[[str], None], show: Callable[[TrialRecord], None]
    ) -> None:
        self.shared, self.say, self.show = shared, say, show
        self.job, self.path, self.goal = shared.job, shared.run, shared.job.goal
        self.store = TrialStore(self.path)
        self.best: Trial | None = None  # so far, if only its weights are kept
        self.has_features = False  # of frozen encoders, if there are any

    def run(self) -> SearchOutcome:
        """Run the trials and the finalists, publish the winner, return the result."""
        marker = storage.join(self.path, SEARCHED)
        if not storage.exists(marker):
            self._reopen_lost(is_final=False)
            self._phase(self._proposals(), self.job.num_trials, is_final=False)
            if not ranked(self.store.all(), self.goal):
                self._reopen()
                raise _all_failed(self.path, self.store.all())
            storage.put(marker, b"{}")
        if self.job.finalists is not None:
            self._reopen_lost(is_final=True)
            self._run_finalists(self.job.finalists.top, self.job.finalists.seeds)
        trials = self.store.all()
        best = winner(trials, self.goal)
        if best is None:
            raise _all_failed(self.path, trials)
        self._tidy(trials, {best.key})
        return self._ship(best, trials)

    def _proposals(self) -> Proposals:
        """Return the trials in order, or a searcher that proposes the known ones first."""
        known = {t.number: t.picks for t in self.store.all() if not t.is_finalist}
        points = self.job.points()
        if points is not None:
            listed = [{TRIAL: i, **known.get(i, picks)} for i, picks in enumerate(points)]
            return Proposals(self.goal, listed)
        # With the same seed a resumed sampler would propose the known ones again.
        seed = (self.job.train.seed + len(known)) % 2**32
        picks = list(known.values())
        searcher = self.job.searcher.build(self.job.searched, self.goal, seed, picks)
        return Proposals(self.goal, searcher=searcher, known=known)

    def _run_finalists(self, top: int, seeds: int) -> None:
        first = self.job.train.seed + 1
        again = finalists(self.store.all(), self.goal, top, list(range(first, first + seeds)))
        waiting = [t for t in again if self.store.read(t).state == "running"]
        if not waiting:
            return
        names = ", ".join(f"#{t.number}" for t in again[::seeds])
        self.say(f"finalists: {names}, each with {counted(seeds, 'new seed')}")
        configs = [{TRIAL: t.number, "seed": t.seed, **t.picks} for t in waiting]
        self._phase(Proposals(self.goal, configs), len(configs), is_final=True)

    def _phase(self, proposals: Proposals, count: int, is_final: bool) -> None:
        """Run trials to their ends; record the end of those that could not record it."""
        if not self.has_features:
            self.shared, self.has_features = with_features(self.shared, self.say), True
        shared = dataclasses.replace(self.shared, keeps_weights=True) if is_final else self.shared
        watch = TuneProgressCallback(
            self.show, None if is_final else self._ended, self.goal, is_final
        )
        for config, reason in run_trials(Phase(shared, proposals, count, is_final), watch):
            self._end(self._record(config), "failed", reason, is_lost=True)
        for trial in self.store.all():
            if trial.is_finalist == is_final:
                self._end(trial, "stopped")

    def _record(self, config: dict[str, Any]) -> Trial:
        """Return the stored record of the trial of a Ray Tune configuration."""
        return self.store.read(new_trial(self.job, config, self.shared.precision))

    def _end(self, trial: Trial, state: str, reason: str = "", is_lost: bool = False) -> None:
        """Record the end of a trial that did not record it itself."""
        if trial.state == "running":
            ended = {"state": state, "reason": reason, "is_lost": is_lost}
            self.store.write(trial.model_copy(update=ended))
            if not (is_lost or self.job.scheduler.mutates):  # else a trial may resume from it
                self.store.forget_state(trial)

    def _reopen_lost(self, is_final: bool) -> None:
        """Let trials run again whose workers died too often in the interrupted search."""
        for trial in self.store.all():
            if trial.is_lost and trial.is_finalist == is_final:
                again = {"state": "running", "reason": "", "is_lost": False}
                self.store.write(trial.model_copy(update=again))

    def _reopen(self) -> None:
        """Let trials that stopped before an evaluation run when the search resumes."""
        for trial in self.store.all():
            if trial.state == "stopped":
                self.store.write(trial.model_copy(update={"state": "running"}))

    def _ended(self, config: dict[str, Any]) -> None:
        """Delete unneeded files of a trial that has ended; `_tidy` deletes the rest."""
        with contextlib.suppress(ClftaskError):
            trial = self._record(config)
            if self.job.scheduler.resumes:  # it may have been stopped while it was paused
                self._end(trial, "stopped")
            if self.shared.keeps_weights:
                self._keep_best(trial)

    def _keep_best(self, trial: Trial) -> None:
        """Keep the weights of the best trial so far only."""
        both = [known for known in (self.best, trial) if known is not None]
        self.best = next(iter(ranked(both, self.goal)), self.best)
        for known in both:
            if known is not self.best:
                self.store.forget_weights(known)

    def _tidy(self, trials: list[Trial], keep: set[str]) -> None:
        for trial in trials:
            self.store.forget_state(trial)
            if trial.key not in keep:
                self.store.forget_weights(trial)

    def _ship(self, best: Trial, trials: list[Trial]) -> SearchOutcome:
        """Evaluate the winner once and write the outputs, result.json last."""
        best = self._as_at_its_best(best)
        job = self.job.trial(best.picks, best.seed)
        named = job.run.model_copy(update={"name": None, "resume": False})
        job = job.model_copy(update={"run": named})
        outcome = publish(self.shared, job, best)
        put = functools.partial(storage.join, self.path)
        storage.put(put("job.yaml"), job.to_yaml().encode())
        buffer = io.BytesIO()
        pq.write_table(table(trials, self.goal), buffer)
        storage.put(put("trials.parquet"), buffer.getvalue())
        found = self._result(best, trials, outcome)
        with errors_logged("report.html is not written"):  # the result matters more
            storage.put(put("report.html"), tuning_page(self.job, trials, found).encode())
        storage.put(put(run_dir.RESULT), to_json(found).encode())
        self._tidy(trials, set())
        return found

    def _as_at_its_best(self, trial: Trial) -> Trial:
        """Return a trial with the settings of its best evaluation; PBT changes settings."""
        evaluation = trial.best(self.goal)
        if evaluation is None or evaluation.picks is None:
            return trial
        picks = evaluation.picks
        return trial.model_copy(update={"picks": picks, "params": self.job.searched.params(picks)})

    def _result(self, best: Trial, trials: list[Trial], outcome: dict[str, Any]) -> SearchOutcome:
        states = [t.state for t in trials if not t.is_finalist]
        scores = mean_scores(trials, self.goal)
        return {
            "run": self.path,
            "best": {
                "trial": best.number,
                "params": best.params,
                "seed": best.seed,
                "metrics": outcome["metrics"],
                "warnings": outcome["warnings"],
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


def publish(shared: Shared, job: TrainJob, best: Trial) -> dict[str, Any]:
    """Evaluate the winner and write its bundle, in a Ray task with a trial's resources."""

    def task(shared: Shared) -> dict[str, Any]:
        slots, work = shared.slots, shared.work(job)
        if job.is_linear:
            return publish_linear(work, best)
        from clftask.tuning.winner import publish_winner

        return publish_winner(work, job, best, slots.device, slots.workers)

    sizes = {"num_cpus": shared.slots.cpus, "num_gpus": shared.slots.gpus}
    remote = ray.remote(**sizes, name="clftask-tune:publish", max_retries=2)(task)
    try:
        found: dict[str, Any] = ray.get(remote.remote(shared))
    except ray.exceptions.RayTaskError as error:
        cause = error.as_instanceof_cause()
        raise (cause if isinstance(cause, ClftaskError) else _failed(shared.run, error)) from None
    except ray.exceptions.RayError as error:
        raise _failed(shared.run, error) from None
    return found


def _failed(path: str, error: Exception) -> JobError:
    allowed = f"the evaluation of the winner failed: {reason_of(error)}"
    return JobError(Problem(path, None, allowed, "Set run.resume: true to retry."))


def _all_failed(path: str, trials: list[Trial]) -> JobError:
    reasons = list(dict.fromkeys(t.reason for t in trials if t.reason))
    if not reasons:
        remedy = "Raise it and set run.resume: true."
        return JobError(Problem(path, None, "time_budget ended before any evaluation", remedy))
    remedy = "Narrow the space or lower the learning rates, then search under a new name."
    if any(trial.is_lost for trial in trials):
        remedy = "Set run.resume: true to retry the trials whose workers died."
    return JobError(Problem(path, None, f"no trial succeeded: {'; '.join(reasons[:3])}", remedy))
