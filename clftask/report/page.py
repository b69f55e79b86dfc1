"""The frame of every page, and the parts that bodies are made of.

Nothing is fetched, and every value is escaped.
"""

from __future__ import annotations

from typing import Any

# The browser refuses to fetch anything, whatever a value might smuggle in.
_POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1c2733; --muted: #5b6875;
  --line: #d9dfe5; --raised: #f4f6f8; --accent: #b6530a; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14191f; --text: #e3e8ed; --muted: #9aa6b2; --line: #323b45;
    --raised: #1d242c; --accent: #f4934a; --bad: #f2857d; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 4rem; max-width: 68rem; background: var(--page);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p { margin: .4rem 0; max-width: 46rem; }
.muted, figcaption, .aid { color: var(--muted); }
figure { margin: 0; }
figcaption, .aid { font-size: .9rem; max-width: 46rem; margin-top: .3rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: .6rem; margin: 1.2rem 0 .6rem; padding: 0; }
.facts div { background: var(--raised); border-radius: .5rem; padding: .6rem .8rem; }
.facts dt { color: var(--muted); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr));
  gap: 0 2rem; align-items: start; }
.pair > div { min-width: 0; }
.two { display: grid; gap: 0 2rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, max(22rem, 45%)), 1fr)); }
.two > div { min-width: 0; }
.scroll { overflow-x: auto; }
.wide { width: max-content; }
.tall .scroll { max-height: 36rem; overflow-y: auto; }
.tall thead th { position: sticky; top: 0; background: var(--page); z-index: 1; }
.tall .sortable thead th:first-child { z-index: 2; }
.label { max-width: 16rem; overflow-wrap: anywhere; }
.text { min-width: 14rem; overflow-wrap: anywhere; }
.sides { min-width: 9rem; overflow-wrap: anywhere; }
.warnings { margin: .8rem 0; padding-left: 1.2rem; font-size: .95rem; }
details { margin-top: .8rem; }
summary { cursor: pointer; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0;
  border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; color: var(--muted); font-weight: 600; }
.name { overflow-wrap: break-word; }
.number { text-align: right; white-space: nowrap; }
.failed { max-width: 16rem; color: var(--bad); overflow-wrap: anywhere; }
.value { max-width: 20rem; overflow-wrap: anywhere; }
.winner > * { color: var(--accent); font-weight: 600; }
.sortable td:first-child, .sortable th:first-child { position: sticky; left: 0;
  background: var(--page); }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0;
  text-align: inherit; cursor: pointer; }
th button::after { content: " ↕"; opacity: .45; }
th[aria-sort=ascending] button::after { content: " ↑"; opacity: 1; }
th[aria-sort=descending] button::after { content: " ↓"; opacity: 1; }
@media (hover: none), (max-width: 40rem) { .modebar-container { display: none; } }
.js-plotly-plot text:not(.hoverlayer *) { fill: var(--text) !important; }
.parcoords text { text-shadow: 0 0 2px var(--page), 0 0 4px var(--page),
  0 0 6px var(--page) !important; }
.parcoords .domain, .parcoords .axis .tick line { stroke: var(--muted) !important; }
"""

_SORT = """
function compare(a, b, sign) {
  if (a === "" || b === "") return (a === "") - (b === "");
  return sign * (isNaN(a) - isNaN(b) || (isNaN(a) ? a.localeCompare(b) : a - b));
}
for (const button of document.querySelectorAll(".sortable th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const isFalling = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", isFalling ? "descending" : "ascending");
    const key = row => row.cells[head.cellIndex].dataset.sort;
    const sign = isFalling ? -1 : 1;
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b), sign)));
  });
}
"""

_PARTS = """
{%- macro tiles(facts) %}
<dl class="facts">
{% for name, value in facts.items() %}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
{% endmacro -%}
{%- macro cells(row) %}
{% for cell in row.cells %}
<td class="{{ cell.kind }}" data-sort="{{ cell.sort }}">{{ cell.text }}</td>
{% endfor %}
{% endmacro -%}
{%- macro rows(table, style="") %}
<div class="scroll"><table class="{{ style }}">
<thead><tr>
{% for head in table.heads %}
<th scope="col" class="{{ "number" if table.holds_numbers(loop.index0) }}">
{%- if "sortable" in style %}<button type="button">{{ head }}</button>
{%- else %}{{ head }}{% endif %}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr{% if row.is_winner %} class="winner"{% endif %}>{{ cells(row) }}</tr>
{% endfor %}
</tbody>
</table></div>
{% endmacro -%}
{%- macro figure(plot) %}
{% if plot.html %}
<figure>
<div class="scroll"><div style="min-width: {{ plot.min_width }}px">{{ plot.html }}</div></div>
<figcaption>{{ plot.aid }}</figcaption>
</figure>
{% else %}
<p class="muted">{{ plot.aid }}</p>
{% endif %}
{% endmacro -%}
{%- macro drawing(plot) %}
<section id="{{ plot.name }}-section">
<h2>{{ plot.title }}</h2>
{{ figure(plot) }}
</section>
{% endmacro -%}
"""

_FRAME = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>{{ style }}</style>
<script>{{ plotly }}</script>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p class="muted">{{ lead }}</p>
{% block body %}{% endblock %}
</main>
<script>{{ sort }}</script>
</body>
</html>
"""

_PAGE = """\
{%% extends "frame" %%}
{%% from "parts" import tiles, rows, figure, drawing %%}
{%% block body %%}
%s
{%% endblock %%}
"""


def render(body: str, needs_eval: bool = False, **content: Any) -> str:
    """Return a page.

    Args:
        body: A template of what stands below the title; it knows the macros tiles, rows, figure,
            drawing.
        needs_eval: Whether one of its plots compiles code: Plotly's WebGL does.
        content: title, lead, and what the body names; all are escaped but the plots' `html`.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=DictLoader({"frame": _FRAME, "parts": _PARTS, "page": _PAGE % body}),
    )
    own = {"style": _STYLE, "sort": _SORT, "plotly": get_plotlyjs()}
    trusted = {name: Markup(code) for name, code in own.items()}  # noqa: S704 our own code
    policy = _POLICY + (" 'unsafe-eval'" if needs_eval else "")
    return environment.get_template("page").render(**content, **trusted, policy=policy)
