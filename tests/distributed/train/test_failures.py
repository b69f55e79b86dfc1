"""Which errors of a worker end a run at once, without a cluster."""

from __future__ import annotations

import pytest
import torch
from ray.exceptions import ActorDiedError

from clftask.distributed.train.driver import permanent_failure
from clftask.distributed.train.progress import ProgressActor
from clftask.errors import DataError, Problem, is_permanent

SHAPE = RuntimeError("The size of tensor a (8) must match\n\nIn addition, set TORCH_DEBUG")
MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
GLOO = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection closed")


def failure(error: Exception, *known: str) -> str | None:
    found = permanent_failure(error, "/runs/r", lambda reason: reason in known)
    return None if found is None else str(found)


@pytest.mark.parametrize(
    "error",
    [IndexError("index out of range in self"), ValueError("x"), KeyError("x"), TypeError("x"),
     AssertionError("x"), NotImplementedError("x")],
)  # fmt: skip
def test_errors_of_data_and_code_are_permanent(error):
    assert is_permanent(error)
    reason = f"{type(error).__name__}: {error}"
    expected = f"/runs/r: training failed: {reason}. See /runs/r/log.txt."
    assert failure(error) == expected


@pytest.mark.parametrize(
    "error",
    [SHAPE, MEMORY, GLOO, OSError("x"), ConnectionResetError("x"), MemoryError(), ActorDiedError()],
)
def test_errors_that_may_pass_are_retried(error):
    assert failure(error) is None


def test_a_repeated_error_is_permanent_and_reported_by_its_first_line():
    reason = "RuntimeError: The size of tensor a (8) must match"
    expected = f"/runs/r: training failed: {reason}. See /runs/r/log.txt."
    assert failure(SHAPE, reason) == expected
    assert "Use a smaller training.micro_batch_size" in str(
        failure(MEMORY, "OutOfMemoryError: CUDA out of memory. Tried to allocate 20 MiB")
    )


def test_a_lost_connection_never_is():
    assert failure(GLOO, f"RuntimeError: {GLOO}") is None


def test_a_user_error_is_kept():
    error = DataError(Problem("bundle", None, "is damaged"))
    assert permanent_failure(error, "/runs/r", lambda reason: False) is error


def test_an_error_is_known_if_the_same_worker_had_it_after_the_same_step():
    actor = ProgressActor.__ray_metadata__.modified_class()
    assert not actor.is_known(0, "a")
    assert not actor.is_known(1, "a")
    assert not actor.is_known(0, "b")
    actor.post({"step": 10, "loss": 1.0})
    assert not actor.is_known(0, "a")
    actor.post({"step": 10, "loss": 1.0})
    assert actor.is_known(0, "a")
