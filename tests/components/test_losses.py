"""Every member of `Loss`: one contract, then values by hand."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from clftask.components.losses import (
    Asymmetric,
    AutoLoss,
    BinaryCrossEntropy,
    ClassBalanced,
    CrossEntropy,
    Focal,
    LogitAdjusted,
    Loss,
    TrainLabels,
)

MEMBERS = get_args(get_args(Loss)[0])
CASES = [(member, task) for member in MEMBERS for task in member.tasks]
LN2, LN3 = math.log(2), math.log(3)
# The first label is on half of the rows, the last on one in a hundred.
LABELS = TrainLabels(np.array([50.0, 30.0, 19.0, 1.0]), 100)
VARIANTS = [{}, {"class_weights": "balanced"}, {"label_smoothing": 0.1}]


def targets_of(task, num_rows):
    if task == "multiclass":
        return torch.eye(4)[torch.arange(num_rows) % 4]
    return (torch.arange(num_rows * 4).reshape(num_rows, 4) % 3 == 0).float()


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: "-".join(o) or "plain")
@pytest.mark.parametrize(("member", "task"), CASES)
def test_gives_one_finite_loss_a_row(member, task, options):
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 4), targets_of(task, 6)
    loss = member(**options).rows_for(task, LABELS)
    rows = loss(logits, targets)
    assert (rows.shape, rows.dtype) == ((6,), torch.float32)
    assert (rows > 0).all()
    for i in range(6):  # a row's loss is its own
        alone = loss(logits[i : i + 1], targets[i : i + 1])
        torch.testing.assert_close(alone, rows[i : i + 1])


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: "-".join(o) or "plain")
@pytest.mark.parametrize(("member", "task"), CASES)
def test_learns_downhill_and_survives_extreme_logits(member, task, options):
    targets = targets_of(task, 4)
    sure = (targets * 2 - 1) * 1000
    loss = member(**options).rows_for(task, LABELS)
    for logits in (sure, -sure):
        logits = logits.requires_grad_()
        rows = loss(logits, targets)
        rows.sum().backward()
        assert rows.isfinite().all()
        assert logits.grad.isfinite().all()
    logits = torch.zeros(4, 4, requires_grad=True)
    before = loss(logits, targets)
    before.sum().backward()
    assert (loss(logits - 0.1 * logits.grad, targets) < before).all()


@pytest.mark.parametrize(("member", "task"), CASES)
def test_is_lowest_where_all_is_right(member, task):
    targets = targets_of(task, 4)
    loss = member().rows_for(task, LABELS)
    right = loss((targets * 2 - 1) * 20, targets)
    wrong = loss((1 - targets * 2) * 20, targets)
    assert (right < 1e-6).all()
    assert (wrong > 1).all()


@pytest.mark.parametrize(
    ("loss", "logits", "targets", "expected"),
    [
        (CrossEntropy(), [0.0, LN3], [1.0, 0.0], 2 * LN2),  # −ln 1/4
        (CrossEntropy(), [0.0, LN3], [0.0, 1.0], 0.2876821),  # −ln 3/4
        (CrossEntropy(), [7.0, 7.0, 7.0, 7.0], [0.0, 0.0, 1.0, 0.0], 1.3862944),  # ln 4
        (
            CrossEntropy(label_smoothing=0.2),
            [0.0, LN3],
            [0.0, 1.0],
            0.3975433,
        ),  # 0.9 · 0.288 + 0.1 · 1.386
        # On 50 and 25 of 100 rows: 37.5/50 and 37.5/25.
        (CrossEntropy(class_weights="balanced"), [0.0, LN3], [1.0, 0.0], 0.75 * 2 * LN2),
        (CrossEntropy(class_weights="balanced"), [0.0, LN3], [0.0, 1.0], 1.5 * 0.2876821),
        (BinaryCrossEntropy(), [0.0, LN3], [1.0, 0.0], 1.5 * LN2),  # (ln 2 + ln 4) / 2
        (BinaryCrossEntropy(), [0.0, LN3], [0.0, 1.0], 0.4904146),  # (ln 2 − ln 3/4) / 2
        (BinaryCrossEntropy(), [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], LN2),
        # Positives alone are weighted: (0.75 ln 2 + ln 4) / 2.
        (BinaryCrossEntropy(class_weights="balanced"), [0.0, LN3], [1.0, 0.0], 1.375 * LN2),
        (Focal(gamma=2), [0.0, LN3], [1.0, 0.0], 0.5625 * 2 * LN2),  # (3/4)² ln 4
        (Focal(gamma=0), [0.0, LN3], [0.0, 1.0], 0.2876821),
        (Asymmetric(clip=0), [0.0, LN3], [1.0, 0.0], 0.5658897),  # (ln 2 + (3/4)⁴ ln 4) / 2
        (Asymmetric(), [-3.0, 0.0], [0.0, 1.0], LN2 / 2),  # p below the clip costs nothing
        (Asymmetric(gamma_negative=1), [0.0, 0.0], [0.0, 0.0], 0.45 * 0.597837),  # −0.45 ln 0.55
        # τ = 1: the logits are those of the prior 1/2 and 1/4, so softmax gives 2/3 and 1/3.
        (LogitAdjusted(), [0.0, 0.0], [0.0, 1.0], LN3),
        (LogitAdjusted(tau=0), [0.0, LN3], [1.0, 0.0], 2 * LN2),
        (AutoLoss(), [0.0, LN3], [1.0, 0.0], 2 * LN2),
    ],
)
def test_by_hand(loss, logits, targets, expected):
    task = loss.tasks[0]
    labels = TrainLabels(np.array([50.0, 25.0, 25.0, 25.0][: len(logits)]), 100)
    rows = loss.rows_for(task, labels)(torch.tensor([logits]), torch.tensor([targets]))
    assert rows.tolist() == pytest.approx([expected], abs=1e-6)


def test_focal_of_labels_by_hand():
    """p = 3/4 of a true and of a false label: (1/16 · ln 4/3 + 9/16 · ln 4) / 2."""
    rows = Focal(gamma=2).rows_for("multilabel", LABELS)
    found = rows(torch.tensor([[LN3, LN3]]), torch.tensor([[1.0, 0.0]]))
    assert found.tolist() == pytest.approx([(0.0625 * 0.2876821 + 0.5625 * 2 * LN2) / 2])


def test_adjusted_labels_by_hand():
    """A label on 1/4 of the rows: its logit is lowered by ln 3, so that 0 means the prior."""
    rows = LogitAdjusted().rows_for("multilabel", TrainLabels(np.array([25.0]), 100))
    found = rows(torch.zeros(1, 1), torch.ones(1, 1))
    assert found.tolist() == pytest.approx([2 * LN2])


def test_rare_labels_weigh_more_but_no_more_than_the_cap():
    balanced = BinaryCrossEntropy(class_weights="balanced").weights(LABELS)
    assert balanced == pytest.approx([0.5, 25 / 30, 25 / 19, 10.0])
    few = BinaryCrossEntropy(class_weights="balanced", max_class_weight=2.0).weights(LABELS)
    assert few[3] == 2.0
    assert ClassBalanced(beta=0).weights(LABELS) == pytest.approx([1, 1, 1, 1])
    effective = ClassBalanced(beta=0.9, max_class_weight=100).weights(LABELS)
    raw = [0.1 / (1 - 0.9**n) for n in (50, 30, 19, 1)]
    mean = (50 * raw[0] + 30 * raw[1] + 19 * raw[2] + raw[3]) / 100  # over positives
    assert effective == pytest.approx([w / mean for w in raw])
    assert BinaryCrossEntropy().weights(LABELS) is None


def test_a_label_that_train_lacks_has_a_finite_weight():
    labels = TrainLabels(np.array([100.0, 0.0]), 100)
    for loss in (ClassBalanced(), LogitAdjusted(), BinaryCrossEntropy(class_weights="balanced")):
        rows = loss.rows_for("multilabel", labels)
        assert rows(torch.zeros(1, 2), torch.ones(1, 2)).isfinite().all()


def test_auto_is_focal_for_labels_and_cross_entropy_for_classes():
    logits, targets = torch.randn(5, 4), targets_of("multilabel", 5)
    for task, own in (("multilabel", Focal()), ("multiclass", CrossEntropy())):
        both = (loss.rows_for(task, LABELS)(logits, targets) for loss in (AutoLoss(), own))
        torch.testing.assert_close(*both)


# ------------------------------------------------------------------ soft targets

SOFT = {
    "multiclass": torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9]]),
    "multilabel": torch.tensor([[0.7, 0.2, 0.5], [0.05, 0.95, 0.9]]),
}
SOFT_LABELS = TrainLabels(np.array([40.0, 30.0, 50.0]), 100, is_soft=True)


def slope_at(loss, task, probabilities):
    """Return the largest gradient of a loss where a model predicts the targets."""
    targets = SOFT[task]
    logits = probabilities.log() if task == "multiclass" else torch.logit(probabilities)
    logits.requires_grad_()
    loss.rows_for(task, SOFT_LABELS)(logits, targets).sum().backward()
    return float(logits.grad.abs().max())


@pytest.mark.parametrize(("member", "task"), CASES)
def test_proper_losses_are_lowest_at_the_probabilities(member, task):
    loss = LogitAdjusted(tau=0) if member is LogitAdjusted else member()
    if member is ClassBalanced:
        loss = ClassBalanced(beta=0)
    assert (slope_at(loss, task, SOFT[task].clone()) < 1e-6) == member.is_proper
    assert member.is_proper == (member not in (Focal, Asymmetric))


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: "-".join(o) or "plain")
@pytest.mark.parametrize(("member", "task"), CASES)
def test_a_soft_target_is_the_mean_over_labels_drawn_from_it(member, task, options):
    if not member.is_proper:
        return
    torch.manual_seed(0)
    logits = torch.randn(2, 3)
    loss = member(**options).rows_for(task, SOFT_LABELS)
    targets, expected = SOFT[task], torch.zeros(2)
    if task == "multiclass":
        for k, one in enumerate(torch.eye(3)):
            expected += targets[:, k] * loss(logits, one.expand(2, 3))
    else:
        for bits in torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3):
            share = torch.where(bits > 0, targets, 1 - targets).prod(1)
            expected += share * loss(logits, bits.expand(2, 3))
    torch.testing.assert_close(loss(logits, targets), expected)


def test_auto_is_sigmoid_cross_entropy_for_soft_labels():
    logits, targets = torch.randn(2, 3), SOFT["multilabel"]
    options = {"class_weights": "balanced", "max_class_weight": 3.0, "label_smoothing": 0.1}
    own, other = AutoLoss(**options), BinaryCrossEntropy(**options)
    both = (loss.rows_for("multilabel", SOFT_LABELS)(logits, targets) for loss in (own, other))
    torch.testing.assert_close(*both)


def test_every_kind_is_known_by_its_bare_name():
    adapter = TypeAdapter(Loss)
    kinds = {member.model_fields["kind"].default: member for member in MEMBERS}
    assert len(kinds) == len(MEMBERS)
    assert {kind: type(adapter.validate_python(kind)) for kind in kinds} == kinds
    with pytest.raises(ValidationError, match="'auto', 'cross_entropy', 'bce', 'focal'"):
        adapter.validate_python("hinge")
