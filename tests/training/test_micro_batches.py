"""Micro batches: the same step whatever their size, and what happens if one is too large."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clftask.data.batching import Limit
from clftask.errors import JobError
from clftask.training.trainer import ClassifierTrainer
from clftask.training.worker import build_trainer


@pytest.fixture
def build(make_work):
    """A function that makes the trainer of toy rows, whose model is without dropout."""

    def made(model: Any = None, **training: Any) -> ClassifierTrainer:
        work = make_work(model=model, **training)
        trainer = build_trainer(work, 1, "cpu", "fp32", work.run)
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return trainer

    return made


def run_out_of_memory(trainer: ClassifierTrainer, most: int, *, backward: bool = False) -> None:
    """Let the model fail like a GPU for more than `most` tokens."""

    def forward(module: Any, args: Any, inputs: Any, output: Any = None) -> None:
        if inputs["input_ids"].numel() > most:
            if not backward:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            if output.logits.requires_grad:
                output.logits.register_hook(fail)

    def fail(_: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    model = trainer.model
    if backward:
        model.register_forward_hook(forward, with_kwargs=True)
    else:
        model.register_forward_pre_hook(forward, with_kwargs=True)


def step(trainer: ClassifierTrainer) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss and the gradients of the first step."""
    share = next(iter(trainer.get_train_dataloader()))
    loss = trainer.training_step(trainer.model, share)
    return loss.item(), {n: p.grad for n, p in trainer.model.named_parameters()}


def assert_same(found: Any, expected: Any) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-6)


WINDOWS = {"max_length": 8, "long_text": {"kind": "windows", "stride": 2}}


@pytest.mark.parametrize("model", [None, WINDOWS])
@pytest.mark.parametrize("size", [1, 3, 16])
def test_a_step_is_the_same_for_every_micro_batch(build, model, size):
    assert_same(step(build(model, micro_batch_size=size)), step(build(model)))


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_that_runs_out_of_memory_begins_again_with_half_the_micro_batch(build, backward):
    expected = step(build())
    trainer, notes = build(), []
    trainer.note = notes.append
    run_out_of_memory(trainer, 100, backward=backward)
    assert_same(step(trainer), expected)
    assert len(notes) >= 2
    assert all(note.startswith("out of memory: ") for note in notes)
    assert trainer.batches.limit.tokens <= 100
    count = len(notes)
    assert math.isfinite(step(trainer)[0])
    assert len(notes) == count, "it does not know what it learned"


def test_the_longest_rows_are_tried_before_the_first_step(build):
    trainer, notes = build(), []
    trainer.note = notes.append
    trainer.fit_memory()
    assert (notes, trainer.batches.limit) == ([], Limit(tokens=2048))
    run_out_of_memory(trainer, 100, backward=True)
    trainer.fit_memory()
    assert notes
    assert all(p.grad is None for p in trainer.model.parameters())
    count = len(notes)
    trainer.train()
    assert len(notes) == count


def test_evaluation_goes_on_with_half_the_batch(build):
    expected = build().logits_of("validation")
    trainer = build()
    run_out_of_memory(trainer, 60)
    found = trainer.logits_of("validation")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert trainer.inference.max_tokens <= 60


def test_a_row_that_does_not_fit_is_an_error_that_says_so(build):
    trainer = build(batch_size=4)
    run_out_of_memory(trainer, 0)
    for tried in (trainer.train, trainer.fit_memory, lambda: trainer.logits_of("validation")):
        with pytest.raises(JobError) as caught:
            tried()
        (problem,) = caught.value.problems
        assert problem.path == "model.base"
        assert "does not fit into the memory of the machine" in problem.allowed
        assert problem.allowed.startswith("training failed: one row of ")
        assert problem.remedy == (
            "Lower model.max_length, use a smaller base or a larger machine, or set "
            "training.gradient_checkpointing."
        )


class Reads(TorchDispatchMode):
    """Records what makes the host wait for a GPU: reading a value."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("model", [None, WINDOWS])
def test_a_step_reads_nothing_from_the_device_but_its_mask(build, model):
    trainer = build(model, micro_batch_size=3)
    share = next(iter(trainer.get_train_dataloader()))
    assert len(share) > 1
    with Reads() as reads:
        loss = trainer._step(trainer.model, share)
    # transformers 5.23 reads each attention mask: nothing is masked if all of it is true.
    assert len(reads.seen) == len(share)
    with reads:
        loss.item()
    assert len(reads.seen) == len(share) + 1
