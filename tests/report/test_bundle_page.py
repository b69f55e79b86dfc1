"""The page of a bundle: what it says, that it stands alone, what a browser makes of it."""

from __future__ import annotations

import re
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import Page, chromium

from clftask.components.labels import LabelSpace
from clftask.config.train import TrainJob
from clftask.evaluation import diagnostics
from clftask.evaluation.evaluate import Labelled, decide
from clftask.models.bundle_meta import BundleMeta
from clftask.report import bundle_page, decision_plots, learning_plots
from clftask.report.bundle_page import classifier_page, page_of
from clftask.report.bundle_tables import duration

HOSTILE = ("<script>alert(1)</script>", "</script><img src=x onerror=alert(2)>", "<b>%{x}</b>")
NAMES = ("audio", "games", "10")
PLOTS = {
    "labels", "losses", "scores", "precision-recall", "calibration", "thresholds", "confusion",
    "lengths",
}  # fmt: skip
RECORDS = [
    {"step": 1, "epoch": 0.1, "loss": 0.7},
    {"step": 10, "epoch": 1.0, "loss": 0.4},
    {"step": 10, "epoch": 1.0, "eval_loss": 0.5, "eval_micro_f1": 0.6, "eval_macro_f1": 0.5},
    {"step": 20, "epoch": 2.0, "loss": 0.3},
    {"step": 20, "epoch": 2.0, "eval_loss": 0.45, "eval_micro_f1": 0.7, "eval_macro_f1": None},
]
TRAINED = {"epochs": 2.0, "best_step": 20, "seconds": 750.0, "workers": 2}


def split_of(task, names, seed, count=240, texts=None):
    random = np.random.default_rng(seed)
    targets = np.eye(len(names), dtype=np.float32)[random.integers(0, len(names), count)]
    if task == "multilabel":
        extra = random.random(targets.shape) < 0.2
        targets = np.maximum(targets, extra.astype(np.float32))
    logits = (6 * targets - 4 + random.normal(0, 3, targets.shape)).astype(np.float32)
    texts = texts or [f"text {i} of {seed}" for i in range(count)]
    return Labelled(logits, targets, None, random.integers(2, 300, count), texts)


def report_of(names):
    counts = {name: 100 - 3 * i for i, name in enumerate(names)}
    tokens = {"median": 40.0, "p95": 200.0, "longest": 299.0, "truncated": 0.25}
    splits = ("train", "validation", "test")
    return {
        "rows": {"train": 1234, "validation": 240, "test": 240},
        "label_counts": dict.fromkeys(splits, counts),
        "tokens": dict.fromkeys(splits, tokens),
        "num_without_text": 7,
    }


def subject(task="multilabel", names=NAMES, texts=None, only=("validation", "test"), overrides=()):
    """Return what `classifier_page` takes."""
    kind = {"multilabel": "list", "multiclass": "class"}[task]
    data = {"train": "/t.csv", "text": "text", "labels": {"kind": kind, "column": "y"}}
    document = {"task": task, "data": data, "model": {"base": "base", "max_length": 64}}
    job = TrainJob.load(document, overrides)
    splits = {s: split_of(task, names, i, texts=texts) for i, s in enumerate(only)}
    found = decide(job, LabelSpace(task, names), splits)
    meta = BundleMeta(
        task=task,
        label_names=names,
        text=job.data.recipe,
        max_length=64,
        decision=found.decision,
        job=job.dump(),
        data={"fingerprint": "f", "report": report_of(names)},
        versions={},
        metrics=found.metrics,
    )
    return meta, found, found.content | TRAINED, RECORDS


@pytest.fixture(scope="module")
def parts():
    return subject()


@pytest.fixture(scope="module")
def whole(parts):
    return classifier_page(*parts)


def plots_in(page):
    return {name for name in Page(page).ids if f'getElementById("{name}")' in page}


# ------------------------------------------------------------------ what it says


def test_it_says_what_was_trained_on_what_and_how_well_it_does(whole, parts):
    found = Page(whole)
    assert found.open == []
    assert "Multilabel classifier with 3 labels" in found.text
    assert "Fine-tuned from base; text: text." in found.text
    assert "Predicted labels: above" in found.text
    assert "Calibration: platt." in found.text
    assert "epochs 2 time 12 min workers 2" in found.text
    assert "7 rows without text left out" in found.text
    assert ["train", "1,234", "40", "200", "299", "25.0%"] in found.rows
    metrics, (low, high) = parts[2]["metrics"], parts[2]["intervals"]["test"]["micro_f1"]
    row = next(r for r in found.rows if r[0] == "micro_f1")
    assert row[4:] == [
        f"{metrics['test']['micro_f1']:.4f}",
        f"{low:.3f}–{high:.3f}",
        f"{metrics['test']['micro_f1_at_0.5']:.4f}",
    ]


def test_each_label_stands_in_the_table_with_its_figures(whole, parts):
    found = Page(whole).rows
    heads = ["label", "train", "rows", "precision", "recall", "f1", "threshold"]
    start = found.index([*heads, "average precision"])
    rows = {row["label"]: row for row in parts[2]["per_label"]["test"]}
    shown = found[start + 1 : start + 4]
    assert [int(row[2]) for row in shown] == sorted(r["support"] for r in rows.values())[::-1]
    for row in shown:
        figures = rows[row[0]]
        assert row[3:7] == [f"{figures[k]:.3f}" for k in heads[3:]]
    averages = [float(row[7]) for row in shown]
    assert np.mean(averages) == pytest.approx(parts[2]["metrics"]["test"]["map"], abs=1e-3)


def test_hardest_rows_stand_with_their_text_and_what_is_in_doubt(whole, parts):
    found = Page(whole).rows
    start = found.index(["text", "doubtful label", "true", "predicted", "loss"])
    text, doubt, *_, loss = found[start + 1]
    rows, outcome = parts[1].rows["test"], parts[1].outcomes["test"]
    i = rows.texts.index(text)
    name, is_true = doubt.split(":")[0], "present" in doubt
    column = NAMES.index(name)
    assert rows.targets[i, column] == is_true
    p = outcome.probabilities[i, column]
    assert float(loss) == pytest.approx(-np.log(p if is_true else 1 - p), abs=0.01)
    losses = [float(row[-1]) for row in found[start + 1 : start + 51]]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_all_plots_are_there_valid_and_explained(task):
    from plotly.graph_objects import Figure

    meta, found, outcome, records = parts = subject(task)
    assert plots_in(classifier_page(*parts)) == PLOTS
    about = bundle_page.Subject(*parts)
    plots = [
        learning_plots.label_counts(meta.data["report"]["label_counts"]),
        learning_plots.losses(records, 20),
        learning_plots.scores(records, "micro_f1", 20, task),
        decision_plots.precision_recalls(about.sample, about.space),
        decision_plots.calibration(about.sample, about.space),
        decision_plots.thresholds(about.sample, found.decision, about.space),
        decision_plots.confusion(about.sample, about.confusions, about.space),
        learning_plots.lengths(outcome["by_length"]["test"]),
    ]
    for plot in plots:
        Figure(plot.figure)  # refuses what Plotly does not know
        assert re.fullmatch(r"[A-Za-z].*\.", plot.aid)


@pytest.mark.parametrize(
    ("task", "overrides", "words"),
    [
        ("multilabel", ["training.metric=macro_f1"], "Each label has its own threshold"),
        ("multilabel", ["decision.threshold=0.3"], "The dotted line is the threshold in use: 0.3."),
        ("multilabel", ["decision.sets=conformal"], "Prediction sets have target coverage 90%"),
        ("multilabel", ["decision.calibration=none"], "No calibration."),
        ("multiclass", ["decision.abstain_below=0.6"], "The dotted line is 0.6."),
        ("multiclass", [], "Currently every row gets a label."),
    ],
)
def test_decisions_are_shown(task, overrides, words):
    assert words in Page(classifier_page(*subject(task, overrides=overrides))).text


def test_without_a_test_split_validation_is_shown_cross_fitted():
    found = Page(classifier_page(*subject(only=("validation",))))
    assert "On validation, cross-fitted." in found.text
    assert "micro_f1, validation" in found.text


def test_without_training_there_are_no_learning_curves(parts):
    meta, found, outcome, _ = parts
    decided = {"decided_on": {"table": "new.csv", "rows": 240}}
    meta = meta.model_copy(update={"data": meta.data | decided})
    page = classifier_page(meta, found, {k: v for k, v in outcome.items() if k not in TRAINED}, [])
    assert plots_in(page) == PLOTS - {"losses", "scores"}
    assert "The decision was fitted on new.csv (240 rows)." in Page(page).text


def test_without_lengths_and_texts_rows_have_their_number(parts):
    meta, found, outcome, records = parts
    rows = {s: Labelled(r.logits, r.targets) for s, r in found.rows.items()}
    figures = {s: replace(f, by_length=None) for s, f in found.figures.items()}
    bare = type(found)(found.decision, figures, found.outcomes, rows)
    page = classifier_page(meta, bare, outcome, records)
    assert plots_in(page) == PLOTS - {"lengths"}
    assert re.search(r"row \d+", Page(page).text)


def test_many_labels_are_cut_to_the_most_frequent_and_the_most_confused():
    names = tuple(f"label {i:03}" for i in range(60))
    page = classifier_page(*subject(names=names))
    found = Page(page)
    assert "The 30 most frequent of 60 labels." in found.text
    assert "The 25 most confused of 60 labels." in found.text
    assert sum(row[0].startswith("label 0") and len(row) == 8 for row in found.rows) == 60


def test_plots_of_many_rows_show_a_sample_and_say_so(parts, monkeypatch):
    monkeypatch.setattr(diagnostics, "MAX_PAIRS", 300)
    found = Page(classifier_page(*parts)).text
    assert found.count("On test, 100 of 240 rows.") == 4
    assert "Average precision is computed on 100 of 240 rows." in found


def test_long_logs_are_averaged():
    records = [{"step": i, "epoch": i / 1000, "loss": float(i % 2)} for i in range(2000)]
    (train,) = learning_plots.losses(records, None).figure["data"]
    assert len(train["x"]) == 500
    assert set(train["y"]) == {0.5}


def test_metrics_that_are_the_same_are_drawn_once():
    records = [{"step": 1, "epoch": 1, "eval_accuracy": 0.5, "eval_micro_f1": 0.5,
                "eval_macro_f1": 0.25}]  # fmt: skip
    found = learning_plots.scores(records, "accuracy", None, "multiclass").figure["data"]
    assert [trace["name"] for trace in found] == ["accuracy", "macro_f1"]


def test_the_end_of_what_is_read_is_marked_where_texts_begin_to_be_cut():
    def bins(*truncated):
        scores = {"micro_f1": 0.5, "macro_f1": 0.5}
        return [{"from": 1, "to": 8, "rows": 40, "truncated": t} | scores for t in truncated]

    def marks(*truncated):
        return [
            s["x0"] for s in learning_plots.lengths(bins(*truncated)).figure["layout"]["shapes"]
        ]

    assert marks(0, 0, 1) == [1.5]
    assert marks(0, 0.25, 1) == [1.25]
    assert marks(0, 0) == []
    assert learning_plots.lengths(bins(0)).figure is None


def test_a_classifier_without_mistakes_has_a_matrix_all_the_same():
    targets = np.eye(3)[np.arange(30) % 3] > 0
    rows = diagnostics.Sample(targets, targets, targets, targets, 30)
    nothing = np.zeros((3, 3))
    found = decision_plots.confusion(rows, nothing, LabelSpace("multiclass", NAMES))
    assert found.figure["data"][0]["text"] == [["10", "", ""], ["", "10", ""], ["", "", "10"]]
    found = decision_plots.confusion(rows, nothing, LabelSpace("multilabel", NAMES))
    assert found.aid == "No label was predicted in place of another."


@pytest.mark.parametrize(
    ("seconds", "shown"), [(45.2, "45 s"), (750, "12 min"), (11_100, "3 h 05 min")]
)
def test_durations(seconds, shown):
    assert duration(seconds) == shown


# ------------------------------------------------------------------ it stands alone


def test_nothing_is_fetched_and_no_code_is_compiled(whole):
    found = Page(whole)
    assert found.links == ["data:,"]
    assert {"img", "iframe", "object", "embed", "base", "form"} & found.tags == set()
    assert "default-src 'none'" in whole
    assert "unsafe-eval" not in re.search(r"<meta[^>]*Security-Policy[^>]*>", whole)[0]
    assert whole.count("* plotly.js v") == 1
    assert len(found.ids) == len(set(found.ids))


def test_a_wheel_contains_the_templates():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    package = Path(bundle_page.__file__).parent
    patterns = project["tool"]["setuptools"]["package-data"]["clftask.report"]
    declared = {path for pattern in patterns for path in package.glob(pattern)}
    assert {
        path for path in package.rglob("*") if path.suffix in {".html", ".css", ".js"}
    } == declared


def test_names_and_texts_are_no_code():
    texts = [HOSTILE[i % 3] for i in range(240)]
    source = classifier_page(*subject(names=HOSTILE, texts=texts))
    found = Page(source)
    assert "<script>alert" not in source
    assert "<img" not in source
    assert len(found.scripts) == 2 + len(PLOTS)
    assert {row[0] for row in found.rows} >= set(HOSTILE)


def test_a_page_that_fails_says_so_and_costs_nothing(parts, monkeypatch):
    def fail(*_):
        raise ValueError("no <room>")

    told = []
    monkeypatch.setattr(bundle_page, "classifier_page", fail)
    page = page_of(*parts, told.append)
    assert told == ["report.html could not be rendered: ValueError: no <room>"]
    assert "No report: ValueError: no &lt;room&gt;" in page


# ------------------------------------------------------------------ in a browser

needs_chromium = pytest.mark.skipif(
    not shutil.which("chromium"), reason="needs a browser: apt-get install chromium"
)


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


COLUMN = "[...document.querySelectorAll('#per-label tbody tr')].map(r => r.cells[%d].innerText)"


@needs_chromium
@pytest.mark.parametrize("width", [1100, 400])
def test_a_browser_draws_it_without_complaints(tab, whole, tmp_path, width):
    (tmp_path / "report.html").write_text(whole)
    tab.open(tmp_path / "report.html", width, is_dark=width == 400)
    assert tab.complaints == []
    drawn = tab.run(
        "[...document.querySelectorAll('.js-plotly-plot')]"
        ".filter(p => p.querySelector('.trace, .hm')).map(p => p.id)"
    )
    assert set(drawn) == PLOTS
    assert tab.run("document.documentElement.scrollWidth") <= width  # it does not scroll sideways


@needs_chromium
def test_a_click_on_a_head_sorts_by_its_column(tab, whole, tmp_path):
    (tmp_path / "report.html").write_text(whole)
    tab.open(tmp_path / "report.html")
    heads = "document.querySelectorAll('#per-label th button')"
    tab.run(f"{heads}[5].click()")
    rising = [float(f1) for f1 in tab.run(COLUMN % 5)]
    tab.run(f"{heads}[5].click()")
    assert rising == sorted(rising)
    assert [float(f1) for f1 in tab.run(COLUMN % 5)] == rising[::-1]
    tab.run(f"{heads}[0].click()")
    assert tab.run(COLUMN % 0) == ["10", "audio", "games"]


@needs_chromium
def test_a_browser_runs_no_code_of_names_and_texts(tab, tmp_path):
    texts = [HOSTILE[i % 3] for i in range(240)]
    page = classifier_page(*subject(names=HOSTILE, texts=texts))
    (tmp_path / "report.html").write_text(page)
    tab.open(tmp_path / "report.html")
    assert tab.complaints == []
    assert tab.run("document.querySelectorAll('main img').length") == 0
    assert set(tab.run(COLUMN % 0)) == set(HOSTILE)
    ticks = "[...document.querySelectorAll('#labels .ytick text')].map(t => t.textContent)"
    assert "<b>%{x}</b>" in tab.run(ticks)
