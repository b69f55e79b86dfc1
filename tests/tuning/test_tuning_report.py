"""The page of a search: what it says, that it stands alone, that nothing of a user's is code."""

import json
import re

import pytest
from browser import Page

from clftask.components.search.goal import Goal
from clftask.config.tune import TuneJob
from clftask.report.format import number, short_names, text
from clftask.tuning import report_plots
from clftask.tuning.report import tuning_page
from clftask.tuning.report_axes import Axis, axes
from clftask.tuning.trial_store import Evaluation, Trial

HOSTILE = "<script>alert(1)</script>"
HIGHER = Goal(metric="micro_f1", greater_is_better=True)
LOWER = Goal(metric="loss", greater_is_better=False)
RATE, BATCH, BASE = "training.learning_rate", "training.batch_size", "model.base"
HEAD, HIDDEN = "model.head", "model.head[1].hidden"


def search(metric="micro_f1", scheduler="asha", **space):
    train = {
        "task": "multilabel",
        "data": {
            "train": "rows.csv",
            "text": "text",
            "labels": {"kind": "delimited", "column": "labels"},
        },
        "model": {"base": "base"},
        "training": {"epochs": 4},
    }
    space = space or {
        RATE: {"kind": "loguniform", "low": 1e-5, "high": 1e-3},
        BATCH: {"kind": "choice", "values": [64, 8]},
    }
    document = {"train": train, "metric": metric, "scheduler": scheduler, "space": space}
    return TuneJob.load(document)


def conditional():
    hidden = {"kind": "randint", "low": 128, "high": 513}
    return {
        RATE: {"kind": "uniform", "low": 0.0001, "high": 0.0009},
        HEAD: {"kind": "choice", "values": ["linear", {"kind": "mlp", "hidden": hidden}]},
    }


def trial(number, scores, state="finished", metric="micro_f1", seed=42, params=None, **more):
    evaluations = tuple(
        Evaluation(epoch=i, step=10 * i, seconds=2.5 * i, metrics={metric: score})
        for i, score in enumerate(scores, 1)
    )
    params = {RATE: 0.0001, BATCH: 8} if params is None else params
    return Trial(
        number=number,
        picks={},
        params=params,
        seed=seed,
        state=state,
        is_finalist=seed != 42,
        evaluations=evaluations,
        **more,
    )


def outcome(best, trials, splits=("validation", "test"), finalists=(), **metrics):
    states = [t.state for t in trials if not t.is_finalist]
    metrics = metrics or {"micro_f1": 0.8125, "loss": 0.25}
    return {
        "run": "/runs/tune-rates-1",
        "best": {
            "trial": best.number,
            "params": best.params,
            "seed": best.seed,
            "metrics": dict.fromkeys(splits, metrics),
        },
        "job": "job.yaml",
        "bundle": "bundle",
        "trials": {
            "done": states.count("finished"),
            "stopped": states.count("stopped"),
            "failed": states.count("failed"),
        },
        "finalists": list(finalists),
    }


def page(job, trials, result):
    found = Page(tuning_page(job, trials, result))
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    return found


def of(source, name):
    """Return the trace of a plot that has a name."""
    return next(trace for trace in source.figure["data"] if trace["name"] == name)


@pytest.fixture(scope="module")
def whole():
    """A search as most are: a failure, an early stop, two finalists with two seeds."""
    trials = [
        trial(0, [0.5, 0.6, 0.7, 0.75], params={RATE: 0.0002, BATCH: 8}),
        trial(1, [0.4], "stopped", params={RATE: 3.5e-05, BATCH: 64}),
        trial(2, [0.5, None], "failed", reason=f"out of memory {HOSTILE}"),
        trial(3, [0.6, 0.8, 0.7, 0.7], params={RATE: 0.0005, BATCH: 64}),
    ]
    again = [
        trial(n, [0.5, 0.6, 0.7, score], seed=seed, params=trials[n].params)
        for n, seed, score in [(3, 43, 0.75), (3, 44, 0.875), (0, 43, 0.71), (0, 44, 0.72)]
    ]
    finalists = [{"trial": 0, "micro_f1": [0.71, 0.72]}, {"trial": 3, "micro_f1": [0.75, 0.875]}]
    result = outcome(again[0], [*trials, *again], finalists=finalists)
    return tuning_page(search(), [*trials, *again], result)


# ------------------------------------------------------------------ the page


def test_it_says_what_won_and_what_the_search_cost(whole):
    found = Page(whole)
    assert "Hyperparameter search tune-rates-1" in found.text
    assert (
        "micro_f1 on validation, higher is better; searcher random, scheduler asha." in found.text
    )
    assert "The winner: trial 3, seed 43" in found.text
    assert [RATE, "0.0005"] in found.rows
    assert [BATCH, "64"] in found.rows
    assert ["metric", "validation", "test"] in found.rows
    assert ["micro_f1", "0.8125", "0.8125"] in found.rows
    assert "completed trials 2 stopped early 1 failed 1" in found.text
    assert (
        "The search ran 11 of the 16 epochs that 4 trials without early stopping would have run "
        "(69%); the finalists ran 16 more."
    ) in found.text


def test_finalists_stand_by_their_mean_with_the_spread_of_their_seeds(whole):
    rows = Page(whole).rows
    heads = ["trial", "mean", "spread", "new seeds", "in the search", "learning_rate", "batch_size"]
    start = rows.index(heads)
    assert rows[start + 1 : start + 3] == [
        ["3", "0.8125", "0.1250", "0.7500, 0.8750", "0.8000", "0.0005", "64"],
        ["0", "0.7150", "0.0100", "0.7100, 0.7200", "0.7500", "0.0002", "8"],
    ]


def test_all_trials_stand_in_the_table_failed_ones_with_their_reason(whole):
    rows = Page(whole).rows
    heads = [
        "trial",
        "micro_f1",
        "state",
        "phase",
        "best epoch",
        "epochs",
        "seconds",
        "learning_rate",
        "batch_size",
    ]
    start = rows.index(heads)
    assert rows[start + 1 : start + 5] == [
        ["0", "0.7500", "finished", "search", "4", "4", "10.0", "0.0002", "8"],
        ["1", "0.4000", "stopped", "search", "1", "1", "2.5", "3.5e-05", "64"],
        [
            "2",
            "0.5000",
            f"failed: out of memory {HOSTILE}",
            "search",
            "1",
            "2",
            "5.0",
            "0.0001",
            "8",
        ],
        ["3", "0.8000", "finished", "search", "2", "4", "10.0", "0.0005", "64"],
    ]
    assert [row[3] for row in rows[start + 5 :]] == [
        "finalist, seed 43",
        "finalist, seed 44",
        "finalist, seed 43",
        "finalist, seed 44",
    ]


def test_fields_carry_what_they_are_sorted_by(whole):
    assert 'data-sort="3.5e-05">3.5e-05<' in whole
    assert 'data-sort="0.8">0.8000<' in whole


def test_nothing_is_fetched_and_nothing_is_sent(whole):
    found = Page(whole)
    assert found.links == ["data:,"]
    assert {"img", "iframe", "object", "embed", "base", "form"} & found.tags == set()
    assert "url(" not in re.search(r"<style>(.*?)</style>", whole, re.S)[1]
    policy = re.search(r"<meta[^>]*Security-Policy[^>]*>", whole)[0]
    assert "default-src 'none'" in policy
    assert "'unsafe-eval'" in policy
    configs = [script for script in found.scripts if '"displaylogo": false' in script]
    assert len(configs) == 3
    assert all('"showSendToCloud": false' in script for script in configs)


def test_plotly_is_there_once(whole):
    assert whole.count("* plotly.js v") == 1
    assert [name for name in Page(whole).ids if not name.endswith("-section")] == [
        "summary",
        "finalists",
        "history",
        "curves",
        "parallel",
        "trials",
    ]


def test_it_fits_phones_and_dark_rooms(whole):
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in whole
    assert "@media (prefers-color-scheme: dark)" in whole
    assert whole.count('"paper_bgcolor":"rgba(0,0,0,0)"') == 3


def test_the_same_search_gives_the_same_page():
    trials = [trial(0, [0.5]), trial(1, [0.6])]
    job, result = search(), outcome(trials[1], trials)
    assert tuning_page(job, trials, result) == tuning_page(job, trials, result)


def test_values_of_users_are_no_code():
    job = search(**{BASE: {"kind": "choice", "values": [HOSTILE, "plain"]}})
    trials = [trial(0, [0.5], params={BASE: HOSTILE}), trial(1, [0.4], params={BASE: "plain"})]
    result = outcome(trials[0], trials) | {"run": f"runs/{HOSTILE.replace('/', '')}"}
    source = tuning_page(job, trials, result)
    found = Page(source)
    assert HOSTILE not in source
    assert [script for script in found.scripts if script.strip() == "alert(1)"] == []
    assert len(found.scripts) == 5  # Plotly, three plots, sorting
    assert [BASE, HOSTILE] in found.rows
    assert "Hyperparameter search <script>alert(1)<script>" in found.text


# ------------------------------------------------------------------ searches that went otherwise


def test_one_trial():
    trials = [trial(0, [0.5, 0.6])]
    found = page(search(), trials, outcome(trials[0], trials))
    assert "ran 2 of the 4 epochs that the one trial without early stopping" in found.text
    assert "No configuration was retrained with new seeds" in found.text
    assert "Comparing settings requires 2 trials with a score; found 1." in found.text
    assert "Importances require 8 trials with a score and 2 settings;" in found.text
    assert "there are 1 and 2." in found.text


def test_all_but_one_failed():
    failed = [trial(n, [], "failed", reason="the loss was NaN") for n in (0, 2, 3)]
    trials = [failed[0], trial(1, [0.6, 0.7]), *failed[1:]]
    found = page(search(), trials, outcome(trials[1], trials))
    assert "completed trials 1 stopped early 0 failed 3" in found.text
    assert [
        "0",
        "–",
        "failed: the loss was NaN",
        "search",
        "",
        "0",
        "0.0",
        "0.0001",
        "8",
    ] in found.rows
    assert "ran 2 of the 16 epochs" in found.text


def test_finalists_that_all_failed():
    trials = [trial(0, [0.5]), trial(1, [0.6]), trial(1, [], "failed", seed=43)]
    found = page(search(), trials, outcome(trials[1], trials))
    assert "No finalist has a score, so the best trial of the search wins." in found.text
    assert ["1", "–", "failed", "finalist, seed 43", "", "0", "0.0", "0.0001", "8"] in found.rows


def test_one_new_seed_has_no_spread():
    trials = [trial(0, [0.5]), trial(1, [0.6]), trial(1, [0.7], seed=43)]
    result = outcome(trials[2], trials, finalists=[{"trial": 1, "micro_f1": [0.7]}])
    assert ["1", "0.7000", "–", "0.7000", "0.6000", "0.0001", "8"] in page(
        search(), trials, result
    ).rows


@pytest.mark.parametrize("missing", [float("nan"), float("inf"), None])
def test_metrics_that_are_no_numbers(missing):
    trials = [trial(0, [None, 0.6, None]), trial(1, [None])]
    result = outcome(trials[0], trials, micro_f1=0.6, mcc=missing)
    found = page(search(), trials, result)
    assert ["mcc", "–", "–"] in found.rows
    assert "NaN" not in "".join(script for script in found.scripts if '"displaylogo"' in script)
    assert ["1", "–", "finished", "search", "", "1", "2.5", "0.0001", "8"] in found.rows


def test_no_test_split():
    trials = [trial(0, [0.5])]
    found = page(search(), trials, outcome(trials[0], trials, splits=("validation",)))
    assert ["metric", "validation"] in found.rows
    assert ["micro_f1", "0.8125"] in found.rows
    assert "micro_f1, test" not in found.text


def test_a_metric_that_is_minimised():
    trials = [
        trial(0, [0.9, 0.5], metric="loss"),
        trial(1, [0.7], metric="loss"),
        trial(0, [0.5], metric="loss", seed=43),
        trial(1, [0.25], metric="loss", seed=43),
    ]
    finalists = [{"trial": 0, "loss": [0.5]}, {"trial": 1, "loss": [0.25]}]
    found = page(search("loss"), trials, outcome(trials[3], trials, finalists=finalists))
    assert "loss on validation, lower is better" in found.text
    assert [row[:2] for row in found.rows if row[2:3] == ["–"]] == [
        ["1", "0.2500"],
        ["0", "0.5000"],
    ]


def test_epochs_that_are_searched_count_as_each_trial_has_them():
    epochs = {"training.epochs": {"kind": "choice", "values": [1, 3]}}
    job = search(scheduler="fifo", **epochs)
    trials = [trial(n, [0.5] * n, params={"training.epochs": n}) for n in (1, 3)]
    found = page(job, trials, outcome(trials[0], trials))
    assert (
        "4 of the 4 epochs that 2 trials without early stopping would have run (100%)" in found.text
    )


# ------------------------------------------------------------------ plots


def test_history_keeps_the_best_so_far_and_distinguishes_states():
    trials = [
        trial(0, [0.5]),
        trial(1, [0.4], "stopped"),
        trial(2, [0.9], "failed"),
        trial(3, [0.6, 0.5]),
    ]
    found = report_plots.history(trials, HIGHER)
    best, finished = of(found, "best so far"), of(found, "finished")
    assert (best["x"], best["y"]) == ([0, 1, 3], [0.5, 0.5, 0.6])
    assert (finished["x"], finished["y"]) == ([0, 3], [0.5, 0.6])
    assert of(found, "stopped")["marker"]["symbol"] == "circle-open"
    assert of(found, "failed")["x"] == [2]


def test_history_falls_for_a_metric_that_is_minimised():
    trials = [trial(n, [loss], metric="loss") for n, loss in enumerate([0.5, 0.7, 0.2])]
    assert of(report_plots.history(trials, LOWER), "best so far")["y"] == [0.5, 0.5, 0.2]


def test_curves_are_a_line_a_trial_and_the_winner_is_its_own():
    best, again = trial(1, [0.6, 0.7], seed=43), trial(1, [0.65], seed=44)
    trials = [trial(0, [0.5, None]), trial(1, [0.6]), best, again]
    found = report_plots.curves(trials, HIGHER, best)
    lines = of(found, "trials")
    assert lines["x"] == [1, 2, None, 1, None]
    assert lines["y"] == [0.5, None, None, 0.6, None]
    assert of(found, "the winner")["y"] == [0.6, 0.7, None]
    assert of(found, "finalists with new seeds")["customdata"][0] == "trial 1, seed 44"


def test_parallel_axes_are_logarithmic_listed_or_plain():
    job = search(
        **conditional(),
        **{"training.weight_decay": {"kind": "loguniform", "low": 1e-5, "high": 1e-1}},
    )
    params = [
        {RATE: 0.0001, HEAD: "linear", "training.weight_decay": 1e-3},
        {RATE: 0.0005, HEAD: "mlp", HIDDEN: 300, "training.weight_decay": 1e-5},
    ]
    trials = [trial(n, [0.5 + n / 4], params=p) for n, p in enumerate(params)]
    trials.append(trial(2, [0.9], "failed", params=params[0]))
    figure = report_plots.parallel(trials, HIGHER, job.searched.names()).figure
    rate, head, decay, hidden, score = figure["data"][0]["dimensions"]
    assert rate["ticktext"] == ["0.0001", "0.0003", "0.0005", "0.0007", "0.0009"]
    assert (head["values"], head["ticktext"]) == ([0, 1], ["linear", "mlp"])
    assert decay["values"] == [-3, -5]
    assert decay["ticktext"] == ["1e-05", "0.0001", "0.001", "0.01", "0.1"]
    assert hidden["values"] == [32, 300]
    assert hidden["ticktext"] == ["not set", "128", "224", "320", "416", "512"]
    assert (score["label"], score["values"]) == ("micro_f1", [0.5, 0.75])
    assert figure["data"][0]["line"]["color"] == [-1, 0]


@pytest.mark.parametrize(("goal", "shades"), [(HIGHER, [-2, -1, 0]), (LOWER, [0, -1, -2])])
def test_the_best_lines_have_the_strongest_shade(goal, shades):
    trials = [trial(n, [n / 4], metric=goal.metric) for n in (1, 2, 3)]
    figure = report_plots.parallel(trials, goal, search().searched.names()).figure
    assert figure["data"][0]["line"]["color"] == shades


def test_importance_finds_the_setting_that_decides():
    values = [(0.0001 * (n % 8 + 1), n % 2) for n in range(24)]
    params = [
        {RATE: rate, HEAD: "mlp", HIDDEN: 200 + n} if odd else {RATE: rate, HEAD: "linear"}
        for n, (rate, odd) in enumerate(values)
    ]
    trials = [trial(n, [1000 * p[RATE]], params=p) for n, p in enumerate(params)]
    found = report_plots.importances(trials, HIGHER, search(**conditional()).searched.names())
    bars = found.figure["data"][0]
    assert bars["y"][-1] == "learning_rate"
    assert set(bars["y"]) == {"learning_rate", "head", "hidden"}
    assert bars["x"][-1] > 0.5 > bars["x"][-2] >= 0


@pytest.mark.parametrize(
    ("scored", "settings", "is_drawn"),
    [(8, 2, True), (7, 2, False), (8, 1, False)],
)
def test_importance_needs_trials_and_settings(scored, settings, is_drawn):
    params = dict(list({RATE: 0.0001, BATCH: 8}.items())[:settings])
    trials = [trial(n, [n / 10], params=params) for n in range(scored)]
    trials += [trial(n, [0.5], "failed", params=params) for n in range(20, 30)]
    found = report_plots.importances(trials, HIGHER, search().searched.names())
    assert (found.figure is not None) == is_drawn
    assert (f"there are {scored} and {settings}." in found.aid) != is_drawn


def test_figures_are_valid_named_and_explained():
    from plotly.graph_objects import Figure

    trials = [trial(n, [n / 10], params={RATE: 0.0001 * (n + 1), BATCH: 8}) for n in range(9)]
    names = search().searched.names()
    found = [
        report_plots.history(trials, HIGHER),
        report_plots.curves(trials, HIGHER, trials[8]),
        report_plots.parallel(trials, HIGHER, names),
        report_plots.importances(trials, HIGHER, names),
    ]
    for plot in found:
        Figure(plot.figure)  # refuses what Plotly does not know
        assert plot.title
        assert re.fullmatch(r"[A-Z].*\.", plot.aid)
        assert json.loads(json.dumps(plot.figure, allow_nan=False)) == plot.figure
    titles = [
        [plot.figure["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")]
        for plot in found
        if plot.name != "parallel"
    ]
    assert titles == [
        ["trial", "best micro_f1, validation"],
        ["epoch", "micro_f1, validation"],
        ["drop in R² when shuffled", "setting"],
    ]


def test_names_in_plots_are_shown_as_they_are():
    goal = Goal(metric="<b>f1</b>", greater_is_better=True)
    layout = report_plots.history([trial(0, [0.5], metric=goal.metric)], goal).figure["layout"]
    assert layout["yaxis"]["title"]["text"] == "best &lt;b&gt;f1&lt;/b&gt;, validation"


# ------------------------------------------------------------------ axes


def test_categories_stand_in_their_natural_order():
    names = search(**{BATCH: {"kind": "choice", "values": [64, 8, 16]}}).searched.names()
    trials = [trial(n, [0.5], params={BATCH: value}) for n, value in enumerate([64, 8, 16, 8])]
    assert axes(names, trials) == [Axis(BATCH, (2, 0, 1, 0), {0: "8", 1: "16", 2: "64"})]


def test_values_beyond_the_ends_widen_the_axis():
    names = search(**{RATE: {"kind": "uniform", "low": 0.1, "high": 0.5}}).searched.names()
    found = axes(names, [trial(0, [0.5], params={RATE: 0.9})])
    assert found[0].values == (0.9,)
    assert list(found[0].ticks.values()) == ["0.1", "0.3", "0.5", "0.7", "0.9"]


def test_settings_that_no_trial_has_get_no_axis():
    trials = [trial(0, [0.5], params={RATE: 0.0002, HEAD: "linear"})]
    assert [a.name for a in axes(search(**conditional()).searched.names(), trials)] == [RATE, HEAD]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("bce", "bce"),
        (None, "null"),
        (True, "true"),
        (16, "16"),
        (2e-5, "2e-05"),
        (0.123456, "0.1235"),
        (float("nan"), "–"),
        ([1, "a"], '[1, "a"]'),
    ],
)
def test_settings_read_as_in_a_job_file(value, shown):
    assert text(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5, "0.5000"),
        (0, "0.0000"),
        (-0.25, "-0.2500"),
        (1.5e-5, "1.5e-05"),
        (2e6, "2e+06"),
        (None, "–"),
        (float("nan"), "–"),
        (True, "–"),
        ("x", "–"),
    ],
)
def test_metrics_have_four_digits(value, shown):
    assert number(value) == shown


def test_names_are_short_where_that_is_clear():
    names = ["training.warmup", "loss[0].gamma", "loss[1].gamma", "a.b.c", "x.b.c", "loss"]
    assert list(short_names(names).values()) == [
        "warmup",
        "loss[0].gamma",
        "loss[1].gamma",
        "a.b.c",
        "x.b.c",
        "loss",
    ]
