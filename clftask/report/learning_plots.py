"""Plots of the training data and of the learning curves."""

from __future__ import annotations

from typing import Any

import numpy as np

from clftask.components.labels import Task
from clftask.evaluation.diagnostics import LengthBin
from clftask.report import plotting
from clftask.report.format import is_number
from clftask.report.plotting import Plot, Trace

MAX_BARS, MAX_STEPS = 30, 500
NAME_CHARACTERS = 24
Records = list[dict[str, Any]]


def label_counts(counts: dict[str, dict[str, int]]) -> Plot:
    """Return rows by label, the most frequent on top.

    Args:
        counts: By split, rows by label.
    """
    total = {name: sum(of[name] for of in counts.values()) for name in counts["train"]}
    names = sorted(total, key=lambda name: -total[name])
    shown = names[:MAX_BARS][::-1]
    places, names_shown = list(range(len(shown))), [plotting.plain(name) for name in shown]
    data = [
        plotting.bars(
            split,
            [of[name] for name in shown],
            places,
            f"%{{customdata}}: %{{x:,}} {split}<extra></extra>",
            colour,
            orientation="h",
            customdata=names_shown,
        )
        for (split, of), colour in zip(counts.items(), plotting.PALETTE, strict=False)
    ]
    layout = plotting.layout(
        plotting.axis("rows", rangemode="tozero", tickformat=",d", nticks=6),
        names_axis(shown, range=[-0.6, len(shown) - 0.4]),
        barmode="stack",
        bargap=0.25,
    )
    figure = {"data": data, **layout}
    return Plot("labels", "Labels", _spread(counts["train"], names), figure, 120 + 19 * len(shown))


def _spread(train: dict[str, int], names: list[str]) -> str:
    rarest = sorted(train.values())
    median = rarest[len(rarest) // 2]
    spread = f"Training rows by label: {rarest[0]:,} to {rarest[-1]:,}, median {median:,}"
    if len(names) <= MAX_BARS:
        return f"{spread}."
    return f"The {MAX_BARS} most frequent of {len(names)} labels. {spread}."


def names_axis(names: list[str], title: str = "", **more: Any) -> dict[str, Any]:
    """Return an axis with names at the positions 0, 1, …; long ones are cut."""
    ticks = [plotting.plain(plotting.cut(name, NAME_CHARACTERS)) for name in names]
    places = {"tickvals": list(range(len(names))), "ticktext": ticks}
    return plotting.axis(title, **places, showgrid=False, ticklabelstandoff=5, **more)


# ------------------------------------------------------------------ learning curves


def losses(records: Records, best_step: int | None) -> Plot:
    """Return training and validation loss by step.

    Args:
        records: Training log: step with loss, or with eval_loss.
        best_step: The step of the exported weights.
    """
    train = [(r["step"], r["loss"]) for r in records if is_number(r.get("loss"))]
    held_out = _of_evaluations(records, "step", "loss")
    step = max(1, -(-len(train) // MAX_STEPS))
    means = [np.mean(train[i : i + step], axis=0).tolist() for i in range(0, len(train), step)]
    data = [
        _line("train", means, "lines", plotting.BLUE),
        _line("validation", held_out, "lines+markers", plotting.ORANGE),
    ]
    layout = plotting.layout(
        plotting.axis("step"), plotting.axis("loss"), shapes=_line_at(best_step)
    )
    aid = (
        "Validation loss that rises while training loss falls shows overfitting; the dotted line "
        "is the step of the exported weights."
    )
    return Plot("losses", "Loss", aid, {"data": [t for t in data if t["x"]], **layout}, 320)


def scores(records: Records, metric: str, best_step: int | None, task: Task) -> Plot:
    """Return validation metrics by epoch.

    Args:
        records: Training log: epoch with eval_ metrics.
        metric: The metric that selects the best evaluation.
        best_step: The step of the best evaluation.
        task: multiclass or multilabel.
    """
    names = dict.fromkeys(k[5:] for r in records for k in r if k.startswith("eval_"))
    own = sorted((n for n in names if n != "loss" or metric == "loss"), key=lambda n: n != metric)
    found = {n: _of_evaluations(records, "epoch", n) for n in own}
    once = {str(points): n for n, points in reversed(found.items())}  # equal ones once
    shown = [n for n in own if n in once.values()]
    data = [
        _line(n, found[n], "lines+markers", colour)
        for n, colour in zip(shown, plotting.PALETTE, strict=False)
    ]
    epoch = next((r["epoch"] for r in records if r["step"] == best_step), None)
    last = max((r["epoch"] for r in records), default=1)
    layout = plotting.layout(
        plotting.axis("epoch", dtick=plotting.step(last), rangemode="tozero"),
        plotting.axis("validation"),
        shapes=_line_at(epoch),
    )
    aid = f"{metric} selects the epoch of the exported weights."
    if task == "multilabel":
        aid += " During training, F1 uses the best threshold of each evaluation."
    return Plot("scores", "Metrics", aid, {"data": [t for t in data if t["x"]], **layout}, 320)


def _of_evaluations(records: Records, x: str, metric: str) -> list[tuple[float, float]]:
    key = f"eval_{metric}"
    return [(r[x], r[key]) for r in records if is_number(r.get(key))]


def _line(name: str, points: list[Any], mode: str, colour: str) -> Trace:
    x, y = [x for x, _ in points], [y for _, y in points]
    return plotting.scatter(name, x, y, "%{x}: %{y:.4f}", mode, line={"color": colour, "width": 2})


def _line_at(place: float | None) -> list[dict[str, Any]]:
    return [] if place is None else [plotting.upright(place)]


# ------------------------------------------------------------------ lengths


def lengths(bins: list[LengthBin]) -> Plot:
    """Return F1 and row counts by text length.

    Args:
        bins: As `diagnostics.by_length` returns them.
    """
    title = "Text length"
    if len(bins) < 2:
        aid = f"Too few rows or lengths to compare: {bins[0]['rows']:,} rows."
        return Plot("lengths", title, aid)
    places = list(range(len(bins)))
    cut = [round(b["rows"] * b["truncated"]) for b in bins]
    whole = [b["rows"] - n for b, n in zip(bins, cut, strict=True)]
    data = [
        plotting.bars("not truncated", places, whole, "%{y:,}", plotting.FAINT, yaxis="y2"),
        plotting.bars("truncated", places, cut, "%{y:,}", plotting.RED, yaxis="y2"),
        *(
            _line(name, list(enumerate(values)), "lines+markers", colour)
            for name, values, colour in (
                ("micro_f1", [b["micro_f1"] for b in bins], plotting.BLUE),
                ("macro_f1", [b["macro_f1"] for b in bins], plotting.ORANGE),
            )
        ),
    ]
    ticks = [*(f"≤ {b['to']:,}" for b in bins[:-1]), f"> {bins[-2]['to']:,}"]
    most = max(b["rows"] for b in bins)
    layout = plotting.layout(
        plotting.axis("tokens", tickvals=places, ticktext=ticks, anchor="y2"),
        plotting.axis("F1", range=[0, 1.03], domain=[0.3, 1]),
        yaxis2=plotting.axis("rows", domain=[0, 0.24], range=[0, most * 1.1], nticks=3),
        barmode="stack",
        shapes=_line_at(_truncated_from(bins)),
    )
    aid = "Macro-F1 is over the labels that occur or are predicted in a bin."
    if any(cut):
        aid = f"Texts right of the dotted line are truncated. {aid}"
    return Plot("lengths", title, aid, {"data": data, **layout}, 420)


def _truncated_from(bins: list[LengthBin]) -> float | None:
    """Return the position of the maximum length among the bins, None if nothing is truncated."""
    first = next((i for i, b in enumerate(bins) if b["truncated"]), None)
    return None if first is None else first + 0.5 - float(bins[first]["truncated"])
