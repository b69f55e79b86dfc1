"""Every member of `Loss`, and what `auto` stands for."""

import math
from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from clftask.losses import AutoLoss, BinaryCrossEntropy, CrossEntropy, Loss

MEMBERS = get_args(get_args(Loss)[0])
CASES = [(member, task) for member in MEMBERS for task in member.tasks]
LN2, LN3 = math.log(2), math.log(3)


def targets_of(task, num_rows):
    if task == "multiclass":
        return torch.eye(4)[torch.arange(num_rows) % 4]
    return (torch.arange(num_rows * 4).reshape(num_rows, 4) % 3 == 0).float()


@pytest.mark.parametrize(("member", "task"), CASES)
def test_gives_one_finite_loss_a_row(member, task):
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 4), targets_of(task, 6)
    loss = member().for_task(task)
    rows = loss.rows(logits, targets)
    assert (rows.shape, rows.dtype) == ((6,), torch.float32)
    assert (rows > 0).all()
    for i in range(6):  # a row's loss is its own
        alone = loss.rows(logits[i : i + 1], targets[i : i + 1])
        torch.testing.assert_close(alone, rows[i : i + 1])


@pytest.mark.parametrize(("member", "task"), CASES)
def test_learns_downhill_and_survives_extreme_logits(member, task):
    targets = targets_of(task, 4)
    sure = (targets * 2 - 1) * 1000
    loss = member().for_task(task)
    for logits in (sure, -sure):
        logits = logits.requires_grad_()
        rows = loss.rows(logits, targets)
        rows.sum().backward()
        assert rows.isfinite().all()
        assert logits.grad.isfinite().all()
    logits = torch.zeros(4, 4, requires_grad=True)
    before = loss.rows(logits, targets)
    before.sum().backward()
    assert (loss.rows(logits - 0.1 * logits.grad, targets) < before).all()


@pytest.mark.parametrize(("member", "task"), CASES)
def test_is_lowest_where_all_is_right(member, task):
    targets = targets_of(task, 4)
    loss = member().for_task(task)
    right = loss.rows((targets * 2 - 1) * 20, targets)
    wrong = loss.rows((1 - targets * 2) * 20, targets)
    assert (right < 1e-6).all()
    assert (wrong > 1).all()


@pytest.mark.parametrize(
    ("loss", "logits", "targets", "expected"),
    [
        (CrossEntropy(), [0.0, LN3], [1.0, 0.0], 2 * LN2),  # −ln 1/4
        (CrossEntropy(), [0.0, LN3], [0.0, 1.0], 0.2876821),  # −ln 3/4
        (CrossEntropy(), [7.0, 7.0, 7.0, 7.0], [0.0, 0.0, 1.0, 0.0], 1.3862944),  # ln 4
        (BinaryCrossEntropy(), [0.0, LN3], [1.0, 0.0], 1.5 * LN2),  # (ln 2 + ln 4) / 2
        (BinaryCrossEntropy(), [0.0, LN3], [0.0, 1.0], 0.4904146),  # (ln 2 − ln 3/4) / 2
        (BinaryCrossEntropy(), [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], LN2),
    ],
)
def test_by_hand(loss, logits, targets, expected):
    rows = loss.rows(torch.tensor([logits]), torch.tensor([targets]))
    assert rows.tolist() == pytest.approx([expected], abs=1e-6)


def test_what_is_computed_for_a_task():
    assert AutoLoss().for_task("multiclass") == CrossEntropy()
    assert AutoLoss().for_task("multilabel") == BinaryCrossEntropy()
    assert CrossEntropy().for_task("multiclass") == CrossEntropy()


def test_every_kind_is_known_by_its_bare_name():
    adapter = TypeAdapter(Loss)
    kinds = {member.model_fields["kind"].default: member for member in MEMBERS}
    assert len(kinds) == len(MEMBERS)
    assert {kind: type(adapter.validate_python(kind)) for kind in kinds} == kinds
    with pytest.raises(ValidationError, match="'auto', 'cross_entropy', 'bce'"):
        adapter.validate_python("hinge")
