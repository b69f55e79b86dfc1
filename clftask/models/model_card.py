"""The model card of a bundle: data, metrics, how to use it, limits."""

from __future__ import annotations

import json
import re
from typing import Any

from clftask.components.metrics import LINEAR, MAJORITY, with_plain
from clftask.messages import printable, range_text
from clftask.models.bundle_meta import BundleMeta

# What Markdown or HTML would interpret; `_` within a word is literal.
_MARKUP = re.compile(r"[\\`*\[\]<>|&~]")


def card(meta: BundleMeta, metrics: dict[str, Any]) -> str:
    """Return the model card: data, metrics, how to use it, limits."""
    return "\n".join(
        [
            *_front_matter(meta),
            *_about(meta),
            *_use(meta),
            *_figures(meta, metrics.get("intervals", {})),
            *_labels(metrics),
            *_limits(meta),
        ]
    )


def literal(text: str) -> str:
    """Escape text for Markdown, so that a label or a column is shown as it is written."""
    return _MARKUP.sub(lambda found: f"\\{found[0]}", printable(text))


def code(text: str) -> str:
    """Return text as inline code; its fence is longer than any run of backticks in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, pad = "`" * (longest + 1), " " if "`" in text else ""
    return f"{fence}{pad}{printable(text)}{pad}{fence}"


def _front_matter(meta: BundleMeta) -> list[str]:
    if meta.is_linear:
        return ["---", "library_name: clftask", "pipeline_tag: text-classification", "---", ""]
    return ["---", "library_name: transformers", "pipeline_tag: text-classification",
            f"base_model: {_quoted(meta.job['model']['base'])}", "---", ""]  # fmt: skip


def _about(meta: BundleMeta) -> list[str]:
    rows = ", ".join(f"{n:,} {split}" for split, n in meta.data["report"]["rows"].items())
    columns = ", ".join(map(literal, meta.text.columns))
    shipped = [f"- Training: {meta.shipped.line()}."] if meta.shipped else []
    return [
        f"# {meta.task.capitalize()} classifier with {len(meta.label_names)} labels",
        "",
        _origin(meta),
        "",
        f"- Text: {columns}; {meta.read}.",
        f"- Rows: {rows}.",
        *(f"- {literal(line[:1].upper() + line[1:])}." for line in meta.targets),
        *([f"- Positive class: {literal(meta.positive)}."] if meta.positive is not None else []),
        f"- Data: {code(meta.job['data']['train'])}, fingerprint `{meta.data['fingerprint']}`.",
        *shipped,
        f"- Bundle fingerprint: `{meta.fingerprint}`.",
        "",
    ]


def _origin(meta: BundleMeta) -> str:
    if meta.is_linear:
        return "Linear model of TF-IDF vectors, fitted by scikit-learn with clftask."
    base = code(meta.job["model"]["base"])
    return f"Fine-tuned from {base}{meta.layers} with clftask{_adapted(meta)}."


def _use_linear(meta: BundleMeta) -> list[str]:
    function = "sigmoid" if meta.task == "multilabel" else "softmax"
    calibration = meta.decision.calibration.kind
    before = "" if calibration == "none" else f", after {calibration} calibration"
    return [
        "## Use",
        "",
        "```python",
        "import clftask",
        "",
        'clftask.load("path/to/bundle").predict(["a text"])',
        "```",
        "",
        "Plain transformers cannot open this bundle: its model is linear. The n-grams are in",
        "`vocabulary.json`, their weights in `model.safetensors`; nothing is pickled.",
        "",
        f"Probabilities are the {function} of the logits{before}; predicted labels: "
        f"{meta.decision.rule(meta.task)}.",
        "",
    ]


def _use(meta: BundleMeta) -> list[str]:
    if meta.is_linear:
        return _use_linear(meta)
    is_apart = meta.adapt.is_apart
    own_head = meta.job["model"]["head"]["kind"] == "mlp"
    own = " and ".join(["the MLP head"] * own_head + ["the adapter"] * is_apart)
    function = "sigmoid" if meta.task == "multilabel" else "softmax"
    rule = meta.decision.rule(meta.task)
    return [
        "## Use",
        "",
        *(_needed(meta) if is_apart else []),
        "```python",
        *(["import clftask"] if own else []),
        "from transformers import pipeline",
        "",
        *([f"clftask.register()  # {own}"] if own else []),
        'classify = pipeline("text-classification", "path/to/bundle", top_k=None)',
        f"classify({_example(meta)}, truncation=True, max_length={meta.max_length})",
        "```",
        "",
        f"Probabilities are the {function} of the logits; predicted labels: {rule}.",
        *_calibrated(meta),
        *_long_texts(meta),
        "",
    ]


def _adapted(meta: BundleMeta) -> str:
    adapt = meta.adapt
    return "" if adapt.kind == "full" else f" ({adapt.words})"


def _needed(meta: BundleMeta) -> list[str]:
    base = code(meta.job["model"]["base"])
    return [
        f"The bundle contains the adapter and the head, without the weights of {base}: these",
        "must be there, unchanged. It needs `pip install 'clftask[lora]'`.",
        "",
    ]


def _example(meta: BundleMeta) -> str:
    """Return an example of the model's input as Python code."""
    recipe = meta.text
    text = "a text"
    if len(recipe.text) > 1:
        text = recipe.separator.join(f"the {name}" for name in recipe.text)
    if recipe.text_pair is None:
        return _quoted(text)
    return f'{{"text": {_quoted(text)}, "text_pair": "a second text"}}'


def _quoted(text: str) -> str:
    """Return a string literal that Python and YAML read alike."""
    return json.dumps(text, ensure_ascii=False)


def _calibrated(meta: BundleMeta) -> list[str]:
    calibration = meta.decision.calibration
    if calibration.kind == "none":
        return []
    if calibration.is_folded and calibration.maps is None:
        where = "it is folded into the last layer, so plain transformers applies it, too"
    else:
        where = "it is stored in `clftask.json`; plain transformers does not apply all of it"
    table = meta.data.get("decided_on", {}).get("table")
    rows = f"{code(table)}: validation below" if table else "validation"
    return [f"Calibration: {calibration.kind}, fitted on {rows}; {where}."]


def _long_texts(meta: BundleMeta) -> list[str]:
    if meta.truncation.kind == "head":
        return []
    read = meta.truncation.words(meta.max_length)
    return [f"Of long texts clftask reads {read}; the code above reads only the beginning."]


def _figures(meta: BundleMeta, intervals: dict[str, Any]) -> list[str]:
    splits = {split: with_plain(figures) for split, figures in meta.metrics.items()}
    columns = [name for split in splits for name in (split, "95 %", "plain")]
    names = list(dict.fromkeys(name for found in splits.values() for name in found))
    linear = f"A name with {LINEAR} is the metric of a linear model on the same rows."
    baseline = f"A name with {MAJORITY} is the metric of always predicting the most frequent label."
    gains = [literal(line) for line in meta.gains]
    lines = [
        "## Metrics",
        "",
        "Validation metrics are cross-fitted: calibration and thresholds are fitted on the other",
        "folds. The column plain is without calibration, with threshold 0.5 or the most probable",
        "class. The column 95 % is a bootstrap confidence interval. Macro averages leave out",
        "labels whose metric is undefined; labels_absent is the number of labels that neither",
        "occur nor are predicted.",
        *([baseline] if any(name.endswith(MAJORITY) for name in names) else []),
        *([linear, *gains] if gains else []),
        "",
        "| metric | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in names:
        cells = []
        for split, found in splits.items():
            value, plain = found.get(name, (None, None))
            spread = intervals.get(split, {}).get(name)
            cells += [_shown(value), range_text(*spread) if spread else "", _shown(plain)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _labels(metrics: dict[str, Any]) -> list[str]:
    split = "test" if "test" in metrics["per_label"] else "validation"
    rows = metrics["per_label"][split]
    columns = [n for n in ("precision", "recall", "f1", "threshold") if rows and n in rows[0]]
    titles = ["label", *columns, "rows"]
    lines = [f"## Labels ({split})", "", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        label = literal(str(row["label"]))
        figures = " | ".join("–" if row[k] is None else f"{row[k]:.3f}" for k in columns)
        lines.append(f"| {label} | {figures} | {row['support']} |")
    return [*lines, ""]


def _limits(meta: BundleMeta) -> list[str]:
    truncated = meta.data["report"]["tokens"].get("train", {}).get("truncated", 0.0)
    return [
        "## Limits",
        "",
        *(f"- Warning: {printable(warning)}" for warning in meta.warnings),
        *([] if meta.is_linear else [f"- {truncated:.1%} of the train rows are truncated."]),
        "- The metrics apply to data like the training data; other sources and times may differ.",
        "- Metrics of labels with few rows are uncertain: see the column rows.",
        "",
    ]
