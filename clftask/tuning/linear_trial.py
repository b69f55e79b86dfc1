"""One trial of a linear model: a fit and one evaluation."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from clftask.errors import DataError
from clftask.io import storage
from clftask.io.strict_json import strict
from clftask.io.tempdirs import temporary_folder
from clftask.messages import first_line
from clftask.models.linear import LinearModel
from clftask.training import linear
from clftask.training.publishing import publish_model
from clftask.training.work import Work
from clftask.tuning.attempts import Attempt, Report
from clftask.tuning.trial_store import Evaluation, Trial, TrialStore

_log = logging.getLogger(__name__)


def attempt_linear(spec: Attempt, report: Report) -> Trial:
    """Run a trial; see `trial_worker.attempt`.

    Raises:
        SystemExit: The search has ended.
        StorageError: Storage failed; the trial can be retried.
    """
    began, store = time.monotonic(), TrialStore(spec.work.run)
    trial = spec.trial.model_copy(update={"first_step_at": round(time.time(), 3)})
    try:
        fitted = linear.fit(spec.work, linear.vectorise(spec.work))
    except Exception as error:  # any error: a failed trial must not end the search
        reason = error.problems[0].allowed if isinstance(error, DataError) else first_line(error)
        _log.warning("trial ends: failed", extra={"state": "failed", "reason": reason})
        return _ended(trial, "failed").model_copy(update={"reason": str(reason)})
    with temporary_folder() as scratch:
        fitted.model.save_pretrained(Path(scratch))
        storage.upload(scratch, store.weights(trial))
    figures = linear.validation_figures(spec.work, fitted.logits["validation"])
    seconds = round(time.monotonic() - began, 3)
    evaluation = Evaluation(epoch=1, step=1, seconds=seconds, metrics=strict(figures))
    for line in fitted.warnings:
        _log.warning("%s", line)
    known = {"evaluations": (evaluation,), "warnings": tuple(fitted.warnings)}
    trial = _ended(trial.model_copy(update=known), "finished")
    store.write(trial)
    report(evaluation, None, 1)
    return trial


def _ended(trial: Trial, state: Any) -> Trial:
    return trial.model_copy(update={"state": state, "ended_at": round(time.time(), 3)})


def publish_linear(work: Work, trial: Trial) -> dict[str, Any]:
    """Evaluate the winner on validation and test, and write its bundle.

    Args:
        work: The winner's job as exported; `run` is the search's folder.
        trial: The winner; its weights are kept.

    Returns:
        The content of the bundle's `metrics.json`.
    """
    with temporary_folder() as scratch:
        folder = Path(scratch, "weights")
        storage.download(TrialStore(work.run).weights(trial), str(folder))
        model = LinearModel.open(folder, len(work.label_names))
        fitted = linear.Fitted(model, linear.held_out(work, model), [*trial.warnings])
        found = linear.evaluate(work, fitted)
        rows = work.tables["train"].num_rows
        speed = rows / max(trial.seconds, 1e-3)
        outcome = found.content | linear.outcome_of(work, trial.seconds, speed)
        of_model = model, None, found.decision, found, outcome
        publish_model(work, *of_model, Path(scratch, "bundle"), [], _log.warning)
        return outcome
