"""Shared by the plots of all pages: colours, axes, conversion to HTML."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, replace
from typing import Any

MAX_TICK_CHARACTERS = 15
Trace = dict[str, Any]

# Readable on white and on near black.
BLUE, ORANGE, RED, GREY = "#3f87c6", "#df6b0c", "#d64545", "#858e99"
PALETTE = (BLUE, ORANGE, "#3a9d6e", "#a06cc9", "#b8952b", "#d0587e")
FAINT, GRID, NONE = "rgba(133,142,153,.55)", "rgba(133,142,153,.25)", "rgba(0,0,0,0)"
_CONFIG = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],  # no use in a report
    "showSendToCloud": False,  # by default, Plotly shows a button that uploads the data
}


@dataclass(frozen=True)
class Plot:
    """A figure with its title and caption.

    Attributes:
        name: The id on the page.
        title: The heading.
        aid: The caption: how to read the figure, or why there is none.
        figure: Data and layout for Plotly, if any.
        height: In pixels.
        min_width: In pixels; a narrower screen scrolls.
    """

    name: str
    title: str
    aid: str
    figure: dict[str, Any] | None = None
    height: int = 380
    min_width: int = 0

    def with_aid(self, aid: str) -> Plot:
        """Return a copy with another caption."""
        return replace(self, aid=aid)


def drawn(plot: Plot) -> dict[str, Any]:
    """Return a plot's fields for a template, and `html`, which is empty without a figure."""
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
        validate=False,  # validation takes seconds; a test validates the figures
        div_id=plot.name,
    )
    return {**vars(plot), "html": Markup(found)}  # noqa: S704 to_html escapes the data


def layout(x: dict[str, Any], y: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a layout for Plotly that suits phones and dark mode.

    Args:
        x: The horizontal axis.
        y: The vertical axis.
        **more: Entries that replace the defaults.
    """
    whole = {
        "xaxis": x,
        "yaxis": y,
        "paper_bgcolor": NONE,
        "plot_bgcolor": NONE,
        "font": {"color": GREY, "family": "system-ui, sans-serif", "size": 13},
        "margin": {"l": 20, "r": 15, "t": 35, "b": 20},
        "legend": {
            "orientation": "h",
            "y": 1.02,
            "yanchor": "bottom",
            "x": 0,
            "traceorder": "normal",
        },
        "modebar": {"bgcolor": NONE, "color": GREY, "activecolor": BLUE},
        "hovermode": "closest",
        "dragmode": False,  # on a phone a finger scrolls the page
    }
    return {"layout": {**whole, **more}}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis for Plotly; its title is shown literally."""
    return {
        "title": {"text": plain(title), "standoff": 10},
        "gridcolor": GRID,
        "zeroline": False,
        "automargin": True,
        **more,
    }


def scatter(name: str, x: Any, y: Any, hover: str, mode: str = "lines", **more: Any) -> Trace:
    """Return a line or markers; the name is shown literally."""
    trace = {"type": "scatter", "mode": mode, "name": plain(name), "x": x, "y": y}
    return {**trace, "hovertemplate": hover, **more}


def bars(name: str, x: Any, y: Any, hover: str, colour: str, **more: Any) -> Trace:
    """Return bars."""
    trace = {"type": "bar", "name": name, "x": x, "y": y, "marker": {"color": colour}}
    return {**trace, "hovertemplate": hover, **more}


def step(last: float) -> int:
    """Return an integer step between ticks from 0 to `last`."""
    return max(1, math.ceil(last / 10))


def cut(tick: str, most: int = MAX_TICK_CHARACTERS) -> str:
    """Shorten a long tick to its end, where paths and model names differ."""
    return tick if len(tick) <= most else f"…{tick[1 - most :]}"


def plain(value: str) -> str:
    """Escape text: Plotly interprets some HTML, except in ticks of parallel coordinates."""
    return html.escape(value, quote=False)


def upright(place: float) -> dict[str, Any]:
    """Return a dotted vertical line."""
    line = {"color": GREY, "width": 1.5, "dash": "dot"}
    return {"type": "line", "x0": place, "x1": place, "y0": 0, "y1": 1, "yref": "paper",
            "layer": "below", "line": line}  # fmt: skip
