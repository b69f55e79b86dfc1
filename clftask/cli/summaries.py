"""The result tables of the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from clftask.cli.tables import Page, shown
from clftask.components.labels import Task
from clftask.components.metrics import ABSENT, LINEAR, MAJORITY, LabelFigures, with_plain
from clftask.config.results import Metrics, ScoreResult, TrainResult, TuneResult
from clftask.messages import counted, range_text
from clftask.report.headline import headline_names

if TYPE_CHECKING:
    from clftask.commands.compare_bundles import BundleComparison, Example
    from clftask.commands.compare_tables import TableComparison
    from clftask.commands.evaluate import Evaluation
    from clftask.commands.gates import GateOutcome

MAX_LABEL_ROWS = 20
NARROW, VERY_NARROW, MIN_SPREAD = 74, 56, 64  # columns of the terminal
PLAIN_CAPTION = "plain: uncalibrated, at 0.5 or the most probable class"
BASELINES = {
    MAJORITY: "always the most frequent label",
    LINEAR: "a linear model on the same rows",
}
MORE = "all metrics: --all-metrics"


def tune_summary(result: TuneResult, file: IO[str], all_metrics: bool = False) -> None:
    """Print the winner's settings, its metrics, and the paths of its job, bundle and report."""
    page = Page(file)
    page.line(f"trials: {', '.join(f'{n} {state}' for state, n in result.trials.items())}")
    for number, reason in list(result.failures.items())[:MAX_LABEL_ROWS]:
        page.line(f"trial {number} failed: {reason}")
    params = result.best["params"].items()
    settings = [(name, f"{v:.4g}" if isinstance(v, float) else str(v)) for name, v in params]
    page.pairs(settings, f"best: trial {result.best['trial']}")
    for finalist in result.finalists:
        scores = ", ".join(f"{score:.4f}" for score in finalist[result.metric])
        page.line(f"finalist {finalist['trial']}: {result.metric} with new seeds {scores}")
    print_metrics(page, result.best["metrics"], {}, result.task, result.metric, all_metrics)
    page.warnings(result.best.get("warnings", []))
    metrics = result.best["metrics"]
    last = "test" if "test" in metrics else "validation"
    _print_gain(page, metrics[last], result.metric, last)
    page.line(f"job: {result.job}")
    page.line(f"bundle: {result.bundle}")
    page.line(f"report: {result.run}/report.html")


def score_summary(result: ScoreResult, file: IO[str]) -> None:
    """Print the totals of a score table: rows, labels, confidence."""
    page, scored = Page(file), max(result.rows_scored, 1)
    is_done = result.shards_skipped == result.shards
    rows = {
        "rows": f"{result.rows_in:,}",
        "left out by input.where": f"{result.rows_filtered:,}" * bool(result.rows_filtered),
        "scored": f"{result.rows_scored:,}",
        "quarantined": f"{result.rows_quarantined:,}",
        "truncated": f"{result.rows_truncated / scored:.1%}",
        "mean confidence": f"{result.mean_confidence:.3f}",
        "precision": result.precision_note,
        "answered by": ", ".join(
            f"{size} {count:,} ({count / scored:.1%})" for size, count in result.answered_by.items()
        ),
        "cascade": str(result.cascade or ""),
        "generations": f"{result.generations:,}" * (result.generations > 1),
        "rows/s": "" if is_done else f"{result.rows_per_s:,.1f}, start-up included",
    }
    page.pairs((name, value) for name, value in rows.items() if value)
    ordered = sorted(result.labels.items(), key=lambda pair: -pair[1])
    labels = [(n, f"{count:,}", f"{count / scored:.1%}") for n, count in ordered[:MAX_LABEL_ROWS]]
    page.table(("label", "rows", "share"), labels, "predicted labels", _left_out(ordered))
    page.line(f"score table: {result.output}{' (already complete)' if is_done else ''}")


def _left_out(rows: Sequence[Any], where: str = "") -> str | None:
    num = len(rows) - MAX_LABEL_ROWS
    return f"and {counted(num, 'more label')}{where}" if num > 0 else None


def train_summary(result: TrainResult, file: IO[str], all_metrics: bool = False) -> None:
    """Print metrics by split and by label, and the path of the bundle."""
    page = Page(file)
    of_task = result.task, result.metric, all_metrics
    print_metrics(page, result.metrics, result.intervals, *of_task)
    split = "test" if "test" in result.per_label else "validation"
    _print_labels(page, result.per_label[split], split)
    page.warnings(result.warnings)
    _print_gain(page, result.metrics[split], result.metric, split)
    if result.shipped is not None:
        page.line(result.shipped.line())
    page.line(f"bundle: {result.bundle}")
    page.line(f"report: {result.bundle}/report.html")


def _print_gain(page: Page, metrics: Mapping[str, Any], metric: str, split: str) -> None:
    """Print how much better a model is than the linear baseline, if there is one."""
    from clftask.evaluation.baseline import against_linear

    line = against_linear(metrics, metric, split)
    if line is not None:
        page.line(line)


def evaluation_summary(result: Evaluation, file: IO[str], all_metrics: bool = False) -> None:
    """Print the metrics of a bundle on one table."""
    page, title = Page(file), counted(result.rows, "row")
    by_split = {title: result.metrics}, {title: result.intervals}
    print_metrics(page, *by_split, result.task, result.metric, all_metrics)
    _print_labels(page, result.per_label, title)
    page.line(f"bundle: {result.bundle}")


# ------------------------------------------------------------------ comparisons


def compare_summary(result: BundleComparison, file: IO[str], all_metrics: bool = False) -> None:
    """Print the differences between two bundles: metrics, labels, examples, gates."""
    page = Page(file)
    names = headline_names(result.task, result.metric, result.metrics)
    short = {*names, *(gate["metric"] for gate in result.gates)}
    rows: list[tuple[str, ...]] = [
        (name, shown(row["a"]), shown(row["b"]), *_change(row))
        for name, row in result.metrics.items()
        if all_metrics or name in short
    ]
    title = f"B − A on {counted(result.rows, 'row')}"
    about = "95 %: paired bootstrap" + ("" if all_metrics else f"; {MORE}")
    _print_changes(page, ("metric", "A", "B", "B − A", "95 %"), rows, title, about)
    changed = [row for row in result.per_label if row["difference"] or row["changed"]]
    rows = [
        (row["label"], _share(row["f1_a"]), _share(row["f1_b"]), *_change(row),
         f"{row['rows']:,}", f"{row['changed']:,}")
        for row in changed[:MAX_LABEL_ROWS]
    ]  # fmt: skip
    title = f"F1: {len(changed)} of {counted(len(result.per_label), 'label')} changed"
    about = "changed: rows with another prediction of the label"
    heads = ("label", "A", "B", "B − A", "95 %", "rows", "changed")
    _print_changes(page, heads, rows, title, about)
    page.line(f"{result.changed:.1%} of the rows have a different prediction")
    for name, examples in result.examples.items():
        for example in examples[:3]:
            page.line(f"{name}: {_example_line(example)}")
    _print_gates(page, result.gates)


def _print_gates(page: Page, gates: Sequence[GateOutcome]) -> None:
    for gate in gates:
        value, state = gate["difference"], "passed" if gate["passed"] else "FAILED"
        found = "undefined" if value is None else f"{value:+.4f}"
        page.line(f"gate {gate['metric']}{gate['sign']}{gate['bound']:g}: {found}, {state}")


def compare_tables_summary(result: TableComparison, file: IO[str]) -> None:
    """Print the differences between two score tables: labels, drift, examples, gates."""
    page = Page(file)
    changed = [row for row in result.per_label if row["difference"] or row["gained"]]
    rows = [
        (row["label"], f"{row['share_a']:.2%}", f"{row['share_b']:.2%}", *_change(row),
         f"{row['gained']:,}", f"{row['lost']:,}")
        for row in changed[:MAX_LABEL_ROWS]
    ]  # fmt: skip
    count = f"{len(changed)} of {len(result.per_label)} labels changed"
    heads = ("label", "A", "B", "B − A", "95 %", "gained", "lost")
    _print_changes(page, heads, rows, "share of rows by predicted label", count)
    page.line(f"{result.rows_a:,} rows in A, {result.rows_b:,} in B")
    if result.changed is not None:
        share = f"{result.changed:.2%} have different predictions"
        page.line(f"{counted(result.rows, 'row')} in both: {share}")
    drift = f"labels {result.label_drift:.4f}, confidence {result.confidence_drift:.4f}"
    page.line(f"drift, from 0 to 1: {drift}")
    for row in result.examples[:3]:
        sides = (("a", row["a"]), ("b", row["b"]))
        labels = (f"{name} {', '.join(side['labels']) or 'nothing'}" for name, side in sides)
        page.line(f"{row['key']}: {'; '.join(labels)}")
    _print_gates(page, result.gates)


def _print_changes(
    page: Page, heads: Sequence[str], rows: Sequence[Sequence[str]], title: str, caption: str
) -> None:
    """Print a table of differences; on a narrow terminal without what follows `B − A`."""
    end = heads.index("B − A") + 1 if page.width < MIN_SPREAD else len(heads)
    if rows:
        page.table(heads[:end], [row[:end] for row in rows], title, caption)
    else:
        page.line(title)


def _change(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return B − A, and its interval if there is one."""
    low, change = row.get("low"), row["difference"]
    spread = "" if low is None else f"{low:+.3f} … {row['high']:+.3f}"
    if change is None:
        return "", spread
    return f"{change:+,}" if isinstance(change, int) else f"{change:+.4f}", spread


def _example_line(example: Example) -> str:
    text = " ".join(example["text"].split())[:100]
    sides = (("true", example["true"]), ("a", example["a"]), ("b", example["b"]))
    labels = (f"{name} {', '.join(names) or 'nothing'}" for name, names in sides)
    return f"{text} … ({'; '.join(labels)})"


# ------------------------------------------------------------------ metrics


def print_metrics(
    page: Page, metrics: Metrics, intervals: Any, task: Task, own: str, all_metrics: bool
) -> None:
    """Print the headline metrics of all splits, or all metrics, split by split.

    Args:
        page: Where to.
        metrics: By split and name.
        intervals: 95 % intervals by split and name.
        task: multiclass or multilabel.
        own: The job's metric.
        all_metrics: Whether to print all metrics, with the plain ones.
    """
    figures = [pair for found in metrics.values() for pair in found.items()]
    names = headline_names(task, own, (n for n, value in figures if value or n != ABSENT))
    intervals = {} if page.width < VERY_NARROW else intervals
    baselines = [
        f"{suffix}: {words}\n"
        for suffix, words in BASELINES.items()
        if any(name.endswith(suffix) for name in names)
    ]
    caption = None if all_metrics else f"{''.join(baselines)}{MORE}"
    shares_table = not all_metrics and (page.width >= NARROW or not intervals)
    tables = [metrics] if shares_table else [{split: metrics[split]} for split in metrics]
    for found in tables:
        below = caption if found is tables[-1] else None
        _print_splits(page, found, intervals, [] if all_metrics else names, below)


def _print_splits(
    page: Page, metrics: Metrics, intervals: Any, names: Sequence[str], caption: str | None
) -> None:
    """Print metrics by split, with their intervals; without names all, with the plain ones."""
    splits = {split: with_plain(figures) for split, figures in metrics.items()}
    values = [pair for found in splits.values() for pair in found.values()]
    has_plain = not names and any(plain is not None for _, plain in values)
    heads = ["metric"]
    rows = {n: [n] for n in names or dict.fromkeys(n for found in splits.values() for n in found)}
    for split, found in splits.items():
        ends = intervals.get(split) or {}
        heads += [split, *["95 %"] * bool(ends), *["plain"] * has_plain]
        for name, row in rows.items():
            value, plain = found.get(name, (None, None))
            spread = range_text(*ends[name]) if name in ends else ""
            row += [shown(value), *[spread] * bool(ends), *[shown(plain)] * has_plain]
    page.table(heads, rows.values(), "metrics", PLAIN_CAPTION if has_plain else caption)


def _print_labels(page: Page, rows: Sequence[LabelFigures], split: str) -> None:
    ordered = sorted(rows, key=lambda row: -row["support"])
    wanted = ("f1",) if page.width < VERY_NARROW else ("precision", "recall", "f1", "threshold")
    columns = [name for name in wanted if not rows or name in rows[0]]
    cells = [
        (row["label"], *(_share(row.get(name)) for name in columns), f"{row['support']:,}")
        for row in ordered[:MAX_LABEL_ROWS]
    ]
    heads, more = ("label", *columns, "rows"), _left_out(ordered, " in metrics.json")
    page.table(heads, cells, f"labels ({split})", more)


def _share(value: Any) -> str:
    """Return a figure of a label; a dash if it is undefined."""
    return "–" if value is None else f"{value:.3f}"
