"""The tables of `inspect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any

from clftask.cli.summaries import print_metrics
from clftask.cli.tables import Page
from clftask.commands.description import Description, Measured
from clftask.commands.inspect import GenerationOfTable, ScoreTable
from clftask.commands.inspect_data import CorpusData, Figures, TrainData
from clftask.commands.inspect_table import TableSummary
from clftask.messages import counted, shown_label

MAX_LABELS = 20  # of these, half are the most frequent and half the rarest
MAX_NAMES, MAX_WARNINGS = 10, 20
MAX_GENERATIONS = 20
NOT_SHOWN = ("running", "complete")  # the state says it in words
OWN_TABLES = ("metrics", "warnings", "generations")
LENGTHS = {"median": "median", "p95": "95 %", "longest": "longest"}
SHARES = {"truncated": "truncated", "lost": "tokens lost"}


def path_summary(
    found: Description | TableSummary, file: IO[str], all_metrics: bool = False
) -> None:
    """Print the result of `inspect`: names and values, and the metrics that training prints."""
    page = Page(file)
    if isinstance(found, TableSummary):
        _print_table(page, found)
        return
    shown = {n: v for n, v in found.as_json().items() if n not in (*NOT_SHOWN, *OWN_TABLES)}
    if last := shown.get("last record"):
        shown["last record"] = {name: value for name, value in last.items() if name != "time"}
    page.pairs((name, _in_words(value)) for name, value in shown.items())
    if isinstance(found, Measured):
        if found.metrics:
            of_job = found.task, found.metric or "", all_metrics
            print_metrics(page, found.metrics, {}, *of_job)
        page.warnings(found.warnings)
    if isinstance(found, ScoreTable) and found.generations:
        _print_generations(page, found.generations)


def _print_generations(page: Page, found: Sequence[GenerationOfTable]) -> None:
    """Print the newest generations of a score table."""
    cells = [
        (str(one["generation"]), one["planned"][:16].replace("T", " ") or "unknown",
         f"{one['files']:,}", f"{one['parts']:,}", f"{one['rows']:,}",
         "yes" if one["complete"] else "no")
        for one in found[-MAX_GENERATIONS:]
    ]  # fmt: skip
    earlier = len(found) - len(cells)
    caption = f"after {counted(earlier, 'earlier generation')}" if earlier else None
    heads = ("generation", "planned (UTC)", "files", "parts", "rows", "complete")
    page.table(heads, cells, caption=caption, texts=("planned (UTC)", "complete"))


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _print_table(page: Page, found: TableSummary) -> None:
    """Print the columns of a table."""
    (first, num_rows), *others = found.rows.items()
    rows = f"{_by_split(found.rows)} rows" if others else counted(num_rows, "row")
    page.line(f"{found.path}: {counted(found.files, 'file')}, {rows}")
    part = f"columns{f' of {first}' if others else ''}, from the first"
    caption = f"{part} {counted(found.rows_read, 'row')}" if found.rows_read < num_rows else None
    cells = [
        (
            column.name,
            column.type.replace("element: ", "").replace("item: ", ""),
            f"{column.missing:,}",
            "> 1,000" if column.distinct is None else f"{column.distinct:,}",
            column.looks_like,
            ", ".join(column.examples),
        )
        for column in found.columns
    ]
    heads = ("column", "type", "missing", "distinct", "looks like", "examples")
    texts = ("column", "type", "looks like", "examples")
    page.table(heads, cells, caption=caption, texts=texts)
    _print_warnings(page, found.warnings)
    if found.job:
        page.line("a job could begin with")
        page.line(f"  {found.job}")


def _by_split(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in counts.items())


def data_summary(found: TrainData | CorpusData, file: IO[str]) -> None:
    """Print the data of a job."""
    page = Page(file)
    _print_corpus(page, found) if isinstance(found, CorpusData) else _print_train(page, found)


def _print_train(page: Page, found: TrainData) -> None:
    lengths = found.tokens or found.characters
    by_split = {split: (count, lengths[split]) for split, count in found.rows.items()}
    _print_lengths(page, by_split, "split", found.max_length if found.tokens else None)
    if found.groups:
        page.line(f"groups: {_by_split(found.groups)}")
    for note in found.notes:
        page.line(note)
    ordered = sorted(found.labels.items(), key=lambda pair: -pair[1]["train"])
    half, caption = MAX_LABELS // 2, None
    if between := max(0, len(ordered) - MAX_LABELS):
        caption = f"the {half} most frequent and the {half} rarest; {between:,} between them"
        ordered = ordered[:half] + ordered[-half:]
    cells = [
        (shown_label(name), *(f"{count:,}" for count in counts.values()),
         f"{counts['train'] / found.rows['train']:.1%}")
        for name, counts in ordered
    ]  # fmt: skip
    per_row = f"{counted(len(found.labels), 'label')}, {found.labels_per_row:.2f} a row"
    page.table(("label", *found.rows, "share of train"), cells, per_row, caption)
    _print_warnings(page, [*_label_lines(found), *found.warnings, *found.duplicates.lines()])


def _label_lines(found: TrainData) -> list[str]:
    lines = []
    for split, missing in found.labels_not_in.items():
        if missing:
            shown = ", ".join(map(shown_label, missing[:MAX_NAMES]))
            names = shown + (" …" if len(missing) > MAX_NAMES else "")
            lines.append(f"warning: {counted(len(missing), 'label')} not in {split}: {names}")
    return lines


def _print_corpus(page: Page, found: CorpusData) -> None:
    rows = [("files", f"{found.files:,}"), ("rows", f"{found.rows:,}")]
    if found.filtered is not None:
        num_read = counted(found.sampled + found.filtered, "sampled row")
        rows.append(("left out by input.where", f"{found.filtered:,} of {num_read}"))
    rows.append(("text", ", ".join(found.text)))
    rows.append(("columns", ", ".join(f"{name}: {kind}" for name, kind in found.columns.items())))
    for reason, count in found.bad.items():
        rows.append(("bad rows", f"{count:,} of {found.sampled:,} sampled: {reason}"))
    page.pairs(rows)
    if found.characters:
        lengths = found.tokens or found.characters
        limit = found.max_length if found.tokens else None
        _print_lengths(page, {"": (found.sampled, lengths)}, "sample", limit)
    _print_warnings(page, found.warnings)


def _print_lengths(
    page: Page, parts: Mapping[str, tuple[int, Figures]], first: str, max_length: int | None
) -> None:
    """Print row counts and text lengths.

    Args:
        page: Where to.
        parts: By the name of the part: its row count and its figures.
        first: The heading of the names.
        max_length: The tokens that are read; None if the lengths are in characters.
    """
    shares = {} if max_length is None else SHARES
    caption = f"length in tokens; max_length is {max_length}" if shares else "length in characters"
    cells = [
        (name, f"{count:,}", *(f"{figures[key]:,.0f}" for key in LENGTHS),
         *(f"{figures[key]:.1%}" for key in shares))
        for name, (count, figures) in parts.items()
    ]  # fmt: skip
    page.table((first, "rows", *LENGTHS.values(), *shares.values()), cells, caption=caption)


def _print_warnings(page: Page, lines: Sequence[str]) -> None:
    for line in lines[:MAX_WARNINGS]:
        page.line(line)
