"""Temporary folders. Each process removes the folders that killed processes left behind."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clftask.errors import Problem, StorageError

_PREFIX, _LOCK = "clftask-work-", ".lock"
_until_exit = contextlib.ExitStack()
atexit.register(_until_exit.close)


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """Yield a local folder that exists while the block runs.

    A killed process cannot remove its folder, but the kernel releases its lock. The next
    process recognises stale folders by that, even those of other containers.
    """
    remove_stale_folders()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    with (folder / ".new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / ".new").rename(folder / _LOCK)  # the lock file is visible only once it is locked
        (folder / "files").mkdir()
        try:
            yield str(folder / "files")
        finally:
            _remove(folder)


@contextlib.contextmanager
def translate_write_errors(folder: str) -> Iterator[None]:
    """Translate errors of safetensors and torch that write to a temporary folder.

    Raises:
        StorageError: The disk is full, or cannot be written.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch's writer raises a RuntimeError that names its source file, without a reason.
        is_torchs = isinstance(error, RuntimeError) and "inline_container" in str(error)
        is_other = isinstance(error, SafetensorError) and "I/O error" not in str(error)
        if is_other or (isinstance(error, RuntimeError) and not is_torchs):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        remedy = "Free some space, or set TMPDIR to a larger disk; then resume the run."
        raise StorageError(Problem(folder, None, f"cannot be written: {reason}", remedy)) from None


def process_folder() -> str:
    """Return a temporary folder that exists until the process exits."""
    return _until_exit.enter_context(temporary_folder())


def remove_stale_folders() -> None:
    """Remove the folders of processes that no longer run."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if not (folder / _LOCK).is_file():  # opening another user's pipe would block
            continue
        with contextlib.suppress(OSError), (folder / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder, its lock last: a half-removed folder without a lock would stay."""
    shutil.rmtree(folder / "files", ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
