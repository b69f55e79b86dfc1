"""What jobs return: the counterpart of their job files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

Metrics = dict[str, dict[str, float]]  # by split and name


@dataclass(frozen=True)
class Result:
    """Base of the results; `--json` prints all fields but those in `NOT_PRINTED`."""

    NOT_PRINTED: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def of(cls, found: Mapping[str, Any], **fields: Any) -> Self:
        """Return a result from a mapping; keys that are no field are left out."""
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
        metrics: By split and name.
        epochs: Epochs trained.
        seconds: Of this invocation.
        samples_per_s: Training throughput of all workers.
        workers: Workers at the end.
        steps: Optimiser steps.
        per_label: By split: precision, recall, F1, threshold and support of each label.
        intervals: By split and name: 95 % bootstrap intervals.
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
    per_label: dict[str, list[dict[str, Any]]]
    intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class TuneResult(Result):
    """A finished search.

    Attributes:
        run: The search's folder.
        best: The winner's trial, params, seed, and metrics by split.
        job: The winner's job file.
        bundle: The winner's bundle.
        trials: How many are done, stopped, failed.
        failures: Reasons by trial number.
        finalists: Each finalist's trial and its scores with new seeds, under the metric's name.
        metric: What was optimised.
        seconds: Of this invocation.
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
        shards: Shards of the table.
        shards_skipped: Shards that were scored before.
        seconds: Of this invocation.
        rows_per_s: Of this invocation.
        rows_truncated: Rows longer than the model reads.
        mean_confidence: Over the scored rows.
        labels: How often each label was given.
    """

    NOT_PRINTED = frozenset({"rows_truncated", "mean_confidence", "labels"})

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
