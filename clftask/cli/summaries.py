"""The result tables of the commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from rich.console import Console
from rich.table import Table

from clftask.components.labels import Task
from clftask.components.metrics import ABSENT, MAJORITY, with_plain
from clftask.config.results import Metrics, ScoreResult, TrainResult, TuneResult
from clftask.messages import counted, printable, range_text
from clftask.report.headline import headline_names

MAX_LABEL_ROWS = 20
NARROW, VERY_NARROW, MIN_SPREAD = 74, 56, 64  # columns of the terminal
PLAIN_CAPTION = "plain: uncalibrated, at 0.5 or the most probable class"
BASELINE = f"{MAJORITY}: always the most frequent label\n"
MORE = "all metrics: --all-metrics"


def console_on(file: IO[str]) -> Console:
    """Return a console that shows text literally: labels may contain `[red]` or `:smile:`."""
    return Console(file=file, highlight=False, markup=False, emoji=False)


def tune_summary(result: TuneResult, file: IO[str], all_metrics: bool = False) -> None:
    """Print the winner's settings, its metrics, and the paths of its job, bundle and report."""
    console = console_on(file)
    counts = ", ".join(f"{n} {state}" for state, n in result.trials.items())
    console.print(f"trials: {counts}")
    for number, reason in list(result.failures.items())[:MAX_LABEL_ROWS]:
        console.print(f"trial {number} failed: {printable(reason)}", soft_wrap=True)
    table = Table(title=f"best: trial {result.best['trial']}", show_header=False)
    for name, value in result.best["params"].items():
        table.add_row(
            printable(name), printable(f"{value:.4g}" if isinstance(value, float) else str(value))
        )
    console.print(table)
    for finalist in result.finalists:
        scores = ", ".join(f"{score:.4f}" for score in finalist[result.metric])
        console.print(f"finalist {finalist['trial']}: {result.metric} with new seeds {scores}")
    _print_metrics(console, result.best["metrics"], {}, result.task, result.metric, all_metrics)
    _print_warnings(result.best.get("warnings", []), console)
    console.print(f"job: {printable(result.job)}", soft_wrap=True)
    console.print(f"bundle: {printable(result.bundle)}", soft_wrap=True)
    console.print(f"report: {printable(result.run)}/report.html", soft_wrap=True)


def score_summary(result: ScoreResult, file: IO[str]) -> None:
    """Print the totals of a score table: rows, labels, confidence."""
    console = console_on(file)
    scored = max(result.rows_scored, 1)
    table = Table(show_header=False)
    table.add_row("rows", f"{result.rows_in:,}")
    if result.rows_filtered:
        table.add_row("left out by input.where", f"{result.rows_filtered:,}")
    table.add_row("scored", f"{result.rows_scored:,}")
    table.add_row("quarantined", f"{result.rows_quarantined:,}")
    table.add_row("truncated", f"{result.rows_truncated / scored:.1%}")
    table.add_row("mean confidence", f"{result.mean_confidence:.3f}")
    if result.precision_note:
        table.add_row("precision", printable(result.precision_note))
    if result.shards_skipped < result.shards:
        table.add_row("rows/s", f"{result.rows_per_s:,.1f}, start-up included")
    console.print(table)
    console.print(_distribution(result.labels, scored))
    state = " (already complete)" if result.shards_skipped == result.shards else ""
    console.print(f"score table: {printable(result.output)}{state}", soft_wrap=True)


def _distribution(labels: dict[str, int], rows: int) -> Table:
    ordered = sorted(labels.items(), key=lambda pair: -pair[1])
    left_out = max(0, len(ordered) - MAX_LABEL_ROWS)
    caption = f"and {counted(left_out, 'more label')}" if left_out else None
    table = Table(title="predicted labels", caption=caption)
    _columns(table, "label", "rows", "share")
    for label, count in ordered[:MAX_LABEL_ROWS]:
        table.add_row(printable(label), f"{count:,}", f"{count / rows:.1%}")
    return table


def train_summary(result: TrainResult, file: IO[str], all_metrics: bool = False) -> None:
    """Print metrics by split and by label, and the path of the bundle."""
    console = console_on(file)
    of_task = result.task, result.metric, all_metrics
    _print_metrics(console, result.metrics, result.intervals, *of_task)
    split = "test" if "test" in result.per_label else "validation"
    console.print(_label_table(result.per_label[split], split, console.width))
    _print_warnings(result.warnings, console)
    if result.shipped is not None:
        console.print(printable(result.shipped.line()), soft_wrap=True)
    console.print(f"bundle: {printable(result.bundle)}", soft_wrap=True)
    console.print(f"report: {printable(result.bundle)}/report.html", soft_wrap=True)


def _print_warnings(warnings: Sequence[str], console: Console) -> None:
    for warning in warnings:
        console.print(f"warning: {printable(warning)}", soft_wrap=True)


def evaluation_summary(result: dict[str, Any], file: IO[str], all_metrics: bool = False) -> None:
    """Print the metrics of a bundle on one table."""
    console = console_on(file)
    title = counted(result["rows"], "row")
    by_split = {title: result["metrics"]}, {title: result["intervals"]}
    _print_metrics(console, *by_split, result["task"], result["metric"], all_metrics)
    console.print(_label_table(result["per_label"], title, console.width))
    console.print(f"bundle: {printable(result['bundle'])}", soft_wrap=True)


def compare_summary(result: dict[str, Any], file: IO[str], all_metrics: bool = False) -> None:
    """Print the differences between two bundles: metrics, labels, examples, gates."""
    console = console_on(file)
    title = f"B − A on {counted(result['rows'], 'row')}"
    own, gates = result["metric"], {gate["metric"] for gate in result["gates"]}
    short = {*headline_names(result["task"], own, result["metrics"]), *gates}
    more = "" if all_metrics else f"; {MORE}"
    table = Table(title=title, caption=f"95 %: paired bootstrap{more}")
    rows: list[tuple[str, ...]] = [
        (name, shown(row["a"]), shown(row["b"]), *_change(row))
        for name, row in result["metrics"].items()
        if all_metrics or name in short
    ]
    _print_changes(console, table, ("metric", "A", "B", "B − A", "95 %"), rows)
    changed = [row for row in result["per_label"] if row["difference"] or row["changed"]]
    count = f"{len(changed)} of {counted(len(result['per_label']), 'label')} changed"
    heads = ("label", "A", "B", "B − A", "95 %", "rows", "changed")
    rows = []
    for row in changed[:MAX_LABEL_ROWS]:
        figures = _share(row["f1_a"]), _share(row["f1_b"]), *_change(row)
        counts = f"{row['rows']:,}", f"{row['changed']:,}"
        rows.append((printable(row["label"]), *figures, *counts))
    about = "changed: rows with another prediction of the label"
    _print_changes(console, Table(title=f"F1: {count}", caption=about), heads, rows)
    console.print(f"{result['changed']:.1%} of the rows have a different prediction")
    for name, examples in result["examples"].items():
        for example in examples[:3]:
            console.print(f"{name}: {printable(_example_line(example))}", soft_wrap=True)
    _print_gates(result, console)


def _print_gates(result: dict[str, Any], console: Console) -> None:
    for gate in result["gates"]:
        state = "passed" if gate["passed"] else "FAILED"
        wanted = f"{gate['metric']}{gate['sign']}{gate['bound']:g}"
        value = gate["difference"]
        found = "undefined" if value is None else f"{value:+.4f}"
        console.print(f"gate {wanted}: {found}, {state}")


def compare_tables_summary(result: dict[str, Any], file: IO[str]) -> None:
    """Print the differences between two score tables: labels, drift, examples, gates."""
    console = console_on(file)
    changed = [row for row in result["per_label"] if row["difference"] or row["gained"]]
    count = f"{len(changed)} of {len(result['per_label'])} labels changed"
    labels = Table(title="share of rows by predicted label", caption=count)
    heads = ("label", "A", "B", "B − A", "95 %", "gained", "lost")
    rows = []
    for row in changed[:MAX_LABEL_ROWS]:
        shares = f"{row['share_a']:.2%}", f"{row['share_b']:.2%}"
        counts = f"{row['gained']:,}", f"{row['lost']:,}"
        rows.append((printable(row["label"]), *shares, *_change(row), *counts))
    _print_changes(console, labels, heads, rows)
    console.print(f"{result['rows_a']:,} rows in A, {result['rows_b']:,} in B")
    if result["changed"] is not None:
        share = f"{result['changed']:.2%} have different predictions"
        console.print(f"{counted(result['rows'], 'row')} in both: {share}")
    drift = f"labels {result['label_drift']:.4f}, confidence {result['confidence_drift']:.4f}"
    console.print(f"drift, from 0 to 1: {drift}")
    for example in result["examples"][:3]:
        sides = (f"{s} {', '.join(example[s]['labels']) or 'nothing'}" for s in ("a", "b"))
        console.print(printable(f"{example['key']}: {'; '.join(sides)}"), soft_wrap=True)
    _print_gates(result, console)


def _print_changes(
    console: Console, table: Table, heads: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Print a table of differences; on a narrow terminal without what follows `B − A`."""
    end = heads.index("B − A") + 1 if console.width < MIN_SPREAD else len(heads)
    _columns(table, *heads[:end])
    for row in rows:
        table.add_row(*row[:end])
    console.print(table if rows else table.title)


def _columns(table: Table, first: str, *others: str) -> None:
    """Add a column of names, and columns of numbers, which are never cut or folded."""
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)


def _change(row: dict[str, Any]) -> tuple[str, str]:
    has_spread = row.get("low") is not None
    spread = f"{row['low']:+.3f} … {row['high']:+.3f}" if has_spread else ""
    change = row["difference"]
    if change is None:
        return "", spread
    return f"{change:+,}" if isinstance(change, int) else f"{change:+.4f}", spread


def _example_line(example: dict[str, Any]) -> str:
    text = " ".join(example["text"].split())[:100]
    sides = (f"{name} {', '.join(example[name]) or 'nothing'}" for name in ("true", "a", "b"))
    return f"{text} … ({'; '.join(sides)})"


def _print_metrics(
    console: Console, metrics: Metrics, intervals: Any, task: Task, own: str, all_metrics: bool
) -> None:
    """Print the headline metrics of all splits, or all metrics, split by split.

    Args:
        console: The console.
        metrics: By split and name.
        intervals: 95 % intervals by split and name.
        task: multiclass or multilabel.
        own: The job's metric.
        all_metrics: Whether to print all metrics.
    """
    figures = [pair for found in metrics.values() for pair in found.items()]
    names = headline_names(task, own, (n for n, value in figures if value or n != ABSENT))
    shown_names = () if all_metrics else names
    intervals = {} if console.width < VERY_NARROW else intervals
    splits = [list(metrics)]
    if all_metrics or (console.width < NARROW and intervals):
        splits = [[split] for split in metrics]
    tables = [
        _metric_table({s: metrics[s] for s in some}, intervals, shown_names) for some in splits
    ]
    if not all_metrics:
        has_baseline = any(name.endswith(MAJORITY) for name in names)
        tables[-1].caption = f"{BASELINE if has_baseline else ''}{MORE}"
    for table in tables:
        console.print(table)


def _metric_table(metrics: Metrics, intervals: Any = None, names: Iterable[str] = ()) -> Table:
    """Return metrics by split, with their intervals; without names also the plain ones.

    Args:
        metrics: By split and name.
        intervals: 95 % intervals by split and name.
        names: The metrics to show; all if empty.
    """
    splits = {split: with_plain(figures) for split, figures in metrics.items()}
    intervals, chosen = intervals or {}, list(names)
    is_plain = all(plain is None for found in splits.values() for _, plain in found.values())
    has_plain = not (is_plain or chosen)
    table = Table(title="metrics", caption=PLAIN_CAPTION if has_plain else None)
    heads = {
        split: ["95 %"] * bool(intervals.get(split)) + ["plain"] * has_plain for split in splits
    }
    _columns(table, "metric", *(h for split in splits for h in (printable(split), *heads[split])))
    for name in chosen or dict.fromkeys(name for found in splits.values() for name in found):
        cells: list[str] = []
        for split, found in splits.items():
            value, plain = found.get(name, (None, None))
            spread = intervals.get(split, {}).get(name)
            beside = {"95 %": range_text(*spread) if spread else "", "plain": shown(plain)}
            cells += [shown(value), *(beside[head] for head in heads[split])]
        table.add_row(printable(name), *cells)
    return table


def _label_table(rows: Sequence[Mapping[str, Any]], split: str, width: int) -> Table:
    ordered = sorted(rows, key=lambda row: -row["support"])
    left_out = max(0, len(ordered) - MAX_LABEL_ROWS)
    caption = f"and {counted(left_out, 'more label')} in metrics.json" if left_out else None
    table = Table(title=f"labels ({split})", caption=caption)
    wanted = ("f1",) if width < VERY_NARROW else ("precision", "recall", "f1", "threshold")
    columns = [n for n in wanted if not rows or n in rows[0]]
    _columns(table, "label", *columns, "rows")
    for row in ordered[:MAX_LABEL_ROWS]:
        figures = [_share(row[k]) for k in columns]
        table.add_row(printable(row["label"]), *figures, f"{row['support']:,}")
    return table


def inspect_summary(found: dict[str, Any], file: IO[str]) -> None:
    """Print the result of `inspect` as a table of names and values."""
    table = Table(show_header=False)
    for name, value in found.items():
        if name not in ("metrics", "warnings"):
            table.add_row(name, printable(_in_words(value)))
    console = console_on(file)
    console.print(table)
    if "metrics" in found:
        console.print(_metric_table(found["metrics"]))
    _print_warnings(found.get("warnings", []), console)


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def shown(value: float | None) -> str:
    """Return a figure with four decimals, a count without; empty for None."""
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _share(value: float | None) -> str:
    """Return a figure of a label; a dash if it is undefined."""
    return "–" if value is None else f"{value:.3f}"
