"""The trainable: a function that Ray Tune runs per trial, on reused actors."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray import tune

from clftask import garbage, logs
from clftask.components.search.goal import Goal
from clftask.components.search.schedulers import EPOCH
from clftask.config.tune import TuneJob
from clftask.distributed.tune.placement import Slots
from clftask.distributed.tune.shared import FAILED, KNOWN, Shared, new_trial
from clftask.errors import ConfigError, Problem, StorageError, is_permanent
from clftask.io import storage
from clftask.training import run_dir
from clftask.tuning.attempts import Attempt, Report, fail, replay_evaluations
from clftask.tuning.trial_store import Evaluation, Trial, TrialStore

STORAGE_S, POLL_S = 1_800.0, 5.0
_POINTER = "clftask.json"
_log = logging.getLogger(__name__)


def run_trial(config: dict[str, Any], shared: Shared) -> None:
    """Run one trial; called by Ray Tune.

    Args:
        config: The trial's number, its picks by name, and a seed if it is a finalist.
        shared: Data that all trials share.
    """
    # Tune gives the previous trial on a reused actor 2 s to end; on timeout it fails the next
    # trial. The last upload of a checkpoint takes longer.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "3600"
    logs.quiet_libraries()
    try:
        _run_trial(config, shared)
    except StorageError as error:
        if not is_permanent(error):
            _wait_for(shared.run)
        raise


def _run_trial(config: dict[str, Any], shared: Shared) -> None:
    search, pointer = shared.job, _pointer()
    store = TrialStore(shared.run)
    trial = store.read(new_trial(search, config, shared.precision))
    logs.work_on("tune", shared.run, trial=trial.number, seed=trial.seed)
    if search.scheduler.mutates:
        trial = _mutated(search, trial, config, pointer)
    if trial.state == "running":
        store.write(trial)  # a search that is killed from here on knows it
    report = functools.partial(_report, search.goal, trial)
    is_new_failure = trial.state != FAILED
    _log.info("trial begins", extra={"params": trial.params})
    done = _run(shared, trial, pointer, report)
    if done.state == FAILED:
        if is_new_failure and shared.slots.device == "cuda":
            raise RuntimeError(done.reason)  # ends the process: CUDA may be unusable in it
        epochs = search.train.training.epochs
        last = len(done.evaluations) + 1 if search.scheduler.mutates else epochs
        tune.report({EPOCH: last, FAILED: done.reason, **_worst(search.goal)})


def _run(shared: Shared, trial: Trial, pointer: _Pointer, report: Any) -> Trial:
    search = shared.job
    try:
        work = shared.work(search.trial(trial.picks, trial.seed))
    except ConfigError as error:  # an invalid combination that the searcher proposed
        failed = trial.model_copy(update={"state": FAILED, "reason": str(error.problems[0])})
        fail(shared.run, failed)
        _log.warning("invalid trial: %s", failed.reason)
        return failed
    is_resumable = search.scheduler.resumes and not trial.is_finalist
    num_told = len(trial.evaluations) if search.scheduler.mutates else pointer.num_reported(trial)
    spec = Attempt(
        work=work,
        trial=trial,
        goal=search.goal,
        saves="always" if is_resumable else "sometimes",
        keeps_weights=shared.keeps_weights,
        num_told=num_told,
        is_of_population=search.scheduler.mutates,
    )
    replay_evaluations(spec, functools.partial(report, is_known=True))
    if trial.state != "running":
        return trial
    done = _attempted(spec, report, shared.slots)
    if done.state == FAILED:
        fail(shared.run, done)
    return done


def _attempted(spec: Attempt, report: Report, slots: Slots) -> Trial:
    """Run a trial to its end; linear models need neither torch nor a worker group."""
    if spec.work.job.is_linear:
        from clftask.tuning.linear_trial import attempt_linear

        return attempt_linear(spec, report)
    from clftask.distributed.tune.trial_workers import attempt_on_group

    garbage.freeze_imports()
    return attempt_on_group(spec, report, slots)


def _wait_for(run: str) -> None:
    """Wait until storage answers: Tune retries at once and soon runs out of retries."""
    give_up = time.monotonic() + STORAGE_S
    while time.monotonic() < give_up:
        with contextlib.suppress(StorageError):
            storage.exists(storage.join(run, run_dir.SEARCH))
            return
        time.sleep(POLL_S)


# ------------------------------------------------------------------ reports and checkpoints of Tune


@dataclass(frozen=True)
class _Pointer:
    """Content of a Tune checkpoint: a pointer to the trial, which stores its own weights.

    Attributes:
        key: The key of the trial that reported; empty if Tune has no checkpoint.
        number: Its number.
        step: Step of its newest checkpoint; None before the first.
        num_evaluations: Number of evaluations that it had reported.
    """

    key: str = ""
    number: int = 0
    step: int | None = None
    num_evaluations: int = 0

    def num_reported(self, trial: Trial) -> int:
        """Return how many of a trial's evaluations this Tune run has received."""
        return self.num_evaluations if self.key == trial.key else 0

    def source_trial(self, trial: Trial) -> tuple[int, int] | None:
        """Return the number and step of another trial to resume from (PBT exploits it)."""
        is_own = self.key in ("", trial.key)
        return None if is_own or self.step is None else (self.number, self.step)


def _pointer() -> _Pointer:
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return _Pointer()
    try:
        with checkpoint.as_directory() as folder:
            return _Pointer(**json.loads(Path(folder, _POINTER).read_text()))
    except OSError as error:
        problem = Problem("run.storage", None, f"cannot read Tune's checkpoint: {error}")
        raise StorageError(problem) from None


def _report(
    goal: Goal,
    trial: Trial,
    evaluation: Evaluation,
    step: int | None,
    count: int,
    is_known: bool = False,
) -> None:
    """Report an evaluation to Tune, which raises SystemExit to stop the trial."""
    value = evaluation.metrics.get(goal.metric)
    metrics = {EPOCH: round(evaluation.epoch), goal.metric: value, KNOWN: is_known}
    with tempfile.TemporaryDirectory() as folder:
        content = asdict(_Pointer(trial.key, trial.number, step, count))
        Path(folder, _POINTER).write_text(json.dumps(content))
        metrics |= _worst(goal) if value is None else {}
        try:
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))
        except Exception as error:  # storage or the driver is down; the trial is not at fault
            reason = " ".join(str(error).split())[:200]
            problem = Problem("run.storage", None, f"cannot write the report: {reason}")
            raise StorageError(problem) from None


def _worst(goal: Goal) -> dict[str, float]:
    """Return a value below all others: metrics are within −1 … 1, losses are positive."""
    return {goal.metric: -1.0 if goal.greater_is_better else 1e6}


def _mutated(search: TuneJob, trial: Trial, config: dict[str, Any], pointer: _Pointer) -> Trial:
    """Return a trial with the settings and the source trial that its scheduler chose.

    A resumed search proposes the last settings of the trial, not its first.
    """
    if not pointer.key or trial.state != "running":
        return trial
    now = new_trial(search, config, trial.precision)
    source_trial = pointer.source_trial(trial) or trial.source_trial
    return trial.model_copy(
        update={"picks": now.picks, "params": now.params, "source_trial": source_trial}
    )
