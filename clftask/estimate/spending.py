"""What is left of a search, and what it costs."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.data.prepare import Prepared
from clftask.estimate.machine import WorkerResources
from clftask.estimate.steps import Cost
from clftask.tuning.trial_store import Trial

COLUMNS_OF_TRIALS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Search:
    """A search that is about to start, or to go on.

    Attributes:
        job: The search.
        prepared: Its rows.
        tokenizers: By base.
        asked: The workers of a trial.
        concurrency: Trials side by side.
        needed_bytes: What it needs on disk at most.
        known: The trials that were begun before, finalists among them.
    """

    job: TuneJob
    prepared: Prepared
    tokenizers: dict[str, Any]
    asked: WorkerResources
    concurrency: int
    needed_bytes: int
    known: Sequence[Trial] = ()


@dataclass(frozen=True)
class Plan:
    """What is left of a search, and what it costs.

    Attributes:
        search: The search.
        trials: By number.
        costs: By number.
        prepare_s: To tokenise all rows.
    """

    search: Search
    trials: dict[int, TrainJob]
    costs: dict[int, Cost]
    prepare_s: float

    @property
    def left(self) -> dict[int, float]:
        """The epochs that each trial may still train, of those that have not ended."""
        known = {t.number: t for t in self.search.known if not t.is_finalist}
        found = {}
        for number, job in self.trials.items():
            trial, epochs = known.get(number), job.training.epochs
            if trial is None or trial.state == "running":
                found[number] = epochs - (_epochs_of(trial) if trial else 0.0)
        return {n: epochs for n, epochs in found.items() if not self.costs[n].reason}

    @property
    def typical(self) -> float:
        """The epochs that the scheduler typically still spends on them."""
        job = self.search.job
        epochs = job.train.training.epochs
        typical = job.scheduler.typical_epochs(job.num_trials, epochs)
        share = typical / (job.num_trials * epochs)
        whole = sum(trial.training.epochs for trial in self.trials.values())
        spent = sum(_epochs_of(t) for t in self.search.known if not t.is_finalist)
        return min(sum(self.left.values()), max(0.0, share * whole - spent))

    @property
    def num_finalists(self) -> int:
        """How many finalists are still to be trained."""
        wanted, job = self.search.job.finalists, self.search.job
        if wanted is None:
            return 0
        ended = sum(t.is_finalist and t.state != "running" for t in self.search.known)
        return max(0, min(wanted.top, job.num_trials) * wanted.seeds - ended)

    def counts(self) -> dict[str, Any]:
        """Return trials and epochs, as `--json` prints them."""
        epochs = max(job.training.epochs for job in self.trials.values())
        return {
            "trials": self.search.job.num_trials,
            "trials_left": len(self.left),
            "finalists_left": self.num_finalists,
            "epochs": {
                "at_most": round(sum(self.left.values()), 1),
                "typical": round(self.typical, 1),
                "finalists": self.num_finalists * epochs,
            },
        }

    def times(self, concurrency: int) -> dict[str, Any]:
        """Return the seconds of all, and of its phases, with some trials side by side."""
        search = self._search_s(concurrency)
        budget = self.search.job.time_budget
        within = math.inf if budget is None else budget.total_seconds()
        search = {name: min(seconds, within) for name, seconds in search.items()}
        finalists = self._finalists_s(concurrency)
        seconds = {name: self.prepare_s + search[name] + finalists[name] for name in search}
        return {
            "seconds": _rounded(seconds),
            "prepare_s": round(self.prepare_s, 1),
            "search_s": _rounded(search),
            "finalists_s": _rounded(finalists),
            "time_budget_s": None if budget is None else within,
        }

    def by_concurrency(self) -> list[dict[str, float]]:
        """Return the seconds with several numbers of trials side by side."""
        counts = sorted({*COLUMNS_OF_TRIALS, self.search.concurrency})
        return [{"concurrency": n, **self.times(n)["seconds"]} for n in counts]

    def _search_s(self, concurrency: int) -> dict[str, float]:
        if not self.left:
            return {"at_most": 0.0, "typical": 0.0}
        longest = [self._trial_s(number, epochs) for number, epochs in self.left.items()]
        share = self.typical / sum(self.left.values())
        work = [self._trial_s(number, share * epochs) for number, epochs in self.left.items()]
        # One trial at least goes all the way.
        typical = max(sum(work) / concurrency, float(np.mean(longest)))
        at_most = makespan(longest, concurrency)
        return {"at_most": at_most, "typical": min(typical, at_most)}

    def _finalists_s(self, concurrency: int) -> dict[str, float]:
        able = [n for n, cost in self.costs.items() if not cost.reason]
        whole = [self._trial_s(n, self.trials[n].training.epochs) for n in able]
        rounds = math.ceil(self.num_finalists / concurrency)
        return {"at_most": rounds * max(whole), "typical": rounds * float(np.mean(whole))}

    def _trial_s(self, number: int, epochs: float) -> float:
        cost, gpus = self.costs[number], self.search.asked.gpus
        alone = cost.startup_s + epochs * cost.epoch_s
        return alone / gpus if 0 < gpus < 1 else alone

    def warnings(self) -> list[str]:
        """Warn of a budget that ends the search before its time."""
        budget = self.search.job.time_budget
        typical = self._search_s(self.search.concurrency)["typical"]
        if budget is None or budget.total_seconds() >= typical:
            return []
        share = f"{budget.total_seconds() / typical:.0%}"
        return [f"time_budget ends the search after {share} of what it would typically train"]


def _epochs_of(trial: Trial) -> float:
    return trial.evaluations[-1].epoch if trial.evaluations else 0.0


def makespan(seconds: Sequence[float], places: int) -> float:
    """Return how long jobs take that are begun in order wherever a place is free."""
    ends = [0.0] * places
    for duration in seconds:
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in seconds.items()}
