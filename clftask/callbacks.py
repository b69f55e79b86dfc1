"""What watches over a Trainer: the seed of each step, its loss, its speed, its checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from clftask.errors import JobError, Problem

if TYPE_CHECKING:
    from clftask.training import ClassifierTrainer


LOOK_S = 5.0  # between two looks at the clock, which the workers take together
MAX_STEPS = 10
LEAVING_S = 20.0  # between checkpoints while a machine is about to be taken away


class StepSeed(TrainerCallback):  # type: ignore[misc]
    """Seeds dropout by job seed, step and worker, so that a resumed run repeats it exactly."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Seed torch for this step."""
        words = np.random.SeedSequence([self.seed, state.global_step, args.process_index])
        torch.manual_seed(int(words.generate_state(1)[0]))


class StopOnNan(TrainerCallback):  # type: ignore[misc]
    """Ends a run whose loss is no number, instead of training on nothing."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Look at every logged loss; it is the same on all workers."""
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            remedy = "Lower training.learning_rate, or use precision fp32."
            where = f"training, step {state.global_step}"
            raise JobError(Problem(where, str(loss), "the loss is no finite number", remedy))


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Measures the time spent in training steps alone."""

    def __init__(self, trainer: ClassifierTrainer) -> None:
        self.trainer, self.seconds, self._start = trainer, 0.0, 0.0

    @property
    def samples_per_s(self) -> float:
        """Rows that all workers together trained on in a second; only the first one knows."""
        return round(self.trainer.rows_seen / self.seconds, 2) if self.seconds else 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the watch."""
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the watch."""
        self.seconds += time.perf_counter() - self._start


class SaveEvery(TrainerCallback):  # type: ignore[misc]
    """Asks for a checkpoint when the last is old: epochs may take hours, and machines are lost.

    Args:
        trainer: Its workers save together.
        seconds: How old a checkpoint gets.
        is_leaving: Tells whether a machine of the run is about to be taken away; called by all
            workers equally often. Then one is asked for at once, and every `LEAVING_S` seconds.
    """

    def __init__(
        self, trainer: ClassifierTrainer, seconds: float, is_leaving: Callable[[], bool]
    ) -> None:
        self.trainer, self.seconds, self.is_leaving = trainer, seconds, is_leaving
        self.last = self.looked = time.monotonic()
        self.next_look, self.seen, self.was_leaving = 1, 0, False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Let the first worker's clock decide for all, about every `LOOK_S` seconds."""
        if state.global_step < self.next_look or float(state.epoch).is_integer():
            return control  # the end of an epoch saves anyway
        is_due, steps = self.trainer._from_first((self._is_due(), self._steps(state)))
        control.should_save |= is_due
        self.next_look = state.global_step + steps
        return control

    def _is_due(self) -> bool:
        is_leaving = self.is_leaving()
        is_news = is_leaving and not self.was_leaving
        self.was_leaving = is_leaving
        return is_news or time.monotonic() - self.last > (LEAVING_S if is_leaving else self.seconds)

    def _steps(self, state: Any) -> int:
        """Return after how many steps to look again."""
        now = time.monotonic()
        seconds = max(now - self.looked, 1e-3) / max(1, state.global_step - self.seen)
        self.looked, self.seen = now, state.global_step
        return max(1, min(MAX_STEPS, int(LOOK_S / seconds)))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start anew."""
        self.last = time.monotonic()


def evaluations_without_gain(args: Any, state: Any) -> int:
    """Return how many evaluations came after the best one, from the trainer's own log."""
    name = args.metric_for_best_model
    values = [entry[name] for entry in state.log_history if name in entry]
    sign = 1 if args.greater_is_better else -1
    best, since = -math.inf, 0
    for value in values:
        best, since = (sign * value, 0) if sign * value > best else (best, since + 1)
    return since
