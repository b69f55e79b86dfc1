"""Disks that are full or deny writing: the error that ended training is the one that is shown."""

from __future__ import annotations

import resource
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from training_work import Recorder, run

from clftask import logs
from clftask.components import trackers
from clftask.errors import JobError, Problem, StorageError
from clftask.io import storage
from clftask.models import bundle
from clftask.training import worker
from clftask.training.checkpoints import Checkpoints


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """Make writes of larger files fail, like a full disk does; Python ignores the signal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("num_bytes", [5_000, 30_000])
def test_a_full_disk_during_a_checkpoint(make_work, num_bytes):
    """Below the size of the weights safetensors fails, below that of the optimiser torch."""
    work = make_work(epochs=2)
    with file_size_limit(num_bytes), pytest.raises(StorageError) as caught:
        run(work)
    (problem,) = caught.value.problems
    assert problem.allowed.startswith("cannot be written: ")
    assert problem.remedy == (
        "Free some space, or set TMPDIR to a larger disk; then resume the run."
    )
    assert "failed: " in Path(work.run, "log.txt").read_text()
    assert not Path(work.run, "bundle").exists()
    assert run(work).done["metrics"]  # it resumes


def test_a_full_disk_during_the_bundle(make_work, monkeypatch):
    work = make_work(epochs=1)
    publish = bundle.publish

    def on_a_full_disk(folder: Path, path: str) -> None:
        with file_size_limit(5_000):
            publish(folder, path)

    monkeypatch.setattr(bundle, "publish", on_a_full_disk)
    with pytest.raises(StorageError) as caught:
        run(work)
    assert caught.value.problems[0].path.startswith(f"{work.run}/bundle/")
    assert not Path(work.run, "bundle", "clftask.json").exists()
    assert not list(Path(work.run).rglob(".tmp-*"))
    monkeypatch.undo()
    assert run(work).done["metrics"]
    assert Path(work.run, "bundle", "clftask.json").exists()


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl"])
def test_a_log_that_cannot_be_written_does_not_replace_the_error(make_work, monkeypatch, name):
    work = make_work(epochs=1)

    def fail(*_: Any) -> None:
        Path(work.run, name).mkdir(parents=True)  # a folder in the way of the file
        raise JobError(Problem("training", None, "the loss is NaN"))

    monkeypatch.setattr(worker, "_train", fail)
    with pytest.raises(JobError, match="the loss is NaN"):
        run(work)
    other = {"log.txt": "metrics.jsonl", "metrics.jsonl": "log.txt"}[name]
    assert Path(work.run, other).is_file()


def test_an_upload_that_fails_late_does_not_replace_the_error(make_work, monkeypatch):
    work = make_work(epochs=2)

    def upload(*_: Any) -> None:
        raise RuntimeError("the upload broke")

    def post(record: dict[str, Any]) -> None:
        if record.get("step", 0) >= 6:
            raise JobError(Problem("training", None, "the first error"))

    sink = Recorder()
    monkeypatch.setattr(sink, "post", post)
    monkeypatch.setattr(storage, "upload", upload)
    with pytest.raises(JobError, match="the first error"):
        run(work, sink)


def test_a_finished_run_does_not_fail_because_of_its_log(make_work, monkeypatch):
    work = make_work(epochs=1)
    publish = worker.publish

    def then_block(*arguments: Any) -> None:
        publish(*arguments)
        Path(work.run, "log.txt").unlink()
        Path(work.run, "log.txt").mkdir()

    monkeypatch.setattr(worker, "publish", then_block)
    assert run(work).done["metrics"]
    assert Path(work.run, "bundle", "clftask.json").exists()


def test_files_of_trackers_that_cannot_be_uploaded_do_not_replace_the_error(tmp_path, monkeypatch):
    (tmp_path / "tensorboard").mkdir()
    uploads: list[str] = []

    def upload(_: str, place: str) -> None:
        uploads.append(place)
        raise StorageError(Problem(place, None, "S3 did not answer"))

    monkeypatch.setattr(storage, "upload", upload)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")
    with (
        pytest.raises(JobError, match="the loss is NaN"),
        trackers.writing_to("s3://bucket/run", str(tmp_path)),
    ):
        raise JobError(Problem("training", None, "the loss is NaN"))
    with trackers.writing_to("s3://bucket/run", str(tmp_path)):
        pass
    assert uploads == ["s3://bucket/run/tensorboard"] * 2


def test_errors_that_are_logged_say_why(caplog):
    with logs.errors_logged("the report is missing"):
        raise OSError(28, "No space left on device")
    assert "the report is missing: [Errno 28] No space left on device" in caplog.text


# ------------------------------------------------------------------ streams


SHA256 = (
    "593e04feb61df0211f75980e7c142aa33fe53502e9a4fc2d3072b0d3bd2b9794"  # of 50,000,000 times `a`
)


def peak_of(call: Any) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_weights_are_hashed_in_blocks(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"a" * 50_000_000)
    assert peak_of(lambda: bundle._hash(file)) < 5_000_000
    assert bundle._hash(file) == SHA256


def test_weights_of_the_best_checkpoint_are_fetched_in_blocks(tmp_path):
    import fsspec

    fsspec.filesystem("memory").pipe("/blocks/step-0000007/model.safetensors", bytes(50_000_000))
    checkpoints = Checkpoints("memory://blocks", 1, str(tmp_path))
    assert peak_of(lambda: checkpoints.fetch(7, "model.safetensors")) < 20_000_000
    assert (tmp_path / "fetched/step-0000007/model.safetensors").stat().st_size == 50_000_000


def test_files_are_uploaded_in_blocks(tmp_path):
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "weights").write_bytes(bytes(50_000_000))
    assert peak_of(lambda: storage.upload(str(tmp_path / "local"), f"{tmp_path}/run")) < 20_000_000

    assert (tmp_path / "run" / "weights").stat().st_size == 50_000_000
