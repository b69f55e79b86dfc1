"""Checkpoints: complete or ignored, never more than are asked for."""

import json
import shutil
import tempfile
import threading
from pathlib import Path

import fsspec
import pytest

from clftask.errors import StorageError
from clftask.io import storage
from clftask.training.checkpoints import Checkpoints, read_state

# A name that the disk takes, but not with the prefix of a temporary file: its copy fails.
TOO_LONG = "z" * 253


def local(tmp_path, step, extra=""):
    """Write a local checkpoint as the Trainer does."""
    folder = tmp_path / "scratch" / f"checkpoint-{step}"
    (folder / "inner").mkdir(parents=True)
    (folder / "model.safetensors").write_text(f"weights {step}")
    (folder / "inner" / "file").write_text("x")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if extra:
        (folder / extra).write_text("")
    return str(folder)


def stored(tmp_path):
    return sorted(int(folder.name.removeprefix("step-")) for folder in (tmp_path / "run").iterdir())


@pytest.fixture
def make(tmp_path):
    return lambda keep=2: Checkpoints(str(tmp_path / "run"), keep, str(tmp_path / "fetched"))


def save(checkpoints, tmp_path, step, best, **options):
    seen = []
    folder = local(tmp_path, step, **options)
    checkpoints.save(folder, step, best, "fp32", lambda: seen.append(stored(tmp_path)))
    checkpoints.wait()
    assert not Path(folder).exists()
    return seen


# ------------------------------------------------------------------ what is found


def test_an_empty_place_has_none(make):
    assert make().steps() == {}
    assert make().latest() is None
    make().clean()
    make().wait()


def test_what_is_saved_is_found_and_fetched(make, tmp_path):
    checkpoints = make()
    assert save(checkpoints, tmp_path, 7, best=None) == [[7]]
    assert make().latest() == 7
    folder = Path(make().fetch(7))
    assert folder.name == "step-0000007"
    assert (folder / "model.safetensors").read_text() == "weights 7"
    assert (folder / "inner" / "file").read_text() == "x"
    assert read_state(str(folder)) == {"global_step": 7}


def test_newest_is_by_number_not_by_name_or_time(make, tmp_path):
    checkpoints = make(3)
    for step in (100, 20_000_000, 3_000):
        save(checkpoints, tmp_path, step, best=None)
    assert make().latest() == 20_000_000


def test_incomplete_ones_are_ignored_and_cleaned(make, tmp_path):
    checkpoints = make(3)
    for step in (10, 20, 30):
        save(checkpoints, tmp_path, step, best=10)
    (tmp_path / "run" / "step-0000030" / "complete.json").unlink()
    assert make().steps() == {10: True, 20: True, 30: False}
    assert make().latest() == 20
    make().clean()
    assert stored(tmp_path) == [10, 20]


def test_what_is_no_checkpoint_is_left_alone(make, tmp_path):
    save(make(), tmp_path, 10, best=10)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert make().steps() == {10: True}
    make().clean()
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_only_what_is_asked_for_is_fetched_into_the_scratch_folder(tmp_path, monkeypatch):
    files = fsspec.filesystem("memory")
    files.put(local(tmp_path, 7), "/fetched-test/step-0000007", recursive=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    checkpoints = Checkpoints("memory://fetched-test", 2, str(tmp_path / "mine"))
    folder = Path(checkpoints.fetch(7, "model.safetensors"))
    assert tmp_path / "mine" in folder.parents
    assert [(f.name, f.read_text()) for f in folder.iterdir()] == [
        ("model.safetensors", "weights 7")
    ]
    folder = Path(checkpoints.fetch(7))
    assert tmp_path / "mine" in folder.parents
    assert {f.name for f in folder.iterdir()} == {
        "model.safetensors", "inner", "trainer_state.json",
    }  # fmt: skip
    assert list((tmp_path / "temporary").iterdir()) == []


def test_precision_is_that_of_the_newest(make, tmp_path):
    assert make().precision() is None
    checkpoints = make()
    for step, precision in ((10, "fp32"), (20, "bf16")):
        checkpoints.save(local(tmp_path, step), step, None, precision, lambda: None)
    checkpoints.wait()
    assert make().precision() == "bf16"
    marker = tmp_path / "run" / "step-0000020" / "complete.json"
    marker.write_text('{"step": 20}')  # as version 0.1.0 wrote it
    assert make().precision() is None


# ------------------------------------------------------------------ what is kept


@pytest.mark.parametrize(
    ("keep", "bests", "kept"),
    [
        (1, [10, 20, 30, 40], [40]),
        (1, [10, 10, 10, 10], [10, 40]),  # the best, and the newest to go on from
        (2, [10, 20, 30, 40], [30, 40]),
        (2, [10, 10, 10, 10], [10, 40]),
        (2, [10, 20, 20, 20], [20, 40]),
        (3, [10, 10, 10, 10], [10, 30, 40]),
        (3, [None, None, None, None], [20, 30, 40]),
    ],
)
def test_best_and_newest_are_kept(make, tmp_path, keep, bests, kept):
    checkpoints = make(keep)
    for step, best in zip((10, 20, 30, 40), bests, strict=True):
        ((seen),) = save(checkpoints, tmp_path, step, best)
        assert len(seen) <= keep + 1
        assert step in seen
        assert best is None or best in seen
    assert stored(tmp_path) == kept


@pytest.mark.parametrize(
    ("keep", "best"),
    [
        *[(1, 10), (1, 30), (1, None), (2, 10), (2, 30), (2, None), (3, 10), (3, 30)],
    ],
)
def test_an_interrupted_upload_leaves_no_more_than_keep_and_one(make, tmp_path, keep, best):
    checkpoints = make(keep)
    for step in (10, 20, 30):
        save(checkpoints, tmp_path, step, best=10 if best == 10 else step)
    with pytest.raises(StorageError):
        save(checkpoints, tmp_path, 40, best or 40, extra=TOO_LONG)
    assert 40 in stored(tmp_path)
    assert len(stored(tmp_path)) <= keep + 1
    # With one to keep, the newest gives way to the best while the next is under way.
    assert make().latest() == (10 if (keep, best) == (1, 10) else 30)
    assert best != 10 or make().steps()[10]


# ------------------------------------------------------------------ uploads


def test_an_error_in_the_upload_is_raised_at_wait(make, tmp_path):
    checkpoints = make()
    called = []
    folder = local(tmp_path, 10, extra=TOO_LONG)
    checkpoints.save(folder, 10, None, "fp32", lambda: called.append(10))
    with pytest.raises(StorageError, match="File name too long"):
        checkpoints.wait()
    assert called == []
    assert make().latest() is None
    assert Path(folder, "model.safetensors").exists()  # the local one is still there


def test_what_belongs_to_a_checkpoint_is_there_before_it_counts(make, tmp_path):
    """Else a run killed in between goes on from it without the figures of its epoch."""
    checkpoints, found = make(), []
    save(checkpoints, tmp_path, 10, best=None)
    checkpoints.save(local(tmp_path, 20), 20, None, "fp32", lambda: found.append(make().steps()))
    checkpoints.wait()
    assert found == [{10: True, 20: False}]
    assert make().steps() == {10: True, 20: True}


@pytest.mark.parametrize("gone", ["the local files", "what is uploaded"])
def test_one_that_has_lost_files_never_counts(make, tmp_path, monkeypatch, gone):
    """A worker that fails removes its scratch folder; another job's cleans what is not whole."""
    checkpoints, folder = make(), local(tmp_path, 20)
    save(checkpoints, tmp_path, 10, best=None)
    upload = storage.upload

    def upload_and_lose(source, place):
        if gone == "the local files":
            shutil.rmtree(source)
        upload(source, place)
        if gone == "what is uploaded":
            Path(place, "model.safetensors").unlink()

    monkeypatch.setattr(storage, "upload", upload_and_lose)
    called = []
    checkpoints.save(folder, 20, None, "fp32", lambda: called.append(20))
    with pytest.raises(StorageError):
        checkpoints.wait()
    assert called == []
    assert make().latest() == 10


def test_one_of_no_files_never_counts(make, tmp_path):
    checkpoints = make()
    checkpoints.save(str(tmp_path / "gone"), 20, None, "fp32", lambda: None)
    with pytest.raises(StorageError, match="upload is incomplete"):
        checkpoints.wait()
    assert make().latest() is None


def test_an_error_in_the_upload_is_raised_at_the_next_save(make, tmp_path):
    checkpoints = make()
    checkpoints.save(local(tmp_path, 10, extra=TOO_LONG), 10, None, "fp32", lambda: None)
    with pytest.raises(StorageError):
        checkpoints.save(local(tmp_path, 20), 20, None, "fp32", lambda: None)


def test_saving_does_not_wait_for_the_upload_but_for_the_one_before(make, tmp_path):
    checkpoints, gate, order = make(), threading.Event(), []

    def first():
        gate.wait(600)
        order.append("first")

    checkpoints.save(local(tmp_path, 10), 10, None, "fp32", first)
    order.append("saved")
    gate.set()
    checkpoints.save(local(tmp_path, 20), 20, None, "fp32", lambda: order.append("second"))
    checkpoints.wait()
    assert order == ["saved", "first", "second"]
    assert stored(tmp_path) == [10, 20]


def test_a_half_uploaded_one_is_replaced_when_its_step_comes_again(make, tmp_path):
    half = tmp_path / "run" / "step-0000010"
    half.mkdir(parents=True)
    (half / "optimizer.pt").write_text("old")
    save(make(), tmp_path, 10, best=10)
    assert make().latest() == 10
    assert not (half / "optimizer.pt").exists()


def test_on_s3_they_are_the_same(s3, tmp_path):
    place = f"{s3.bucket}/checkpoints-test/run"
    checkpoints = Checkpoints(place, 2, str(tmp_path / "fetched"))
    for step in (10, 20, 30):
        checkpoints.save(local(tmp_path, step), step, 10, "bf16", lambda: None)
        checkpoints.wait()
    again = Checkpoints(place, 2, str(tmp_path / "fetched"))
    assert again.steps() == {10: True, 30: True}
    assert again.precision() == "bf16"
    alone = Path(again.fetch(10, "model.safetensors"))
    assert [file.name for file in alone.iterdir()] == ["model.safetensors"]
    assert (alone / "model.safetensors").read_text() == "weights 10"
    folder = Path(checkpoints.fetch(30))
    assert (folder / "model.safetensors").read_text() == "weights 30"
    assert (folder / "inner" / "file").read_text() == "x"
