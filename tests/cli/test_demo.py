"""The demo's job files: valid wherever the folder lies. The demo itself runs by `make demo`."""

from __future__ import annotations

from pathlib import Path

from clftask.cli import demo
from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob


def test_job_files_load_whatever_the_folder_is_called(tmp_path):
    folder = tmp_path / "my demo, {new}: #1"
    names = ("aws_errors", "aws_services")
    jobs = demo._write_jobs(folder, {name: folder / f"{name}.parquet" for name in names})
    for path in jobs.values():
        job = TrainJob.load(path)
        assert Path(job.data.train).is_relative_to(folder)
        assert job.run.storage == str(folder / "runs")
    places = {name: demo._quoted(folder / name) for name in ("bundle", "data", "output")}
    score = tmp_path / "score.yaml"
    score.write_text(demo._SCORE.format(**places))
    assert ScoreJob.load(score).output.path == str(folder / "output")
