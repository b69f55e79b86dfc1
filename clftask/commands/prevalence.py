"""Shares of labels in a scored corpus, from its score table and an audit. Without Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from clftask.array_types import Array, Floats
from clftask.commands.audit import Audit, read_audit
from clftask.commands.corpus_sums import Corpus, ScoreRows, add_up, open_scores
from clftask.components.labels import Task
from clftask.errors import DataError, Problem
from clftask.evaluation.prevalence import Shares, rows_to_halve, shares
from clftask.messages import are, counted

FEW_ROWS = 100
NUM_NAMED = 5  # ids in a message
MIN_EQUAL = 20  # rows whose labels and predictions are suspiciously equal
ASSUMPTION = "the audit is taken as a uniform random sample of the scored rows"
Say = Callable[[str], None]


class LabelShare(TypedDict):
    """The share of a label in the corpus or a group, with 95 % intervals; None: no audited row.

    Attributes:
        group: The value of the column `by`; None: the whole corpus.
        naive: Share of the rows that are predicted to have the label.
        sample: Share in the audit; its interval is Wilson's.
        share: By prediction-powered inference; its interval.
        powered: False: the audit has too few rows with or without the label, so that `share` is
            `sample`.
        worth: The number of audited rows with which `sample` would be as certain as `share`.
        audited: Number of audited rows with the label.
    """

    label: str
    group: str | None
    naive: float
    sample: float | None
    sample_low: float | None
    sample_high: float | None
    share: float | None
    low: float | None
    high: float | None
    powered: bool
    worth: int | None
    audited: int


class GroupRows(TypedDict):
    """Rows of the corpus or a group: scored, audited; audited rows that halve the intervals."""

    group: str | None
    rows: int
    audited: int
    rows_to_halve: int | None


@dataclass(frozen=True)
class Prevalence:
    """The shares of labels in a corpus.

    Attributes:
        scores: The score table.
        task: multiclass or multilabel.
        by: The column of the groups, if there are any.
        rows: Number of scored rows.
        audited: Number of audited rows among them.
        rows_to_halve: How many more audited rows would halve the intervals.
        shares: The whole corpus first, then the groups, the largest first.
        groups: Their row counts, in the same order.
        notes: What the shares rest on.
        warnings: What may be wrong with the audit.
    """

    scores: str
    task: Task
    by: str | None
    rows: int
    audited: int
    rows_to_halve: int
    shares: list[LabelShare]
    groups: list[GroupRows]
    notes: list[str]
    warnings: list[str]

    def __repr__(self) -> str:
        about = f"{self.audited:,} of {counted(self.rows, 'row')} audited"
        return f"<Prevalence of {self.scores}: {about}>"

    def _repr_html_(self) -> str:
        return str(self.to_frame()._repr_html_())

    def to_frame(self) -> Any:
        """Return a DataFrame with one row per label and group, and the fields of `LabelShare`."""
        import pandas as pd

        return pd.DataFrame(self.shares)


def prevalence(
    scores: str,
    audit: Any,
    by: str | None = None,
    labels: str | None = None,
    split: str | None = None,
    delimiter: str | None = None,
    say: Say = lambda line: None,
) -> Prevalence:
    """Estimate the share of each label in a scored corpus.

    Args:
        scores: A complete score table with the layout wide or list.
        audit: A table or its path: ids and true labels of a random sample of its rows.
        by: A kept column: shares for each of its values, too.
        labels: The audit's column of labels; None: `label` or `labels`, or one column per label.
        split: Of a dataset that has several; None: test, or the first.
        delimiter: Between the labels of a row, if the column is text; None: `|`.
        say: Prints a line for the user.

    Raises:
        DataError: A table is missing, incomplete or damaged, or the two do not fit each other.
    """
    table = open_scores(scores, by)
    found = read_audit(audit, table, labels, split, delimiter, say)
    if not len(rows := (corpus := add_up(table, found.keys)).positions):
        raise DataError(_stranger(table, found))
    estimated = _of_groups(table.names, corpus, y := found.flags[rows])
    return Prevalence(
        scores=scores,
        task=table.task,
        by=by,
        rows=corpus.whole.num_rows,
        audited=len(rows),
        rows_to_halve=rows_to_halve(len(rows), corpus.whole.num_rows),
        shares=[row for _, own in estimated for row in own],
        groups=[counts for counts, _ in estimated],
        notes=_notes(table, corpus),
        warnings=[*found.warnings, *_warnings(table, found, corpus, y)],
    )


def _of_groups(
    names: tuple[str, ...], corpus: Corpus, y: Array
) -> list[tuple[GroupRows, list[LabelShare]]]:
    """Return the whole corpus, then its groups, the largest first."""
    grouped = sorted(corpus.groups.items(), key=lambda pair: (-pair[1].num_rows, pair[0]))
    parts = [(name, sums, corpus.group_of == name) for name, sums in grouped]
    estimated = []
    for name, sums, own in [(None, corpus.whole, np.ones(len(y), np.bool_)), *parts]:
        num, most = int(own.sum()), sums.num_rows
        found = shares(y[own], corpus.predicted[own], sums.mean, most) if num else None
        halve = rows_to_halve(num, most) if num else None
        counts = GroupRows(group=name, rows=most, audited=num, rows_to_halve=halve)
        estimated.append((counts, _label_shares(names, name, sums.naive, y[own], found)))
    return estimated


def _label_shares(
    names: tuple[str, ...], group: str | None, naive: Floats, y: Array, found: Shares | None
) -> list[LabelShare]:
    """Return the shares of one group, the most frequent label first."""
    rows: list[LabelShare] = []
    for i, name in enumerate(names):
        sample, powered = (found.sample, found.powered) if found else (None, None)
        rows.append(
            {
                "label": name,
                "group": group,
                "naive": float(naive[i]),
                "sample": float(sample.share[i]) if sample else None,
                "sample_low": float(sample.low[i]) if sample else None,
                "sample_high": float(sample.high[i]) if sample else None,
                "share": float(powered.share[i]) if powered else None,
                "low": float(powered.low[i]) if powered else None,
                "high": float(powered.high[i]) if powered else None,
                "powered": bool(found.is_powered[i]) if found else False,
                "worth": round(float(found.worth[i])) if found else None,
                "audited": int(y[:, i].sum()),
            }
        )
    return sorted(rows, key=lambda row: -(row["naive"] if row["share"] is None else row["share"]))


# ------------------------------------------------------------------ notes and warnings


def _notes(table: ScoreRows, corpus: Corpus) -> list[str]:
    found, counts = [ASSUMPTION], table.manifest.counts
    if table.task == "multiclass" and corpus.num_unlabelled:
        share = corpus.num_unlabelled / corpus.whole.num_rows
        abstained = counted(corpus.num_unlabelled, "row")
        found.append(f"the bundle abstains on {abstained} ({share:.1%}): no label counts them")
    for num, why in ((counts.rows_quarantined, "quarantined"), (counts.rows_filtered, "left out")):
        if num:
            found.append(f"{counted(num, 'row')} {are(num)} {why}: the shares are of scored rows")
    return found


def _warnings(table: ScoreRows, audit: Audit, corpus: Corpus, y: Array) -> list[str]:
    num, found = len(corpus.positions), []
    missing = audit.missing(corpus.positions)
    if missing:
        bad = table.num_quarantined(missing) if table.manifest.counts.rows_quarantined else 0
        where = f" ({bad:,} of them quarantined)" if bad else ""
        about = f"{counted(len(missing), 'audited row')} {are(len(missing))} not in the score table"
        found.append(f"{about}{where}, and not used: {_named(missing)}")
    if num < FEW_ROWS:
        about = f"only {counted(num, 'audited row')}: the intervals are wide, and rough"
        found.append(f"{about}; label 300 or more")
    if num >= MIN_EQUAL and np.array_equal(corpus.decided, y):
        found.append(
            "the labels of the audit are the predictions of the score table in all rows: "
            "they must be true labels"
        )
    return found


def _stranger(table: ScoreRows, audit: Audit) -> Problem:
    keys = audit.missing(np.array([], np.int64))
    columns = " and ".join(table.keys)
    allowed = f"contains no row of the score table; rows are found by {columns}"
    remedy = "Sample the rows from the score table."
    return Problem("AUDIT", _named(keys), allowed, remedy)


def _named(keys: list[str]) -> str:
    return ", ".join(keys[:NUM_NAMED]) + (" …" if len(keys) > NUM_NAMED else "")
