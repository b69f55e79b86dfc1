"""Optimisers and schedules: every member is known to the Trainer, and is a bare name in files."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import TypeAdapter
from transformers import Trainer, TrainingArguments

from clftask.components.optimizers import Optimizer
from clftask.components.schedules import Schedule

each_optimizer = pytest.mark.parametrize("optimizer", Optimizer)


@pytest.mark.parametrize("member", [*Optimizer, *Schedule])
def test_is_a_bare_name_in_files(member):
    adapter = TypeAdapter(type(member))
    assert adapter.validate_python(str(member)) is member
    assert json.loads(adapter.dump_json(member)) == member == str(member)


def trained(tmp_path, optimizer):
    """Return an optimiser after one step on a single matrix of 4 x 5 weights."""
    arguments = TrainingArguments(tmp_path, optim=optimizer.trainer_name, use_cpu=True)
    layer = torch.nn.Linear(5, 4, bias=False)
    cls, options = Trainer.get_optimizer_cls_and_kwargs(arguments, layer)
    found = cls(layer.parameters(), **options)
    layer(torch.ones(1, 5)).sum().backward()
    found.step()
    return found


@each_optimizer
def test_keeps_no_more_states_than_told(tmp_path, optimizer):
    """States as large as the weights count; the others are small in a real model."""
    states = trained(tmp_path, optimizer).state_dict()["state"].values()
    tensors = [t for state in states for t in state.values() if isinstance(t, torch.Tensor)]
    assert sum(t.numel() == 20 for t in tensors) <= optimizer.states_per_weight


@each_optimizer
def test_takes_its_own_arguments(tmp_path, optimizer):
    options = trained(tmp_path, optimizer).defaults
    assert bool(optimizer.arguments) == ("betas" in options)


def test_arguments_of_other_optimizers_are_unused():
    assert Optimizer.SGD.unused({"adam_beta1", "logging_steps"}) == {"adam_beta1"}
    assert Optimizer.ADAMW.unused({"adam_beta1", "logging_steps"}) == set()


@pytest.mark.parametrize("schedule", Schedule)
def test_schedules_start_with_a_warmup(tmp_path, schedule):
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    steps = {"num_warmup_steps": 4, "num_training_steps": 12}
    found = get_scheduler(schedule.trainer_name, optimizer, **steps)
    rates = []
    for _ in range(12):
        rates.append(found.get_last_lr()[0])
        optimizer.step()
        found.step()
    assert rates[:5] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert (rates[-1] == 1.0) == (schedule is Schedule.CONSTANT)
