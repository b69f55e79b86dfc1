"""A trial to start or to resume, whatever its model is; no torch here.

A resumed search replays the stored evaluations to its scheduler and trains only the rest:
`Tuner.restore` loses the state of schedulers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from clftask.components.search.goal import Goal
from clftask.training.work import Work
from clftask.tuning.trial_store import Evaluation, Trial, TrialStore

Report = Callable[[Evaluation, int | None, int], None]


@dataclass(frozen=True)
class Attempt:
    """A trial to start or to resume.

    Attributes:
        work: Its job and tokens; `run` is the search's folder.
        trial: Its record.
        goal: The objective.
        saves: When a checkpoint is saved: "sometimes" (at a time interval, for node failures)
            or "always" (at each evaluation: the scheduler may resume or clone the trial).
        keeps_weights: Whether the weights of its best evaluation are kept because it may win.
        num_told: The number of its evaluations that the scheduler has received already.
        is_of_population: Whether it belongs to a PBT population: its settings change, and other
            trials may continue from its checkpoints even after its end.
        is_halved: Whether its micro batches are half as large, since memory ran out.
    """

    work: Work
    trial: Trial
    goal: Goal
    saves: Literal["sometimes", "always"]
    keeps_weights: bool
    num_told: int = 0
    is_of_population: bool = False
    is_halved: bool = False


def replay_evaluations(spec: Attempt, report: Report) -> None:
    """Report the stored evaluations that the scheduler has not received yet.

    Args:
        spec: The trial.
        report: Receives an evaluation, the step of the newest checkpoint, and the number of
            evaluations so far; raises SystemExit to end the trial.

    Raises:
        SystemExit: The scheduler has ended the trial; this is recorded unless it may resume.
    """
    trial, store = spec.trial, TrialStore(spec.work.run)
    try:
        for i in range(spec.num_told, len(trial.evaluations)):
            report(trial.evaluations[i], None, i + 1)
    except SystemExit:
        if spec.saves == "sometimes" and trial.state == "running":
            store.write(trial.model_copy(update={"state": "stopped", "ended_at": time.time()}))
            store.forget_state(trial)
        raise


def fail(run: str, trial: Trial) -> None:
    """Store a trial's final failure and remove its checkpoints."""
    store = TrialStore(run)
    store.write(trial)
    store.forget_state(trial)
