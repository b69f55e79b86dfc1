"""The tables of `--estimate`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import IO, TYPE_CHECKING

from pydantic import ByteSize
from rich.console import Console
from rich.table import Table

from clftask.cli.summaries import console_on
from clftask.messages import counted, printable

if TYPE_CHECKING:
    from clftask.estimate.measure import Range
    from clftask.estimate.score import ScoreEstimate
    from clftask.estimate.tune import TuneEstimate

Rows = Iterable[tuple[str, ...]]


def score_estimate(found: ScoreEstimate, file: IO[str]) -> None:
    """Print the estimate of a scoring job."""
    console = console_on(file)
    if not found.rows_left:
        console.print(f"nothing is left to be scored: {printable(found.output)}", soft_wrap=True)
        return
    done = f", {found.rows_done:,} are done" if found.rows_done else ""
    shards = counted(found.shards_left, "shard")
    rows = [
        (f"time with {counted(found.workers, 'worker')}", _range(found.seconds)),
        ("start", _time(found.start_s)),
        (
            "rows to score",
            f"{'about ' * bool(found.rows_filtered)}{found.rows_left:,} in {shards}{done}",
        ),
        *_filtered(found),
        ("rows/s of a worker", f"{found.rows_per_s:,.1f} on {found.device}"),
        ("measured", counted(found.rows_measured, "row")),
        ("bad rows", f"{found.rows_bad:,} of {counted(found.rows_read, 'row')} read"),
        ("output size", _bytes(found.bytes_written)),
    ]
    console.print(_table("estimate", ("", ""), rows))
    _print_end(console, "workers", found.by_workers, found.warnings, found.not_measured)


def _filtered(found: ScoreEstimate) -> Rows:
    total = found.rows_read + found.rows_filtered
    if found.rows_filtered:
        yield "kept by input.where", f"{found.rows_read / total:.1%} of {counted(total, 'row')}"


def tune_estimate(found: TuneEstimate, file: IO[str]) -> None:
    """Print the estimate of a search."""
    console = console_on(file)
    if not found.trials_left and not found.finalists_left:
        console.print("nothing is left to be trained")
        return
    for kind in found.kinds:
        cost, trials = kind.cost, counted(len(kind.numbers), "trial")
        epoch = f"{cost.epoch_s:.3g} s an epoch" if cost else "not measured: the mean is used"
        failed = bool(cost and cost.reason)
        console.print(f"{trials}, {printable(str(kind))}: {'fails' if failed else epoch}")
    epochs, budget = found.epochs, found.time_budget_s
    within = f", time_budget {_time(budget)}" if budget else ""
    limit = f", storage_budget {_bytes(found.storage_budget)}" if found.storage_budget else ""
    rows = [
        (f"time, {counted(found.concurrency, 'trial')} at a time", _range(found.seconds)),
        ("start", _time(found.start_s)),
        (
            f"{counted(found.trials_left, 'trial')} on {found.device}",
            _time(found.search_s) + within,
        ),
        ("epochs of these trials", f"{epochs.typical:,.0f}, at most {epochs.high:,.0f}"),
        (counted(found.finalists_left, "finalist"), _time(found.finalists_s)),
        ("writing the bundle", _time(found.publish_s)),
        ("on disk at most", _bytes(found.bytes_stored) + limit),
    ]
    console.print(_table("estimate", ("", ""), rows))
    _print_end(
        console, "trials at a time", found.by_concurrency, found.warnings, found.not_measured
    )


def _print_end(
    console: Console,
    name: str,
    seconds: dict[int, float],
    warnings: Iterable[str],
    not_measured: Iterable[str],
) -> None:
    rows = ((str(count), _time(value)) for count, value in seconds.items())
    console.print(_table("", (name, "typically"), rows))
    for line in warnings:
        console.print(f"warning: {printable(line)}", soft_wrap=True)
    console.print(f"not measured: {'; '.join(not_measured)}", soft_wrap=True)


def _table(title: str, columns: tuple[str, ...], rows: Rows) -> Table:
    table = Table(title=title or None, show_header=any(columns))
    for name in columns:
        table.add_column(name, justify="right" if name else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _range(seconds: Range) -> str:
    bounds = f"{_time(seconds.low)} to {_time(seconds.high)}"
    return f"{bounds}, typically {_time(seconds.typical)}"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _bytes(count: int) -> str:
    return ByteSize(count).human_readable(decimal=True)
