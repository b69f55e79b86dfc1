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
        outcome: The content of `metrics.json`.
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
    return render(
        "bundle.html",
        title=f"{meta.task.capitalize()} classifier with {len(meta.label_names)} labels",
        lead=bundle_tables.lead(meta),
        where=subject.where,
        part=subject.part,
        **_summary(subject),
        **_data(subject),
        **_learning(subject),
        **_labels(subject),
        curves=[drawn(plot) for plot in _curves(subject)],
        **_confusion(subject),
        **_hardest(subject),
        lengths=_lengths(subject),
    )


def _summary(subject: Subject) -> dict[str, Any]:
    metrics, intervals = subject.outcome["metrics"], subject.outcome.get("intervals", {})
    own = subject.meta.job["training"]["metric"]
    available = (name for found in metrics.values() for name in found)
    names = headline_names(subject.meta.task, own, available)
    return {
        "facts": bundle_tables.facts(subject.outcome, subject.meta, subject.split, own),
        "decision": bundle_tables.decision(subject.found.decision, subject.meta),
        "cautions": subject.found.warnings,
        "headline": bundle_tables.metrics(metrics, intervals, own, names),
        "metrics": bundle_tables.metrics(metrics, intervals, own),
    }


def _data(subject: Subject) -> dict[str, Any]:
    return {
        "splits": bundle_tables.splits(subject.meta.data["report"]),
        "warnings": bundle_tables.warnings(subject.meta.data),
        "counts": drawn(learning_plots.label_counts(subject.meta.data["report"]["label_counts"])),
    }


def _learning(subject: Subject) -> dict[str, Any]:
    best, metric = subject.outcome.get("best_step"), subject.meta.job["training"]["metric"]
    if not subject.records:
        return {"losses": None, "scores": None}
    return {
        "losses": drawn(learning_plots.losses(subject.records, best)),
        "scores": drawn(learning_plots.scores(subject.records, metric, best, subject.space.task)),
    }


def _labels(subject: Subject) -> dict[str, Any]:
    rows = subject.outcome["per_label"][subject.split]
    train = subject.meta.data["report"]["label_counts"]["train"]
    table = bundle_tables.labels(rows, average_precisions(subject.sample), train)
    return {"labels": table}


def _curves(subject: Subject) -> list[Plot]:
    sample, space = subject.sample, subject.space
    found = [
        decision_plots.precision_recalls(sample, space),
        decision_plots.calibration(sample, space),
        decision_plots.thresholds(sample, subject.found.decision, space),
    ]
    return [_on(subject, plot) for plot in found]


def _on(subject: Subject, plot: Plot) -> Plot:
    """Add the rows it shows to a plot's caption."""
    part = f", {subject.part}" if subject.part else ""
    return plot.with_aid(f"{plot.aid} On {subject.where}{part}.")


def _confusion(subject: Subject) -> dict[str, Any]:
    counts, space = subject.confusions, subject.space
    plot = decision_plots.confusion(subject.sample, counts, space)
    misses = (subject.sample.targets & ~subject.sample.decided).sum(0)
    pairs = bundle_tables.pairs(counts, misses, space.names, NUM_PAIRS)
    return {"confusion": drawn(_on(subject, plot)), "pairs": pairs}


def _hardest(subject: Subject) -> dict[str, Any]:
    rows, outcome = subject.found.rows[subject.split], subject.found.outcomes[subject.split]
    found = surprises(outcome.probabilities, rows.targets, subject.space.task, NUM_SURPRISES)
    return {"hardest": bundle_tables.hardest(found, rows, outcome, subject.space)}


def _lengths(subject: Subject) -> dict[str, Any] | None:
    bins = subject.outcome.get("by_length", {}).get(subject.split)
    if not bins:
        return None
    plot = learning_plots.lengths(bins)
    return drawn(plot.with_aid(f"{plot.aid} On {subject.where}."))  # all rows, not the sample
