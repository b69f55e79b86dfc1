"""Plots of a classifier's decisions: curves, calibration, thresholds, confusions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clftask.components.decision.decision import Decision
from clftask.components.decision.thresholds import GRID, curve
from clftask.components.labels import LabelSpace
from clftask.components.metrics.probabilities import ece, reliability
from clftask.components.metrics.rows import Rows
from clftask.evaluation.diagnostics import (
    PrecisionRecall,
    Sample,
    abstention,
    most_confused,
    precision_recall,
)
from clftask.report import plotting
from clftask.report.learning_plots import NAME_CHARACTERS, names_axis
from clftask.report.plotting import Plot, Trace

NUM_CURVES, MAX_MATRIX = 5, 25
_DIGITS = 4
_RIGHT_OR_WRONG = [
    [0, "rgba(223,107,12,.8)"],
    [0.5, "rgba(223,107,12,0)"],
    [0.5, "rgba(63,135,198,0)"],
    [1, "rgba(63,135,198,.6)"],
]


def precision_recalls(sample: Sample, space: LabelSpace) -> Plot:
    """Return precision-recall curves, pooled over all labels and of the most frequent ones."""
    order = np.argsort(-sample.targets.sum(0), kind="stable")[:NUM_CURVES]
    some = [int(i) for i in order if sample.targets[:, i].any()]
    pooled = precision_recall(sample.probabilities.ravel(), sample.targets.ravel())
    data = _curve("all labels (micro)", pooled, sample.decided, sample.targets, plotting.GREY, 4)
    for i, colour in zip(some, plotting.PALETTE, strict=False):
        own = precision_recall(sample.probabilities[:, i], sample.targets[:, i])
        of_label = sample.decided[:, i], sample.targets[:, i]
        data += _curve(space.names[i], own, *of_label, colour, 2)
    layout = plotting.layout(
        plotting.axis("recall", range=[0, 1.02]), plotting.axis("precision", range=[0, 1.04])
    )
    aid = f"All labels pooled, and the {len(some)} most frequent ones, each one-vs-rest. "
    aid += "A diamond marks the decision in use"
    aid += "; other points are other thresholds." if space.task == "multilabel" else "."
    figure = {"data": data, **layout}
    return Plot("precision-recall", "Precision and recall", aid, figure, 440)


def _curve(
    name: str, found: PrecisionRecall, decided: Any, targets: Any, colour: str, width: int
) -> list[Trace]:
    """Return a curve, and the point of the decision in use."""
    hits, given = int((decided & targets).sum()), int(decided.sum())
    shown = plotting.cut(name, NAME_CHARACTERS)
    shared = {"meta": plotting.plain(name), "legendgroup": name}
    hover = "recall %{x:.3f}, precision %{y:.3f}<extra></extra>"
    line = plotting.scatter(
        shown,
        _rounded(found.recall),
        _rounded(found.precision),
        f"%{{meta}}: {hover}",
        line={"color": colour, "width": width, "shape": "vh"},
        **shared,
    )
    chosen = plotting.scatter(
        shown,
        [hits / max(1, int(targets.sum()))],
        [hits / max(1, given)],
        f"%{{meta}}, in use: {hover}",
        mode="markers",
        marker={"size": 11, "symbol": "diamond", "color": colour},
        showlegend=False,
        **shared,
    )
    return [line, chosen] if given else [line]


def _rounded(values: Any) -> list[float | None]:
    return [None if np.isnan(v) else round(float(v), _DIGITS) for v in values]


# ------------------------------------------------------------------ calibration


def calibration(sample: Sample, space: LabelSpace) -> Plot:
    """Return the reliability diagram, before and after calibration."""
    own, before = _reliability("calibrated", sample.probabilities, sample, space, plotting.BLUE), []
    if not np.array_equal(sample.plain, sample.probabilities):
        before = _reliability("before", sample.plain, sample, space, plotting.ORANGE)
    top = np.log10(sample.targets.size) + 0.3
    layout = plotting.layout(
        plotting.axis("probability", range=[0, 1], anchor="y2"),
        plotting.axis("fraction of positives", range=[0, 1.02], domain=[0.3, 1]),
        yaxis2=plotting.axis(
            "count", type="log", domain=[0, 0.24], dtick=2 if top > 4 else 1, range=[-0.3, top]
        ),
        shapes=[_diagonal()],
        barmode="group",
    )
    what = "most probable classes" if space.task == "multiclass" else "(row, label) pairs"
    errors = [
        f"{ece(space.task)(Rows(p, sample.decided, sample.targets)):.4f} {when}"
        for when, p in (("before", sample.plain), ("after", sample.probabilities))
        if before or when == "after"
    ]
    aid = (
        f"Bins of the {what} by probability; the dotted line is perfect calibration. "
        f"Expected calibration error: {', '.join(errors) if before else errors[0][:6]}."
    )
    figure = {"data": [*before, *own], **layout}
    return Plot("calibration", "Calibration", aid, figure, 480)


def _reliability(
    name: str, probabilities: Any, sample: Sample, space: LabelSpace, colour: str
) -> list[Trace]:
    counts, confidence, correct = reliability(probabilities, sample.targets, space.task)
    some = np.flatnonzero(counts)
    n = counts[some]
    line = plotting.scatter(
        name,
        _rounded(confidence[some] / n),
        _rounded(correct[some] / n),
        "%{x:.3f}: %{y:.3f} of %{customdata:,}",
        mode="lines+markers",
        customdata=n.tolist(),
        cliponaxis=False,
        line={"color": colour, "width": 2},
    )
    places = _rounded((some + 0.5) / len(counts))
    on_second = {"showlegend": False, "yaxis": "y2"}
    return [line, plotting.bars(name, places, n.tolist(), "%{y:,}", colour, **on_second)]


def _diagonal() -> dict[str, Any]:
    line = {"color": plotting.GREY, "width": 1.5, "dash": "dot"}
    ends = {"x0": 0, "y0": 0, "x1": 1, "y1": 1}
    return {"type": "line", **ends, "xref": "x", "yref": "y", "layer": "below", "line": line}


# ------------------------------------------------------------------ thresholds


def thresholds(sample: Sample, decision: Decision, space: LabelSpace) -> Plot:
    """Return F1 by threshold; for multiclass, coverage and accuracy by abstain_below."""
    if space.task == "multilabel":
        return _f1_by_threshold(sample, decision, space)
    covered, accuracy = abstention(sample.probabilities, sample.targets)
    data = [
        _by_grid("coverage", covered, plotting.ORANGE),
        _by_grid("accuracy of covered rows", accuracy, plotting.BLUE),
    ]
    floor = decision.abstain_below
    layout = plotting.layout(
        plotting.axis("abstain_below", range=[0, 1]),
        plotting.axis("share", range=[0, 1.03]),
        shapes=[] if floor is None else [plotting.upright(floor)],
    )
    chosen = (
        "Currently every row gets a label." if floor is None else f"The dotted line is {floor:g}."
    )
    aid = (
        "Rows whose highest probability is below abstain_below get no label: a higher value "
        f"lowers coverage and usually raises accuracy. {chosen}"
    )
    return Plot("thresholds", "Abstaining", aid, {"data": data, **layout})


def _f1_by_threshold(sample: Sample, decision: Decision, space: LabelSpace) -> Plot:
    found = curve(sample.probabilities, sample.targets)
    data = [
        _by_grid("micro-F1", found.averaged_f("micro"), plotting.BLUE),
        _by_grid("macro-F1", found.averaged_f("macro"), plotting.ORANGE),
    ]
    is_global = isinstance(decision.threshold, float)
    layout = plotting.layout(
        plotting.axis("threshold", range=[0, 1]),
        plotting.axis("F1", range=[0, 1.03]),
        shapes=[plotting.upright(decision.thresholds(1)[0])] if is_global else [],
    )
    chosen = f"The dotted line is the threshold in use: {decision.threshold}."
    if not is_global:
        data.append(_own_thresholds(decision, space.names))
        chosen = "Each label has its own threshold: the marks at the bottom."
    aid = f"F1 with one threshold for all labels. {chosen}"
    return Plot("thresholds", "Thresholds", aid, {"data": data, **layout})


def _by_grid(name: str, values: Any, colour: str) -> Trace:
    line = {"color": colour, "width": 2.5}
    return plotting.scatter(name, GRID.tolist(), _rounded(values), "%{x}: %{y:.4f}", line=line)


def _own_thresholds(decision: Decision, names: Sequence[str]) -> Trace:
    return plotting.scatter(
        "per-label thresholds",
        _rounded(decision.thresholds(len(names))),
        [0.02] * len(names),
        "%{customdata}: %{x}<extra></extra>",
        mode="markers",
        customdata=[plotting.plain(name) for name in names],
        marker={"symbol": "line-ns-open", "size": 12, "color": plotting.GREY},
    )


# ------------------------------------------------------------------ confusions


def confusion(sample: Sample, counts: Any, space: LabelSpace) -> Plot:
    """Return the confusion matrix.

    Args:
        sample: The rows.
        counts: (labels, labels) as `diagnostics.replacements` returns them.
        space: The labels.
    """
    title, is_multiclass = "Confusions", space.task == "multiclass"
    is_small = len(space.names) <= MAX_MATRIX
    chosen = np.arange(len(space.names)) if is_small else most_confused(counts, MAX_MATRIX)
    if not counts.any() and not (is_multiclass and is_small):
        return Plot("confusion", title, "No label was predicted in place of another.")
    if is_multiclass:
        hits = (sample.decided & sample.targets).sum(0)
        counts = counts + np.diag(hits)
    shown = counts[np.ix_(chosen, chosen)]
    support = np.maximum(sample.targets.sum(0)[chosen], 1)
    figure = _matrix(shown, shown / support[:, None], [space.names[i] for i in chosen])
    aid = "Rows in which the label on the left was missed and the one below wrongly predicted"
    if is_multiclass:
        aid = "Rows by true and predicted label"
    if not is_small:
        aid = f"The {len(chosen)} most confused of {len(space.names)} labels. {aid}"
    aid += "; the more orange, the larger the share of the rows with that true label."
    size = len(chosen)
    height = 190 + (24 if size > 8 else 40) * size
    return Plot("confusion", title, aid, figure, height, 200 + 26 * size)


def _matrix(counts: Any, shares: Any, names: list[str]) -> dict[str, Any]:
    full = [plotting.plain(name) for name in names]
    right, wrong = np.diag(np.diag(shares)), shares - np.diag(np.diag(shares))
    hover = [
        [f"{a}, predicted {b}: {p:.1%}" for b, p in zip(full, row, strict=True)]
        for a, row in zip(full, shares, strict=True)
    ]
    trace = {
        "type": "heatmap",
        "z": [_rounded(row) for row in right - wrong / max(1e-9, wrong.max())],
        "text": [[f"{int(n)}" if n else "" for n in row] for row in counts],
        "customdata": hover,
        "texttemplate": "%{text}",
        "textfont": {"size": 11},
        "hovertemplate": "%{customdata}<extra></extra>",
        "colorscale": _RIGHT_OR_WRONG,
        "zmin": -1,
        "zmax": 1,
        "showscale": False,
    }
    layout = plotting.layout(
        names_axis(names, "predicted", tickangle=-60, constrain="domain"),
        names_axis(names, "true", autorange="reversed"),
    )
    return {"data": [trace], **layout}
