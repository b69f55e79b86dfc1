"""Results of jobs."""

from __future__ import annotations

import dataclasses
import html
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

from clftask.components.decision.cascade import CascadeLimit
from clftask.components.labels import Task
from clftask.messages import counted
from clftask.spec import Spec

if TYPE_CHECKING:
    from clftask.components.metrics import LabelFigures

Metrics = dict[str, dict[str, float | None]]  # by split and name; None where undefined


class Shipped(Spec):
    """Which epoch's weights a bundle has, and whether early stopping ended training.

    Attributes:
        epoch: The epoch of the weights.
        epochs: Trained epochs.
        metric: The metric that selected the epoch.
        patience: The number of epochs without gain that ended training; None if it ran to its
            end.
    """

    epoch: float
    epochs: float
    metric: str
    patience: int | None = None

    @classmethod
    def of(cls, outcome: Mapping[str, Any]) -> Shipped | None:
        """Return the entry of a `metrics.json`; version 0.1.0 wrote none."""
        found = outcome.get("shipped")
        return None if found is None else cls.load(found)

    def line(self) -> str:
        """Return it in words."""
        if self.patience is None:
            return f"epoch {self.epoch:g} of {self.epochs:g} ships: best {self.metric}"
        gain = f"no gain in {self.metric} for {counted(self.patience, 'epoch')}"
        return f"stopped after epoch {self.epochs:g}: {gain}; epoch {self.epoch:g} ships"


@dataclass(frozen=True, repr=False)
class Result(ABC):
    """Base class of the results; `--json` prints all fields except `NOT_PRINTED`."""

    NOT_PRINTED: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def of(cls, found: Mapping[str, Any], **fields: Any) -> Self:
        """Return a result from a mapping; keys that are not fields are ignored."""
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in found.items() if name in names} | fields)

    @abstractmethod
    def about(self) -> dict[str, str]:
        """Return what a repr shows: values in words, by name."""

    def __repr__(self) -> str:
        shown = "; ".join(f"{name} {value}" for name, value in self.about().items())
        return f"<{type(self).__name__}: {shown}>"

    def _repr_html_(self) -> str:
        pairs = ((html.escape(name), html.escape(value)) for name, value in self.about().items())
        rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in pairs)
        return f"<table>{rows}</table>"

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        names = [f.name for f in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names if name not in self.NOT_PRINTED}


@dataclass(frozen=True, repr=False)
class TrainResult(Result):
    """A finished training run.

    Attributes:
        run: The run's folder.
        bundle: The bundle's folder.
        metrics: Metrics by split and name.
        task: multiclass or multilabel.
        metric: The job's metric.
        epochs: Trained epochs.
        seconds: Duration of this invocation.
        samples_per_s: Training throughput of all workers.
        workers: Number of workers at the end.
        steps: Optimiser steps.
        per_label: Precision, recall, F1, threshold and support of each label, by split.
        intervals: 95 % bootstrap intervals of metrics, by split and name.
        warnings: Warnings about the fitted decision and the metrics.
        shipped: The epoch of the bundle's weights, and how training ended; None if unknown.
    """

    NOT_PRINTED = frozenset({"steps", "per_label", "intervals"})

    run: str
    bundle: str
    metrics: Metrics
    task: Task
    metric: str
    epochs: float
    seconds: float
    samples_per_s: float
    workers: int
    steps: int
    per_label: dict[str, list[LabelFigures]]
    intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    shipped: Shipped | None = None

    def about(self) -> dict[str, str]:
        """Return the bundle, and the job's metric by split."""
        found = {"bundle": self.bundle, **_scores(self.metrics, self.metric)}
        return found | ({"training": self.shipped.line()} if self.shipped else {})


class Winner(TypedDict):
    """The winner of a search: its trial, picked settings, seed, metrics by split, warnings."""

    trial: int
    params: dict[str, Any]
    seed: int
    metrics: Metrics
    warnings: list[str]


class SearchOutcome(TypedDict):
    """The content of a search's `result.json`; see `TuneResult`."""

    run: str
    best: Winner
    job: str
    bundle: str
    trials: dict[str, int]
    failures: dict[str, str]
    finalists: list[dict[str, Any]]


@dataclass(frozen=True, repr=False)
class TuneResult(Result):
    """A finished search.

    Attributes:
        run: The search's folder.
        best: The winner.
        job: The winner's job file.
        bundle: The winner's bundle.
        trials: Number of trials that are done, stopped, failed.
        failures: Failure reasons by trial number.
        finalists: Each finalist's trial and its scores with new seeds, under the metric's name.
        metric: The metric that was optimised.
        task: multiclass or multilabel.
        seconds: Duration of this invocation.
    """

    run: str
    best: Winner
    job: str
    bundle: str
    trials: dict[str, int]
    failures: dict[str, str]
    finalists: list[dict[str, Any]]
    metric: str
    task: Task
    seconds: float

    def about(self) -> dict[str, str]:
        """Return the winner, its score by split, and the numbers of trials."""
        counts = ", ".join(f"{count} {state}" for state, count in self.trials.items())
        params = ", ".join(f"{name}={value}" for name, value in self.best["params"].items())
        winner = f"trial {self.best['trial']} ({params})"
        scores = _scores(self.best["metrics"], self.metric)
        return {"bundle": self.bundle, "winner": winner, **scores, "trials": counts}


@dataclass(frozen=True, repr=False)
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
        answered_by: Number of scored rows by the bundle of a cascade: small, large.
        cascade: What the cascade promises, and what its sample has shown.
        generations: Number of generations of a table that grows.
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
    answered_by: dict[str, int] = field(default_factory=dict)
    cascade: CascadeLimit | None = None
    generations: int = 1

    def about(self) -> dict[str, str]:
        """Return the table and its row counts."""
        answered = {f"rows of the {size} bundle": f"{n:,}" for size, n in self.answered_by.items()}
        return {
            "output": self.output,
            "rows scored": f"{self.rows_scored:,}",
            **answered,
            "rows quarantined": f"{self.rows_quarantined:,}",
        }


def _scores(metrics: Metrics, name: str) -> dict[str, str]:
    found = {split: figures.get(name) for split, figures in metrics.items()}
    return {f"{s} {name}": f"{value:.4f}" for s, value in found.items() if value is not None}
