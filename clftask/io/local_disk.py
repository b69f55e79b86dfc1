"""Atomic, synced writes to local disks, with or without hard links.

A write returns when file and folder are synced: what is written next, such as a marker, never
survives a power loss without it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

COPY_BYTES = 4 << 20
TEMPORARY = ".tmp-"
_LOCK = ".lock"  # no temporary file ends so: mkstemp adds letters, digits and underscores
# Of os.link on disks without hard links: exFAT, some network and FUSE file systems.
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK}
_LOST = {errno.EIO, errno.ENOSPC, errno.EDQUOT}  # of fsync: the data are not on disk


def replace(path: str, content: IO[bytes]) -> None:
    """Write a local file atomically, replacing an existing one."""
    with _temporary_beside(path, content) as temporary:
        os.replace(temporary, path)  # noqa: PTH105
    sync_folder(Path(path).parent)


def create(path: str, data: bytes) -> bool:
    """Write a local file atomically; return False if it exists."""
    with _temporary_beside(path, io.BytesIO(data)) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if not _create_locked(temporary, path):
                return False
    sync_folder(Path(path).parent)
    return True


def _create_locked(temporary: str, path: str) -> bool:
    """Rename a file unless the new name exists, on a disk without hard links."""
    with _locked(path):
        if os.path.lexists(path):
            return False
        os.replace(temporary, path)  # noqa: PTH105
        return True


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold the lock of a path, a file beside it; if this process dies, the kernel releases it."""
    folder, name = os.path.split(path)
    place = Path(folder, f"{TEMPORARY}{name}{_LOCK}")
    while True:
        with place.open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(lock, place):
                try:
                    yield
                finally:
                    place.unlink(missing_ok=True)
                return


def remove_partial(folder: str) -> None:
    """Remove the temporary files of killed writers below a folder, and locks that nobody holds."""
    for file in Path(folder).rglob(f"{TEMPORARY}*"):
        if file.is_dir():  # temporary files are never folders
            continue
        if not file.name.endswith(_LOCK):
            file.unlink(missing_ok=True)
            continue
        with contextlib.suppress(OSError), file.open("r+b") as lock:  # OSError: a writer holds it
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(lock, file):
                file.unlink()


def _is_at(file: IO[bytes], place: Path) -> bool:
    """Tell whether an open file still has its name: the previous owner removes the lock file."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), place.stat())
    return False


@contextmanager
def _temporary_beside(path: str, content: IO[bytes]) -> Iterator[str]:
    """Yield a synced copy of `content` in the folder of `path`."""
    folder, base = Path(path).parent, Path(path).name
    _make_folder(folder)
    # A random name: at a predictable one, a link to another file may already exist.
    handle, name = tempfile.mkstemp(dir=folder, prefix=f"{TEMPORARY}{base}-")
    try:
        with os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(content, file, COPY_BYTES)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(PermissionError):  # disks without permissions, such as exFAT
            Path(name).chmod(0o644)
        yield name
    finally:
        Path(name).unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, and sync the entry of each."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)


def sync(path: str) -> None:
    """Sync a file that another library has written, and the entry of its folder."""
    with open(path, "rb") as file:  # noqa: PTH123
        os.fsync(file.fileno())
    sync_folder(Path(path).parent)


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries; some network file systems cannot, and do not need to."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in _LOST:
            raise
