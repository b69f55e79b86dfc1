"""Runs that are there already: what a resumed one refuses, and when it has nothing to do."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest

from clftask.config.results import TrainResult
from clftask.config.sections import RunSpec
from clftask.config.train import TrainJob
from clftask.data.prepare import prepare
from clftask.distributed.train.driver import train
from clftask.errors import ConfigError
from clftask.training import run_dir

OUTCOME = {
    "metrics": {"validation": {"micro_f1": 0.5}},
    "epochs": 3,
    "samples_per_s": 100.0,
    "workers": 1,
    "steps": 9,
    "per_label": {"validation": []},
}


@pytest.fixture
def finished(toy_table, tiny_base, tmp_path) -> TrainJob:
    """The job of a finished run, whose base is gone since."""
    base = shutil.copytree(tiny_base, tmp_path / "base")
    job = TrainJob.load(
        {
            "task": "multiclass",
            "data": {
                "train": str(toy_table(60)),
                "text": "text",
                "labels": {"kind": "class", "column": "label"},
            },
            "model": {"base": str(base)},
            "run": {"storage": str(tmp_path / "runs"), "name": "run", "resume": True},
        }
    )
    run = run_dir.find(job.run, job.task)
    prepared = prepare(job)
    run_dir.create(run, job, prepared.rows, prepared.fingerprint)
    Path(run.bundle).mkdir()
    Path(run.bundle, "metrics.json").write_text(json.dumps(OUTCOME))
    Path(run.bundle, "clftask.json").write_text("{}")
    shutil.rmtree(base)
    return job


def again(job: TrainJob, *overrides: str) -> tuple[TrainResult, list[str]]:
    said: list[str] = []
    changed = TrainJob.load(job.dump(), overrides)
    return train(changed, said.append, lambda record: None), said


def test_a_finished_run_returns_without_its_base(finished):
    result, said = again(finished, "scaling.workers=2")
    assert {name: getattr(result, name) for name in OUTCOME} == OUTCOME
    assert said == [f"the run is finished: {result.run}"]


def test_what_a_driver_left_that_was_killed_at_the_very_end_is_removed(finished):
    """Its workers had written the bundle; Ray's state goes only after that."""
    path = Path(finished.run.storage, "run", ".ray")
    path.mkdir()
    (path / "reservation").write_text("some-run")
    again(finished)
    assert not path.exists()


def test_what_workers_left_half_written_whose_driver_was_killed_at_the_end_is_removed(finished):
    half = Path(finished.run.storage, "run", "checkpoints", "step-0000001", ".tmp-model-x1")
    half.parent.mkdir(parents=True)
    half.write_text("half")
    again(finished)
    assert not half.exists()


def test_what_killed_workers_left_half_written_is_removed_however_a_run_ends(finished):
    run = run_dir.find(finished.run, finished.task)
    half = Path(run.path, "checkpoints", "step-0000001", ".tmp-optimizer.pt-x1")
    half.parent.mkdir(parents=True)
    prepared = prepare(finished)
    with contextlib.suppress(KeyboardInterrupt), run_dir.resumable(run) as create:
        create(finished, prepared.rows, prepared.fingerprint)
        half.write_text("half")
        raise KeyboardInterrupt
    assert not half.exists()
    assert Path(run.path, "job.yaml").exists()


def test_who_is_refused_leaves_what_another_writes(finished):
    """The loser of a race for a name, and whoever fails before the run is theirs."""
    prepared, path = prepare(finished), Path(finished.run.storage, "run")
    written = path / "bundle" / ".tmp-model.safetensors-x1"
    written.write_text("the winner is writing it")
    loser = run_dir.Run(str(path), False)
    with pytest.raises(ConfigError, match="is taken"), run_dir.resumable(loser) as create:
        create(finished, prepared.rows, prepared.fingerprint)
    with contextlib.suppress(KeyboardInterrupt), run_dir.resumable(run_dir.Run(str(path), True)):
        raise KeyboardInterrupt
    assert written.exists()


def test_a_finished_run_of_another_job_or_other_data_is_refused(finished, toy_table):
    with pytest.raises(ConfigError, match=r"training\.epochs: was 3 in the run \(found 4\)"):
        again(finished, "training.epochs=4")
    toy_table(61)
    with pytest.raises(ConfigError, match="data: must be the run's data"):
        again(finished)


def test_an_unfinished_run_still_wants_its_base(finished):
    Path(finished.run.storage, "run", "bundle", "clftask.json").unlink()
    with pytest.raises(ConfigError, match=r"model\.base: is not a folder"):
        again(finished)


# ------------------------------------------------------------------ names that are taken


@pytest.fixture
def searches(tmp_path: Path) -> Path:
    """A finished search named `search`, which holds the winner's job, too."""
    folder = tmp_path / "searches" / "search"
    folder.mkdir(parents=True)
    for name in (run_dir.SEARCH, run_dir.JOB):
        (folder / name).write_text("{}")
    return folder.parent


def spec(storage: Path, resume: bool) -> RunSpec:
    return RunSpec(storage=str(storage), name="search", resume=resume)


def test_a_search_is_resumed_as_a_search_though_it_holds_a_job(searches):
    assert run_dir.find(spec(searches, True), "tune", run_dir.SEARCH).exists
    with pytest.raises(ConfigError, match=r"run\.name: is taken"):
        run_dir.find(spec(searches, False), "tune", run_dir.SEARCH)


@pytest.mark.parametrize("resume", [True, False])
def test_a_training_never_resumes_in_the_folder_of_a_search(searches, resume):
    with pytest.raises(ConfigError, match=r"run\.name: is taken"):
        run_dir.find(spec(searches, resume), "multilabel")


def test_a_search_never_resumes_in_the_folder_of_a_training(searches):
    (searches / "search" / run_dir.SEARCH).unlink()
    with pytest.raises(ConfigError, match=r"run\.name: is taken"):
        run_dir.find(spec(searches, True), "tune", run_dir.SEARCH)
