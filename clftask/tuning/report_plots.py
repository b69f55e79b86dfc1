"""Plots of a search, as dicts for Plotly."""

from __future__ import annotations

import itertools
from typing import Any

from clftask.components.search.goal import Goal
from clftask.components.search.space import Distribution
from clftask.report import plotting
from clftask.report.format import number, short_names
from clftask.report.plotting import Plot
from clftask.tuning.report_axes import Axis, axes
from clftask.tuning.trial_store import Trial, ranked

MIN_SCORED, MIN_PARAMS = 8, 2
_NUM_TREES, _NUM_SHUFFLES = 100, 20

_MARKERS = {
    "finished": {"symbol": "circle", "color": plotting.BLUE, "size": 9},
    "stopped": {"symbol": "circle-open", "color": plotting.BLUE, "size": 9, "line": {"width": 2}},
    "failed": {"symbol": "x", "color": plotting.RED, "size": 8},
    "running": {"symbol": "diamond-open", "color": plotting.GREY, "size": 9},
}


def history(trials: list[Trial], goal: Goal) -> Plot:
    """Return the score of each trial, and the best so far."""
    title, scored = "Optimisation history", [t for t in trials if t.score(goal) is not None]
    traces = [_states(state, scored, goal) for state in _MARKERS]
    traces = [trace for trace in traces if trace["x"]]
    last = max((t.number for t in scored), default=0)
    edge = max(0.5, last / 40)
    layout = plotting.layout(
        plotting.axis("trial", dtick=plotting.step(last), range=[-edge, last + edge]),
        plotting.axis(f"best {goal.metric}, validation"),
    )
    aid = (
        "Each mark is a trial's best evaluation; open marks are trials stopped early. "
        "If the line still improves near the end, more trials may help."
    )
    return Plot("history", title, aid, {"data": [_best_so_far(trials, goal), *traces], **layout})


def curves(trials: list[Trial], goal: Goal, best: Trial | None) -> Plot:
    """Return the metric by epoch, one line per trial.

    Args:
        trials: All trials, finalists included.
        goal: The objective.
        best: The winner.
    """
    again = [t for t in trials if t.is_finalist and t != best]
    others = [t for t in trials if not t.is_finalist and t != best]
    groups = [
        _curves("trials", others, goal, color=plotting.FAINT, width=1.5),
        _curves("finalists with new seeds", again, goal, color=plotting.BLUE, width=1.5),
        _curves("the winner", [best] if best else [], goal, color=plotting.ORANGE, width=3.5),
    ]
    last = max((e.epoch for t in trials for e in t.evaluations), default=0)
    layout = plotting.layout(
        plotting.axis("epoch", dtick=plotting.step(last)),
        plotting.axis(f"{goal.metric}, validation"),
    )
    aid = (
        "Each line is a trial and ends where the trial stopped. "
        "If the winner still improves at its last epoch, more epochs may help."
    )
    data = [group for group in groups if group["x"]]
    return Plot("curves", "Learning curves", aid, {"data": data, **layout})


def parallel(trials: list[Trial], goal: Goal, distributions: dict[str, Distribution]) -> Plot:
    """Return settings and scores of all trials as parallel coordinates.

    Args:
        trials: All trials except finalists.
        goal: The objective.
        distributions: The search space by setting.
    """
    name, title, scored = "parallel", "Settings and scores", _scored(trials, goal)
    if len(scored) < 2:
        aid = f"Comparing settings requires 2 trials with a score; found {len(scored)}."
        return Plot(name, title, aid)
    found = axes(distributions, scored)
    names = short_names(axis.name for axis in found)
    scores = [t.score(goal) or 0.0 for t in scored]
    order = ranked(scored, goal)
    dimensions = [_dimension(names[axis.name], axis) for axis in found]
    dimensions.append({"label": goal.metric, "values": scores, **_span(scores)})
    # By rank: a single outlier would give all others the same shade.
    line = {
        "color": [-order.index(t) for t in scored],
        "colorscale": [[0, plotting.GREY], [1, plotting.ORANGE]],
    }
    trace = {"type": "parcoords", "line": line, "dimensions": dimensions, "labelangle": -12}
    layout = plotting.layout({}, {}, margin={"l": 70, "r": 60, "t": 70, "b": 25})
    aid = (
        "Each line is a trial; the more orange, the better its score. Orange lines meet at values "
        "with good scores. Drag along an axis to select the lines that cross it there."
    )
    width = 130 * len(dimensions)
    return Plot(name, title, aid, {"data": [trace], **layout}, height=420, min_width=width)


def importances(trials: list[Trial], goal: Goal, distributions: dict[str, Distribution]) -> Plot:
    """Return the importance of each setting for the score.

    Args:
        trials: All trials except finalists.
        goal: The objective.
        distributions: The search space by setting.
    """
    name, title, scored = "importances", "Importance of settings", _scored(trials, goal)
    found = axes(distributions, scored)
    if len(scored) < MIN_SCORED or len(found) < MIN_PARAMS:
        aid = (
            f"Importances require {MIN_SCORED} trials with a score and {MIN_PARAMS} settings; "
            f"there are {len(scored)} and {len(found)}."
        )
        return Plot(name, title, aid)
    names = short_names(axis.name for axis in found)
    bars = _permuted(found, [t.score(goal) or 0.0 for t in scored])
    bars = dict(sorted(bars.items(), key=lambda bar: bar[1][0]))
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [mean for mean, _ in bars.values()],
        "y": [plotting.plain(names[name]) for name in bars],
        "error_x": {"array": [spread for _, spread in bars.values()], "color": plotting.GREY},
        "marker": {"color": plotting.BLUE},
        "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
    }
    layout = plotting.layout(
        plotting.axis("drop in R² when shuffled", rangemode="tozero"),
        plotting.axis("setting", type="category", ticklabelstandoff=6),
    )
    aid = (
        "Permutation importance: the drop in R² of a random forest that predicts the scores, when "
        "the setting is shuffled. It shows correlation, not causation, and is noisy for few trials."
    )
    return Plot(name, title, aid, {"data": [trace], **layout}, height=140 + 34 * len(bars))


# ------------------------------------------------------------------ traces and axes


def _scored(trials: list[Trial], goal: Goal) -> list[Trial]:
    return sorted(ranked(trials, goal), key=lambda t: t.number)


def _states(state: str, trials: list[Trial], goal: Goal) -> dict[str, Any]:
    shown = [t for t in trials if t.state == state]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": state,
        "x": [t.number for t in shown],
        "y": [t.score(goal) for t in shown],
        "marker": _MARKERS[state],
        "hovertemplate": "trial %{x}: %{y:.4f}",
    }


def _best_so_far(trials: list[Trial], goal: Goal) -> dict[str, Any]:
    scored = _scored(trials, goal)
    better = max if goal.greater_is_better else min
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": [t.number for t in scored],
        "y": list(itertools.accumulate((t.score(goal) or 0.0 for t in scored), better)),
        "line": {"shape": "hv", "color": plotting.ORANGE, "width": 2},
        "hoverinfo": "skip",
    }


def _curves(name: str, trials: list[Trial], goal: Goal, **line: Any) -> dict[str, Any]:
    """Return the lines of a group of trials as one trace: Plotly is slow with many traces."""
    points: list[tuple[float | None, float | None, str]] = []
    for trial in trials:
        seed = f", seed {trial.seed}" if trial.is_finalist else ""
        label = f"trial {trial.number}{seed}"
        points += [(e.epoch, e.metrics.get(goal.metric), label) for e in trial.evaluations]
        points.append((None, None, label))  # a gap between two lines
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [x for x, _, _ in points],
        "y": [y for _, y, _ in points],
        "customdata": [label for _, _, label in points],
        "line": line,
        "marker": {"size": 3 + line["width"]},
        "hovertemplate": "%{customdata}, epoch %{x}: %{y:.4f}<extra></extra>",
    }


def _dimension(label: str, axis: Axis) -> dict[str, Any]:
    # An axis of a single category needs a range of nonzero width.
    low, high = min(axis.ticks), max(axis.ticks)
    return {
        "label": plotting.plain(label),
        "values": list(axis.values),
        "tickvals": list(axis.ticks),
        "ticktext": [plotting.cut(tick) for tick in axis.ticks.values()],
        "range": [low, high] if low < high else [low - 1, high + 1],
    }


def _span(scores: list[float]) -> dict[str, Any]:
    low, high = min(scores), max(scores)
    if low == high:
        return {"range": [low - 1, high + 1], "tickvals": [low], "ticktext": [number(low)]}
    ticks = [low + (high - low) * i / 4 for i in range(5)]
    return {"range": [low, high], "tickvals": ticks, "ticktext": [number(t) for t in ticks]}


def _permuted(found: list[Axis], scores: list[float]) -> dict[str, tuple[float, float]]:
    """Return the mean and standard deviation of permutation importance (Breiman, 2001)."""
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    features = np.array([axis.values for axis in found]).T
    forest = RandomForestRegressor(_NUM_TREES, random_state=0).fit(features, scores)
    drops = permutation_importance(
        forest, features, scores, n_repeats=_NUM_SHUFFLES, random_state=0
    )
    means = np.maximum(drops.importances_mean, 0).tolist()
    spreads = drops.importances_std.tolist()
    return {axis.name: (means[i], spreads[i]) for i, axis in enumerate(found)}
