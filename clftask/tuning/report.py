"""The report of a search: winner, finalists, effect of the settings."""

from __future__ import annotations

import statistics
from typing import Any

from clftask.components.search.goal import Goal
from clftask.config.results import Metrics, SearchOutcome, Winner
from clftask.config.tune import TuneJob
from clftask.report.format import (
    Cell,
    Row,
    Table,
    is_number,
    label,
    metric,
    number,
    short_names,
    text,
)
from clftask.report.page import render
from clftask.report.plotting import Plot, drawn
from clftask.tuning import report_plots
from clftask.tuning.trial_store import Trial


def tuning_page(job: TuneJob, trials: list[Trial], result: SearchOutcome) -> str:
    """Return a self-contained HTML page.

    Args:
        job: The search.
        trials: All trials that started, finalists included.
        result: The content of `result.json`.
    """
    goal, best = job.goal, result["best"]
    searched = [t for t in trials if not t.is_finalist]
    name = result["run"].rstrip("/").rpartition("/")[2]
    return render(
        "search.html",
        title=f"Hyperparameter search {name}",
        lead=_lead(job),
        facts=_facts(goal, result),
        cost=_cost(job, searched, trials),
        winner=best,
        settings=_settings(best["params"]),
        metrics=_metrics(best["metrics"], goal),
        finalists=_finalists(searched, result, goal),
        has_finalists=len(searched) < len(trials),
        plots=[drawn(plot) for plot in _plots(job, trials, best)],
        trials=_trials(trials, best, goal),
    )


def _setting(params: dict[str, Any], name: str) -> Cell:
    if name not in params:
        return Cell("", "", "value")
    value = params[name]
    return Cell(text(value), value if is_number(value) else text(value), "value")


# ------------------------------------------------------------------ the summary


def _lead(job: TuneJob) -> str:
    better = "higher" if job.goal.greater_is_better else "lower"
    return (
        f"{job.goal.metric} on validation, {better} is better; "
        f"searcher {job.searcher.kind}, scheduler {job.scheduler.kind}."
    )


def _splits(metrics: Metrics) -> list[str]:
    return [split for split in ("validation", "test") if metrics.get(split)]


def _facts(goal: Goal, result: SearchOutcome) -> dict[str, str]:
    metrics, counts = result["best"]["metrics"], result["trials"]
    scores = {f"{goal.metric}, {s}": number(metrics[s].get(goal.metric)) for s in _splits(metrics)}
    names = {"done": "completed trials", "stopped": "stopped early", "failed": "failed"}
    return scores | {names[state]: str(count) for state, count in counts.items()}


def _epochs(trials: list[Trial]) -> float:
    return sum(t.evaluations[-1].epoch for t in trials if t.evaluations)


def _cost(job: TuneJob, searched: list[Trial], trials: list[Trial]) -> str:
    most = job.train.epochs
    whole = sum(t.params.get("training.epochs", most) for t in searched)
    spent, again = _epochs(searched), _epochs([t for t in trials if t.is_finalist])
    count = f"{len(searched)} trials" if len(searched) != 1 else "the one trial"
    more = f"; the finalists ran {again:.4g} more" if again else ""
    return (
        f"The search ran {spent:.4g} of the {whole:.4g} epochs that {count} without early "
        f"stopping would have run ({spent / whole:.0%}){more}."
    )


def _settings(params: dict[str, Any]) -> Table:
    rows = [Row([label(name, "name"), _setting(params, name)]) for name in params]
    return Table(["setting", "value"], rows)


def _metrics(metrics: Metrics, goal: Goal) -> Table:
    splits = _splits(metrics)
    names = dict.fromkeys([goal.metric, *(name for s in splits for name in metrics[s])])
    rows = [
        Row([label(n, "name"), *(metric(metrics[s].get(n)) for s in splits)], n == goal.metric)
        for n in names
    ]
    return Table(["metric", *splits], rows)


# ------------------------------------------------------------------ finalists


def _finalists(searched: list[Trial], result: SearchOutcome, goal: Goal) -> Table:
    by_number = {trial.number: trial for trial in searched}
    found = sorted(result["finalists"], key=lambda f: -goal.sign * statistics.fmean(f[goal.metric]))
    names = short_names(dict.fromkeys(n for f in found for n in by_number[f["trial"]].params))
    rows = []
    for finalist in found:
        trial, scores = by_number[finalist["trial"]], finalist[goal.metric]
        cells = [
            Cell(f"{trial.number}", trial.number),
            metric(statistics.fmean(scores)),
            metric(max(scores) - min(scores) if len(scores) > 1 else None),
            label(", ".join(map(number, scores)), "number"),
            metric(trial.score(goal)),
            *(_setting(trial.params, name) for name in names),
        ]
        rows.append(Row(cells, trial.number == result["best"]["trial"]))
    return Table(["trial", "mean", "spread", "new seeds", "in the search", *names.values()], rows)


# ------------------------------------------------------------------ plots


def _plots(job: TuneJob, trials: list[Trial], best: Winner) -> list[Plot]:
    goal, distributions = job.goal, job.searched.names()
    searched = [t for t in trials if not t.is_finalist]
    ships = next((t for t in trials if _is_best(t, best)), None)
    return [
        report_plots.history(searched, goal),
        report_plots.curves(trials, goal, ships),
        report_plots.parallel(searched, goal, distributions),
        report_plots.importances(searched, goal, distributions),
    ]


def _is_best(trial: Trial, best: Winner) -> bool:
    return (trial.number, trial.seed) == (best["trial"], best["seed"])


# ------------------------------------------------------------------ all trials


def _trials(trials: list[Trial], best: Winner, goal: Goal) -> Table:
    names = short_names(dict.fromkeys(name for trial in trials for name in trial.params))
    heads = ["trial", goal.metric, "state", "phase", "best epoch", "epochs", "seconds"]
    rows = [Row(_fields(t, list(names), goal), _is_best(t, best)) for t in trials]
    return Table([*heads, *names.values()], rows)


def _fields(trial: Trial, names: list[str], goal: Goal) -> list[Cell]:
    found, epochs = trial.best(goal), _epochs([trial])
    return [
        Cell(f"{trial.number}", trial.number),
        metric(trial.score(goal)),
        _state(trial),
        label(f"finalist, seed {trial.seed}" if trial.is_finalist else "search"),
        Cell(f"{found.epoch:g}", found.epoch, "number") if found else Cell("", "", "number"),
        Cell(f"{epochs:g}", epochs, "number"),
        Cell(f"{trial.seconds:.1f}", trial.seconds, "number"),
        *(_setting(trial.params, name) for name in names),
    ]


def _state(trial: Trial) -> Cell:
    if trial.state == "failed":
        return label(f"failed: {trial.reason}" if trial.reason else "failed", "failed")
    return label(trial.state, "")
