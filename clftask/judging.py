"""Bundles held against labelled tables: measured, or given a decision anew. No Ray."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clftask import bundle, storage
from clftask.bundle import BundleMeta
from clftask.config import TrainJob
from clftask.data import beginnings, read_labelled
from clftask.datareport import DataReport
from clftask.errors import ConfigError, Problem
from clftask.evaluation import Evaluated, Labelled, decide, labelled, measured
from clftask.labels import multi_hot
from clftask.modeling import output_layer, quiet_loading
from clftask.report.classifier import page_of
from clftask.scoring import Scorer, default_device
from clftask.tokens import full_lengths
from clftask.wording import counted

Say = Callable[[str], None]


@dataclass(frozen=True)
class Judged:
    """A bundle and what it says of a labelled table.

    Attributes:
        meta: The bundle's description.
        folder: Its local folder.
        rows: Uncalibrated logits, and targets.
    """

    meta: BundleMeta
    folder: str
    rows: Labelled


def evaluate_bundle(path: str, table: str, say: Say) -> dict[str, Any]:
    """Measure a bundle on a labelled table with its own decision.

    Args:
        path: The bundle.
        table: Rows with the columns of text and labels that it was trained on.
        say: Takes lines for the user.

    Returns:
        bundle, table, rows, metrics, per_label, and confusion_matrix for multiclass.

    Raises:
        DataError: There is no bundle, or the table does not fit it.
    """
    with tempfile.TemporaryDirectory(prefix="clftask-bundle-") as scratch:
        found = _judged(path, table, scratch, say)
    decision, rows = found.meta.decision, found.rows
    again = {"calibration": decision.calibration.model_copy(update={"is_folded": False})}
    outcome = decision.model_copy(update=again).apply(rows.logits, found.meta.task)
    figures = measured(rows, outcome, decision, found.meta.space, found.meta.max_length)
    return {"bundle": path, "table": table, "rows": len(rows.logits), **figures}


def decide_bundle(
    path: str, table: str, overrides: list[str], output: str | None, say: Say
) -> dict[str, Any]:
    """Fit a bundle's decision on a labelled table, without training.

    Args:
        path: The bundle.
        table: Rows with the columns of text and labels that it was trained on.
        overrides: Fields of the training job's decision: `decision.threshold=per_label`.
        output: Where the bundle goes; None: where it was.
        say: Takes lines for the user.

    Returns:
        bundle, table, rows, and the out-of-fold metrics and per_label of these rows.

    Raises:
        ConfigError: The overrides are no decision.
        DataError: There is no bundle, or the table does not fit it.
    """
    meta = bundle.read_meta(path)
    job = _with_decision(meta, overrides)
    place = storage.absolute(output or path)
    storage.check_writable(place, "output")
    with tempfile.TemporaryDirectory(prefix="clftask-bundle-") as scratch:
        found = _judged(path, table, scratch, say)
        judged = decide(job, found.meta.space, {"validation": found.rows})
        _rewrite(found, job, judged, table, place, say)
    figures = {name: by_split["validation"] for name, by_split in judged.figures.items()}
    return {"bundle": place, "table": table, "rows": len(found.rows.logits), **figures}


def _with_decision(meta: BundleMeta, overrides: list[str]) -> TrainJob:
    """Return the bundle's training job with another decision."""
    foreign = [o for o in overrides if not o.startswith("decision.")]
    if foreign:
        allowed = "must be a field of decision: nothing else can change without training"
        raise ConfigError(*(Problem(o, None, allowed) for o in foreign))
    return TrainJob.load(meta.job, overrides)


def score_rows(path: str, rows: Any, say: Say) -> tuple[BundleMeta, Any]:
    """Return a bundle's description, and its (rows, labels) float32 probabilities of rows.

    Args:
        path: The bundle.
        rows: text, and text_pair for pair tasks.
        say: Takes lines for the user.
    """
    with tempfile.TemporaryDirectory(prefix="clftask-bundle-") as scratch:
        folder, meta = bundle.fetch(path, scratch)
        logits = _logits(folder, meta, rows, say)
    return meta, meta.decision.probabilities(logits, meta.task)


def _judged(path: str, table: str, scratch: str, say: Say) -> Judged:
    folder, meta = bundle.fetch(path, scratch)
    report = DataReport()
    rows = read_labelled(TrainJob.load(meta.job), meta.space, table, report)
    for line in report.warnings():
        say(line)
    scorer, tokens = _tokenised(folder, meta, rows, say)
    raw = meta.decision.calibration.raw(scorer.logits(tokens))
    targets = multi_hot(rows["labels"].combine_chunks(), len(meta.label_names))
    num_tokens = full_lengths(*_texts(rows), tokens, scorer.tokenizer)
    held = rows.set_column(rows.column_names.index("text"), "text", beginnings(rows))
    return Judged(
        meta, folder, labelled(held.append_column("num_tokens", num_tokens), raw, targets)
    )


def _logits(folder: str, meta: BundleMeta, rows: Any, say: Say) -> Any:
    scorer, tokens = _tokenised(folder, meta, rows, say)
    return scorer.logits(tokens)


def _tokenised(folder: str, meta: BundleMeta, rows: Any, say: Say) -> tuple[Scorer, Any]:
    with quiet_loading():
        model, tokenizer = bundle.open_model(folder)
    # In fp32 everywhere: figures must not depend on which precision pays at the moment.
    scorer = Scorer(model, tokenizer, meta, default_device())
    say(f"scoring {counted(rows.num_rows, 'row')} on {scorer.device}")
    return scorer, scorer.tokenise(*_texts(rows))


def _texts(rows: Any) -> tuple[Any, Any]:
    return rows["text"], rows["text_pair"] if "text_pair" in rows.column_names else None


def _rewrite(
    found: Judged, job: TrainJob, judged: Evaluated, table: str, place: str, say: Say
) -> None:
    """Write the bundle with its new decision, `clftask.json` last."""
    with quiet_loading():
        model, tokenizer = bundle.open_model(found.folder)
    layer, before = output_layer(model), found.meta.decision.calibration
    if before.is_folded:
        before.unfolded(layer)
    calibration = judged.decision.calibration.folded(layer)
    decision = judged.decision.model_copy(update={"calibration": calibration})
    data = found.meta.data | {"decided_on": {"table": table, "rows": len(found.rows.logits)}}
    changed = {"decision": decision, "job": job.dump(), "data": data}
    meta = found.meta.model_copy(update=changed | {"metrics": judged.figures["metrics"]})
    with tempfile.TemporaryDirectory(prefix="clftask-bundle-") as folder:
        report = page_of(meta, judged, judged.figures, [], say)
        bundle.write(Path(folder), model, tokenizer, meta, judged.figures, report)
        bundle.publish(Path(folder), place)
