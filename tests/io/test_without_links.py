"""Disks without hard links: exFAT, some network and FUSE file systems."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clftask.errors import StorageError
from clftask.io import local_disk, storage

ERRORS = [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EMLINK]


@pytest.fixture(params=ERRORS, ids=[errno.errorcode[e] for e in ERRORS])
def linkless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any, **__: Any) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "link", link)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_created_once(linkless: None, tmp_path: Path) -> None:
    assert storage.put_if_absent(f"{tmp_path}/a/x", b"first")
    assert not storage.put_if_absent(f"{tmp_path}/a/x", b"second")
    assert (tmp_path / "a" / "x").read_bytes() == b"first"
    assert names(tmp_path / "a") == ["x"]


def test_racing_threads_have_one_winner(linkless: None, tmp_path: Path) -> None:
    writers = [f"writer {i}".encode() for i in range(12)]
    for round_ in range(5):
        path = tmp_path / str(round_) / "x"
        with ThreadPoolExecutor(12) as pool:
            won = list(pool.map(lambda d, p=path: storage.put_if_absent(str(p), d), writers))
        assert sum(won) == 1
        assert path.read_bytes() == writers[won.index(True)]
        assert names(path.parent) == ["x"]


CODE = """
import os, sys
def link(*_, **__):
    raise OSError(1, "Operation not permitted")
os.link = link
from clftask.io import local_disk, storage
sys.stdin.readline()
print([storage.put_if_absent(f"{sys.argv[1]}/{i}", sys.argv[2].encode()) for i in range(50)])
"""


def test_racing_processes_have_one_winner(tmp_path: Path) -> None:
    options: dict[str, Any] = {"stdin": -1, "stdout": -1, "text": True}
    writers = [
        subprocess.Popen([sys.executable, "-c", CODE, str(tmp_path), f"{i}"], **options)
        for i in range(3)
    ]
    for writer in writers:
        writer.stdin.write("\n")  # type: ignore[union-attr]
        writer.stdin.flush()  # type: ignore[union-attr]
    won = [eval(writer.communicate(timeout=60)[0]) for writer in writers]
    for i in range(50):
        assert [won[w][i] for w in range(3)].count(True) == 1
        assert won[int((tmp_path / str(i)).read_text())][i]
    assert len(names(tmp_path)) == 50


def test_the_lock_of_a_killed_writer_is_free(linkless: None, tmp_path: Path) -> None:
    (tmp_path / ".tmp-x.lock").touch()
    assert storage.put_if_absent(f"{tmp_path}/x", b"data")
    assert names(tmp_path) == ["x"]


def test_a_writer_waits_for_another(linkless: None, tmp_path: Path) -> None:
    lock = tmp_path / ".tmp-x.lock"
    with lock.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        won: list[bool] = []
        thread = threading.Thread(
            target=lambda: won.append(storage.put_if_absent(f"{tmp_path}/x", b"mine"))
        )
        thread.start()
        while thread.is_alive() and len(names(tmp_path)) < 2:  # its temporary file
            time.sleep(0.01)
        (tmp_path / "x").write_bytes(b"theirs")
        lock.unlink()
    thread.join()
    assert won == [False]
    assert (tmp_path / "x").read_bytes() == b"theirs"
    assert names(tmp_path) == ["x"]


def test_a_lock_is_cleared_away_only_if_nobody_holds_it(linkless: None, tmp_path: Path) -> None:
    """Without its lock, a second writer would create the same file."""
    (tmp_path / ".tmp-killed.lock").touch()
    (tmp_path / ".tmp-y-x_1").touch()
    with local_disk._locked(f"{tmp_path}/x"):
        storage.clear_partial(str(tmp_path))
        assert names(tmp_path) == [".tmp-x.lock"]
    assert names(tmp_path) == []


def test_a_lock_that_is_removed_is_no_error(linkless: None, tmp_path: Path) -> None:
    with local_disk._locked(f"{tmp_path}/x"):
        (tmp_path / ".tmp-x.lock").unlink()
    with (
        pytest.raises(FileNotFoundError, match="in the block"),
        local_disk._locked(f"{tmp_path}/x"),
    ):
        raise FileNotFoundError("in the block")
    assert names(tmp_path) == []


def test_such_a_disk_is_accepted_before_the_start(linkless: None, tmp_path: Path) -> None:
    storage.check_writable(f"{tmp_path}/run", "run.storage")
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_with_neither_links_nor_locks_is_refused_before_the_start(
    linkless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StorageError) as caught:
        storage.check_writable(f"{tmp_path}/run", "run.storage")
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("run.storage", f"{tmp_path}/run")
    assert problem.allowed.startswith("must be a folder that can be written: ")
    assert problem.remedy == "Use a disk with hard links or file locks."
    assert names(tmp_path) == []


def test_a_disk_without_permissions_takes_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT refuses chmod(0o644) of a file that it shows as executable."""

    def chmod(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", chmod)
    storage.put(f"{tmp_path}/x", b"data")
    assert (tmp_path / "x").read_bytes() == b"data"


def test_other_errors_of_a_link_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StorageError, match=r"No space left on device.* Free some space"):
        storage.put_if_absent(f"{tmp_path}/x", b"data")
    assert names(tmp_path) == []
