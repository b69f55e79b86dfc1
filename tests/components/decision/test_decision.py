"""From logits to probabilities to labels: every calibration, every threshold, and the whole."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from sklearn import metrics as sk

from clftask.components.decision.calibration import (
    AnyCalibration,
    Calibration,
    IsotonicCalibration,
    PlattScaling,
    TemperatureScaling,
    probabilities_of,
)
from clftask.components.decision.conformal import Conformal
from clftask.components.decision.decision import Decision, DecisionSpec, cross_fitted, folds
from clftask.components.decision.thresholds import (
    AutoThreshold,
    FloorThreshold,
    GlobalThreshold,
    PerLabelThreshold,
    best_global_threshold,
)
from clftask.components.metrics import compute
from clftask.evaluation.bootstrap import covered

LN3 = math.log(3)
CALIBRATIONS = get_args(get_args(AnyCalibration)[0])
THRESHOLDS = [
    AutoThreshold(),
    GlobalThreshold(),
    PerLabelThreshold(),
    FloorThreshold(precision=0.8),
    FloorThreshold(recall=0.8),
]
each_calibration = pytest.mark.parametrize("member", CALIBRATIONS)
each_task = pytest.mark.parametrize("task", ["multiclass", "multilabel"])
each_threshold = pytest.mark.parametrize("spec", THRESHOLDS, ids=lambda s: repr(s))


def rows_of(task: str, rows: int = 2000, times: float = 1.0, seed: int = 0) -> Any:
    """Return logits that are `times` too large, and targets drawn from what they should be."""
    random = np.random.default_rng(seed)
    logits = random.normal(-1.0, 1.5, (rows, 4))
    probabilities = probabilities_of(logits, task)
    if task == "multilabel":
        targets = random.random(logits.shape) < probabilities
    else:
        drawn = [random.choice(4, p=p / p.sum()) for p in probabilities.astype(float)]
        targets = np.eye(4)[drawn]
    return (times * logits).astype(np.float32), targets.astype(np.float32)


def log_loss(probabilities: Any, targets: Any, task: Any) -> float:
    return compute(probabilities, targets > 0, targets, task, ["log_loss"])["log_loss"]


# ------------------------------------------------------------------ every calibration


@each_task
@each_calibration
def test_calibrated_probabilities_are_probabilities(member, task):
    logits, targets = rows_of(task, 300, times=3)
    fitted = member().fit(logits, targets, task)
    found = fitted.probabilities(np.concatenate([logits, logits * 100]), task)
    assert (found.dtype, found.shape) == (np.float32, (600, 4))
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (found <= 1).all()
    if task == "multiclass":
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


@each_task
@each_calibration
def test_an_overconfident_model_is_brought_down(member, task):
    logits, targets = rows_of(task, times=3)
    later, later_targets = rows_of(task, times=3, seed=1)
    before = log_loss(probabilities_of(later, task), later_targets, task)
    fitted = member().fit(logits, targets, task)
    after = log_loss(fitted.probabilities(later, task), later_targets, task)
    if fitted.kind == "none":
        assert after == before
    else:
        assert after < 0.8 * before


@each_task
@each_calibration
def test_a_calibration_survives_json_and_is_the_same_again(member, task):
    logits, targets = rows_of(task, 200, times=2)
    fitted = member().fit(logits, targets, task)
    again = Calibration.load(fitted.dump())
    assert again == fitted == member().fit(logits, targets, task)
    np.testing.assert_array_equal(
        again.probabilities(logits, task), fitted.probabilities(logits, task)
    )


@each_task
@each_calibration
@pytest.mark.parametrize("rows", [1, 2, 20])
def test_few_rows_and_labels_without_positives_are_no_error(member, task, rows):
    logits = np.array([[9.0, -9.0, 3.0]] * rows, np.float32)
    targets = np.array([[1.0, 0.0, 0.0]] * rows, np.float32)
    fitted = member().fit(logits, targets, task)
    assert np.isfinite(fitted.probabilities(logits, task)).all()
    assert (np.abs(np.asarray(fitted.scale)) < 10).all()


# ------------------------------------------------------------------ calibrations by hand


@each_task
def test_temperature_is_how_much_too_large_the_logits_are(task):
    logits, targets = rows_of(task, 20_000, times=2.5)
    fitted = TemperatureScaling().fit(logits, targets, task)
    assert fitted.scale == pytest.approx(1 / 2.5, rel=0.03)
    assert fitted.shift == 0.0


def pairs(share_at_plus: float, share_at_minus: float, count: int) -> Any:
    """Return logits of +1 and −1, and targets with these shares of positives."""
    logits = np.repeat([1.0, -1.0], count)
    targets = np.concatenate(
        [np.arange(count) < share * count for share in (share_at_plus, share_at_minus)]
    )
    return logits[:, None], targets.astype(float)[:, None]


def test_platt_of_a_frequent_label_is_its_own():
    """σ(a + b) = 0.9 and σ(b − a) = 0.5: a = b = ln 9 / 2; the other label is as it says."""
    logits, targets = pairs(0.9, 0.5, 100_000)
    other, other_targets = pairs(1 / (1 + math.exp(-1)), 1 / (1 + math.e), 100_000)
    both = np.hstack([logits, other]), np.hstack([targets, other_targets])
    fitted = PlattScaling().fit(*both, "multilabel")
    assert fitted.scale == pytest.approx((math.log(9) / 2, 1.0), abs=0.02)
    assert fitted.shift == pytest.approx((math.log(9) / 2, 0.0), abs=0.02)


def test_platt_of_a_rare_label_keeps_to_all_labels_together():
    random = np.random.default_rng(0)
    logits = random.normal(-1, 2, (4000, 20))
    logits[:, 0] -= 8
    targets = (random.random(logits.shape) < probabilities_of(logits, "multilabel")).astype(float)
    targets[:, 0] = 0
    targets[:3, 0] = 1  # not where the logits are high, as it happens
    fitted = PlattScaling().fit(2 * logits, targets, "multilabel")
    scale, shift = np.array(fitted.scale), np.array(fitted.shift)
    np.testing.assert_allclose(scale[1:], 0.5, atol=0.06)
    assert abs(scale[0] - np.median(scale)) < 0.15  # alone: about 0
    assert abs(shift[0] - np.median(shift)) < 0.3  # alone: −7


def test_isotonic_gives_the_share_of_positives_at_each_step():
    logits = np.repeat([-2.0, -1.0, 0.0, 1.0], 100)[:, None]
    positives = [10, 30, 20, 90]  # the two in the middle fall: they share 25 %
    targets = np.concatenate([np.arange(100) < n for n in positives]).astype(float)[:, None]
    fitted = IsotonicCalibration().fit(logits, targets, "multilabel")
    found = fitted.probabilities(np.array([[-2.0], [-1.0], [0.0], [1.0]]), "multilabel")
    np.testing.assert_allclose(found[:, 0], [0.10, 0.25, 0.25, 0.90], atol=1e-4)


def test_isotonic_leaves_rare_labels_to_platt():
    logits, targets = rows_of("multilabel", 500)
    targets[:, 2] = 0
    targets[:49, 2] = 1
    fitted = IsotonicCalibration().fit(logits, targets, "multilabel")
    assert fitted.maps is not None
    assert [len(knots) > 0 for knots in fitted.maps] == [True, True, False, True]
    platt = PlattScaling().fit(logits, targets, "multilabel")
    np.testing.assert_array_equal(
        fitted.probabilities(logits, "multilabel")[:, 2],
        platt.probabilities(logits, "multilabel")[:, 2],
    )


@pytest.mark.parametrize(
    ("task", "logits", "expected"),
    [
        ("multilabel", [0.0, LN3, -LN3], [0.5, 0.75, 0.25]),
        ("multilabel", [1000.0, -1000.0, 0.0], [1.0, 0.0, 0.5]),
        ("multiclass", [0.0, LN3], [0.25, 0.75]),
        ("multiclass", [1000.0, 1000.0, -1000.0], [0.5, 0.5, 0.0]),
        ("multiclass", [5.0, 5.0, 5.0, 5.0], [0.25, 0.25, 0.25, 0.25]),
    ],
)
def test_probabilities_by_hand(task, logits, expected):
    found = probabilities_of(np.array([logits], np.float64), task)
    assert found.dtype == np.float32
    assert found[0].tolist() == pytest.approx(expected, abs=1e-7)


# ------------------------------------------------------------------ folding


@pytest.mark.parametrize(
    ("scale", "shift"), [(0.5, 0.0), ((0.5, 1.0, 2.0), (0.1, -1.0, 0.0))], ids=["one", "each"]
)
def test_a_folded_layer_gives_what_the_calibration_gave(scale, shift):
    torch.manual_seed(0)
    layer, inputs = torch.nn.Linear(5, 3), torch.randn(7, 5)
    before = layer(inputs).detach().numpy()
    calibration = Calibration(kind="platt", scale=scale, shift=shift)
    folded = calibration.folded(layer)
    assert folded.is_folded
    np.testing.assert_allclose(
        folded.probabilities(layer(inputs).detach().numpy(), "multilabel"),
        calibration.probabilities(before, "multilabel"),
        atol=1e-6,
    )
    twice = layer.weight.detach().clone()
    assert folded.folded(layer) == folded
    torch.testing.assert_close(layer.weight.detach(), twice)


def test_a_layer_without_bias_takes_a_temperature_but_no_shift():
    layer = torch.nn.Linear(5, 2, bias=False)
    weight = layer.weight.detach().clone()
    shifted = Calibration(kind="platt", scale=(2.0, 2.0), shift=(0.5, 0.0))
    assert shifted.folded(layer) == shifted
    torch.testing.assert_close(layer.weight.detach(), weight)
    assert Calibration(kind="temperature", scale=2.0).folded(layer).is_folded
    torch.testing.assert_close(layer.weight.detach(), 2 * weight)


def test_calibrations_that_differ_by_rounding_are_close():
    """One is folded, the other is fitted again to what comes out of the folded layer."""
    first = Calibration(kind="platt", scale=(1.5, 3.499634), shift=(0.0, -2.0), is_folded=True)

    def is_close(**changed: Any) -> bool:
        return first.is_close(first.model_copy(update=changed))

    assert is_close(scale=(1.5, 3.499635), shift=(1e-6, -2.000001), is_folded=False)
    assert not is_close(scale=(1.5, 3.4999))
    assert not is_close(shift=(1e-4, -2.0))
    assert not is_close(scale=1.5)
    assert not is_close(kind="isotonic")
    assert not is_close(maps=((), ((0.1, 0.2),)))


# ------------------------------------------------------------------ every threshold


@each_threshold
@pytest.mark.parametrize("average", ["micro", "macro"])
def test_thresholds_are_probabilities_and_the_same_again(spec, average):
    logits, targets = rows_of("multilabel", 400)
    targets[:, 3] = 0
    probabilities = probabilities_of(logits, "multilabel")
    fitted = spec.fit(probabilities, targets, average)
    assert fitted == spec.fit(probabilities, targets, average)
    decision = Decision(threshold=fitted)
    assert all(0 < t < 1 for t in decision.thresholds(4))
    assert Decision.load(decision.dump()) == decision


@each_threshold
def test_no_rows_are_no_error_to_a_threshold(spec):
    nothing = np.zeros((0, 3), np.float32)
    assert all(
        0 < t < 1 for t in Decision(threshold=spec.fit(nothing, nothing, "macro")).thresholds(3)
    )


def f1_at(threshold, probabilities, targets, average):
    decided = Decision(threshold=threshold).decide(probabilities, "multilabel")
    return sk.f1_score(targets, decided, average=average, zero_division=0)


@pytest.mark.parametrize("average", ["micro", "macro"])
@pytest.mark.parametrize("decimals", [8, 2], ids=["anywhere", "on the thresholds"])
def test_best_global_threshold_is_that_of_a_full_search(average, decimals):
    logits, targets = rows_of("multilabel", 60)
    probabilities = np.round(probabilities_of(logits, "multilabel"), decimals)
    grid = np.arange(1, 100) / 100
    scores = [f1_at(float(t), probabilities, targets, average) for t in grid]
    found = best_global_threshold(probabilities, targets, average)
    assert found == pytest.approx(grid[int(np.argmax(np.round(scores, 12)))])


def test_best_global_threshold_of_a_young_model_is_low():
    probabilities = np.array([[0.125, 0.04], [0.03, 0.02], [0.115, 0.11]], np.float32)
    targets = np.array([[1, 0], [0, 0], [1, 1]], np.float32)
    assert best_global_threshold(probabilities, targets) == 0.07  # 0.04 to 0.10 are as good
    nothing = np.zeros((2, 2), np.float32)
    assert best_global_threshold(nothing, np.array([[0, 1], [0, 0]], np.float32)) == 0.5
    assert best_global_threshold(probabilities, np.zeros_like(targets)) == 0.5


def test_between_labels_far_apart_the_threshold_is_in_the_middle():
    probabilities = np.array([[0.02], [0.98]] * 50, np.float32)
    targets = np.array([[0], [1]] * 50, np.float32)
    assert best_global_threshold(probabilities, targets) == 0.49
    assert PerLabelThreshold(shrinkage=0).fit(probabilities, targets, "micro") == (0.49,)


# Label 0 is best cut from 0.31 to 0.34, label 1 from 0.71 to 0.74; both have two positives.
P = np.array([[0.9, 0.9], [0.35, 0.75], [0.305, 0.705], [0.1, 0.6]], np.float32)
Y = np.array([[1, 1], [1, 1], [0, 0], [0, 0]], np.float32)


def test_thresholds_of_labels_are_their_own_without_shrinkage():
    assert PerLabelThreshold(shrinkage=0).fit(P, Y, "micro") == pytest.approx((0.32, 0.72))


def test_thresholds_of_labels_meet_with_all_together_by_their_positives():
    """One for both: 0.32 is right for label 0 and gives label 1 F1 2·2/(4+2); 0.72 as much."""
    together = GlobalThreshold(average="macro").fit(P, Y, "micro")
    assert together == 0.32
    assert PerLabelThreshold(shrinkage=1e9).fit(P, Y, "micro") == pytest.approx((together,) * 2)
    logit = lambda p: math.log(p / (1 - p))  # noqa: E731
    halfway = 1 / (1 + math.exp(-(logit(0.72) + logit(0.32)) / 2))
    assert PerLabelThreshold(shrinkage=2).fit(P, Y, "micro")[1] == pytest.approx(halfway, abs=1e-5)


def test_beta_above_one_wants_recall_and_below_precision():
    logits, targets = rows_of("multilabel")
    probabilities = probabilities_of(logits, "multilabel")
    low, middle, high = (
        GlobalThreshold(maximise=m).fit(probabilities, targets, "micro") for m in (3.0, "f1", 0.3)
    )
    assert low < middle < high


@pytest.mark.parametrize("floor", [0.7, 0.9])
def test_floors_are_kept_and_no_more(floor):
    logits, targets = rows_of("multilabel", 40_000)
    probabilities = probabilities_of(logits, "multilabel")
    for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score)):
        spec = FloorThreshold(**{name: floor}, shrinkage=0)
        threshold = spec.fit(probabilities, targets, "micro")
        decided = Decision(threshold=threshold).decide(probabilities, "multilabel")
        found = score(targets, decided, average=None)
        assert (found >= floor).all()
        assert (found < floor + 0.02).all()


def test_floor_of_a_label_with_few_rows_is_that_of_all_together():
    """Its one positive is its most probable row: alone it would keep to any floor at 0.51."""
    logits, targets = rows_of("multilabel", 4000)
    probabilities = probabilities_of(logits, "multilabel")
    rare = np.zeros((4000, 1), np.float32)
    rare[0] = 0.52
    truth = np.zeros((4000, 1), np.float32)
    truth[0] = 1
    found = FloorThreshold(precision=0.9).fit(
        np.hstack([probabilities, rare]), np.hstack([targets, truth]), "micro"
    )
    assert found[4] == pytest.approx(np.median(found[:4]), abs=0.1)
    alone = FloorThreshold(precision=0.9, shrinkage=0).fit(rare, truth, "micro")
    assert alone == pytest.approx((0.01,))


def test_shrinkage_helps_rare_labels_on_held_out_rows():
    random = np.random.default_rng(0)
    gains = []
    for _ in range(5):
        logits = random.normal(-4.5, 1.5, (1600, 40))
        targets = (random.random(logits.shape) < probabilities_of(logits, "multilabel")).astype(int)
        probabilities = probabilities_of(logits, "multilabel")
        fit, rest = slice(0, 400), slice(400, None)
        scores = [
            f1_at(PerLabelThreshold(shrinkage=k).fit(probabilities[fit], targets[fit], "macro"),
                  probabilities[rest], targets[rest], "macro")
            for k in (20, 0)
        ]  # fmt: skip
        gains.append(scores[0] - scores[1])
    assert min(gains) > 0
    assert np.mean(gains) > 0.02


# ------------------------------------------------------------------ prediction sets


def test_set_threshold_of_classes_by_hand():
    """19 rows, coverage 0.8: (1 − 0.8) · 20 = 4, so the 4th lowest p of a true class."""
    true = np.linspace(0.05, 0.95, 19)
    probabilities = np.stack([true, 1 - true], axis=1)
    targets = np.tile([1.0, 0.0], (19, 1))
    rule = Conformal(coverage=0.8).fit(probabilities, targets, "multiclass")
    assert rule.threshold == pytest.approx(0.2)
    assert rule.of(probabilities.astype(np.float32))[:, 0].sum() == 16


def test_set_threshold_of_labels_by_hand():
    """9 rows, coverage 0.75: missed + 1 ≤ 2.5. A row of two labels misses half with each."""
    probabilities = np.full((9, 2), 0.9)
    probabilities[0], probabilities[1], probabilities[2] = (0.1, 0.2), (0.3, 0.9), (0.4, 0.9)
    targets = np.ones((9, 2))
    targets[2] = (1, 0)
    rule = Conformal(coverage=0.75).fit(probabilities, targets, "multilabel")
    # Below 0.4: half + half + half = 1.5 missed; below 0.9: one more, of the third row.
    assert rule.threshold == pytest.approx(0.4)


def test_too_few_rows_to_promise_anything_give_all_labels():
    probabilities = np.array([[0.9, 0.1]] * 5)
    rule = Conformal(coverage=0.9).fit(probabilities, np.array([[1.0, 0.0]] * 5), "multiclass")
    assert rule.of(probabilities.astype(np.float32)).all()


@each_task
@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_sets_keep_their_promise_on_new_rows(task, coverage):
    """On average over fits, and closely in each: all rows of validation count."""
    spec = DecisionSpec(sets={"kind": "conformal", "coverage": coverage})
    logits, targets = rows_of(task, 4000, times=2.0, seed=99)
    held, sizes = [], []
    for seed in range(15):
        decision = spec.fit(*rows_of(task, 500, times=2.0, seed=seed), task, "micro")
        sets = decision.apply(logits, task).sets
        held.append(covered(sets, targets).mean())
        sizes.append(sets.sum(1).mean())
    assert np.mean(held) == pytest.approx(coverage, abs=0.01)
    assert np.std(held) < 0.025  # a fold of 100 rows: 0.03 to 0.04
    assert np.mean(sizes) < 4


@each_task
def test_sets_are_fitted_on_what_unseen_rows_get(task):
    logits, targets = rows_of(task, 400, times=3)
    plain, with_sets = DecisionSpec(), DecisionSpec(sets="conformal")
    found = with_sets.fit(logits, targets, task, "micro")
    without = plain.fit(logits, targets, task, "micro")
    unseen = cross_fitted(plain, logits, targets, task, "micro").probabilities
    assert without.sets is None
    assert found.model_copy(update={"sets": None}) == without
    assert found.sets == Conformal().fit(unseen, targets, task)
    assert Decision.load(found.dump()) == found


# ------------------------------------------------------------------ labels


def test_multilabel_gives_what_is_above_the_threshold():
    probabilities = np.array([[0.5, 0.51, 0.1], [0.2, 0.3, 0.49]], np.float32)
    assert Decision().decide(probabilities, "multilabel").tolist() == [
        [False, True, False],
        [False, False, False],
    ]
    assert Decision(threshold=0.3).decide(probabilities, "multilabel").tolist() == [
        [True, True, False],
        [False, False, True],  # 0.3 itself is not above
    ]
    each = Decision(threshold=(0.1, 0.6, 0.48)).decide(probabilities, "multilabel")
    assert each.tolist() == [[True, False, False], [True, False, True]]


def test_multiclass_gives_one_class_whatever_the_threshold():
    probabilities = np.array([[0.2, 0.5, 0.3], [0.3, 0.3, 0.4], [0.4, 0.4, 0.2]], np.float32)
    expected = [[False, True, False], [False, False, True], [True, False, False]]
    for threshold in (0.01, 0.5, 0.99):
        decision = Decision(threshold=threshold)
        assert decision.decide(probabilities, "multiclass").tolist() == expected


def test_multiclass_abstains_below_its_confidence():
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5], [0.375, 0.625]], np.float32)
    decided = Decision(abstain_below=0.625).decide(probabilities, "multiclass")
    assert decided.tolist() == [[False, True], [False, False], [False, True]]


@each_task
def test_no_rows_are_no_error(task):
    nothing = np.zeros((0, 3), np.float32)
    decided = Decision().decide(probabilities_of(nothing, task), task)
    assert (decided.shape, decided.dtype) == ((0, 3), np.bool_)


def test_threshold_is_a_probability():
    for wrong in (0, 1, -0.1, 1.5, (0.5, 1.0)):
        with pytest.raises(ValidationError, match="threshold"):
            Decision(threshold=wrong)


@pytest.mark.parametrize(
    ("decision", "task", "words"),
    [
        (Decision(), "multilabel", "above 0.5"),
        (
            Decision(threshold=(0.1, 0.42)),
            "multilabel",
            "above a threshold of their own, 0.10 to 0.42",
        ),
        (Decision(), "multiclass", "the most probable"),
        (Decision(abstain_below=0.6), "multiclass", "the most probable, none below 0.6"),
    ],
)
def test_rule_in_words(decision, task, words):
    assert decision.rule(task) == words


# ------------------------------------------------------------------ fitted as a whole


def test_auto_serves_the_metric():
    logits, targets = rows_of("multilabel", 300)
    micro = DecisionSpec().fit(logits, targets, "multilabel", "micro")
    macro = DecisionSpec().fit(logits, targets, "multilabel", "macro")
    assert isinstance(micro.threshold, float)
    assert isinstance(macro.threshold, tuple)
    assert (micro.calibration.kind, macro.calibration.kind) == ("platt", "platt")
    several, classes = rows_of("multiclass", 300)
    assert (
        DecisionSpec().fit(several, classes, "multiclass", "micro").calibration.kind
        == "temperature"
    )


def test_a_number_is_taken_as_it_is():
    logits, targets = rows_of("multilabel", 100)
    found = DecisionSpec(calibration="none", threshold=0.3).fit(
        logits, targets, "multilabel", "micro"
    )
    assert found == Decision(threshold=0.3)


@pytest.mark.parametrize("groups", [None, np.arange(100) // 4], ids=["rows", "groups"])
def test_a_cross_fitted_row_knows_nothing_of_its_own_label(groups):
    logits, targets = rows_of("multilabel", 100)
    spec = DecisionSpec(threshold="per_label")
    before, _, _ = cross_fitted(spec, logits, targets, "multilabel", "macro", groups)
    own = folds(100, groups) == folds(100, groups)[0]
    flipped = np.where(own[:, None], 1 - targets, targets)
    after, decided, _ = cross_fitted(spec, logits, flipped, "multilabel", "macro", groups)
    np.testing.assert_array_equal(after[own], before[own])
    assert not np.array_equal(after[~own], before[~own])
    assert decided.dtype == np.bool_


def test_folds_hold_whole_groups_and_are_five():
    groups = np.random.default_rng(0).integers(0, 30, 200)
    fold = folds(200, groups)
    assert all(len(set(fold[groups == g])) == 1 for g in np.unique(groups))
    assert set(fold) == {0, 1, 2, 3, 4}
    assert sorted(np.bincount(folds(100))) == [20] * 5


def test_a_single_group_is_decided_by_itself():
    logits, targets = rows_of("multilabel", 50)
    spec = DecisionSpec()
    found, _, _ = cross_fitted(spec, logits, targets, "multilabel", "micro", np.zeros(50))
    whole = spec.fit(logits, targets, "multilabel", "micro")
    np.testing.assert_array_equal(found, whole.probabilities(logits, "multilabel"))


def test_specs_are_read_as_users_write_them():
    load = TypeAdapter(DecisionSpec).validate_python
    assert load({"calibration": "isotonic"}).calibration == IsotonicCalibration()
    assert load({"threshold": {"kind": "per_label", "maximise": 2}}).threshold.beta == 2.0
    assert load({"threshold": {"kind": "floor", "recall": 0.9}}).threshold.recall == 0.9
    assert load({"threshold": 0.25}).threshold == 0.25


@pytest.mark.parametrize(("num_groups", "size"), [(15, 40), (40, 10)])
def test_sets_of_grouped_rows_hold_for_new_groups(num_groups, size):
    """Rows of a group share most of their noise: as single rows they would promise too much."""
    random, held = np.random.default_rng(0), {"rows": [], "groups": []}

    def draw(count):
        shared = np.repeat(random.normal(size=(count, 3)), size, axis=0)
        truth = random.integers(0, 3, count * size)
        logits = 1.5 * shared + 2.5 * np.eye(3)[truth] + random.normal(size=shared.shape)
        return probabilities_of(logits, "multiclass"), np.eye(3)[truth].astype(np.float32)

    for _ in range(120):
        probabilities, targets = draw(num_groups)
        groups = np.repeat(np.arange(num_groups), size)
        new, truth = draw(100)
        for name, given in (("rows", None), ("groups", groups)):
            rule = Conformal(coverage=0.9).fit(probabilities, targets, "multiclass", given)
            held[name].append((rule.of(new) & (truth > 0)).any(1).mean())
    assert np.mean(held["rows"]) < 0.9
    assert 0.895 < np.mean(held["groups"]) < 0.96
