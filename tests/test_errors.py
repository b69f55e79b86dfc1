"""Which errors a retry cannot help: one rule for training, searches and scoring."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from clftask.errors import (
    AccessError,
    BadRowError,
    ClftaskError,
    ConfigError,
    DataError,
    JobError,
    ModelError,
    Problem,
    StorageError,
    is_permanent,
)


@pytest.mark.parametrize("kind", [AccessError, BadRowError, ModelError])
def test_errors_that_every_worker_would_have_are_permanent(kind: type[ClftaskError]) -> None:
    error = kind(Problem("bundle", None, "is spoilt"))
    assert is_permanent(error)
    assert is_permanent(pickle.loads(pickle.dumps(error)))


@pytest.mark.parametrize("kind", [ConfigError, DataError, JobError, StorageError])
def test_other_errors_of_data_and_storage_may_pass(kind: type[ClftaskError]) -> None:
    assert not is_permanent(kind(Problem("bundle", None, "is spoilt")))


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), NotImplementedError("x"), RecursionError("x")]
)
def test_errors_of_code_are_permanent(error: Exception) -> None:
    assert is_permanent(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("x"),
        OSError("x"),
        MemoryError(),
        EOFError(),
        pa.ArrowInvalid("x"),
        pa.ArrowNotImplementedError("x"),
        ActorDiedError(),
        RayTaskError("f", "traceback", ValueError("x")).as_instanceof_cause(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_machines_pyarrow_and_ray_may_pass(error: Exception) -> None:
    assert not is_permanent(error)
