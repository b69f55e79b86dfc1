"""Render the HTML pages from the templates beside this module.

A page is self-contained: the browser fetches nothing. Every value is escaped.
"""

from __future__ import annotations

import functools
from typing import Any


def render(template: str, **content: Any) -> str:
    """Return a page.

    Args:
        template: The name of a file in templates/ that extends page.html.
        content: The values the template names; all are escaped except the plots' `html`.
    """
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    plotly = Markup(get_plotlyjs())  # noqa: S704 Plotly's own code
    return str(_environment().get_template(template).render(**content, plotly=plotly))


@functools.cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("clftask.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
