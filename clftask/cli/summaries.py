"""The result tables of the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clftask.components.metrics import with_plain
from clftask.config.results import Metrics, ScoreResult, TrainResult, TuneResult
from clftask.messages import counted, printable

MAX_LABEL_ROWS = 20
PLAIN_CAPTION = "plain: uncalibrated, at 0.5 or the most probable class"


def tune_summary(result: TuneResult, file: IO[str]) -> None:
    """Print the winner's settings, its metrics, and the paths of its job and bundle."""
    console = Console(file=file, highlight=False)
    counts = ", ".join(f"{n} {state}" for state, n in result.trials.items())
    console.print(f"trials: {counts}")
    for number, reason in list(result.failures.items())[:MAX_LABEL_ROWS]:
        console.print(f"trial {number} failed: {escaped(reason)}", soft_wrap=True)
    table = Table(title=f"best: trial {result.best['trial']}", show_header=False)
    for name, value in result.best["params"].items():
        table.add_row(
            escaped(name), escaped(f"{value:.4g}" if isinstance(value, float) else str(value))
        )
    console.print(table)
    for finalist in result.finalists:
        scores = ", ".join(f"{score:.4f}" for score in finalist[result.metric])
        console.print(f"finalist {finalist['trial']}: {result.metric} with new seeds {scores}")
    console.print(_metric_table(result.best["metrics"]))
    _print_warnings(result.best.get("warnings", []), console)
    console.print(f"job: {escaped(result.job)}", soft_wrap=True)
    console.print(f"bundle: {escaped(result.bundle)}", soft_wrap=True)


def score_summary(result: ScoreResult, file: IO[str]) -> None:
    """Print the totals of a score table: rows, labels, confidence."""
    console = Console(file=file, highlight=False)
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
        table.add_row("precision", escaped(result.precision_note))
    if result.rows_per_s:  # 0 if this invocation scored nothing
        table.add_row("rows/s", f"{result.rows_per_s:,.1f}")
    console.print(table)
    console.print(_distribution(result.labels, scored))
    console.print(f"score table: {escaped(result.output)}", soft_wrap=True)


def _distribution(labels: dict[str, int], rows: int) -> Table:
    ordered = sorted(labels.items(), key=lambda pair: -pair[1])
    left_out = max(0, len(ordered) - MAX_LABEL_ROWS)
    caption = f"and {counted(left_out, 'more label')}" if left_out else None
    table = Table(title="predicted labels", caption=caption)
    for name in ("label", "rows", "share"):
        table.add_column(name, justify="left" if name == "label" else "right")
    for label, count in ordered[:MAX_LABEL_ROWS]:
        table.add_row(escaped(label), f"{count:,}", f"{count / rows:.1%}")
    return table


def train_summary(result: TrainResult, file: IO[str]) -> None:
    """Print metrics by split and by label, and the path of the bundle."""
    console = Console(file=file, highlight=False)
    console.print(_metric_table(result.metrics, result.intervals))
    split = "test" if "test" in result.per_label else "validation"
    console.print(_label_table(result.per_label[split], split))
    _print_warnings(result.warnings, console)
    console.print(f"bundle: {escaped(result.bundle)}", soft_wrap=True)
    console.print(f"report: {escaped(result.bundle)}/report.html", soft_wrap=True)


def _print_warnings(warnings: Sequence[str], console: Console) -> None:
    for warning in warnings:
        console.print(f"warning: {escaped(warning)}", soft_wrap=True)


def evaluation_summary(result: dict[str, Any], file: IO[str]) -> None:
    """Print the metrics of a bundle on one table."""
    console = Console(file=file, highlight=False)
    title = counted(result["rows"], "row")
    console.print(_metric_table({title: result["metrics"]}, {title: result["intervals"]}))
    console.print(_label_table(result["per_label"], title))
    console.print(f"bundle: {escaped(result['bundle'])}", soft_wrap=True)


def compare_summary(result: dict[str, Any], file: IO[str]) -> None:
    """Print the differences between two bundles: metrics, labels, examples, gates."""
    console = Console(file=file, highlight=False)
    title = f"B − A on {counted(result['rows'], 'row')}"
    table = Table(title=title, caption="95 %: paired bootstrap")
    _columns(table, "metric", "A", "B", "B − A", "95 %")
    for name, row in result["metrics"].items():
        table.add_row(name, shown(row["a"]), shown(row["b"]), *_change(row))
    console.print(table)
    changed = [row for row in result["per_label"] if row["difference"] or row["changed"]]
    labels = Table(
        title="labels, F1", caption=f"{len(changed)} of {len(result['per_label'])} changed"
    )
    _columns(labels, "label", "A", "B", "B − A", "95 %", "rows", "predictions changed")
    for row in changed[:MAX_LABEL_ROWS]:
        counts = str(row["rows"]), str(row["changed"])
        figures = _share(row["f1_a"]), _share(row["f1_b"])
        labels.add_row(escaped(row["label"]), *figures, *_change(row), *counts)
    console.print(labels)
    console.print(f"{result['changed']:.1%} of the rows have a different prediction")
    for name, examples in result["examples"].items():
        for example in examples[:3]:
            console.print(f"{name}: {escaped(_example_line(example))}", soft_wrap=True)
    _print_gates(result, console)


def _print_gates(result: dict[str, Any], console: Console) -> None:
    for gate in result["gates"]:
        state = "passed" if gate["passed"] else "FAILED"
        wanted = f"{gate['metric']}{gate['sign']}{gate['bound']:g}"
        value = "undefined" if gate["difference"] is None else f"{gate['difference']:+.4f}"
        console.print(f"gate {wanted}: {value}, {state}")


def compare_tables_summary(result: dict[str, Any], file: IO[str]) -> None:
    """Print the differences between two score tables: labels, drift, examples, gates."""
    console = Console(file=file, highlight=False)
    changed = [row for row in result["per_label"] if row["difference"] or row["gained"]]
    count = f"{len(changed)} of {len(result['per_label'])} labels changed"
    labels = Table(title="share of rows by predicted label", caption=count)
    _columns(labels, "label", "A", "B", "B − A", "95 %", "gained", "lost")
    for row in changed[:MAX_LABEL_ROWS]:
        shares = f"{row['share_a']:.2%}", f"{row['share_b']:.2%}"
        counts = f"{row['gained']:,}", f"{row['lost']:,}"
        labels.add_row(escaped(row["label"]), *shares, *_change(row), *counts)
    console.print(labels)
    console.print(f"{result['rows_a']:,} rows in A, {result['rows_b']:,} in B")
    if result["changed"] is not None:
        share = f"{result['changed']:.2%} have different predictions"
        console.print(f"{counted(result['rows'], 'row')} in both: {share}")
    drift = f"labels {result['label_drift']:.4f}, confidence {result['confidence_drift']:.4f}"
    console.print(f"drift, from 0 to 1: {drift}")
    for example in result["examples"][:3]:
        sides = (f"{s} {', '.join(example[s]['labels']) or 'nothing'}" for s in ("a", "b"))
        console.print(escaped(f"{example['key']}: {'; '.join(sides)}"), soft_wrap=True)
    _print_gates(result, console)


def _columns(table: Table, first: str, *others: str) -> None:
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")


def _change(row: dict[str, Any]) -> tuple[str, str]:
    if row["difference"] is None:
        return "", ""
    is_known = row.get("low") is not None
    spread = f"{row['low']:+.4f} … {row['high']:+.4f}" if is_known else ""
    return f"{row['difference']:+.4f}", spread


def _example_line(example: dict[str, Any]) -> str:
    text = " ".join(example["text"].split())[:100]
    sides = (f"{name} {', '.join(example[name]) or 'nothing'}" for name in ("true", "a", "b"))
    return f"{text} … ({'; '.join(sides)})"


def _metric_table(metrics: Metrics, intervals: Any = None) -> Table:
    """Return metrics by split, with the decision and, if they differ, the plain ones.

    Args:
        metrics: By split and name.
        intervals: 95 % intervals by split and name.
    """
    splits = {split: with_plain(figures) for split, figures in metrics.items()}
    is_plain = all(plain is None for found in splits.values() for _, plain in found.values())
    table = Table(title="metrics", caption=None if is_plain else PLAIN_CAPTION)
    table.add_column("metric")
    for split in splits:
        table.add_column(escaped(split), justify="right")
        if not is_plain:
            table.add_column("plain", justify="right", style="dim")
    for name in dict.fromkeys(name for found in splits.values() for name in found):
        cells: list[str] = []
        for split, found in splits.items():
            value, plain = found.get(name, (None, None))
            spread = (intervals or {}).get(split, {}).get(name)
            beside = f"  {spread[0]:.3f} … {spread[1]:.3f}" if spread else ""
            cells.append(shown(value) + beside)
            cells += [] if is_plain else [shown(plain)]
        table.add_row(escaped(name), *cells)
    return table


def _label_table(rows: Sequence[Mapping[str, Any]], split: str) -> Table:
    ordered = sorted(rows, key=lambda row: -row["support"])
    left_out = max(0, len(ordered) - MAX_LABEL_ROWS)
    caption = f"and {counted(left_out, 'more label')} in metrics.json" if left_out else None
    table = Table(title=f"labels ({split})", caption=caption)
    columns = [n for n in ("precision", "recall", "f1", "threshold") if not rows or n in rows[0]]
    for name in ("label", *columns, "rows"):
        table.add_column(name, justify="left" if name == "label" else "right")
    for row in ordered[:MAX_LABEL_ROWS]:
        figures = [_share(row[k]) for k in columns]
        table.add_row(escaped(row["label"]), *figures, str(row["support"]))
    return table


def inspect_summary(found: dict[str, Any], file: IO[str]) -> None:
    """Print the result of `inspect` as a table of names and values."""
    table = Table(show_header=False)
    for name, value in found.items():
        if name != "metrics":
            table.add_row(name, escaped(_in_words(value)))
    console = Console(file=file, highlight=False)
    console.print(table)
    if "metrics" in found:
        console.print(_metric_table(found["metrics"]))


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def escaped(text: str) -> str:
    """Escape rich markup and control characters in untrusted text."""
    return escape(printable(text))


def shown(value: float | None) -> str:
    """Return a figure with four decimals, a count as it is; empty for None."""
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
