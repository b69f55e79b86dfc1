"""Results of jobs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from clftask.components.metrics import LabelFigures

Metrics = dict[str, dict[str, float | None]]  # by split and name; None where undefined


@dataclass(frozen=True)
class Result:
    """Base class of the results; `--json` prints all fields except `NOT_PRINTED`."""

    NOT_PRINTED: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def of(cls, found: Mapping[str, Any], **fields: Any) -> Self:
        """Return a result from a mapping; keys that are not fields are ignored."""
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in found.items() if name in names} | fields)

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        names = [f.name for f in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names if name not in self.NOT_PRINTED}


@dataclass(frozen=True)
class TrainResult(Result):
    """A finished training run.

    Attributes:
        run: The run's folder.
        bundle: The bundle's folder.
        metrics: Metrics by split and name.
        epochs: Trained epochs.
        seconds: Duration of this invocation.
        samples_per_s: Training throughput of all workers.
        workers: Number of workers at the end.
        steps: Optimiser steps.
        per_label: Precision, recall, F1, threshold and support of each label, by split.
        intervals: 95 % bootstrap intervals of metrics, by split and name.
        warnings: Warnings about the fitted decision and the metrics.
    """

    NOT_PRINTED = frozenset({"steps", "per_label", "intervals"})

    run: str
    bundle: str
    metrics: Metrics
    epochs: float
    seconds: float
    samples_per_s: float
    workers: int
    steps: int
    per_label: dict[str, list[LabelFigures]]
    intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TuneResult(Result):
    """A finished search.

    Attributes:
        run: The search's folder.
        best: The winner's trial, params, seed, metrics by split, and warnings.
        job: The winner's job file.
        bundle: The winner's bundle.
        trials: Number of trials that are done, stopped, failed.
        failures: Failure reasons by trial number.
        finalists: Each finalist's trial and its scores with new seeds, under the metric's name.
        metric: The metric that was optimised.
        seconds: Duration of this invocation.
    """

    run: str
    best: dict[str, Any]
    job: str
    bundle: str
    trials: dict[str, int]
    failures: dict[str, str]
    finalists: list[dict[str, Any]]
    metric: str
    seconds: float


@dataclass(frozen=True)
class ScoreResult(Result):
    """A complete score table; row counts are its totals.

    Attributes:
        output: The table's folder.
        rows_filtered: Number of rows that `input.where` left out; they are not in `rows_in`.
        shards: Number of shards.
        shards_skipped: Number of shards that earlier invocations scored.
        seconds: Duration of this invocation.
        rows_per_s: Throughput of this invocation.
        rows_truncated: Number of rows whose text was truncated.
        mean_confidence: Mean confidence of the scored rows.
        labels: Number of predictions of each label.
        precision: Precision of all workers.
        agreement: Share of sampled rows with the same decision as in fp32; None if not compared.
        precision_note: Both in words.
    """

    NOT_PRINTED = frozenset({"rows_truncated", "mean_confidence", "labels", "precision_note"})

    output: str
    rows_in: int
    rows_scored: int
    rows_quarantined: int
    shards: int
    shards_skipped: int
    seconds: float
    rows_per_s: float
    rows_truncated: int
    mean_confidence: float
    labels: dict[str, int]
    rows_filtered: int = 0
    precision: str = ""
    agreement: float | None = None
    precision_note: str = ""
