"""Scratch folders that do not pile up: what killed processes left is removed by the next one."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX, _LOCK = "clftask-work-", ".lock"
_until_exit = contextlib.ExitStack()
atexit.register(_until_exit.close)


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """Give a local folder for as long as the block runs.

    A process that is killed cannot remove its own. The lock that it held ends with it, so that
    whoever comes next can tell such a folder from one in use, whatever container it is of.
    """
    remove_stale_folders()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    with (folder / ".new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / ".new").rename(folder / _LOCK)  # nobody sees it before it is locked
        (folder / "files").mkdir()
        try:
            yield str(folder / "files")
        finally:
            _remove(folder)


def process_folder() -> str:
    """Return a scratch folder that lasts as long as the process."""
    return _until_exit.enter_context(temporary_folder())


def remove_stale_folders() -> None:
    """Remove the folders of processes that are gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if not (folder / _LOCK).is_file():  # a pipe of somebody else's would keep us for ever
            continue
        with contextlib.suppress(OSError), (folder / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove the lock last: without it a half-removed folder would stay."""
    shutil.rmtree(folder / "files", ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
