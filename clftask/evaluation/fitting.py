"""Fit a decision that is no worse than none on cross-fitted rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from clftask.array_types import Array
from clftask.components.counts import Average
from clftask.components.decision.calibration import NoCalibration, probabilities_of
from clftask.components.decision.decision import Decision, DecisionSpec, Outcome, cross_fitted
from clftask.components.labels import Task
from clftask.components.metrics import compute
from clftask.messages import counted


class HeldOut(NamedTuple):
    """Arguments of `DecisionSpec.fit`."""

    logits: Array
    targets: Array
    task: Task
    average: Average
    groups: Array | None


class Fit(NamedTuple):
    """A fitted decision.

    Attributes:
        decision: Fitted on all rows.
        outcome: The cross-fitted outcome of the rows.
        warnings: What was replaced, and what is worse than nothing though the job asks for it.
    """

    decision: Decision
    outcome: Outcome
    warnings: list[str]


def fit_decision(spec: DecisionSpec, rows: HeldOut, outcome: Outcome) -> Fit:
    """Fit a decision on held-out rows; `auto` falls back where it is worse than nothing.

    Both are compared on the cross-fitted rows: calibration by log loss with the probabilities of
    the model, thresholds by their F-β with 0.5 on these probabilities. Kinds that the job names
    are kept, with a warning.

    Args:
        spec: How the job fits it.
        rows: The rows.
        outcome: The cross-fitted outcome of `spec` on them.
    """
    warnings = list[str]()
    before, after = _log_losses(outcome, rows)
    if after > before:
        warnings.append(_about_calibration(spec, before, after, len(rows.logits)))
        if spec.calibration.falls_back:
            spec = spec.model_copy(update={"calibration": NoCalibration()})
            outcome = cross_fitted(spec, *rows)
    if rows.task == "multiclass" or isinstance(spec.threshold, float):
        return Fit(spec.fit(*rows), outcome, warnings)
    return _with_threshold(spec, outcome, rows, warnings)


def _with_threshold(
    spec: DecisionSpec, outcome: Outcome, rows: HeldOut, warnings: list[str]
) -> Fit:
    assert not isinstance(spec.threshold, float)
    objective = spec.threshold.objective(rows.average)
    plain = Decision().decide(probabilities_of(rows.logits, rows.task), rows.task)
    if objective is None or (found := objective.of(outcome.decided, rows.targets)) >= (
        least := objective.of(plain, rows.targets)
    ):
        return Fit(spec.fit(*rows), outcome, warnings)
    name = f"{objective.average}-F{objective.beta:g}"
    worse = (
        f"{name} of thresholds fitted on {counted(len(plain), 'held-out row')} is {found:.4f} "
        f"on cross-fitted rows, and {least:.4f} at 0.5"
    )
    others = spec.threshold.fallbacks(rows.average)
    if not others:
        remedy = "Use decision.threshold: auto or 0.5, or more held-out rows."
        return Fit(spec.fit(*rows), outcome, [*warnings, f"{worse}. {remedy}"])
    for other in others:
        simpler = spec.model_copy(update={"threshold": other})
        outcome = cross_fitted(simpler, *rows)
        if objective.of(outcome.decided, rows.targets) >= least:
            decision = simpler.fit(*rows)
            return Fit(decision, outcome, [*warnings, _instead(worse, decision)])
    # Calibration moves probabilities across 0.5: the thresholds move with them.
    decision = spec.fit(*rows).as_at_half(plain.shape[1])
    outcome = outcome._replace(decided=plain)
    return Fit(decision, outcome, [*warnings, _instead(worse, decision)])


def _instead(worse: str, decision: Decision) -> str:
    used = f"{decision.threshold:g} for all labels" if isinstance(decision.threshold, float) else (
        "0.5 before calibration"
    )  # fmt: skip
    return f"{worse}. The threshold is {used}. More held-out rows help."


def _about_calibration(spec: DecisionSpec, before: float, after: float, num_rows: int) -> str:
    worse = (
        f"log loss with calibration {spec.calibration.kind} fitted on "
        f"{counted(num_rows, 'held-out row')} is {after:.6g} on cross-fitted rows, and "
        f"{before:.6g} without. "
    )
    if spec.calibration.falls_back:
        return worse + "Probabilities are not calibrated. More held-out rows help."
    return worse + "Use decision.calibration: auto or none, or more held-out rows."


def _log_losses(outcome: Outcome, rows: HeldOut) -> tuple[float, float]:
    """Return the log loss without calibration, and cross-fitted."""

    def of(probabilities: Any) -> float:
        targets = rows.targets
        found = compute(probabilities, outcome.decided, targets, rows.task, ["log_loss"])
        return float(np.round(found["log_loss"], 9))

    return of(probabilities_of(rows.logits, rows.task)), of(outcome.probabilities)
