"""The tables of `inspect`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from clftask.cli.summaries import escaped, inspect_summary
from clftask.messages import counted

if TYPE_CHECKING:
    from clftask.commands.inspect_data import CorpusData, TrainData

MAX_LABELS = 20  # of these, half are the most frequent and half the rarest
MAX_NAMES = 10
NOT_SHOWN = ("running",)  # the state says it in words
MAX_WARNINGS = 20
LENGTHS = {"median": "median", "p95": "95 %", "longest": "longest"}
SHARES = {"truncated": "truncated", "lost": "tokens lost"}


def path_summary(found: dict[str, Any], file: IO[str]) -> None:
    """Print the result of `inspect`."""
    if found["kind"] == "table":
        table_summary(found, file)
        return
    shown = {name: value for name, value in found.items() if name not in NOT_SHOWN}
    if last := shown.get("last record"):
        shown["last record"] = {name: value for name, value in last.items() if name != "time"}
    inspect_summary(shown, file)


def table_summary(found: dict[str, Any], file: IO[str]) -> None:
    """Print the columns of a table."""
    console = Console(file=file, highlight=False)
    rows = ", ".join(f"{count:,} {split}" for split, count in found["rows"].items())
    total = (
        counted(sum(found["rows"].values()), "row") if len(found["rows"]) == 1 else f"{rows} rows"
    )
    files = counted(found["files"], "file")
    console.print(f"{escaped(found['path'])}: {files}, {total}", soft_wrap=True)
    first, num_rows = next(iter(found["rows"].items()))
    of = f" of {first}" if len(found["rows"]) > 1 else ""
    is_part = found["rows_read"] < num_rows
    caption = (
        f"columns{of}, from the first {counted(found['rows_read'], 'row')}" if is_part else None
    )
    table = Table(caption=caption)
    for name in ("column", "type", "missing", "distinct", "looks like", "examples"):
        table.add_column(name, justify="right" if name in ("missing", "distinct") else "left")
    for column in found["columns"]:
        distinct = "> 1,000" if column["distinct"] is None else f"{column['distinct']:,}"
        texts = column["looks_like"], ", ".join(column["examples"])
        kind = column["type"].replace("element: ", "").replace("item: ", "")
        cells = escaped(column["name"]), escaped(kind), f"{column['missing']:,}", distinct
        table.add_row(*cells, *map(escaped, texts))
    console.print(table)
    _print_warnings(console, found["warnings"])
    if found["job"]:
        console.print(f"a job could begin with\n  {escaped(found['job'])}", soft_wrap=True)


def data_summary(found: TrainData | CorpusData, file: IO[str]) -> None:
    """Print the data of a job."""
    console = Console(file=file, highlight=False)
    _print_corpus(found, console) if hasattr(found, "sampled") else _print_train(found, console)


def _print_train(found: Any, console: Console) -> None:
    lengths, unit = _lengths(found)
    by_split = {split: (f"{n:,}", lengths[split]) for split, n in found.rows.items()}
    console.print(_length_table(by_split, "split", unit, found.max_length))
    if found.groups:
        groups = ", ".join(f"{count:,} {split}" for split, count in found.groups.items())
        console.print(f"groups: {groups}")
    shown, caption = _chosen(found.labels)
    per_row = f"{counted(len(found.labels), 'label')}, {found.labels_per_row:.2f} a row"
    table = Table(title=per_row, caption=caption)
    table.add_column("label")
    for split in found.rows:
        table.add_column(split, justify="right")
    table.add_column("share of train", justify="right")
    for name, counts in shown:
        share = counts["train"] / found.rows["train"]
        table.add_row(escaped(name), *(f"{n:,}" for n in counts.values()), f"{share:.1%}")
    console.print(table)
    _print_warnings(console, [*_label_lines(found), *found.warnings, *found.duplicates.lines()])


def _chosen(
    labels: dict[str, dict[str, int]],
) -> tuple[list[tuple[str, dict[str, int]]], str | None]:
    """Return the labels to show, the most frequent first, and a caption for the others."""
    ordered = sorted(labels.items(), key=lambda pair: -pair[1]["train"])
    left_out = len(ordered) - MAX_LABELS
    if left_out <= 0:
        return ordered, None
    half = MAX_LABELS // 2
    caption = f"the {half} most frequent and the {half} rarest; {left_out:,} between them"
    return ordered[:half] + ordered[-half:], caption


def _label_lines(found: Any) -> list[str]:
    lines = []
    for split, missing in found.labels_not_in.items():
        if missing:
            what = counted(len(missing), "label")
            lines.append(f"warning: {what} not in {split}: {_names(missing)}")
    return lines


def _names(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:MAX_NAMES]) + (" …" if len(every) > MAX_NAMES else "")


def _print_corpus(found: Any, console: Console) -> None:
    totals = Table(show_header=False)
    totals.add_row("files", f"{found.files:,}")
    totals.add_row("rows", f"{found.rows:,}")
    totals.add_row("text", escaped(", ".join(found.text)))
    columns = ", ".join(f"{name}: {kind}" for name, kind in found.columns.items())
    totals.add_row("columns", escaped(columns))
    for reason, count in found.bad.items():
        totals.add_row("bad rows", f"{count:,} of {found.sampled:,} sampled: {escaped(reason)}")
    console.print(totals)
    if found.characters:
        lengths = {"": (f"{found.sampled:,}", found.tokens)}
        console.print(_length_table(lengths, "sample", "tokens", found.max_length))
    _print_warnings(console, found.warnings)


def _lengths(found: Any) -> tuple[dict[str, dict[str, float]], str]:
    return (found.tokens, "tokens") if found.tokens else (found.characters, "characters")


def _length_table(
    rows: dict[str, tuple[str, dict[str, float]]], first: str, unit: str, max_length: int
) -> Table:
    """Return row counts and text lengths.

    Args:
        rows: By the name of the part: its row count and its figures.
        first: The heading of the names.
        unit: tokens or characters.
        max_length: The tokens that are read.
    """
    is_tokens = unit == "tokens"
    caption = f"length in {unit}" + (f"; max_length is {max_length}" if is_tokens else "")
    table = Table(caption=caption)
    table.add_column(first)
    for name in ("rows", *LENGTHS.values(), *(SHARES.values() if is_tokens else ())):
        table.add_column(name, justify="right")
    for name, (count, figures) in rows.items():
        lengths = [f"{figures[key]:,.0f}" for key in LENGTHS]
        shares = [f"{figures[key]:.1%}" for key in SHARES if is_tokens]
        table.add_row(name, count, *lengths, *shares)
    return table


def _print_warnings(console: Console, lines: list[str]) -> None:
    for line in lines[:MAX_WARNINGS]:
        console.print(escaped(line), soft_wrap=True)
