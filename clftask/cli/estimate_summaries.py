"""What the terminal shows of an estimate."""

from __future__ import annotations

from datetime import timedelta
from typing import IO, Any

from pydantic import ByteSize
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clftask.messages import counted


def score_estimate(found: dict[str, Any], file: IO[str]) -> None:
    """Print what scoring a corpus will take."""
    console = Console(file=file, highlight=False)
    if not found["rows_left"]:
        console.print(f"nothing is left to be scored: {escape(found['output'])}", soft_wrap=True)
        return
    table = Table(title="estimate", show_header=False)
    for name, value in _score_rows(found):
        table.add_row(name, value)
    console.print(table)
    title = f"workers with {_cpus(found)} each"
    workers = Table(title=title, caption=_within_an_hour(found))
    for name in ("workers", "time"):
        workers.add_column(name, justify="right")
    for row in found["by_workers"]:
        is_own = row["workers"] == found["workers"]
        style = "bold" if is_own else None
        workers.add_row(str(row["workers"]), _time(row["seconds"]), style=style)
    console.print(workers)
    _end(found, console)


def _score_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    sample = found["sample"]
    low, high = found["rows_per_s_interval"]
    spread = "" if low is None else f" (95 %: {low:,.1f} … {_or_more(high)})"
    shards = counted(found["shards_left"], "shard")
    done = f", {found['rows_done']:,} done before" if found["rows_done"] else ""
    measured = counted(sample["rows_measured"], "row")
    compiled = ", compiled" if found["compiled"] else ""
    return [
        ("rows to score", f"{found['rows_left']:,} in {shards}{done}"),
        ("measured", f"{measured}, from {counted(sample['places'], 'place')} of the corpus"),
        ("on", f"{found['device']}, {found['precision']}{compiled}, {_cpus(found)}"),
        ("rows/s of a worker", f"{found['rows_per_s']:,.1f}{spread}"),
        ("start of a worker", f"{_time(found['startup_s'])} to open the bundle"),
        ("work", f"{found['worker_hours']:,.2f} hours of a worker"),
        (f"time of {counted(found['workers'], 'worker')}", _time(found["seconds"])),
        ("to read", _bytes(found["bytes_read"])),
        ("to write", f"{_bytes(found['bytes_written'])}, {found['bytes_per_row']:,.0f} a row"),
        ("truncated", f"{sample['truncated']:.1%} of the rows"),
        ("bad rows", f"{sample['rows_bad']:,} of {counted(sample['rows_read'], 'row')} read"),
    ]


def _or_more(high: float | None) -> str:
    return "?" if high is None else f"{high:,.1f}"


def _within_an_hour(found: dict[str, Any]) -> str:
    count = found["workers_for_one_hour"]
    if count is None:
        return "no number of workers does it in one hour: a shard takes longer"
    return f"in one hour: {counted(count, 'worker')}"


def tune_estimate(found: dict[str, Any], file: IO[str]) -> None:
    """Print what a search will take."""
    console = Console(file=file, highlight=False)
    if not found["trials_left"] and not found["finalists_left"]:
        console.print("nothing is left to be trained")
        return
    console.print(_kind_table(found))
    table = Table(title="estimate")
    for name in ("", "typically", "at most"):
        table.add_column(name, justify="right" if name else "left")
    for row in _tune_rows(found):
        table.add_row(*row)
    console.print(table)
    times = Table(title="time")
    for name in ("trials at a time", "typically", "at most"):
        times.add_column(name, justify="right")
    for row in found["by_concurrency"]:
        style = "bold" if row["concurrency"] == found["concurrency"] else None
        cells = _time(row["typical"]), _time(row["at_most"])
        times.add_row(str(row["concurrency"]), *cells, style=style)
    console.print(times)
    _end(found, console)


def _kind_table(found: dict[str, Any]) -> Table:
    left_out = found["kinds_not_measured"]
    caption = f"{counted(left_out, 'more kind')}: taken to cost the mean" if left_out else None
    table = Table(title=f"measured on {found['device']}, {_cpus(found)}", caption=caption)
    for path in found["kinds"][0]["fields"]:
        table.add_column(escape(path))
    for name in ("trials", "steps", "s a step", "s an epoch"):
        table.add_column(name, justify="right")
    for kind in found["kinds"]:
        figures = [f"{kind['seconds_per_step']:.3g}", f"{kind['seconds_per_epoch']:.3g}"]
        cells = [f"{kind['steps']:,}", *figures] if not kind["fails"] else ["", "", "fails"]
        values = [escape(str(value)) for value in kind["fields"].values()]
        table.add_row(*values, str(kind["trials"]), *cells)
    return table


def _tune_rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    epochs, finalists = found["epochs"], counted(found["finalists_left"], "finalist")
    trials = counted(found["trials_left"], "trial")
    whole = f"all, {counted(found['concurrency'], 'trial')} at a time"
    rows = [(f"epochs of {trials}", f"{epochs['typical']:,.0f}", f"{epochs['at_most']:,.0f}")]
    again = f"{epochs['finalists']:,}"
    rows.append((f"epochs of {finalists}", again, again))
    for name, key in (("search", "search_s"), ("finalists", "finalists_s"), (whole, "seconds")):
        rows.append((name, _time(found[key]["typical"]), _time(found[key]["at_most"])))
    if found["time_budget_s"] is not None:
        rows.append(("time_budget of the search", "", _time(found["time_budget_s"])))
    rows.append(("on disk", "", _bytes(found["bytes_stored"])))
    if found["storage_budget"] is not None:
        rows.append(("storage_budget", "", _bytes(found["storage_budget"])))
    return rows


def _end(found: dict[str, Any], console: Console) -> None:
    for line in found["warnings"]:
        console.print(f"warning: {escape(line)}", soft_wrap=True)
    console.print(f"not measured: {'; '.join(found['not_measured'])}", soft_wrap=True)


def _cpus(found: dict[str, Any]) -> str:
    return counted(found["cpus"], "CPU")


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _bytes(count: int) -> str:
    return ByteSize(count).human_readable(decimal=True)
