"""Scratch folders: gone with their block, and with processes that were killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from clftask.io.tempdirs import remove_stale_folders, temporary_folder

HOLD = """
import sys, time
from clftask.io.tempdirs import temporary_folder
with temporary_folder() as folder:
    open(folder + "/weights", "w").write("x")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def hold() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_gone_after_its_block(own_temp: Path) -> None:
    with temporary_folder() as folder:
        Path(folder, "inner").mkdir()
        assert Path(folder).parent.parent == own_temp
    with pytest.raises(ValueError, match="as it happens"), temporary_folder() as other:
        raise ValueError("as it happens")
    assert not Path(folder).exists()
    assert not Path(other).exists()


def test_a_removal_that_is_cut_short_is_finished_by_the_next(own_temp, monkeypatch) -> None:
    remove = shutil.rmtree

    def cut_short(folder: Path, **options: object) -> None:
        Path(folder, "weights").unlink()
        raise KeyboardInterrupt

    with (
        monkeypatch.context() as patched,
        contextlib.suppress(KeyboardInterrupt),
        temporary_folder() as folder,
    ):
        for name in ("weights", "more"):
            Path(folder, name).write_text("x")
        patched.setattr(shutil, "rmtree", cut_short)
    assert shutil.rmtree is remove
    assert Path(folder, "more").exists()
    remove_stale_folders()
    assert list(own_temp.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_stays(own_temp: Path) -> None:
    (first, killed), (second, alive) = hold(), hold()
    try:
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert killed.exists()
        with temporary_folder() as mine:
            assert not killed.exists()
            assert (alive / "weights").read_text() == "x"
            remove_stale_folders()
            assert Path(mine).exists()
    finally:
        second.kill()
        second.wait()


def test_a_lasting_folder_goes_with_its_process(own_temp: Path) -> None:
    code = "from clftask.io.tempdirs import process_folder as f; open(f() + '/x', 'w'); print(f())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).parent.parent == own_temp
    assert list(own_temp.iterdir()) == []


def test_what_others_put_there_is_left_alone(own_temp: Path) -> None:
    foreign = own_temp / "clftask-work-of-somebody"
    foreign.mkdir()
    os.mkfifo(foreign / ".lock")  # whoever opens it waits for a writer
    (own_temp / "clftask-work-file").write_text("x")
    remove_stale_folders()
    assert foreign.exists()
    assert (own_temp / "clftask-work-file").exists()
