"""Trainer callbacks: seeds, NaN loss, speed, checkpoints, progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import TrainerCallback

from clftask.errors import JobError, Problem
from clftask.training.arguments import precision_of
from clftask.training.checkpoints import Checkpoints
from clftask.training.collectives import broadcast_from_first
from clftask.training.run_log import RunLog
from clftask.training.trainer import ClassifierTrainer
from clftask.training.validation import evaluations_without_gain

CHECK_S = 5.0  # between two checks of the clock; each is a collective of all workers
MAX_STEPS = 10  # between two checks
LEAVING_S = 20.0  # between checkpoints while a node is being preempted


class StepSeed(TrainerCallback):  # type: ignore[misc]
    """Seeds dropout by job seed, step and rank, so that a resumed run is reproducible."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Seed torch for this step."""
        # numpy's SeedSequence hashes its entries: seed + step + rank would collide.
        words = np.random.SeedSequence([self.seed, state.global_step, args.process_index])
        seed = int(words.generate_state(1)[0])
        # Without a GPU, torch.manual_seed keeps each call, with its stack, for the GPU to come.
        torch.default_generator.manual_seed(seed)
        if args.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)


class StopOnNan(TrainerCallback):  # type: ignore[misc]
    """Ends a run whose loss is NaN or infinite."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Check each logged loss; it is the same on all workers."""
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            remedy = "Lower training.learning_rate, or use precision fp32."
            where = f"training, step {state.global_step}"
            raise JobError(Problem(where, str(loss), "the loss is NaN or infinite", remedy))


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Measures the time spent in training steps, without evaluation and checkpoints.

    The first step of a process is left out: libraries load kernels and allocate memory in it.
    A GPU works asynchronously. Waiting for it in each step would slow it down, so the watch waits
    where Trainer waits anyway: before it logs, and at the end of an epoch.
    """

    def __init__(self, trainer: ClassifierTrainer) -> None:
        self.trainer, self.seconds, self._start = trainer, 0.0, 0.0
        self.first: tuple[int, float] | None = None  # rows and seconds of the first step

    @property
    def samples_per_s(self) -> float:
        """Training rows per second of all workers; valid on the first worker only."""
        rows, seconds = self.first or (0, 0.0)
        if self.seconds:
            rows, seconds = self.trainer.rows_seen - rows, self.seconds
        return round(rows / seconds, 2) if seconds else 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the watch."""
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the watch."""
        if control.should_log:
            _wait_for_gpu(args)
        seconds = time.perf_counter() - self._start
        if self.first is None:
            self.first = self.trainer.rows_seen, seconds
        else:
            self.seconds += seconds

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add the work of the last steps."""
        start = time.perf_counter()
        _wait_for_gpu(args)
        self.seconds += time.perf_counter() - start if self.seconds else 0.0


def _wait_for_gpu(args: Any) -> None:
    if args.device.type == "cuda":
        torch.cuda.synchronize()


class SaveEvery(TrainerCallback):  # type: ignore[misc]
    """Saves a checkpoint at a time interval: an epoch may take hours, and nodes fail.

    Args:
        seconds: The interval.
        is_leaving: Returns whether a node of the run is being preempted; all workers call it
            equally often. If so, a checkpoint is saved at once, then every `LEAVING_S` seconds.
    """

    def __init__(self, seconds: float, is_leaving: Callable[[], bool]) -> None:
        self.seconds, self.is_leaving = seconds, is_leaving
        self.last = self.checked_at = time.monotonic()
        self.next_check, self.checked_step, self.was_leaving = 1, 0, False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Request a checkpoint on all workers by the first one's clock, checked every CHECK_S."""
        if state.global_step < self.next_check or float(state.epoch).is_integer():
            return control  # save_strategy="epoch" saves at the end of an epoch
        is_due, steps = broadcast_from_first((self._is_due(), self._steps(state)))
        control.should_save |= is_due
        self.next_check = state.global_step + steps
        return control

    def _is_due(self) -> bool:
        is_leaving = self.is_leaving()
        is_first_notice = is_leaving and not self.was_leaving
        self.was_leaving = is_leaving
        age = time.monotonic() - self.last
        return is_first_notice or age > (LEAVING_S if is_leaving else self.seconds)

    def _steps(self, state: Any) -> int:
        """Return the number of steps until the next check."""
        now = time.monotonic()
        num_steps = max(1, state.global_step - self.checked_step)
        seconds = max(now - self.checked_at, 1e-3) / num_steps
        self.checked_at, self.checked_step = now, state.global_step
        return max(1, min(MAX_STEPS, int(CHECK_S / seconds)))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Restart the interval."""
        self.last = time.monotonic()


class Sink(Protocol):
    """Receives a worker's progress: for the driver's progress bar, and for Ray Train."""

    def post(self, record: dict[str, Any]) -> None:
        """Send a log record to the driver; only the first worker calls it."""

    def report(self, metrics: dict[str, float]) -> None:
        """Report an evaluation; all workers call it equally often."""

    def is_leaving(self) -> bool:
        """Return whether a node is being preempted; all workers call it equally often."""


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Forwards Trainer's logs and evaluations to the run's log and the sink."""

    def __init__(self, log: RunLog, sink: Sink, watch: Stopwatch) -> None:
        self.log, self.sink, self.watch = log, sink, watch

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Add the record to the run's log and send it to the driver."""
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        record = {"time": round(time.time(), 3), "step": state.global_step}
        record["epoch"] = round(state.epoch or 0, 4)
        record |= {k: v for k, v in logs.items() if k != "epoch"}
        if "loss" in logs:
            record["samples_per_s"] = self.watch.samples_per_s
        self.log.records.append(record)
        if "eval_loss" in logs:
            names = dict.fromkeys(["eval_loss", args.metric_for_best_model])
            shown = ", ".join(f"{k.removeprefix('eval_')} {logs[k]:.4f}" for k in names)
            where = f"epoch {state.epoch:g}, step {state.global_step}/{state.max_steps}"
            self.log.add_line(f"{where}: validation {shown}")
        self.sink.post({**record, "max_steps": state.max_steps})

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        """Report from every worker: all must call `ray.train.report` equally often."""
        self.sink.report({"step": state.global_step, **metrics})


class Saver(TrainerCallback):  # type: ignore[misc]
    """Uploads checkpoints, and ends training when early stopping's patience is exhausted."""

    def __init__(self, checkpoints: Checkpoints, log: RunLog, patience: int | None) -> None:
        self.checkpoints, self.log, self.patience = checkpoints, log, patience

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Upload asynchronously from the first worker."""
        step, folder = state.global_step, f"{args.output_dir}/checkpoint-{state.global_step}"
        if state.is_world_process_zero and Path(folder).exists():  # the trainer may leave one out
            self.log.add_line(f"step {step}: checkpoint")
            best, precision = state.best_global_step, precision_of(args)
            self.checkpoints.save(folder, step, best, precision, self.log.write)
        if self.patience is not None and evaluations_without_gain(args, state) >= self.patience:
            control.should_training_stop = True
        return control
