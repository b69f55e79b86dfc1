"""The tables of `--estimate`."""

from __future__ import annotations

from datetime import timedelta
from typing import IO, TYPE_CHECKING

from pydantic import ByteSize

from clftask.cli.tables import Page
from clftask.messages import counted

if TYPE_CHECKING:
    from clftask.estimate.measure import Range
    from clftask.estimate.score import ScoreEstimate
    from clftask.estimate.tune import TuneEstimate


def score_estimate(found: ScoreEstimate, file: IO[str]) -> None:
    """Print the estimate of a scoring job."""
    page = Page(file)
    if not found.rows_left:
        page.line(f"nothing is left to be scored: {found.output}")
        return
    done = f", {found.rows_done:,} are done" if found.rows_done else ""
    about, shards = "about " * bool(found.rows_filtered), counted(found.shards_left, "shard")
    total = found.rows_read + found.rows_filtered
    rows = {
        f"time with {counted(found.workers, 'worker')}": _range(found.seconds),
        "start": _time(found.start_s),
        "rows to score": f"{about}{found.rows_left:,} in {shards}{done}",
        "kept by input.where": f"{found.rows_read / total:.1%} of {counted(total, 'row')}",
        "rows/s of a worker": f"{found.rows_per_s:,.1f} on {found.device}",
        "measured": counted(found.rows_measured, "row"),
        "bad rows": f"{found.rows_bad:,} of {counted(found.rows_read, 'row')} read",
        "output size": _bytes(found.bytes_written),
    }
    if not found.rows_filtered:
        del rows["kept by input.where"]
    page.pairs(rows.items(), "estimate")
    _print_end(page, "workers", found.by_workers, found)


def tune_estimate(found: TuneEstimate, file: IO[str]) -> None:
    """Print the estimate of a search."""
    page = Page(file)
    if not found.trials_left and not found.finalists_left:
        page.line("nothing is left to be trained")
        return
    for kind in found.kinds:
        cost = kind.cost
        epoch = f"{cost.epoch_s:.3g} s an epoch" if cost else "not measured: the mean is used"
        state = "fails" if cost and cost.reason else epoch
        page.line(f"{counted(len(kind.numbers), 'trial')}, {kind}: {state}")
    epochs, budget = found.epochs, found.time_budget_s
    within = f", time_budget {_time(budget)}" if budget else ""
    limit = f", storage_budget {_bytes(found.storage_budget)}" if found.storage_budget else ""
    rows = {
        f"time, {counted(found.concurrency, 'trial')} at a time": _range(found.seconds),
        "start": _time(found.start_s),
        f"{counted(found.trials_left, 'trial')} on {found.device}": _time(found.search_s) + within,
        "epochs of these trials": f"{epochs.typical:,.0f}, at most {epochs.high:,.0f}",
        counted(found.finalists_left, "finalist"): _time(found.finalists_s),
        "writing the bundle": _time(found.publish_s),
        "on disk at most": _bytes(found.bytes_stored) + limit,
    }
    page.pairs(rows.items(), "estimate")
    _print_end(page, "trials at a time", found.by_concurrency, found)


def _print_end(
    page: Page, name: str, seconds: dict[int, float], found: ScoreEstimate | TuneEstimate
) -> None:
    rows = [(str(count), _time(value)) for count, value in seconds.items()]
    page.table((name, "typically"), rows, texts=())
    page.warnings(found.warnings)
    page.line(f"not measured: {'; '.join(found.not_measured)}")


def _range(seconds: Range) -> str:
    bounds = f"{_time(seconds.low)} to {_time(seconds.high)}"
    return f"{bounds}, typically {_time(seconds.typical)}"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _bytes(count: int) -> str:
    return ByteSize(count).human_readable(decimal=True)
