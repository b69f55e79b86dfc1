"""The trials of a search: what each found, kept in storage; which of them wins."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from typing import Any, Literal

import pyarrow as pa

from clftask.components.search.goal import Goal
from clftask.errors import ConfigError, DataError, Problem
from clftask.io import listing, storage
from clftask.spec import PlainData, Spec

_RECORD = "trial.json"
_AGAIN = "Delete its folder: the trial is then run again."
State = Literal["running", "finished", "stopped", "failed"]


class Evaluation(Spec):
    """One measurement of validation.

    Attributes:
        epoch: Epochs trained.
        step: Optimiser steps taken.
        seconds: Since the trial began, pauses left out.
        metrics: By name; null where not finite.
        picks: What the trial was trained with then, where that changes; else null.
    """

    epoch: float
    step: int
    seconds: float
    metrics: dict[str, float | None]
    picks: PlainData | None = None


class Trial(Spec):
    """One configuration, trained with one seed.

    Attributes:
        number: Of the configuration, in the order in which they were proposed.
        picks: What the searcher picked.
        params: The same for people: values by name.
        seed: Of the training job.
        is_finalist: Whether it is one of the best, trained again with another seed.
        reason: Why it failed.
        is_lost: Whether its workers died: it is retried when the search is resumed.
        source_trial: The number of the trial and the step that it goes on from, until its own
            checkpoints are newer.
        first_step_at: When it took its first optimiser step, in seconds since 1970; 0: not yet.
        ended_at: When it ended.
        precision: What it is trained in, as all of its search.
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

    @property
    def key(self) -> str:
        """Its name below `trials/`."""
        return f"{self.number:04d}" + (f"-seed{self.seed}" if self.is_finalist else "")

    @property
    def seconds(self) -> float:
        """How long it trained and was measured."""
        return self.evaluations[-1].seconds if self.evaluations else 0.0

    def best(self, goal: Goal) -> Evaluation | None:
        """Return its best evaluation, the first of equals; None if there is no finite one."""
        found = [e for e in self.evaluations if e.metrics.get(goal.metric) is not None]
        return max(found, key=lambda e: _signed(e, goal), default=None)

    def score(self, goal: Goal) -> float | None:
        """Return the value of its best evaluation."""
        best = self.best(goal)
        return None if best is None else best.metrics[goal.metric]


def _signed(evaluation: Evaluation, goal: Goal) -> float:
    value = evaluation.metrics[goal.metric]
    assert value is not None
    return value if goal.greater_is_better else -value


class TrialStore:
    """The trials below a search's folder or prefix; each is written by one process at a time."""

    def __init__(self, run: str) -> None:
        self.path = storage.join(run, "trials")

    def place(self, trial: Trial) -> str:
        """Return the folder of a trial."""
        return storage.join(self.path, trial.key)

    def checkpoints(self, trial: Trial) -> str:
        """Return where a trial's checkpoints lie while it runs."""
        return storage.join(self.place(trial), "checkpoints")

    def weights(self, trial: Trial) -> str:
        """Return where the weights of a trial's best evaluation lie, if they are kept."""
        return storage.join(self.place(trial), "best")

    def read(self, trial: Trial) -> Trial:
        """Return what is known of a trial; itself if nothing is."""
        place = storage.join(self.place(trial), _RECORD)
        return self._load(place) if storage.exists(place) else trial

    def write(self, trial: Trial) -> None:
        """Keep what is known of a trial."""
        text = json.dumps(trial.dump())
        storage.put(storage.join(self.place(trial), _RECORD), text.encode())

    def all(self) -> list[Trial]:
        """Return all trials that were begun, by number and seed."""
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


def finite(metrics: dict[str, float]) -> dict[str, float | None]:
    """Return metrics with null where not finite."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def ranked(trials: Iterable[Trial], goal: Goal) -> list[Trial]:
    """Return the trials that can win, the best first; of equals the one proposed first."""
    sign = -1 if goal.greater_is_better else 1
    able = [t for t in trials if t.state != "failed" and t.score(goal) is not None]
    return sorted(able, key=lambda t: (sign * (t.score(goal) or 0.0), t.number))


def finalists(trials: Iterable[Trial], goal: Goal, top: int, seeds: list[int]) -> list[Trial]:
    """Return the best configurations as trials yet to be run, once with each seed."""
    return [
        Trial(
            number=trial.number,
            picks=trial.picks,
            params=trial.params,
            seed=seed,
            is_finalist=True,
        )
        for trial in ranked((t for t in trials if not t.is_finalist), goal)[:top]
        for seed in seeds
    ]


def mean_scores(trials: Iterable[Trial], goal: Goal) -> dict[int, list[float]]:
    """Return the scores of each configuration's finalists: those that selected it left out."""
    found: dict[int, list[float]] = {}
    for trial in trials:
        score = trial.score(goal)
        if trial.is_finalist and trial.state == "finished" and score is not None:
            found.setdefault(trial.number, []).append(score)
    return found


def winner(trials: list[Trial], goal: Goal) -> Trial | None:
    """Return the trial that ships.

    Of the finalists the configuration with the best mean wins, and of its seeds the one nearest
    to their median ships; without finalists the best trial does. None if all of them failed.
    """
    scores = mean_scores(trials, goal)
    if not any(trial.is_finalist for trial in trials):
        able = ranked([trial for trial in trials if not trial.is_finalist], goal)
        return able[0] if able else None
    if not scores:
        return None
    sign = 1 if goal.greater_is_better else -1
    number = max(scores, key=lambda n: (sign * statistics.fmean(scores[n]), -n))
    median = statistics.median(scores[number])
    ended = [t for t in trials if t.state == "finished" and t.is_finalist]
    seeds = ranked([t for t in ended if t.number == number], goal)
    return min(seeds, key=lambda t: (abs((t.score(goal) or 0.0) - median), t.seed))


def table(trials: list[Trial], goal: Goal) -> pa.Table:
    """Return a row a trial: what was tried, how it went, and its learning curve.

    Columns: trial, finalist, seed, state, reason, epochs, seconds, the metric (best), best_epoch,
    `param.<path>` of every searched path, curve_epochs and curve (the metric by evaluation).
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
    """Return values of one type as they are, mixed ones as JSON."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return pa.array(values, pa.float64())
    if len(kinds) <= 1 and not kinds & {list, dict}:
        return pa.array(values)
    return pa.array([None if value is None else json.dumps(value) for value in values])
