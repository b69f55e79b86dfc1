"""The demo's job files: valid wherever the folder is. The demo itself runs by `make demo`."""

from __future__ import annotations

from pathlib import Path

import pytest

from clftask.cli.demo import JOBS, _write_job
from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
TABLES = ("aws_errors", "aws_errors_grouped", "aws_services", "aws_unlabelled")


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "my demo, {new}: #1"


@pytest.fixture
def data(folder) -> dict[str, Path]:
    return {name: folder / f"{name}.parquet" for name in TABLES}


@pytest.mark.parametrize("name", ["aws-errors", "aws-errors-grouped", "aws-services"])
def test_train_jobs_use_the_table_and_the_folder(folder, data, name):
    job = TrainJob.load(_write_job(folder, name, data))
    assert job.data.train == str(data[name.replace("-", "_")])
    assert job.run.storage == str(folder / "runs")
    assert (job.training.epochs, job.data.split.test, job.scaling.workers) == (3, 0.2, 2)
    assert job.model == TrainJob.load(CONFIGS / f"{name}.yaml").model


def test_the_score_job_uses_the_bundle(folder, data):
    path = _write_job(folder, "score-aws", data, f"{folder}/runs/some-run/bundle")
    job = ScoreJob.load(path)
    assert (job.bundle, job.shard_rows) == (f"{folder}/runs/some-run/bundle", 250)
    assert job.input.path == str(data["aws_unlabelled"])
    assert job.output.path == str(folder / "scores" / "some-run")


def test_users_find_the_demo_jobs_among_the_configs():
    for path in JOBS.iterdir():
        assert (CONFIGS / path.name).resolve() == path
