"""Records of a search's trials in storage, and the selection of the winner."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from typing import Any, Literal, NotRequired, TypedDict

import pyarrow as pa

from clftask.components.search.goal import Goal
from clftask.errors import ConfigError, DataError, Problem
from clftask.io import listing, storage
from clftask.io.strict_json import to_json
from clftask.spec import PlainData, Spec

_RECORD = "trial.json"
_AGAIN = "Delete its folder: the trial is then run again."
State = Literal["running", "finished", "stopped", "failed"]


class Evaluation(Spec):
    """One evaluation on validation.

    Attributes:
        epoch: Epochs trained.
        step: Optimiser steps done.
        seconds: The trial's run time so far, without pauses.
        metrics: Metrics by name; null if not finite.
        picks: The trial's picks at that time if they change (PBT); else null.
    """

    epoch: float
    step: int
    seconds: float
    metrics: dict[str, float | None]
    picks: PlainData | None = None


class Trial(Spec):
    """One configuration, trained with one seed.

    Attributes:
        number: The number of its configuration, in the order of proposals.
        picks: The searcher's proposal.
        params: The same in readable form: values by setting.
        seed: The seed of the training job.
        is_finalist: Whether it retrains one of the best configurations with a new seed.
        state: Its state.
        reason: The error message of a failed trial.
        is_lost: Whether its workers died; it is retried when the search is resumed.
        source_trial: The trial's number and the step whose checkpoint it continues from, until
            its own checkpoints are newer (PBT's exploit).
        evaluations: Its evaluations, in order.
        first_step_at: Unix time of its first optimiser step; 0 before.
        ended_at: Unix time of its end; 0 before.
        precision: What `auto` means in the whole search; fp32 if the model does not work in it.
        warnings: Warnings about its fit.
    """

    number: int
    picks: PlainData
    params: PlainData
    seed: int
    is_finalist: bool = False
    state: State = "running"
    reason: str = ""
    is_lost: bool = False
    source_trial: tuple[int, int] | None = None
    evaluations: tuple[Evaluation, ...] = ()
    first_step_at: float = 0.0
    ended_at: float = 0.0
    precision: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its folder name in `trials/`."""
        return f"{self.number:04d}" + (f"-seed{self.seed}" if self.is_finalist else "")

    @property
    def seconds(self) -> float:
        """Its time of training and evaluation."""
        return self.evaluations[-1].seconds if self.evaluations else 0.0

    def best(self, goal: Goal) -> Evaluation | None:
        """Return its best evaluation, the first one of ties; None if no score is finite."""
        values = ((e.metrics.get(goal.metric), e) for e in self.evaluations)
        scored = [(goal.sign * value, e) for value, e in values if value is not None]
        return max(scored, key=lambda pair: pair[0], default=(0, None))[1]

    def score(self, goal: Goal) -> float | None:
        """Return the value of its best evaluation."""
        best = self.best(goal)
        return None if best is None else best.metrics[goal.metric]


class TrialRecord(TypedDict):
    """A record of a trial's progress, for displays and metrics.

    Attributes:
        trial: Its number.
        id: Its id in Ray Tune.
        state: Its state.
        is_final: Whether it is a finalist.
        seed: The seed of a finalist.
        epoch: The epoch of an evaluation.
        value: The evaluation's metric; None if it is not finite.
        is_known: Whether the evaluation is replayed from an interrupted search.
        is_cut: Whether the scheduler stopped the trial.
        reason: The error message.
    """

    trial: int
    id: str
    state: Literal["running", "ended", "failed"]
    is_final: bool
    seed: NotRequired[int]
    epoch: NotRequired[int]
    value: NotRequired[float | None]
    is_known: NotRequired[bool]
    is_cut: NotRequired[bool]
    reason: NotRequired[str]


class TrialStore:
    """The trials of a search's folder or prefix; one process at a time writes each trial."""

    def __init__(self, run: str) -> None:
        self.path = storage.join(run, "trials")

    def place(self, trial: Trial) -> str:
        """Return the folder of a trial."""
        return storage.join(self.path, trial.key)

    def checkpoints(self, trial: Trial) -> str:
        """Return the path of a trial's checkpoints, which exist while it runs."""
        return storage.join(self.place(trial), "checkpoints")

    def weights(self, trial: Trial) -> str:
        """Return the path of the weights of a trial's best evaluation, if they are kept."""
        return storage.join(self.place(trial), "best")

    def read(self, trial: Trial) -> Trial:
        """Return the stored record of a trial; the argument if there is none."""
        place = storage.join(self.place(trial), _RECORD)
        return self._load(place) if storage.exists(place) else trial

    def write(self, trial: Trial) -> None:
        """Write the record of a trial."""
        text = to_json(trial.dump())
        storage.put(storage.join(self.place(trial), _RECORD), text.encode())

    def all(self) -> list[Trial]:
        """Return all trials that started; finalists last, by number and seed."""
        files = [f.path for f in listing.list_files(self.path) if f.path.endswith(f"/{_RECORD}")]
        return sorted(
            (self._load(f) for f in files), key=lambda t: (t.is_finalist, t.number, t.seed)
        )

    def forget_state(self, trial: Trial) -> None:
        """Remove a trial's checkpoints: it will not be resumed."""
        storage.delete(self.checkpoints(trial))

    def forget_weights(self, trial: Trial) -> None:
        """Remove a trial's best weights: it cannot win."""
        storage.delete(self.weights(trial))

    def _load(self, place: str) -> Trial:
        try:
            return Trial.load(storage.read_json(place, _AGAIN))
        except ConfigError:
            raise DataError(Problem(place, None, "invalid trial record", _AGAIN)) from None


def ranked(trials: Iterable[Trial], goal: Goal) -> list[Trial]:
    """Return the trials that can win, the best first; ties by order of proposal."""
    able = [t for t in trials if t.state != "failed" and t.score(goal) is not None]
    return sorted(able, key=lambda t: (-goal.sign * (t.score(goal) or 0.0), t.number))


def finalists(trials: Iterable[Trial], goal: Goal, top: int, seeds: list[int]) -> list[Trial]:
    """Return new trials of the `top` best configurations, one with each seed."""
    return [
        Trial(
            number=trial.number, picks=trial.picks, params=trial.params, seed=seed, is_finalist=True
        )
        for trial in ranked((t for t in trials if not t.is_finalist), goal)[:top]
        for seed in seeds
    ]


def mean_scores(trials: Iterable[Trial], goal: Goal) -> dict[int, list[float]]:
    """Return the scores of each configuration's finalists, without the trials of the search."""
    found: dict[int, list[float]] = {}
    for trial in trials:
        score = trial.score(goal)
        if trial.is_finalist and trial.state == "finished" and score is not None:
            found.setdefault(trial.number, []).append(score)
    return found


def winner(trials: list[Trial], goal: Goal) -> Trial | None:
    """Return the trial whose weights are exported; None if all failed.

    With finalists, the configuration with the best mean score wins, and the seed whose score
    is nearest to its median is exported; without finalists, the best trial.
    """
    scores = mean_scores(trials, goal)
    if not any(trial.is_finalist for trial in trials):
        return next(iter(ranked(trials, goal)), None)
    if not scores:
        return None
    number = max(scores, key=lambda n: (goal.sign * statistics.fmean(scores[n]), -n))
    median = statistics.median(scores[number])
    ended = [t for t in trials if t.state == "finished" and t.is_finalist]
    seeds = ranked([t for t in ended if t.number == number], goal)
    return min(seeds, key=lambda t: (abs((t.score(goal) or 0.0) - median), t.seed))


def table(trials: list[Trial], goal: Goal) -> pa.Table:
    """Return one row per trial: its settings, its result, and its learning curve.

    Columns: trial, finalist, seed, state, reason, epochs, seconds, the metric (best), best_epoch,
    `param.<path>` of each searched field, curve_epochs and curve (the metric by evaluation).
    """
    best = [trial.best(goal) for trial in trials]
    columns: dict[str, Any] = {
        "trial": pa.array([t.number for t in trials], pa.int32()),
        "finalist": [t.is_finalist for t in trials],
        "seed": pa.array([t.seed for t in trials], pa.int64()),
        "state": [t.state for t in trials],
        "reason": [t.reason or None for t in trials],
        "epochs": [t.evaluations[-1].epoch if t.evaluations else 0.0 for t in trials],
        "seconds": [t.seconds for t in trials],
        goal.metric: pa.array([t.score(goal) for t in trials], pa.float64()),
        "best_epoch": pa.array([b.epoch if b else None for b in best], pa.float64()),
    }
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    columns |= {f"param.{name}": _column([t.params.get(name) for t in trials]) for name in names}
    curves = pa.list_(pa.float64())
    columns["curve_epochs"] = pa.array([[e.epoch for e in t.evaluations] for t in trials], curves)
    values = [[e.metrics.get(goal.metric) for e in t.evaluations] for t in trials]
    return pa.table({**columns, "curve": pa.array(values, curves)})


def _column(values: list[Any]) -> pa.Array:
    """Return values of one type unchanged, others as JSON: Arrow has no mixed columns."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return pa.array(values, pa.float64())
    if len(kinds) <= 1 and not kinds & {list, dict}:
        return pa.array(values)
    return pa.array([None if value is None else json.dumps(value) for value in values])
