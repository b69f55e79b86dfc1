"""A job's Prometheus metrics, computed on the driver from its progress records.

Ray sends them to the metrics agent of the driver's node, which exports them as `ray_clftask_…`.
The agent drops a gauge that is not set again, so a thread sets all gauges every second while the
job runs; counters stay. `ray.shutdown` flushes the rest.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeVar

from clftask import logs

if TYPE_CHECKING:  # a driver imports torch only after it has read its data
    from clftask.config.tune import TuneJob
    from clftask.distributed.score.dispatcher import Dispatcher
    from clftask.scoring.worker import Done
    from clftask.tuning.trial_store import TrialRecord

BEAT_S = 1.0  # below Ray's shortest report interval
SHARD_SECONDS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
RUN, KIND = "run", "kind"
_Record = TypeVar("_Record")
Show = Callable[[_Record], None]


@dataclass(frozen=True)
class Metric:
    """A metric; each has the tags `run` and `kind` (of job) in addition to `tags`."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    text: str
    tags: tuple[str, ...] = ()


METRICS: Final = {
    metric.name: metric
    for metric in (
        Metric("clftask_score_rows_total", "counter", "Rows scored."),
        Metric("clftask_score_rows_quarantined_total", "counter", "Bad rows in quarantine."),
        Metric("clftask_score_rows_truncated_total", "counter", "Truncated texts."),
        Metric("clftask_score_shards_total", "counter", "Shards done."),
        Metric("clftask_score_shard_retries_total", "counter", "Retries of shards."),
        Metric("clftask_score_shard_duration_seconds", "histogram", "Seconds per shard."),
        Metric("clftask_score_workers", "gauge", "Workers, starting or ready.", ("state",)),
        Metric("clftask_score_progress_ratio", "gauge", "Fraction of rows done."),
        Metric("clftask_train_loss", "gauge", "Training loss."),
        Metric("clftask_train_learning_rate", "gauge", "Learning rate of the encoder."),
        Metric("clftask_train_epoch", "gauge", "Epochs trained."),
        Metric("clftask_train_step", "gauge", "Optimiser steps."),
        Metric("clftask_train_progress_ratio", "gauge", "Fraction of steps done."),
        Metric("clftask_train_rows_per_second", "gauge", "Training rows per second, all workers."),
        Metric("clftask_train_evaluation", "gauge", "Validation metrics.", ("metric",)),
        Metric("clftask_tune_trials", "gauge", "Trials by state.", ("state", "phase")),
        Metric("clftask_tune_best_value", "gauge", "Metric of the best trial.", ("metric",)),
    )
}


class RayMetrics:
    """The `ray.util.metrics` of one job, each created at its first value."""

    def __init__(self, run: str, kind: str) -> None:
        self.tags = {RUN: run, KIND: kind}
        self.made: dict[str, Any] = {}

    def add(self, name: str, value: float) -> None:
        """Add to a counter."""
        self._metric(name).inc(value)

    def put(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Set a gauge."""
        self._metric(name).set(value, tags)

    def observe(self, name: str, value: float) -> None:
        """Record a value in a histogram."""
        self._metric(name).observe(value)

    def _metric(self, name: str) -> Any:
        from ray.util import metrics

        if name not in self.made:
            metric = METRICS[name]
            about = metric.name, metric.text
            keys = (RUN, KIND, *metric.tags)
            if metric.type == "histogram":
                made: Any = metrics.Histogram(*about, list(SHARD_SECONDS), keys)
            else:
                made = (metrics.Counter if metric.type == "counter" else metrics.Gauge)(
                    *about, keys
                )
            self.made[name] = made.set_default_tags(self.tags)
        return self.made[name]


class MetricsExporter(ABC, Generic[_Record]):
    """Computes metrics from a job's records and passes the records on; never fails the job.

    Args:
        path: The run's folder or the score table.
        show: Receives the records afterwards.
        sink: Receives the values.
    """

    kind = ""
    progress = ""

    def __init__(self, path: str, show: Show[_Record], sink: RayMetrics | None = None) -> None:
        self.path, self.shown = path, show
        name = logs.run_name(self.kind, path)
        self.sink = sink or RayMetrics(name, self.kind)
        self.gauges: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.is_over = threading.Event()

    def __call__(self, record: _Record) -> None:
        """Update the metrics from a record and pass it on."""
        with suppress(Exception):
            self.take(record)
        self.shown(record)

    @abstractmethod
    def take(self, record: _Record) -> None:
        """Update the metrics from a record."""

    def set(self, name: str, value: float, **tags: str) -> None:
        """Set a gauge; it keeps the value until it is set again."""
        self.gauges[name, frozenset(tags.items())] = float(value)

    def send(self) -> None:
        """Send all gauges."""
        for (name, tags), value in list(self.gauges.items()):
            self.sink.put(name, value, dict(tags))

    def __enter__(self) -> Self:
        logs.begin(self.kind, self.path)
        if self.progress:
            self.set(self.progress, 0)  # shows that the job runs
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        self.is_over.set()
        self.thread.join()
        logs.end(error)

    def _beat(self) -> None:
        is_last = False
        while not is_last:
            is_last = self.is_over.wait(BEAT_S)
            with suppress(Exception):
                self.send()


class TrainMetricsExporter(MetricsExporter[dict[str, Any]]):
    """Exports metrics of a training run."""

    kind = "train"
    progress = "clftask_train_progress_ratio"

    def take(self, record: dict[str, Any]) -> None:
        step = record["step"]
        self.set("clftask_train_step", step)
        self.set("clftask_train_epoch", record["epoch"])
        self.set(self.progress, step / max(record["max_steps"], 1))
        names = {"samples_per_s": "rows_per_second"}
        for key, value in record.items():
            if key in ("loss", "learning_rate", "samples_per_s"):
                self.set(f"clftask_train_{names.get(key, key)}", value)
            elif key.startswith("eval_"):
                self.set("clftask_train_evaluation", value, metric=key.removeprefix("eval_"))


class ScoreMetricsExporter(MetricsExporter[dict[str, Any]]):
    """Exports metrics of a scoring job."""

    kind = "score"
    progress = "clftask_score_progress_ratio"

    def __init__(
        self, path: str, show: Show[dict[str, Any]], sink: RayMetrics | None = None
    ) -> None:
        super().__init__(path, show, sink)
        self.pool: Any = None
        self.dispatcher: Dispatcher | None = None
        self.seen: set[int] = set()
        self.num_retries = 0

    def take(self, record: dict[str, Any]) -> None:
        self.set(self.progress, record["rows"] / max(record["total"], 1))

    def watching(self, pool: Any) -> Callable[[Dispatcher], Iterator[Done]]:
        """Return a wrapper of `pool.done` that counts its shards and workers."""

        def done(dispatcher: Dispatcher) -> Iterator[Done]:
            self.pool, self.dispatcher = pool, dispatcher
            for found in pool.done(dispatcher):
                with suppress(Exception):
                    self.count(found)
                yield found

        return done

    def count(self, done: Done) -> None:
        """Count a shard that this run scored."""
        if not done.is_new or done.shard in self.seen:
            return
        self.seen.add(done.shard)
        counts = done.receipt.counts
        self._add("shards", 1)
        self._add("rows", counts.rows_scored)
        self._add("rows_quarantined", counts.rows_quarantined)
        self._add("rows_truncated", counts.rows_truncated)
        self.sink.observe("clftask_score_shard_duration_seconds", done.receipt.seconds)

    def send(self) -> None:
        if self.pool is not None and self.dispatcher is not None:
            ready = self.pool.num_busy + len(self.pool.idle)
            self.set("clftask_score_workers", ready, state="ready")
            self.set("clftask_score_workers", len(self.pool.starting), state="starting")
            attempts, failed = self.dispatcher.attempts, self.dispatcher.failed
            retries = sum(list(attempts.values())) - len(failed)
            self._add("shard_retries", retries - self.num_retries)
            self.num_retries = max(retries, self.num_retries)
        super().send()

    def _add(self, what: str, value: int) -> None:
        if value > 0:
            self.sink.add(f"clftask_score_{what}_total", value)


class TuneMetricsExporter(MetricsExporter["TrialRecord"]):
    """Exports metrics of a search.

    Args:
        path: The search's folder.
        show: Receives the records afterwards.
        job: The search.
        sink: Receives the values.
    """

    kind = "tune"

    def __init__(
        self, path: str, show: Show[TrialRecord], job: TuneJob, sink: RayMetrics | None = None
    ) -> None:
        super().__init__(path, show, sink)
        self.goal, self.epochs = job.goal, job.train.epochs
        self.trials: dict[str, TrialRecord] = {}
        self.best: float | None = None

    def take(self, record: TrialRecord) -> None:
        self.trials[record["id"]] = self.trials.get(record["id"], record) | record
        found = Counter(_phase_and_state(trial, self.epochs) for trial in self.trials.values())
        for phase in {phase for phase, _ in found}:
            for state in ("running", "done", "stopped", "failed"):
                self.set("clftask_tune_trials", found[phase, state], phase=phase, state=state)
        value = record.get("value")
        if value is not None:
            choose = max if self.goal.greater_is_better else min
            self.best = value if self.best is None else choose(self.best, value)
            self.set("clftask_tune_best_value", self.best, metric=self.goal.metric)


def _phase_and_state(trial: TrialRecord, epochs: int) -> tuple[str, str]:
    """Return the phase and state of a trial, named as in the search's result."""
    state: str = trial["state"]
    if state == "ended":
        is_cut = trial.get("is_cut") and (trial.get("epoch") or 0) < epochs
        state = "stopped" if is_cut else "done"
    return "finalists" if trial["is_final"] else "search", state
