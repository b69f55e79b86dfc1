"""A trial as a function that Ray Tune runs: on an actor that it shares with earlier ones."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ray
from ray import tune

from clftask import logs
from clftask.components.search.goal import Goal
from clftask.components.search.ray_schedulers import TRIAL
from clftask.components.search.schedulers import EPOCH
from clftask.components.truncation import LongTextSpec
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.distributed.tune.trial_workers import Group
from clftask.errors import ConfigError, Problem, StorageError
from clftask.io import storage
from clftask.training import run_dir
from clftask.training.collectives import is_lost_connection
from clftask.training.worker import Work
from clftask.tuning.trial_store import Evaluation, Trial, TrialStore
from clftask.tuning.trial_worker import Attempt, attempt, fail, replay_evaluations

SEED: Final = "seed"
FAILED: Final = "failed"
KNOWN: Final = "known"  # from before the search was interrupted
STORAGE_S, POLL_S = 1_800.0, 5.0
_POINTER = "clftask.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shared:
    """What all trials of a search share.

    Attributes:
        job: The search.
        run: Its folder.
        tables: Object references of the tokenised splits, by what they depend on.
        label_names: The labels, in order.
        data: Fingerprint and report, for the bundle.
        precision: Of all trials.
        workers: Of each trial.
        resources: Of each worker.
        device: cpu or cuda.
        keeps_weights: Whether a trial of this phase may ship.
    """

    job: dict[str, Any]
    run: str
    tables: dict[tuple[str, int, LongTextSpec], dict[str, Any]]
    label_names: tuple[str, ...]
    data: dict[str, Any]
    precision: str
    workers: int
    resources: dict[str, float]
    device: str
    keeps_weights: bool

    def work(self, job: TrainJob) -> Work:
        """Return what a worker needs for a training job of the search."""
        training = job.training
        if training.precision == "auto":
            training = training.model_copy(update={"precision": self.precision})
        job = job.model_copy(update={"training": training, "tracking": ()})
        refs = self.tables[job.model.tokens]
        tables = {split: ray.get(ref) for split, ref in refs.items()}
        return Work(job, self.run, tables, self.label_names, self.data, "")


def run_trial(config: dict[str, Any], shared: Shared) -> None:
    """Run one trial; called by Ray Tune.

    Args:
        config: The trial's number, its picks by name, and a seed if it is a finalist.
        shared: What all trials share.
    """
    from clftask.logs import quiet_libraries

    # How long the next trial waits for this one's last upload: if it may not, it is lost.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "3600"
    quiet_libraries()
    try:
        _run_trial(config, shared)
    except StorageError:
        _wait_for(shared.run)
        raise


def _run_trial(config: dict[str, Any], shared: Shared) -> None:
    search = _search(json.dumps(shared.job))
    told = _pointer()
    store = TrialStore(shared.run)
    trial = store.read(new_trial(search, config, shared.precision))
    logs.work_on("tune", shared.run, trial=trial.number, seed=trial.seed)
    if search.scheduler.mutates:
        trial = _mutated(search, trial, config, told)
    if trial.state == "running":
        store.write(trial)  # from here on it is known, whatever is killed
    report = functools.partial(_report, search.goal, trial)
    is_new_failure = trial.state != FAILED
    _log.info("trial begins", extra={"params": trial.params})
    done = _run(search, shared, trial, told, report)
    _release(shared.device)
    if done.state == FAILED:
        if is_new_failure and shared.device == "cuda":
            raise RuntimeError(done.reason)  # ends the process: its device may be spoilt
        last = len(done.evaluations) + 1 if search.scheduler.mutates else _epochs(search)
        tune.report({EPOCH: last, FAILED: done.reason, **_worst(search.goal)})


def _run(search: TuneJob, shared: Shared, trial: Trial, told: _Pointer, report: Any) -> Trial:
    try:
        work = shared.work(search.trial(trial.picks, trial.seed))
    except ConfigError as error:  # a combination that only the searcher's draw has shown
        failed = trial.model_copy(update={"state": FAILED, "reason": str(error.problems[0])})
        fail(shared.run, failed)
        _log.warning("invalid trial: %s", failed.reason)
        return failed
    is_resumable = search.scheduler.resumes and not trial.is_finalist
    spec = Attempt(
        work=work,
        trial=trial,
        goal=search.goal,
        saves="always" if is_resumable else "sometimes",
        keeps_weights=shared.keeps_weights,
        num_told=len(trial.evaluations) if search.scheduler.mutates else told.num_told(trial),
        is_of_population=search.scheduler.mutates,
    )
    replay_evaluations(spec, functools.partial(report, is_known=True))
    if trial.state != "running":
        return trial
    group = _group(shared.run, shared.workers, json.dumps(shared.resources), shared.device)
    done: Trial = group.run(functools.partial(attempt, spec, report))
    if done.state == FAILED:
        done = _blamed(group, done) if group.members else done
        fail(shared.run, done)
    return done


def _blamed(group: Group, failed: Trial) -> Trial:
    """Return a failed trial with its reason; end the group.

    Raises:
        RayError: A worker is gone, which is not the trial's fault: it may be tried again.
    """
    _group.cache_clear()
    reason = group.close()
    if reason and is_lost_connection(failed.reason):
        return failed.model_copy(update={"reason": reason})
    return failed


def _wait_for(run: str) -> None:
    """Wait until storage answers again: Ray Tune would try at once, and soon no more."""
    give_up = time.monotonic() + STORAGE_S
    while time.monotonic() < give_up:
        with contextlib.suppress(StorageError):
            storage.exists(storage.join(run, run_dir.SEARCH))
            return
        time.sleep(POLL_S)


def _epochs(search: TuneJob) -> int:
    return search.train.training.epochs


def _release(device: str) -> None:
    """Give back what the trial held: others may share the device."""
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def new_trial(search: TuneJob, config: dict[str, Any], precision: str) -> Trial:
    """Return a trial that is yet to be run."""
    picks = {name: pick for name, pick in config.items() if name not in (TRIAL, SEED)}
    return Trial(
        number=config[TRIAL],
        picks=picks,
        params=search.searched.params(picks),
        seed=config.get(SEED, search.train.seed),
        is_finalist=SEED in config,
        precision=precision,
    )


@functools.lru_cache(maxsize=1)
def _search(document: str) -> TuneJob:
    return TuneJob.load(json.loads(document))


@functools.lru_cache(maxsize=1)
def _group(run: str, workers: int, resources: str, device: str) -> Group:
    """Return the process's group: it outlives the trial."""
    import torch

    sizes = json.loads(resources)
    torch.set_num_threads(max(1, int(sizes["CPU"])))
    return Group(run, workers, sizes, device)


# ------------------------------------------------------------------ what Tune carries


@dataclass(frozen=True)
class _Pointer:
    """What a Tune checkpoint holds: whose report it came with. The weights lie with the trial.

    Attributes:
        trial: The trial that reported, None where Tune has no checkpoint.
        step: Of its newest checkpoint, None before the first.
        num_evaluations: How many it had reported.
    """

    trial: dict[str, Any] | None = None
    step: int | None = None
    num_evaluations: int = 0

    def num_told(self, trial: Trial) -> int:
        """Return how many of a trial's evaluations this Tune has heard of."""
        return self.num_evaluations if self.is_of(trial) else 0

    def source_trial(self, trial: Trial) -> tuple[int, int] | None:
        """Return the number of the trial to resume from, and its step."""
        if self.trial is None or self.is_of(trial) or self.step is None:
            return None
        return Trial.load(self.trial).number, self.step

    def is_of(self, trial: Trial) -> bool:
        """Tell whether the trial itself has reported it."""
        return self.trial is not None and Trial.load(self.trial).key == trial.key


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
    """Tell Tune of an evaluation; raises SystemExit when Tune wants the trial to end."""
    known = trial.model_copy(update={"evaluations": ()})
    value = evaluation.metrics.get(goal.metric)
    metrics = {EPOCH: round(evaluation.epoch), goal.metric: value, KNOWN: is_known}
    with tempfile.TemporaryDirectory() as folder:
        content = {"trial": known.dump(), "step": step, "num_evaluations": count}
        Path(folder, _POINTER).write_text(json.dumps(content))
        metrics |= _worst(goal) if value is None else {}
        try:
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))
        except Exception as error:  # storage is gone, or the driver: not the trial's fault
            reason = " ".join(str(error).split())[:200]
            problem = Problem("run.storage", None, f"cannot write the report: {reason}")
            raise StorageError(problem) from None


def _worst(goal: Goal) -> dict[str, float]:
    """Return a value that no scheduler prefers: metrics lie within −1 … 1, losses above 0."""
    return {goal.metric: -1.0 if goal.greater_is_better else 1e6}


def _mutated(search: TuneJob, trial: Trial, config: dict[str, Any], told: _Pointer) -> Trial:
    """Return a trial with the settings, and the source trial, that its scheduler has given it.

    A search that goes on after its driver died proposes what the trial had last, not first.
    """
    if told.trial is None or trial.state != "running":
        return trial
    now = new_trial(search, config, trial.precision)
    source_trial = told.source_trial(trial) or trial.source_trial
    return trial.model_copy(
        update={"picks": now.picks, "params": now.params, "source_trial": source_trial}
    )
