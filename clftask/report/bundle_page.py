"""The report of a bundle: training data, metrics, errors."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from clftask.components.labels import LabelSpace
from clftask.evaluation.diagnostics import Sample, average_precisions, replacements, surprises
from clftask.evaluation.evaluate import Evaluated
from clftask.models.bundle_meta import BundleMeta
from clftask.report import bundle_tables, decision_plots, learning_plots
from clftask.report.headline import headline_names
from clftask.report.learning_plots import Records
from clftask.report.page import render
from clftask.report.plotting import Plot, drawn

NUM_SURPRISES, NUM_PAIRS = 50, 15


@dataclass(frozen=True)
class Subject:
    """The data of one report.

    Attributes:
        meta: The bundle's description.
        found: Its decision, evaluated on labelled rows.
        outcome: The content of `metrics.json`: epochs, seconds, workers and best_step.
        records: Training log: step and epoch with loss, or with eval_ metrics; may be empty.
    """

    meta: BundleMeta
    found: Evaluated
    outcome: dict[str, Any]
    records: Records

    @property
    def space(self) -> LabelSpace:
        """The labels."""
        return self.meta.space

    @property
    def metric(self) -> str:
        """The job's metric."""
        return str(self.meta.job["training"]["metric"])

    @property
    def split(self) -> str:
        """The split shown in the plots."""
        return "test" if "test" in self.found.rows else "validation"

    @property
    def where(self) -> str:
        """The split, in words."""
        return self.split if self.split == "test" else "validation, cross-fitted"

    @cached_property
    def sample(self) -> Sample:
        """A sample of the split's rows."""
        rows = self.found.rows[self.split]
        outcome = self.found.outcomes[self.split]
        return Sample.of(rows.logits, outcome, rows.targets, self.space.task)

    @property
    def part(self) -> str:
        """The size of the sample in words; empty if it contains all rows."""
        drawn_rows, rows = len(self.sample.targets), self.sample.num_rows
        return f"{drawn_rows:,} of {rows:,} rows" if drawn_rows < rows else ""

    @cached_property
    def confusions(self) -> Any:
        """(labels, labels) counts of rows by true and wrongly predicted label."""
        return replacements(self.sample.decided, self.sample.targets)

    def drawn(self, plot: Plot) -> dict[str, Any]:
        """Draw a plot of the sample, with its rows in the caption."""
        part = f", {self.part}" if self.part else ""
        return drawn(plot.with_aid(f"{plot.aid} On {self.where}{part}."))


def page_of(
    meta: BundleMeta,
    found: Evaluated,
    outcome: dict[str, Any],
    records: Records,
    say: Callable[[str], None],
) -> str:
    """Return the page, or one with the error: a failed report must not fail a training run.

    Args:
        meta: The bundle's description.
        found: Its decision, evaluated on labelled rows.
        outcome: The content of `metrics.json`.
        records: Training log; see `Subject`.
        say: Receives the error message.
    """
    try:
        return classifier_page(meta, found, outcome, records)
    except Exception as error:  # any error: the bundle matters more
        reason = f"{type(error).__name__}: {error}"
        say(f"report.html could not be rendered: {reason}")
        return f"<!doctype html><meta charset=utf-8><p>No report: {html.escape(reason)}</p>"


def classifier_page(
    meta: BundleMeta, found: Evaluated, outcome: dict[str, Any], records: Records
) -> str:
    """Return a self-contained HTML page; see `page_of`."""
    subject = Subject(meta, found, outcome, records)
    available = (name for figures in found.figures.values() for name in figures.metrics)
    headline = headline_names(meta.task, subject.metric, available)
    return render(
        "bundle.html",
        title=f"{meta.task.capitalize()} classifier with {len(meta.label_names)} labels",
        lead=bundle_tables.lead(meta),
        where=subject.where,
        part=subject.part,
        facts=bundle_tables.facts(found, outcome, meta, subject.split, subject.metric),
        decision=bundle_tables.decision(found.decision, meta),
        cautions=found.warnings,
        headline=bundle_tables.metrics(found.figures, subject.metric, headline),
        metrics=bundle_tables.metrics(found.figures, subject.metric),
        splits=bundle_tables.splits(meta.data["report"]),
        warnings=bundle_tables.warnings(meta.data),
        counts=drawn(learning_plots.label_counts(meta.data["report"]["label_counts"])),
        **_learning(subject),
        **_of_split(subject),
    )


def _learning(subject: Subject) -> dict[str, Any]:
    best, records = subject.outcome.get("best_step"), subject.records
    if not records:
        return {"losses": None, "scores": None}
    scores = learning_plots.scores(records, subject.metric, best, subject.space.task)
    return {"losses": drawn(learning_plots.losses(records, best)), "scores": drawn(scores)}


def _of_split(subject: Subject) -> dict[str, Any]:
    """Return the parts on the rows of the split that is shown."""
    sample, space, counts = subject.sample, subject.space, subject.confusions
    found, split = subject.found, subject.split
    rows, outcome, figures = found.rows[split], found.outcomes[split], found.figures[split]
    train = subject.meta.data["report"]["label_counts"]["train"]
    misses = (sample.targets & ~sample.decided).sum(0)
    hardest = surprises(outcome.probabilities, rows.targets, space.task, NUM_SURPRISES)
    lengths = learning_plots.lengths(figures.by_length) if figures.by_length else None
    curves = [
        decision_plots.precision_recalls(sample, space),
        decision_plots.calibration(sample, space),
        decision_plots.thresholds(sample, found.decision, space),
    ]
    return {
        "labels": bundle_tables.labels(figures.per_label, average_precisions(sample), train),
        "curves": [subject.drawn(plot) for plot in curves],
        "confusion": subject.drawn(decision_plots.confusion(sample, counts, space)),
        "pairs": bundle_tables.pairs(counts, misses, space.names, NUM_PAIRS),
        "hardest": bundle_tables.hardest(hardest, rows, outcome, space),
        # Of all rows, not of the sample.
        "lengths": lengths and drawn(lengths.with_aid(f"{lengths.aid} On {subject.where}.")),
    }
