"""Failures of a trial's workers and waiting for storage, without Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from clftask.distributed.tune import trial_actor, trial_workers
from clftask.errors import AccessError, Problem, StorageError

AWAY = StorageError(Problem("run.storage", None, "does not answer"))
DENIED = AccessError(Problem("run.storage", None, "access denied"))


def member() -> Any:
    kind = trial_workers.Member.__ray_metadata__.modified_class  # type: ignore[attr-defined]
    return object.__new__(kind)


def failing(error: BaseException) -> Any:
    def task(rank: int, world: int, device: str) -> None:
        raise error

    return task


def test_a_worker_says_why_it_failed_and_leaves(monkeypatch):
    left: list[Any] = []
    timer = SimpleNamespace(start=lambda: left.append(True))
    monkeypatch.setattr(trial_workers, "threading", SimpleNamespace(Timer=lambda *a: timer))
    assert member().run(failing(ValueError("spoilt")), 1, 2, "cpu") == "ValueError: spoilt"
    assert left == [True]


def test_storage_that_does_not_answer_is_not_the_trials_failure():
    with pytest.raises(StorageError):
        member().run(failing(AWAY), 1, 2, "cpu")


def test_a_stopped_worker_has_not_failed():
    assert member().run(failing(SystemExit()), 1, 2, "cpu") is None


@pytest.mark.parametrize(("error", "expected"), [(AWAY, ["s3://bucket/run"]), (DENIED, [])])
def test_a_trial_that_cannot_begin_waits_for_storage(monkeypatch, error, expected):
    waited: list[str] = []

    def pointer() -> Any:
        raise error

    monkeypatch.setattr(trial_actor, "_pointer", pointer)
    monkeypatch.setattr(trial_actor, "_wait_for", waited.append)
    with pytest.raises(StorageError):
        trial_actor.run_trial({}, SimpleNamespace(job=None, run="s3://bucket/run"))  # type: ignore[arg-type]
    assert waited == expected


def test_what_tune_cannot_read_is_storage_that_does_not_answer(monkeypatch):
    class Checkpoint:
        def as_directory(self) -> Any:
            raise OSError("When reading: timeout")

    monkeypatch.setattr(trial_actor.tune, "get_checkpoint", Checkpoint)
    with pytest.raises(StorageError, match="timeout"):
        trial_actor._pointer()
