"""Estimate of a search: measures each kind of trial, and schedules the remaining trials."""

from __future__ import annotations

import heapq
import json
import math
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import numpy as np

from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.data.prepare import Prepared, tokenise
from clftask.errors import ConfigError, JobError, Problem
from clftask.estimate import measure
from clftask.estimate.measure import Clock, Range, Say, Workers
from clftask.estimate.trial_cost import Cost, measure_cost, sampled
from clftask.messages import counted
from clftask.models.precision import bf16_pays, resolve_precision
from clftask.tuning.trial_store import Trial

MAX_MEASURED = 8  # kinds of trials that are measured
NOT_MEASURED = (*measure.NOT_MEASURED, "trials that share a GPU, workers that share a trial")
_OF_MODEL = ("base", "layers", "max_length", "long_text", "adapt", "head")
_OF_TRAINING = ("batch_size", "micro_batch_size", "optimizer", "precision", "hf")
_ALWAYS_SHOWN = ("model.base", "model.max_length", "training.batch_size")


@dataclass(frozen=True)
class Search:
    """A search that is about to start or to resume.

    Attributes:
        tokenizers: Tokenizers by base.
        workers: Workers of each trial.
        concurrency: Number of concurrent trials.
        needed_bytes: Maximum disk space.
        start_s: Seconds until its rows are read and Ray is connected.
        worker_s: Seconds until the process of a worker is ready.
        known: Records of the interrupted search's trials, including finalists.
    """

    job: TuneJob
    prepared: Prepared
    tokenizers: dict[str, Any]
    workers: Workers
    concurrency: int
    needed_bytes: int
    start_s: float
    worker_s: float
    known: Sequence[Trial] = ()


@dataclass(frozen=True)
class Kind:
    """Trials with the same cost.

    Attributes:
        fields: Values that differ between kinds, by field of the training job.
        numbers: Numbers of the trials.
        cost: Cost of each; None if not measured.
    """

    fields: dict[str, object]
    numbers: tuple[int, ...]
    cost: Cost | None = None

    def __str__(self) -> str:
        return ", ".join(f"{p.rpartition('.')[2]} {value}" for p, value in self.fields.items())


@dataclass(frozen=True)
class TuneEstimate:
    """The remaining trials of a search, its time and disk space; zeros if none remain.

    Attributes:
        epochs: Epochs of all trials; typical is below high if the scheduler stops some early.
        start_s, search_s, finalists_s, publish_s: Typical seconds; they add up to `seconds`.
        seconds: Seconds of the search; high if no trial stops early.
        by_concurrency: Typical seconds by number of concurrent trials.
        bytes_stored: Maximum disk space at any time.
    """

    run: str
    trials_left: int = 0
    finalists_left: int = 0
    epochs: Range = measure.NOTHING
    kinds: tuple[Kind, ...] = ()
    workers: int = 0
    device: str = ""
    concurrency: int = 0
    start_s: float = 0.0
    search_s: float = 0.0
    finalists_s: float = 0.0
    publish_s: float = 0.0
    seconds: Range = measure.NOTHING
    by_concurrency: dict[int, float] = field(default_factory=dict)
    time_budget_s: float | None = None
    bytes_stored: int = 0
    storage_budget: int | None = None
    warnings: tuple[str, ...] = ()
    not_measured: tuple[str, ...] = NOT_MEASURED


def estimate(search: Search, run: str, say: Say, clock: Clock = time.perf_counter) -> TuneEstimate:
    """Train a few steps of each kind of trial, and extrapolate.

    Args:
        search: The search.
        run: Its folder.
        say: Receives lines for the user.
        clock: Returns seconds.

    Raises:
        JobError: No trial can be trained on this machine.
    """
    trials = trials_of(search)
    with measure.as_worker(search.workers) as warnings:
        kinds, tokenise_s = _measured(search, trials, say, clock)
    failing = [
        f"{counted(len(kind.numbers), 'trial')} ({kind}) cannot train here: {kind.cost.reason}"
        for kind in kinds
        if kind.cost and kind.cost.reason
    ]
    search = replace(search, start_s=search.start_s + tokenise_s)
    found = Schedule(search, trials, costs_of(kinds)).estimate(run)
    return replace(found, kinds=kinds, warnings=(*failing, *found.warnings, *warnings))


# ------------------------------------------------------------------ the trials


def trials_of(search: Search) -> dict[int, TrainJob]:
    """Return the trials by number: the known ones, and random draws for a searcher.

    An invalid draw is left out: its trial fails at once.
    """
    job, random, found = search.job, np.random.default_rng(0), {}
    drawn = job.points() or [job.searched.draw(random) for _ in range(job.num_trials)]
    known = {t.number: t.picks for t in search.known if not t.is_finalist}
    for number, picks in {**dict(enumerate(drawn)), **known}.items():
        try:
            found[number] = job.trial(picks)
        except ConfigError:
            continue
    return found


def kinds_of(trials: dict[int, TrainJob]) -> list[Kind]:
    """Group the trials by the fields that determine their cost."""
    groups: dict[str, Kind] = {}
    for number, job in trials.items():
        model, training = job.model.dump(), job.training.dump()
        fields = {f"model.{name}": model[name] for name in _OF_MODEL}
        fields |= {f"training.{name}": training[name] for name in _OF_TRAINING}
        key = json.dumps(fields, sort_keys=True)
        kind = groups.get(key, Kind(fields, ()))
        groups[key] = replace(kind, numbers=(*kind.numbers, number))
    kinds = list(groups.values())
    first = kinds[0].fields
    shown = [p for p in first if any(k.fields[p] != first[p] for k in kinds)] or _ALWAYS_SHOWN
    return [replace(kind, fields={p: kind.fields[p] for p in shown}) for kind in kinds]


def costs_of(kinds: Sequence[Kind]) -> dict[int, Cost]:
    """Return the cost of each trial that can train; the mean for kinds not measured."""
    measured = {kind.numbers: kind.cost for kind in kinds if kind.cost}
    able = {numbers: astuple(cost)[:-1] for numbers, cost in measured.items() if not cost.reason}
    mean = Cost(*np.average([*able.values()], axis=0, weights=[len(n) for n in able]).tolist())
    costs = {n: measured.get(kind.numbers, mean) for kind in kinds for n in kind.numbers}
    return {number: cost for number, cost in costs.items() if not cost.reason}


def _measured(
    search: Search, trials: dict[int, TrainJob], say: Say, clock: Clock
) -> tuple[tuple[Kind, ...], float]:
    """Measure evenly spaced kinds; also return the seconds to tokenise all rows.

    Raises:
        JobError: None of them can train.
    """
    kinds, prepared, device = kinds_of(trials), search.prepared, search.workers.device
    chosen = np.linspace(0, len(kinds) - 1, min(MAX_MEASURED, len(kinds))).round().astype(int)
    jobs = {index: trials[kinds[index].numbers[0]] for index in chosen}
    some = sampled(prepared, max(job.training.batch_size for job in jobs.values()))
    models = {job.transformer.tokens: job.transformer for job in jobs.values()}
    began = clock()
    tables = {k: tokenise(some, search.tokenizers[m.base], m) for k, m in models.items()}
    share = len(search.job.token_models) / len(models) * _num_rows(prepared) / _num_rows(some)
    tokenise_s, pays, costs = (clock() - began) * share, bf16_pays(device), []
    for index, job in jobs.items():
        say(f"measuring steps of {counted(len(kinds[index].numbers), 'trial')}: {kinds[index]}")
        asked, deterministic = job.training.precision, job.training.deterministic
        precision = resolve_precision(asked, device, pays, deterministic)
        tokens = tables[job.transformer.tokens]
        costs.append(measure_cost(job, prepared, tokens, device, clock, precision))
        kinds[index] = replace(kinds[index], cost=costs[-1])
    if all(cost.reason for cost in costs):
        allowed = f"no trial can train here: {costs[0].reason}"
        remedy = "Lower max_length or batch_size, or use a larger machine."
        raise JobError(Problem("train", None, allowed, remedy))
    return tuple(kinds), tokenise_s


def _num_rows(prepared: Prepared) -> int:
    return sum(table.num_rows for table in prepared.tables.values())


# ------------------------------------------------------------------ the time


@dataclass(frozen=True)
class Schedule:
    """The remaining trials of a search and their time; `costs`: of trials that can train."""

    search: Search
    trials: dict[int, TrainJob]
    costs: dict[int, Cost]

    def estimate(self, run: str) -> TuneEstimate:
        """Return the estimate."""
        search, job, concurrency = self.search, self.search.job, self.search.concurrency
        budget, counts = job.time_budget, sorted({*measure.WORKER_COUNTS, concurrency})
        typical, unlimited = self.typical_epochs, self.search_s(concurrency)[0]
        warnings = []
        if unlimited > self.budget_s:
            share = f"{self.budget_s / unlimited:.0%}"
            warnings.append(f"time_budget ends the search after {share} of its typical time")
        return TuneEstimate(
            run,
            trials_left=len(self.left),
            finalists_left=self.num_finalists,
            epochs=Range(typical, typical, sum(self.left.values())),
            workers=search.workers.count,
            device=search.workers.device,
            concurrency=concurrency,
            start_s=search.start_s,
            search_s=min(unlimited, self.budget_s),
            finalists_s=self.finalists_s(concurrency)[0],
            publish_s=self.publish_s,
            seconds=self.seconds(concurrency),
            by_concurrency={n: self.seconds(n).typical for n in counts},
            time_budget_s=None if budget is None else budget.total_seconds(),
            bytes_stored=search.needed_bytes,
            storage_budget=job.storage_budget,
            warnings=tuple(warnings),
        )

    @property
    def left(self) -> dict[int, float]:
        """Remaining epochs of the trials that have not ended, by number."""
        known = {t.number: t for t in self.search.known if not t.is_finalist}
        return {
            n: self.trials[n].training.epochs - (_epochs(known[n]) if n in known else 0)
            for n in self.costs
            if n not in known or known[n].state == "running"
        }

    @property
    def typical_epochs(self) -> float:
        """Remaining epochs that typically train under the scheduler."""
        job, epochs = self.search.job, self.search.job.train.training.epochs
        share = job.scheduler.typical_epochs(job.num_trials, epochs) / (job.num_trials * epochs)
        whole = sum(trial.training.epochs for trial in self.trials.values())
        spent = sum(_epochs(trial) for trial in self.search.known if not trial.is_finalist)
        return min(sum(self.left.values()), max(0.0, share * whole - spent))

    @property
    def num_finalists(self) -> int:
        """Number of finalists that remain."""
        job = self.search.job
        if job.finalists is None:
            return 0
        ended = sum(t.is_finalist and t.state != "running" for t in self.search.known)
        return max(0, min(job.finalists.top, job.num_trials) * job.finalists.seeds - ended)

    @property
    def budget_s(self) -> float:
        """The time budget of the search, which excludes finalists."""
        budget = self.search.job.time_budget
        return math.inf if budget is None else budget.total_seconds()

    def seconds(self, concurrency: int) -> Range:
        """Return the total seconds; high if no trial stops early."""
        fixed = self.search.start_s + self.publish_s
        phases = zip(self.search_s(concurrency), self.finalists_s(concurrency), strict=True)
        typical, most = (fixed + min(first, self.budget_s) + then for first, then in phases)
        return measure.within(typical, most)

    def search_s(self, concurrency: int) -> tuple[float, float]:
        """Return typical and maximum seconds of the search, ignoring its time budget."""
        left = self.left
        if not left:
            return 0.0, 0.0
        share = self.typical_epochs / sum(left.values())
        whole = [self._trial_s(number, epochs) for number, epochs in left.items()]
        some = [self._trial_s(number, share * epochs) for number, epochs in left.items()]
        most = makespan(whole, concurrency)
        # At least one trial trains all its epochs.
        typical = min(most, max(sum(some) / concurrency, float(np.mean(whole))))
        return self.process_s + typical, self.process_s + most

    def finalists_s(self, concurrency: int) -> tuple[float, float]:
        """Return the seconds of the finalists, by the mean trial and by the longest one."""
        rounds = math.ceil(self.num_finalists / concurrency)
        whole = [self._trial_s(n, self.trials[n].training.epochs) for n in self.costs]
        each = (float(np.mean(whole)), max(whole)) if rounds else (0.0, 0.0)
        typical, most = (self.process_s * bool(rounds) + rounds * seconds for seconds in each)
        return typical, most

    @property
    def publish_s(self) -> float:
        """Seconds to publish the winner, in a separate process."""
        return self.process_s + max(cost.publish_s for cost in self.costs.values())

    @property
    def process_s(self) -> float:
        """Seconds until a process can train; those of concurrent trials start together."""
        return self.search.worker_s + max(cost.first_s for cost in self.costs.values())

    def _trial_s(self, number: int, epochs: float) -> float:
        seconds = self.costs[number].start_s + epochs * self.costs[number].epoch_s
        return seconds / self.search.workers.gpu_share


def _epochs(trial: Trial) -> float:
    return trial.evaluations[-1].epoch if trial.evaluations else 0.0


def makespan(seconds: Sequence[float], slots: int) -> float:
    """Return the total time of jobs that start in order as slots become free."""
    ends = [0.0] * slots
    for duration in seconds:
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)
