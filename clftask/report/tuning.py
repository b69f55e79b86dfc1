"""The page of a search: what won, by how much, and what the settings did."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from clftask.config import TuneJob
from clftask.report import plots
from clftask.report.axes import is_number, number, short_names, text
from clftask.report.page import render
from clftask.search.searchers import Goal
from clftask.trials import Trial

_CONFIG = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],  # of no use here
    "showSendToCloud": False,  # Plotly's default is a button that uploads the data
}


def tuning_page(job: TuneJob, trials: list[Trial], result: dict[str, Any]) -> str:
    """Return a self-contained HTML page.

    Args:
        job: The search.
        trials: All that were begun, finalists included.
        result: What the search found, as `result.json` has it.
    """
    goal, best = job.goal, result["best"]
    searched = [t for t in trials if not t.is_finalist]
    name = result["run"].rstrip("/").rpartition("/")[2]
    return render(
        title=f"Hyperparameter search {name}",
        lead=_lead(job),
        facts=_facts(goal, result),
        cost=_cost(job, searched, trials),
        winner=best,
        settings=_settings(best["params"]),
        metrics=_metrics(best["metrics"], goal),
        finalists=_finalists(searched, result, goal),
        finalists_aid=_finalists_aid(trials, result),
        plots=[_drawn(plot) for plot in _plots(job, trials, best)],
        trials=_trials(trials, best, goal),
    )


@dataclass(frozen=True)
class _Cell:
    """A field of a table: what it shows, what it is sorted by, and its class on the page."""

    text: str
    sort: float | str
    kind: str = ""


@dataclass(frozen=True)
class _Row:
    cells: list[_Cell]
    is_winner: bool = False


@dataclass(frozen=True)
class _Table:
    heads: list[str]
    rows: list[_Row]

    def holds_numbers(self, column: int) -> bool:
        """Tell whether a column, and so its head, is aligned to the right."""
        return all(row.cells[column].kind == "number" for row in self.rows)


def _label(value: str, kind: str = "value") -> _Cell:
    return _Cell(value, value, kind)


def _metric(value: Any) -> _Cell:
    return _Cell(number(value), value if is_number(value) else "", "number")


def _setting(params: dict[str, Any], name: str) -> _Cell:
    if name not in params:
        return _Cell("", "", "value")
    value = params[name]
    return _Cell(text(value), value if is_number(value) else text(value), "value")


# ------------------------------------------------------------------ the summary


def _lead(job: TuneJob) -> str:
    better = "higher" if job.goal.greater_is_better else "lower"
    return (
        f"{job.goal.metric} on validation, {better} is better; "
        f"searcher {job.searcher.kind}, scheduler {job.scheduler.kind}."
    )


def _facts(goal: Goal, result: dict[str, Any]) -> dict[str, str]:
    metrics, counts = result["best"]["metrics"], result["trials"]
    splits = [split for split in ("validation", "test") if metrics.get(split)]
    scores = {f"{goal.metric}, {s}": number(metrics[s].get(goal.metric)) for s in splits}
    names = {"done": "trials to the end", "stopped": "stopped early", "failed": "failed"}
    return scores | {names[state]: str(count) for state, count in counts.items()}


def _epochs(trials: list[Trial]) -> float:
    return sum(t.evaluations[-1].epoch for t in trials if t.evaluations)


def _cost(job: TuneJob, searched: list[Trial], trials: list[Trial]) -> str:
    most = job.train.training.epochs
    whole = sum(t.params.get("training.epochs", most) for t in searched)
    spent, again = _epochs(searched), _epochs([t for t in trials if t.is_finalist])
    count = f"{len(searched)} trials" if len(searched) != 1 else "the one trial"
    more = f"; the finalists took {again:.4g} more" if again else ""
    return (
        f"The search spent {spent:.4g} of the {whole:.4g} epochs that {count} to the end "
        f"would have cost ({spent / whole:.0%}){more}."
    )


def _settings(params: dict[str, Any]) -> _Table:
    rows = [_Row([_label(name, "name"), _setting(params, name)]) for name in params]
    return _Table(["setting", "value"], rows)


def _metrics(metrics: dict[str, Any], goal: Goal) -> _Table:
    splits = [split for split in ("validation", "test") if metrics.get(split)]
    names = dict.fromkeys([goal.metric, *(name for s in splits for name in metrics[s])])
    rows = [
        _Row([_label(n, "name"), *(_metric(metrics[s].get(n)) for s in splits)], n == goal.metric)
        for n in names
    ]
    return _Table(["metric", *splits], rows)


# ------------------------------------------------------------------ finalists


def _finalists(searched: list[Trial], result: dict[str, Any], goal: Goal) -> _Table:
    by_number = {trial.number: trial for trial in searched}
    sign = -1 if goal.greater_is_better else 1
    found = sorted(result["finalists"], key=lambda f: sign * statistics.fmean(f[goal.metric]))
    names = short_names(dict.fromkeys(n for f in found for n in by_number[f["trial"]].params))
    rows = []
    for finalist in found:
        trial, scores = by_number[finalist["trial"]], finalist[goal.metric]
        cells = [
            _Cell(f"{trial.number}", trial.number),
            _metric(statistics.fmean(scores)),
            _metric(max(scores) - min(scores) if len(scores) > 1 else None),
            _label(", ".join(map(number, scores)), "number"),
            _metric(trial.score(goal)),
            *(_setting(trial.params, name) for name in names),
        ]
        rows.append(_Row(cells, trial.number == result["best"]["trial"]))
    return _Table(["trial", "mean", "spread", "new seeds", "in the search", *names.values()], rows)


def _finalists_aid(trials: list[Trial], result: dict[str, Any]) -> str:
    if result["finalists"]:
        return (
            "The best mean over new seeds wins; a spread (highest less lowest) wider than the gap "
            "between two means says that the two may as well be equal."
        )
    if any(trial.is_finalist for trial in trials):
        return "No finalist has a score, so the best trial of the search ships."
    return "No configuration was trained again with new seeds: the best trial itself ships."


# ------------------------------------------------------------------ plots


def _plots(job: TuneJob, trials: list[Trial], best: dict[str, Any]) -> list[plots.Plot]:
    goal, distributions = job.goal, job.searched.names()
    searched = [t for t in trials if not t.is_finalist]
    ships = next((t for t in trials if _is_best(t, best)), None)
    return [
        plots.history(searched, goal),
        plots.curves(trials, goal, ships),
        plots.parallel(searched, goal, distributions),
        plots.importances(searched, goal, distributions),
    ]


def _is_best(trial: Trial, best: dict[str, Any]) -> bool:
    return (trial.number, trial.seed) == (best["trial"], best["seed"])


def _drawn(plot: plots.Plot) -> dict[str, Any]:
    from markupsafe import Markup
    from plotly.io import to_html

    if plot.figure is None:
        return {**vars(plot), "html": ""}
    found = to_html(
        plot.figure,
        config=_CONFIG,
        include_plotlyjs=False,
        full_html=False,
        default_height=f"{plot.height}px",
        validate=False,  # that takes seconds; a test does it
        div_id=plot.name,
    )
    return {**vars(plot), "html": Markup(found)}  # noqa: S704 to_html escapes the data


# ------------------------------------------------------------------ all trials


def _trials(trials: list[Trial], best: dict[str, Any], goal: Goal) -> _Table:
    names = short_names(dict.fromkeys(name for trial in trials for name in trial.params))
    heads = ["trial", goal.metric, "state", "phase", "best epoch", "epochs", "seconds"]
    rows = [_Row(_fields(t, list(names), goal), _is_best(t, best)) for t in trials]
    return _Table([*heads, *names.values()], rows)


def _fields(trial: Trial, names: list[str], goal: Goal) -> list[_Cell]:
    found, epochs = trial.best(goal), _epochs([trial])
    return [
        _Cell(f"{trial.number}", trial.number),
        _metric(trial.score(goal)),
        _state(trial),
        _label(f"finalist, seed {trial.seed}" if trial.is_finalist else "search"),
        _Cell(f"{found.epoch:g}", found.epoch, "number") if found else _Cell("", "", "number"),
        _Cell(f"{epochs:g}", epochs, "number"),
        _Cell(f"{trial.seconds:.1f}", trial.seconds, "number"),
        *(_setting(trial.params, name) for name in names),
    ]


def _state(trial: Trial) -> _Cell:
    if trial.state == "failed":
        return _label(f"failed: {trial.reason}" if trial.reason else "failed", "failed")
    return _label(trial.state, "")
