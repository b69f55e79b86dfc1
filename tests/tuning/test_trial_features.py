"""A search runs a frozen encoder once; its trials train heads on the features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from clftask.components.search.goal import Goal
from clftask.training import features
from clftask.tuning.attempts import Attempt
from clftask.tuning.trial_features import compute
from clftask.tuning.trial_store import Trial
from clftask.tuning.trial_worker import attempt


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of model inputs of each run of an encoder over a split."""
    seen: list[int] = []
    everywhere = features._Encoder.everywhere

    def spy(own: Any, inputs: Any) -> Any:
        seen.append(len(inputs))
        return everywhere(own, inputs)

    monkeypatch.setattr(features._Encoder, "everywhere", spy)
    return seen


@pytest.fixture
def trained(make_work: Callable[..., Any]) -> Callable[..., Trial]:
    """A function that runs a trial of two epochs with a learning rate."""

    def train(number: int, rate: float, known: Any = None) -> Trial:
        work = make_work("search", model={"adapt": "head_only"}, epochs=2, learning_rate=rate)
        work = replace(work, features=None if known is None else lambda: known)
        trial = Trial(number=number, picks={}, params={}, seed=42, precision="fp32")
        goal = Goal(metric="micro_f1", greater_is_better=True)
        spec = Attempt(work, trial, goal, saves="sometimes", keeps_weights=True)
        done = attempt(spec, lambda *_: None, rank=0, world=1, device="cpu")
        assert done.state == "finished"
        return done

    return train


def test_the_encoder_runs_once_for_all_trials(make_work, trained, runs):
    found, line = compute(make_work("search", model={"adapt": "head_only"}), "fp32", "cpu")
    assert line == (
        "the frozen encoder ran once over 108 model inputs, without dropout; "
        "the epochs train the head"
    )
    assert runs == [96, 12]
    assert found is not None
    for array in found.splits.values():
        array.setflags(write=False)  # as Ray gives it
    trials = [trained(number, rate, found) for number, rate in enumerate((1e-3, 1e-2, 1e-1))]
    assert runs == [96, 12], "a trial ran it again"
    alone = trained(3, 1e-2)
    assert runs == [96, 12, 96, 12]
    metrics = [[e.metrics for e in trial.evaluations] for trial in (trials[1], alone)]
    assert metrics[0] == metrics[1]
    assert trials[0].evaluations[-1].metrics != trials[2].evaluations[-1].metrics


def test_features_of_another_precision_are_not_used(make_work, trained, runs):
    found = compute(make_work("search", model={"adapt": "head_only"}), "bf16", "cpu")[0]
    assert (found.precision, runs) == ("bf16", [96, 12])
    trained(0, 1e-2, found)
    assert runs == [96, 12, 96, 12]


def test_an_encoder_that_has_to_run_in_each_epoch_has_none(make_work, monkeypatch):
    monkeypatch.setattr(features, "MAX_BYTES", 0)
    found, line = compute(make_work("search", model={"adapt": "head_only"}), "fp32", "cpu")
    assert found is None
    assert line.startswith("the frozen encoder runs in each epoch: its features need 0.0 GiB")
