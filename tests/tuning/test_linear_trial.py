"""One trial of a linear model, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clftask.components.search.goal import Goal
from clftask.config.train import TrainJob
from clftask.data.prepare import prepare
from clftask.models import bundle, linear_fit
from clftask.training import linear
from clftask.training.work import Work
from clftask.tuning.attempts import Attempt
from clftask.tuning.linear_trial import attempt_linear, publish_linear
from clftask.tuning.trial_store import Evaluation, Trial, TrialStore


@pytest.fixture
def make(toy_table, tmp_path: Path) -> Any:
    """A function that returns a trial to run; it changes fields of the model."""
    labels = {"kind": "class", "column": "label"}
    data = {"train": str(toy_table(120)), "text": "text", "labels": labels}
    source = {"task": "multiclass", "data": data, "model": {"base": "tfidf"}}

    def attempt(**model: Any) -> Attempt:
        job = TrainJob.load(source | {"model": {"base": "tfidf", **model}})
        work: Work = linear.work_of(job, str(tmp_path / "search"), prepare(job))
        trial = Trial(number=0, picks={}, params={}, seed=42, precision="fp32")
        goal = Goal(metric="micro_f1", greater_is_better=True)
        return Attempt(work=work, trial=trial, goal=goal, saves="sometimes", keeps_weights=True)

    return attempt


def test_a_trial_is_evaluated_once_and_its_weights_become_the_bundle(make):
    spec, told = make(), list[tuple[Evaluation, int | None, int]]()
    trial = attempt_linear(spec, lambda *reported: told.append(reported))
    assert [(e.epoch, step, count) for e, step, count in told] == [(1, None, 1)]
    assert (trial.state, trial.score(spec.goal)) == ("finished", 1.0)
    assert TrialStore(spec.work.run).read(spec.trial) == trial
    outcome = publish_linear(spec.work, trial)
    meta = bundle.read_meta(spec.work.run + "/bundle")
    assert meta.metrics == outcome["metrics"]
    assert meta.metrics["test"]["micro_f1"] == 1.0


def test_a_trial_without_features_fails(make):
    spec = make(min_df=97)
    trial = attempt_linear(spec, lambda *_: None)
    assert (trial.state, trial.evaluations) == ("failed", ())
    assert trial.reason == "no n-gram of words occurs in so many train rows"


def test_a_fit_that_did_not_converge_is_told_by_trial_and_bundle(make, monkeypatch, caplog):
    monkeypatch.setattr(linear_fit, "MAX_ITERATIONS", 1)
    spec = make()
    trial = attempt_linear(spec, lambda *_: None)
    line = "the linear model did not converge in 1 iterations; lower model.C"
    assert trial.warnings == (line,)
    assert line in caplog.messages
    assert line in publish_linear(spec.work, TrialStore(spec.work.run).read(spec.trial))["warnings"]
    folder = Path(spec.work.run, "bundle")
    assert line in bundle.read_meta(str(folder)).warnings
    assert line in (folder / "report.html").read_text()
