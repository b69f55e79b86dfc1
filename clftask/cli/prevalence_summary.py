"""The result tables of `clftask prevalence`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

from clftask.cli.tables import Page
from clftask.commands.prevalence import GroupRows, LabelShare, Prevalence
from clftask.evaluation.prevalence import MIN_COUNT
from clftask.messages import counted

MAX_LABELS, MAX_GROUPS = 20, 10
NARROW = 74  # columns of the terminal


def prevalence_summary(result: Prevalence, file: IO[str]) -> None:
    """Print the shares of the labels in the corpus, and in its largest groups."""
    page = Page(file)
    for group in result.groups[: MAX_GROUPS + 1]:
        rows = [row for row in result.shares if row["group"] == group["group"]]
        _print_group(page, group, rows, result.by)
    if (more := len(result.groups) - MAX_GROUPS - 1) > 0:
        page.line(f"and {counted(more, 'more value')} of {result.by}: --json")
    page.line(f"naive: predicted labels; audit: {counted(result.audited, 'labelled row')} alone")
    page.line("share: prediction-powered inference, from both; intervals are of 95 %")
    page.line("worth: audited rows that the audit alone would need to be as certain as the share")
    if any(row["share"] is not None and not row["powered"] for row in result.shares):
        why = f"fewer than {MIN_COUNT} audited rows with the label, or without it"
        page.line(f"*: {why}: the share is that of the audit")
    for note in result.notes:
        page.line(f"note: {note}")
    page.warnings(result.warnings)


def _print_group(page: Page, group: GroupRows, rows: Sequence[LabelShare], by: str | None) -> None:
    heads = ["label", "naive", "audit", "95 %", "share", "95 %", "worth"]
    cells = [_cells(row) for row in rows[:MAX_LABELS]]
    if page.width < NARROW:
        heads, cells = heads[:2] + heads[4:6], [row[:2] + row[4:6] for row in cells]
    where = "" if group["group"] is None else f"{by} {group['group']}: "
    title = f"{where}{group['audited']:,} of {counted(group['rows'], 'row')} audited"
    captions = []
    if group["rows_to_halve"]:
        more = counted(group["rows_to_halve"], "more audited row")
        captions.append(f"{more} would halve the intervals")
    if len(rows) > MAX_LABELS:
        captions.append(f"{counted(len(rows) - MAX_LABELS, 'more label')}: --json")
    page.table(heads, cells, title, "; ".join(captions) or None)


def _cells(row: LabelShare) -> list[str]:
    mark = "" if row["powered"] or row["share"] is None else "*"
    return [
        row["label"],
        _percent(row["naive"]),
        _percent(row["sample"]),
        _range(row["sample_low"], row["sample_high"]),
        _percent(row["share"]) + mark,
        _range(row["low"], row["high"]),
        "" if row["worth"] is None else f"{row['worth']:,}",
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{100 * low:.2f}–{100 * high:.2f}"
