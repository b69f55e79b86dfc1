"""One worker of a trial: train, report each epoch, stop when the scheduler decides. Without Ray.

Each evaluation is stored before it is reported; see `attempts`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import tempfile
import time
from typing import Any

from transformers import TrainerCallback

from clftask.errors import ClftaskError, StorageError
from clftask.io import filesystems, storage
from clftask.io.strict_json import strict
from clftask.io.tempdirs import process_folder, temporary_folder
from clftask.logs import errors_logged
from clftask.messages import first_line
from clftask.models.loading import find_base
from clftask.models.memory import is_out_of_memory, release
from clftask.training.arguments import precision_of
from clftask.training.callbacks import StepSeed, StopOnNan, Stopwatch
from clftask.training.checkpoints import Checkpoints
from clftask.training.collectives import broadcast_from_first, forget_launcher
from clftask.training.trainer import ClassifierTrainer
from clftask.training.validation import evaluations_without_gain
from clftask.training.work import Work
from clftask.training.worker import build_trainer
from clftask.tuning.attempts import Attempt, Report
from clftask.tuning.trial_store import Evaluation, Trial, TrialStore

SAVE_INTERVAL_S = 60.0
_log = logging.getLogger(__name__)


class Stopped(SystemExit):
    """The scheduler has paused or ended the trial."""


def attempt(spec: Attempt, report: Report, rank: int, world: int, device: str) -> Trial:
    """Run a trial to its end; every worker calls it.

    If a trial of one worker runs out of memory, it is tried once more with half the micro batch.

    Args:
        spec: The trial.
        report: As for `attempts.replay_evaluations`; only the first worker calls it.
        rank: This worker's rank.
        world: The number of workers.
        device: cpu or cuda.

    Returns:
        The trial: finished, as stored by the first worker; or failed, which is not stored until
        `fail`, since another worker's death may be the cause.

    Raises:
        Stopped: The scheduler has ended the trial.
        StorageError: Storage failed; the trial can be retried.
        Exception: Any error of a worker other than the first.
    """
    if spec.trial.state != "running":
        return spec.trial
    if world == 1:
        forget_launcher()
    done = _attempt(spec, report, rank, world, device)
    if done is None:
        release()
        _log.warning("out of memory: the trial begins again with half the micro batch")
        trial = TrialStore(spec.work.run).read(spec.trial)
        halved = dataclasses.replace(spec, trial=trial, is_halved=True)
        done = _attempt(halved, report, rank, world, device)
        assert done is not None
    return done


def _attempt(spec: Attempt, report: Report, rank: int, world: int, device: str) -> Trial | None:
    """Run a trial to its end; return None if it shall be tried again."""
    with temporary_folder() as scratch:
        callback = TrialCallback(spec, report, rank == 0, scratch)
        try:
            _train(callback, rank, world, device, scratch)
        except Stopped:
            if callback.is_complete or spec.saves == "sometimes":
                callback.end("finished" if callback.is_complete else "stopped")
            raise
        except Exception as error:  # any error: a failed trial must not end the search
            if rank != 0 or isinstance(error, StorageError):
                raise
            if is_out_of_memory(error) and world == 1 and not spec.is_halved:
                return None  # outside the handler, which holds the tensors of the step
            return callback.failed(reason_of(error))
        callback.end("finished")
        return callback.trial


def _train(trial: TrialCallback, rank: int, world: int, device: str, scratch: str) -> None:
    spec = trial.spec
    work = with_local_base(spec.work)
    job = work.job
    asked = job.training.precision
    precision = spec.trial.precision if asked == "auto" else asked
    trainer = build_trainer(work, world, device, precision, scratch)
    trainer.args.save_strategy = "no"  # `TrialCallback.on_evaluate` decides when to save
    if spec.is_halved:
        trainer.batches.limit = trainer.batches.limit.halved()
    trial.trainer = trainer
    for callback in (StepSeed(job.seed), Stopwatch(trainer), StopOnNan(), trial):
        trainer.add_callback(callback)
    step, place = broadcast_from_first(trial.start() if rank == 0 else (None, ""))
    folder = None if step is None else Checkpoints(place, 1, scratch).fetch(step)
    trainer.train(resume_from_checkpoint=folder)
    trial.is_complete = True
    trial.deliver()


def with_local_base(work: Work) -> Work:
    """Return the work of a trial with the local path of its base."""
    model = work.job.transformer
    local = model.model_copy(update={"base": _local_base(model.base)})
    return dataclasses.replace(work, job=work.job.model_copy(update={"model": local}))


@functools.lru_cache(maxsize=4)
def _local_base(base: str) -> str:
    """Return the local path of a base model; each process downloads it once."""
    if not filesystems.is_url(base):
        return base
    return find_base(base, process_folder())


def reason_of(error: Exception) -> str:
    """Return a trial's error message in one line."""
    if isinstance(error, ClftaskError):
        return str(error.problems[0].allowed)
    if is_out_of_memory(error):
        return "out of memory"
    return first_line(error)


class TrialCallback(TrainerCallback):  # type: ignore[misc]
    """Stores evaluations, saves checkpoints for the scheduler, and reports.

    An evaluation is reported when the epoch's checkpoint is complete: the scheduler may clone
    or pause the trial as soon as it receives it.
    """

    def __init__(self, spec: Attempt, report: Report, is_first: bool, scratch: str) -> None:
        self.spec, self.report, self.trial, self.is_first = spec, report, spec.trial, is_first
        self.store = TrialStore(spec.work.run)
        self.scratch = scratch
        self.checkpoints = Checkpoints(
            self.store.checkpoints(spec.trial), 2 if spec.saves == "always" else 1, scratch
        )
        self.trainer: ClassifierTrainer
        self.waiting: Evaluation | None = None
        self.is_complete = False
        self.saved_step: int | None = None
        self.saved_at = self.began = time.monotonic()
        self.seconds_before = spec.trial.seconds
        self.seen = spec.trial.evaluations[-1].step if spec.trial.evaluations else -1

    # ------------------------------------------------------------------ the start

    def start(self) -> tuple[int | None, str]:
        """Return the step to resume from, None for a new trial, and the checkpoints' path."""
        self.checkpoints.clean()
        source, step = self.checkpoints, self.checkpoints.latest()
        if self.trial.source_trial is not None:
            number, wanted = self.trial.source_trial
            source_trial = self.trial.model_copy(update={"number": number})
            other = Checkpoints(self.store.checkpoints(source_trial), 1, self.scratch)
            is_there = other.steps().get(wanted, False)
            found = wanted if is_there else other.latest()  # a newer one has replaced it
            if found is not None and (step is None or step <= wanted):
                source, step, self.seen = other, found, max(self.seen, found)
        self.saved_step = step
        return step, source.path

    # ------------------------------------------------------------------ each epoch

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Record the time of the first step."""
        if not self.trial.first_step_at:
            now = round(time.time(), 3)
            self.trial = self.trial.model_copy(update={"first_step_at": now})

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> Any:
        """Record the evaluation; decide whether to save and whether to stop early."""
        if self.is_first and state.global_step > self.seen:
            found = strict({k.removeprefix("eval_"): v for k, v in metrics.items()})
            seconds = self.seconds_before + time.monotonic() - self.began
            self.waiting = Evaluation(
                epoch=round(state.epoch, 4),
                step=state.global_step,
                seconds=round(seconds, 3),
                metrics=found,
                picks=self.trial.picks if self.spec.is_of_population else None,
            )
            self._keep_weights()
        control.should_save = broadcast_from_first(self._is_due(state))
        stopping = self.trainer.job.training.early_stopping
        if stopping is not None and evaluations_without_gain(args, state) >= stopping.patience:
            control.should_training_stop = True
        return control

    def _is_due(self, state: Any) -> bool:
        is_old = time.monotonic() - self.saved_at >= SAVE_INTERVAL_S
        is_last = state.global_step >= state.max_steps
        return (self.spec.saves == "always" or is_old) and not is_last

    def _keep_weights(self) -> None:
        """Upload the weights of the best evaluation so far, if the trial may win."""
        assert self.waiting is not None
        best = self._with(self.waiting).best(self.spec.goal)
        if self.spec.keeps_weights and best is self.waiting:
            with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
                self.trainer.save_model(folder)
                storage.upload(folder, self.store.weights(self.trial))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Upload the checkpoint after its evaluation is stored: a resumed trial needs both."""
        self.saved_at = time.monotonic()
        if self.is_first:
            if self.waiting is not None:
                self.store.write(self._with(self.waiting))
            step, folder = state.global_step, f"{args.output_dir}/checkpoint-{state.global_step}"
            precision = precision_of(self.trainer.args)
            self.checkpoints.save(folder, step, None, precision, lambda: None)
            self.saved_step = step

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report the previous epoch: Trainer saves its checkpoint after `on_evaluate`."""
        self.deliver()

    def deliver(self) -> None:
        """Store and report the evaluation; all workers receive the scheduler's decision.

        Raises:
            Stopped: The scheduler has ended the trial.
        """
        is_over = False
        if self.waiting is not None:
            try:
                self._deliver(self.waiting)
            except SystemExit:
                is_over = True
        if broadcast_from_first(is_over):
            raise Stopped(0)

    def _deliver(self, evaluation: Evaluation) -> None:
        self.waiting = None
        if self.spec.saves == "always":
            self.checkpoints.wait()
        self.trial = self._with(evaluation)
        self.store.write(self.trial)
        _log.info("epoch %g", evaluation.epoch, extra={"metrics": evaluation.metrics})
        self.report(evaluation, self.saved_step, len(self.trial.evaluations))

    def _with(self, evaluation: Evaluation) -> Trial:
        """Return the trial with one more evaluation."""
        known: dict[str, Any] = {"evaluations": (*self.trial.evaluations, evaluation)}
        if self.is_complete:  # stored as finished: a resumed search must not train it again
            known |= {"state": "finished", "ended_at": round(time.time(), 3)}
        return self.trial.model_copy(update=known)

    # ------------------------------------------------------------------ the end

    def end(self, state: Any) -> None:
        """Store the final state; remove checkpoints that no other trial may continue from."""
        if not self.is_first:
            return
        self.trial = self._ended(state)
        self.store.write(self.trial)
        _log.info("trial ends: %s", state, extra={"state": state})
        if not self.spec.is_of_population:
            self.store.forget_state(self.trial)

    def failed(self, reason: str) -> Trial:
        """Return the trial as failed; the caller decides whether it is retried."""
        _log.warning("trial ends: failed", extra={"state": "failed", "reason": reason})
        return self._ended("failed").model_copy(update={"reason": reason})

    def _ended(self, state: Any) -> Trial:
        with errors_logged("the last checkpoint is not complete"):  # it no longer matters
            self.checkpoints.wait()
        return self.trial.model_copy(update={"state": state, "ended_at": round(time.time(), 3)})
