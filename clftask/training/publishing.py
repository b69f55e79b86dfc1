"""Writes the bundle of a run, whatever its model is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clftask.components.decision.decision import Decision
from clftask.data import training_rows
from clftask.evaluation.evaluate import Evaluated
from clftask.io import storage
from clftask.models import bundle
from clftask.report.bundle_page import page_of
from clftask.training import run_dir
from clftask.training.work import Work


def publish_model(
    work: Work,
    model: Any,
    tokenizer: Any,
    decision: Decision,
    found: Evaluated,
    outcome: dict[str, Any],
    folder: Path,
    records: list[dict[str, Any]],
    say: Callable[[str], None],
) -> None:
    """Write a bundle into a run.

    Args:
        work: The inputs of the run.
        model: The model.
        tokenizer: Its tokenizer; None for a linear model.
        decision: The decision, without what is folded into the model.
        found: The decision as it was fitted, evaluated on held-out rows.
        outcome: The content of `metrics.json`.
        folder: A local folder; it must not exist.
        records: The records of `metrics.jsonl`, for the report's learning curves.
        say: Receives the error message if the report cannot be rendered.
    """
    of_model = decision, found.warnings, outcome
    meta = bundle.meta_of(work.job, work.label_names, work.data, *of_model)
    folder.mkdir()
    rows = run_dir.rows(work.run)
    if rows is not None:
        training_rows.write(folder, rows)
    report = page_of(meta, found, outcome, records, say)
    bundle.write(folder, model, tokenizer, meta, outcome, report)
    bundle.publish(folder, storage.join(work.run, "bundle"))
