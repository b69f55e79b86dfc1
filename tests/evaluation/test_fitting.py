"""Decisions that are fitted on few rows are no worse than none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from clftask.components.decision.calibration import Calibration, probabilities_of
from clftask.components.decision.decision import Decision, DecisionSpec, cross_fitted
from clftask.evaluation.fitting import Fit, HeldOut, fit_decision

SEEDS = range(30)


def held_out(seed: int, average: Any = "macro", rows: int = 34, shift: float = 0.0) -> HeldOut:
    """Return few rows of five labels, some of them rare."""
    random = np.random.default_rng(seed)
    targets = (random.random((rows, 5)) < [0.5, 0.3, 0.2, 0.1, 0.05]).astype(np.float32)
    logits = 3 * targets - 1.5 + shift + random.normal(0, 1.5, targets.shape)
    return HeldOut(logits.astype(np.float32), targets, "multilabel", average, None)


def classes(seed: int, rows: int = 30) -> HeldOut:
    """Return few rows of three classes, calibrated."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (rows, 3)).astype(np.float32)
    drawn = [random.choice(3, p=p / p.sum()) for p in
             probabilities_of(logits, "multiclass").astype(float)]  # fmt: skip
    return HeldOut(logits, np.eye(3, dtype=np.float32)[drawn], "multiclass", "micro", None)


def tags(seed: int, rows: int = 30) -> HeldOut:
    """Return few rows of three labels, calibrated."""
    random = np.random.default_rng(seed)
    logits = random.normal(-0.5, 1.5, (rows, 3)).astype(np.float32)
    targets = random.random(logits.shape) < probabilities_of(logits, "multilabel")
    return HeldOut(logits, targets.astype(np.float32), "multilabel", "micro", None)


def fit(rows: HeldOut, **spec: Any) -> Fit:
    parsed = DecisionSpec.model_validate(spec)
    return fit_decision(parsed, rows, cross_fitted(parsed, *rows))


def f1(rows: HeldOut, decided: Any) -> float:
    return float(sk.f1_score(rows.targets, decided, average=rows.average, zero_division=np.nan))


def plain(rows: HeldOut) -> Any:
    return probabilities_of(rows.logits, rows.task)


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_auto_is_never_worse_than_half_without_calibration(average):
    kinds = set()
    for seed in SEEDS:
        rows = held_out(seed, average)
        found = fit(rows)
        least = f1(rows, plain(rows) > 0.5)
        assert f1(rows, found.outcome.decided) >= least
        first = DecisionSpec()
        usual = f1(rows, cross_fitted(first, *rows).decided)
        said = [line for line in found.warnings if line.startswith(f"{average}-F1 of thresholds")]
        kinds.add((bool(said), isinstance(found.decision.threshold, float)))
        if usual < least:
            assert f"is {usual:.4f} on cross-fitted rows, and {least:.4f} at 0.5" in said[0]
    assert len(kinds) > 1  # some fall back, some do not


def test_labels_of_half_survive_calibration():
    """Calibration moves all probabilities; the thresholds of the last fallback move with them."""
    moved = Calibration(kind="platt", scale=(0.5,) * 5, shift=(-1.0, 0.0, 0.5, 2.0, 3.0))
    rows = held_out(0)
    decision = Decision(calibration=moved).as_at_half(5)
    assert decision.threshold == pytest.approx((0.268941, 0.5, 0.622459, 0.880797, 0.952574))
    found = decision.apply(rows.logits, "multilabel").decided
    np.testing.assert_array_equal(found, plain(rows) > 0.5)
    assert Decision().as_at_half(5) == Decision()


def test_the_decision_is_the_one_that_was_measured():
    """Each fallback is reached; the bundle's thresholds are of the kind that the figures have."""
    ends = set()
    for seed in SEEDS:
        for count, shift in ((12, 0.0), (12, 1.0), (34, 0.0), (34, 1.0)):
            rows = held_out(seed, rows=count, shift=shift)
            decision, outcome, warnings = fit(rows)
            text = " ".join(warnings)
            if "0.5 before calibration" in text:
                np.testing.assert_array_equal(outcome.decided, plain(rows) > 0.5)
                applied = decision.apply(rows.logits, "multilabel").decided
                np.testing.assert_array_equal(applied, plain(rows) > 0.5)
                ends.add("plain")
            elif "for all labels" in text:
                assert isinstance(decision.threshold, float)
                assert f"The threshold is {decision.threshold:g} for all labels" in text
                ends.add("half" if decision.threshold == 0.5 else "global")
            else:
                assert isinstance(decision.threshold, tuple)
                ends.add("per_label")
    assert ends == {"per_label", "global", "half", "plain"}


def test_a_kind_that_the_job_names_is_kept_with_a_warning():
    kept = 0
    for seed in SEEDS:
        rows = held_out(seed)
        found = fit(rows, threshold="per_label", calibration="platt")
        expected = DecisionSpec.model_validate({"threshold": "per_label", "calibration": "platt"})
        assert found.decision == expected.fit(*rows)
        usual = f1(rows, cross_fitted(expected, *rows).decided)
        is_worse = usual < f1(rows, plain(rows) > 0.5)
        assert any("Use decision.threshold: auto or 0.5" in w for w in found.warnings) == is_worse
        kept += is_worse
    assert 0 < kept < len(SEEDS)


@pytest.mark.parametrize("make", [classes, tags])
def test_calibration_that_raises_the_log_loss_is_left_out(make):
    kinds = []
    for seed in SEEDS:
        rows = make(seed)
        found = fit(rows)
        pairs = rows.targets, rows.task
        before, after = log_loss(plain(rows), *pairs), log_loss(found.outcome.probabilities, *pairs)
        assert after <= before + 1e-6
        kinds.append(found.decision.calibration.kind)
        said = [line for line in found.warnings if line.startswith("log loss with calibration")]
        assert bool(said) == (kinds[-1] == "none")
        if said:
            assert str(before)[:5] in said[0]
            assert "without. Probabilities are not calibrated" in said[0]
    assert len(set(kinds)) == 2


def log_loss(probabilities: Any, targets: Any, task: str) -> float:
    p = np.clip(probabilities.astype(float), 1e-7, 1 - 1e-7)
    if task == "multiclass":
        return float(-np.log(p[targets > 0]).mean())
    return float(-np.where(targets > 0, np.log(p), np.log(1 - p)).mean())


def test_a_calibration_that_the_job_names_is_kept_with_a_warning():
    said = 0
    for seed in SEEDS:
        rows = classes(seed)
        found = fit(rows, calibration="temperature")
        assert found.decision.calibration.kind == "temperature"
        said += any("Use decision.calibration: auto or none" in w for w in found.warnings)
    assert 0 < said < len(SEEDS)


def test_many_rows_keep_what_is_fitted():
    rows = held_out(0, rows=3000, shift=1.0)
    found = fit(rows)
    assert found.warnings == []
    assert found.decision == DecisionSpec().fit(*rows)


@pytest.mark.parametrize("threshold", [0.3, {"kind": "floor", "precision": 0.9}])
def test_thresholds_with_another_aim_are_not_compared(threshold):
    for seed in range(5):
        found = fit(held_out(seed), threshold=threshold, calibration="none")
        assert found.warnings == []
