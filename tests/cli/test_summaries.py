"""The tables of results: short, as wide as the terminal, labels as they are written."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len

from clftask.cli.inspect_summaries import path_summary
from clftask.cli.summaries import (
    compare_summary,
    compare_tables_summary,
    evaluation_summary,
    score_summary,
    train_summary,
    tune_summary,
)
from clftask.commands.compare_bundles import BundleComparison
from clftask.commands.compare_tables import TableComparison
from clftask.commands.evaluate import Evaluation
from clftask.commands.inspect import Bundle, ScoreTable
from clftask.components.decision.cascade import CascadeLimit
from clftask.config.results import ScoreResult, Shipped, TrainResult, TuneResult

METRICS = {
    "accuracy": 0.8123, "balanced_accuracy": 0.8, "weighted_precision": 0.71, "micro_f1": 0.8123,
    "macro_f1": 0.7834, "mcc": 0.5, "log_loss": 0.4, "ece": 0.0312, "accuracy_at_argmax": 0.81,
    "macro_f1_majority": 0.3, "log_loss_uncalibrated": 0.5,
}  # fmt: skip
INTERVALS = {"accuracy": (0.7164, 0.9166), "macro_f1": (0.7, 0.85)}
HOSTILE = (
    "[red]x[/red]",
    ":smile: <b>|`*",
    "网络与路由器" * 4,
    "a\nb\x1b[31m",
    "back\\",
    "w" * 150,
)


def labels(*names):
    each = {"precision": 0.5, "recall": 0.25, "f1": 0.333333}
    return [{"label": name, **each, "support": 1000 - i} for i, name in enumerate(names)]


TRAINED = TrainResult(
    run="/runs/a",
    bundle="/runs/a/bundle",
    metrics={"validation": METRICS, "test": METRICS},
    task="multiclass",
    metric="micro_f1",
    epochs=6.0,
    seconds=1.0,
    samples_per_s=10.0,
    workers=1,
    steps=10,
    per_label={"validation": [], "test": labels("a", "b")},
    intervals={"validation": INTERVALS, "test": INTERVALS},
    shipped=Shipped(epoch=3, epochs=6, metric="micro_f1", patience=3),
)
SCORED = ScoreResult("/scores", 10, 9, 1, 4, 1, 2.0, 4.5, 0, 0.9, {"a": 5, "b": 4})


BUNDLE = Bundle(
    task="multiclass", metric="micro_f1", metrics={"test": METRICS}, warnings=[], labels=2,
    text=["text"], model="Fine-tuned from it", read="the first 32 tokens", calibration="none",
    rule="the most probable class",
    fingerprint="f", versions={},
)  # fmt: skip
COMPARED = BundleComparison(
    a="/a", b="/b", table="/t", rows=9, task="multiclass", metric="macro_f1", metrics={},
    per_label=[], changed=0.5, examples={}, gates=[], passed=True,
)  # fmt: skip
DRIFTED = TableComparison(
    a="/a", b="/b", task="multiclass", rows_a=9, rows_b=9, rows=9, changed=None, label_drift=0.1,
    confidence_drift=0.1, per_label=[], examples=[], gates=[], passed=True,
)  # fmt: skip


@pytest.fixture
def printed(monkeypatch):
    def lines(width, summarise, result, **options):
        monkeypatch.setenv("COLUMNS", str(width))
        file = io.StringIO()
        summarise(result, file, **options)
        return file.getvalue().splitlines()

    return lines


def names_in(lines):
    """Return the first cells of all table rows."""
    return [line.split("│")[1].strip() for line in lines if line.startswith("│")]


def test_the_short_table_fits_the_task(printed):
    lines = printed(80, train_summary, TRAINED)
    metrics = ["micro_f1", "accuracy", "macro_f1", "macro_f1_majority", "log_loss", "ece"]
    assert names_in(lines) == [*metrics, "a", "b"]
    row = next(line for line in lines if "│ accuracy " in line)
    assert row.count("0.8123 │ 0.716–0.917") == 2
    assert any("--all-metrics" in line for line in lines)


def test_a_multilabel_task_has_other_metrics(printed):
    found = {"micro_f1": 0.5, "macro_f1": 0.4, "samples_f1": 0.3, "map": 0.6, "lrap": 0.7}
    found |= {"subset_accuracy": 0.2, "log_loss": 0.1, "ece": 0.05, "labels_absent": 3}
    multilabel = replace(TRAINED, task="multilabel", metric="lrap", metrics={"test": found})
    lines = printed(80, train_summary, replace(multilabel, per_label={"test": []}))
    wanted = ["lrap", "micro_f1", "macro_f1", "map", "log_loss", "ece", "labels_absent"]
    assert names_in(lines) == wanted
    assert next(line for line in lines if "labels_absent" in line).split("│")[2].strip() == "3"
    none = replace(
        multilabel, metrics={"test": found | {"labels_absent": 0}}, per_label={"test": []}
    )
    assert names_in(printed(80, train_summary, none)) == wanted[:-1]


def test_the_figures_of_the_positive_class_come_first(printed):
    positive = {"f1": 0.6, "precision": 0.5, "recall": 0.75}
    found = replace(TRAINED, metrics={"test": METRICS | positive}, metric="f1")
    assert names_in(printed(80, train_summary, found))[:4] == [
        "precision", "recall", "f1", "accuracy"
    ]  # fmt: skip


def test_all_metrics_are_printed_on_request(printed):
    lines = printed(80, train_summary, TRAINED, all_metrics=True)
    names = [n for n in METRICS if not n.endswith(("_at_argmax", "_uncalibrated"))]
    assert names_in(lines) == [*names, *names, "a", "b"]
    row = next(line for line in lines if "│ accuracy " in line)
    assert [cell.strip() for cell in row.split("│")[2:5]] == ["0.8123", "0.716–0.917", "0.8100"]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("all_metrics", [False, True])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut(printed, width, all_metrics):
    found = replace(TRAINED, per_label={"test": labels(*HOSTILE)})
    lines = printed(width, train_summary, found, all_metrics=all_metrics)
    tables = [line for line in lines if line.startswith(("│", "┃"))]
    assert max(map(cell_len, tables)) <= width
    assert not any("…" in line for line in tables)
    assert sum("0.8123" in line for line in tables) >= 2


def test_labels_are_shown_as_they_are_written(printed):
    found = replace(TRAINED, per_label={"test": labels(*HOSTILE)})
    text = "\n".join(printed(250, train_summary, found))
    for shown in ("[red]x[/red]", ":smile: <b>|`*", "网络与路由器" * 4, r"a\nb\x1b[31m", "back\\ "):
        assert f"│ {shown} " in text
    assert "\x1b" not in text


def test_what_inspect_found_is_shown_as_it_is_written(printed):
    lines = printed(80, path_summary, replace(BUNDLE, text=["[red]x[/red] :smile:"]))
    assert any("│ text         │ [red]x[/red] :smile: " in line for line in lines)


def test_inspect_prints_the_metrics_that_training_prints(printed):
    short = printed(80, path_summary, BUNDLE)
    wanted = ["micro_f1", "accuracy", "macro_f1", "macro_f1_majority", "log_loss", "ece"]
    assert names_in(short)[-6:] == wanted
    assert any("--all-metrics" in line for line in short)
    names = names_in(printed(80, path_summary, BUNDLE, all_metrics=True))
    assert {"mcc", "weighted_precision", "balanced_accuracy"} <= set(names)
    assert set(BUNDLE.as_json()["metrics"]["test"]) == set(METRICS)


def test_that_a_score_table_is_complete_is_said_once(printed):
    counts = {"rows_in": 9, "rows_scored": 9, "rows_quarantined": 0, "rows_filtered": 0}
    table = ScoreTable(
        state="complete", complete=True, rows_planned=9, parts=1, bundle="/b", layout="wide",
        rows_truncated=0, **counts,
    )  # fmt: skip
    assert "\n".join(printed(80, path_summary, table)).count("complete") == 1
    assert table.as_json()["complete"] is True


def test_how_training_ended_is_said(printed):
    lines = printed(80, train_summary, TRAINED)
    assert lines[-3:] == [
        "stopped after epoch 6: no gain in micro_f1 for 3 epochs; epoch 3 ships",
        "bundle: /runs/a/bundle",
        "report: /runs/a/bundle/report.html",
    ]
    whole = replace(TRAINED, shipped=Shipped(epoch=3, epochs=5, metric="macro_f1"))
    assert "epoch 3 of 5 ships: best macro_f1" in printed(80, train_summary, whole)


def test_a_figure_that_is_undefined_is_not_an_error(printed):
    found = [{**labels("a")[0], "f1": None, "precision": None}]
    found = replace(
        TRAINED, metrics={"test": METRICS | {"macro_f1": None}}, per_label={"test": found}
    )
    row = next(line for line in printed(80, train_summary, found) if line.startswith("│ a "))
    assert [cell.strip() for cell in row.split("│")[2:5]] == ["–", "0.250", "–"]


def test_a_finished_score_table_has_no_speed(printed):
    assert "rows/s" in names_in(printed(80, score_summary, SCORED))
    again = replace(SCORED, shards_skipped=4, rows_per_s=0.0)
    lines = printed(80, score_summary, again)
    assert "rows/s" not in names_in(lines)
    assert lines[-1] == "score table: /scores (already complete)"


def test_rows_that_are_left_out_and_the_precision_are_reported(printed):
    note = "bf16; 99.6% of 256 sampled rows get the same labels as in fp32"
    text = "\n".join(printed(120, score_summary, replace(SCORED, rows_filtered=1234,
                                                         precision_note=note)))  # fmt: skip
    assert "left out by input.where" in text
    assert "1,234" in text
    assert "bf16; 99.6% of 256 sampled rows" in text
    assert "left out" not in "\n".join(printed(120, score_summary, SCORED))


def test_a_search_prints_the_path_of_its_report(printed):
    best = {"trial": 2, "params": {"training.epochs": 3}, "metrics": {"test": METRICS}}
    counts = {"done": 4, "stopped": 1, "failed": 0}
    paths = ("/runs/s", best, "/runs/s/job.yaml", "/runs/s/bundle")
    found = TuneResult(*paths, counts, {}, [], "macro_f1", "multiclass", 1.0)
    lines = printed(80, tune_summary, found)
    assert lines[-1] == "report: /runs/s/report.html"
    assert "mcc" not in names_in(lines)
    assert repr(found) == (
        "<TuneResult: bundle /runs/s/bundle; winner trial 2 (training.epochs=3); "
        "test macro_f1 0.7834; trials 4 done, 1 stopped, 0 failed>"
    )


def test_a_comparison_shows_the_metrics_of_the_task_and_of_the_gates(printed):
    rows = {n: {"a": 0.5, "b": 0.6, "difference": 0.1} for n in METRICS}
    rows["accuracy"] |= {"low": -0.0123, "high": 0.2}
    gate = {"metric": "mcc", "sign": ">=", "bound": 0.0, "difference": 0.1, "passed": True}
    found = replace(COMPARED, metrics=rows, gates=[gate])
    names = names_in(printed(80, compare_summary, found))
    assert {"accuracy", "macro_f1", "mcc"} <= set(names)
    assert "weighted_precision" not in names
    assert "weighted_precision" in names_in(printed(80, compare_summary, found, all_metrics=True))
    assert any("-0.012 … +0.200" in line for line in printed(80, compare_summary, found))


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_comparisons_fit_the_terminal(printed, width):
    change = {"a": 0.5, "b": 0.6, "difference": 0.1234, "low": -0.1, "high": 0.2, "changed": 3}
    of_labels = [
        {"label": n, "rows": 9_000, "f1_a": 0.5, "f1_b": None, "share_a": 0.1, "share_b": 1.0,
         "gained": 12_000, "lost": 11_000, **change}
        for n in HOSTILE
    ]  # fmt: skip
    bundles = replace(COMPARED, metrics={"macro_f1": change}, per_label=of_labels)
    tables = replace(DRIFTED, per_label=of_labels)
    for summarise, found in ((compare_summary, bundles), (compare_tables_summary, tables)):
        lines = printed(width, summarise, found)
        cells = [line for line in lines if line.startswith(("│", "┃"))]
        assert max(map(cell_len, cells)) <= width
        assert sum("+0.1234 " in line for line in cells) >= len(HOSTILE)


def test_without_a_changed_label_there_is_no_table_of_labels(printed):
    same = {"label": "a", "difference": 0.0, "changed": 0}
    found = replace(COMPARED, per_label=[same], changed=0.0)
    assert printed(80, compare_summary, found)[-2:] == [
        "F1: 0 of 1 label changed",
        "0.0% of the rows have a different prediction",
    ]


def test_an_evaluation_has_one_column(printed):
    found = Evaluation(
        bundle="/b", table="/t", split=None, task="multiclass", metric="micro_f1", rows=24,
        trained_on={}, warnings=[], metrics=METRICS, intervals=INTERVALS, per_label=labels("a"),
    )  # fmt: skip
    lines = printed(80, evaluation_summary, found)
    assert any("24 rows ┃        95 % ┃" in line for line in lines)


def test_results_say_what_they_are():
    assert repr(TRAINED) == (
        "<TrainResult: bundle /runs/a/bundle; validation micro_f1 0.8123; test micro_f1 0.8123; "
        "training stopped after epoch 6: no gain in micro_f1 for 3 epochs; epoch 3 ships>"
    )
    assert repr(SCORED) == "<ScoreResult: output /scores; rows scored 9; rows quarantined 1>"
    hostile = replace(SCORED, output="<script>")
    assert "<tr><th>output</th><td>&lt;script&gt;</td></tr>" in hostile._repr_html_()


def test_a_cascades_summary_tells_who_answered_and_what_was_promised(printed):
    limit = CascadeLimit(
        promised=0.9, limit=0.8, rows=400, answered=200, agreed=196, at_least=0.9548
    )
    found = replace(SCORED, answered_by={"large": 3, "small": 6}, cascade=limit)
    text = " ".join(" ".join(printed(120, score_summary, found)).replace("│", " ").split())
    assert "answered by large 3 (33.3%), small 6 (66.7%)" in text
    assert "answers 50% of 400 sampled rows, 98.00% of them with the labels of the large" in text
    assert found.about()["rows of the small bundle"] == "6"
    assert "cascade" not in names_in(printed(80, score_summary, SCORED))
