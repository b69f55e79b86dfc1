"""All access to disks and object stores: read, list, atomic put, put-if-absent, retry.

A path is a local path, the URL of an object in a store that `object_stores` knows, or another URL
that pyarrow or fsspec reads. Runs and outputs are written to disk or to such stores.
"""

from __future__ import annotations

import errno
import io
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from clftask.errors import DataError, Problem, StorageError
from clftask.io import local_disk, object_stores
from clftask.io.filesystems import file_info, filesystem, is_url, kind
from clftask.io.listing import list_files
from clftask.io.object_stores import is_store
from clftask.io.parallel import map_in_threads
from clftask.io.storage_errors import disk_remedy, is_temporary, translate_storage_errors

# Without a connection, each attempt takes long: obstore repeats it. Conflicts are answered at once.
GIVES_UP = stop_after_attempt(8) | stop_after_delay(60)


def join(base: str, *parts: str) -> str:
    """Join a folder and names; for local paths and URLs."""
    return "/".join([base.rstrip("/"), *parts])


# ------------------------------------------------------------------ reading


def exists(path: str) -> bool:
    """Tell whether a file or folder exists."""
    return kind(path) != "NotFound"


def is_folder(path: str) -> bool:
    """Tell whether the path is a folder (in a store: a prefix with objects)."""
    return kind(path) == "Directory"


def read_bytes(path: str) -> bytes:
    """Read a whole file."""
    with translate_storage_errors(path):
        if is_store(path):
            return object_stores.read(path)
        fs, inner = filesystem(path)
        if not is_url(path) and Path(inner).exists() and not Path(inner).is_file():
            raise StorageError(Problem(path, None, "must be a file"))  # a pipe could block
        with fs.open_input_file(inner) as file:
            return cast(bytes, file.read())


def read_json(path: str, remedy: str) -> dict[str, Any]:
    """Read a JSON object that clftask wrote.

    Raises:
        DataError: The file is damaged; the error contains `remedy`.
    """
    try:
        return dict(json.loads(read_bytes(path)))
    except (ValueError, TypeError, RecursionError):
        raise DataError(Problem(path, None, "is damaged", remedy)) from None


def version(path: str) -> str:
    """Return a version of a file that changes with it: a store's ETag, else size and mtime.

    Raises:
        StorageError: The file does not exist.
    """
    with translate_storage_errors(path):
        if is_store(path) and (found := object_stores.head(path)):
            return str(found["e_tag"]).strip('"')
    info = file_info(path)
    if info.size is None:
        raise StorageError(Problem(path, None, "does not exist", "Check the path."))
    return f"{info.size}-{info.mtime_ns}"


def size(path: str) -> int:
    """Return the size in bytes of a file, or of all files below a folder.

    Raises:
        StorageError: The path does not exist.
    """
    if (size := file_info(path).size) is not None:
        return int(size)
    if not (files := list_files(path)):
        raise StorageError(Problem(path, None, "does not exist", "Check the path."))
    return sum(file.size for file in files)


# ------------------------------------------------------------------ writing


def put(path: str, data: bytes) -> None:
    """Write a file atomically, replacing an existing one."""
    with translate_storage_errors(path):
        if is_store(path):
            object_stores.put(path, data)
        else:
            local_disk.replace(path, io.BytesIO(data))


def put_if_absent(path: str, data: bytes) -> bool:
    """Create a file atomically; return False and leave it unchanged if it exists."""
    retrying = Retrying(
        retry=retry_if_exception(is_temporary),
        stop=GIVES_UP,
        wait=wait_random_exponential(multiplier=0.1),
        reraise=True,
    )
    with translate_storage_errors(path):
        if is_store(path):
            return retrying(object_stores.create, path, data)
        return local_disk.create(path, data)


def upload(folder: str, path: str) -> None:
    """Copy all files below a local folder to `path`, replacing files of the same name."""
    root = Path(folder)
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        target = join(path, file.relative_to(root).as_posix())
        with translate_storage_errors(target):
            if is_store(target):
                object_stores.upload(file, target)
            else:
                with file.open("rb") as content:
                    local_disk.replace(target, content)


def download(path: str, folder: str) -> None:
    """Copy all files below `path` into a local folder.

    Raises:
        StorageError: The path does not exist, or a name points outside the folder.
    """
    top = path.rstrip("/") + "/"
    names = [file.path.removeprefix(top) for file in list_files(path)]
    if not names:
        raise StorageError(Problem(path, None, "does not exist", "Check the path."))
    if strange := [n for n in names if n.startswith("/") or ".." in n.split("/")]:
        allowed = f"contains names that point outside it: {strange[0]}"
        remedy = "Remove them, or copy the other files to a new folder."
        raise StorageError(Problem(path, None, allowed, remedy))
    Path(folder).mkdir(parents=True, exist_ok=True)
    map_in_threads(lambda name: fetch(top + name, Path(folder, name)), names)


def fetch(path: str, target: Path) -> None:
    """Copy a file to a local one, in blocks."""
    fs, inner = filesystem(path)
    with translate_storage_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        with fs.open_input_stream(inner) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, local_disk.COPY_BYTES)


def delete(path: str) -> None:
    """Remove a file, or a folder with its contents; a missing path is not an error."""
    with translate_storage_errors(path):
        if is_store(path):
            object_stores.delete(path)
        elif Path(path).is_dir():
            shutil.rmtree(path)
        elif Path(path).exists() or Path(path).is_symlink():
            Path(path).unlink(missing_ok=True)
            # A marker must be gone from the disk before the files that it names.
            local_disk.sync_folder(Path(path).parent)


def clear_partial(path: str) -> None:
    """Remove partial writes of killed writers below a folder without other writers.

    Raises:
        StorageError: Storage does not answer, or denies listing or removal.
    """
    with translate_storage_errors(path):
        if is_store(path):
            object_stores.abort_uploads(path)
        else:
            local_disk.remove_partial(path)


def check_writable(path: str, field: str) -> None:
    """Reject a path that cannot be written, without leaving anything there.

    Raises:
        StorageError: The bucket is missing or denied, the local folder cannot be created, or
            the path is neither on disk nor in an object store; or the disk has neither hard links
            nor locks.
    """
    if is_store(path):
        try:
            with translate_storage_errors(path):
                object_stores.try_upload(join(path, ".probe"))
        except StorageError as error:
            problems = (replace(p, path=field, value=path) for p in error.problems)
            raise type(error)(*problems) from None
        return
    if is_url(path):
        remedy = f"Use a local folder, or {object_stores.EXAMPLES}."
        raise StorageError(Problem(field, path, "must be on disk or in an object store", remedy))
    try:
        parent = next(p for p in [Path(path), *Path(path).parents] if p.exists())
    except OSError as error:
        raise StorageError(Problem(field, path, f"cannot be used: {error.strerror}")) from None
    try:  # permission bits do not apply to root, and not every disk has hard links
        with tempfile.TemporaryDirectory(dir=parent, prefix=local_disk.TEMPORARY) as folder:
            local_disk.create(join(folder, "probe"), b"")
    except OSError as error:
        remedy = f"Choose another {field}, or fix the permissions of {parent}."
        allowed = f"must be a folder that can be written: {error.strerror}"
        if error.errno not in (errno.EACCES, errno.EPERM):
            remedy = disk_remedy(error) or remedy
        raise StorageError(Problem(field, path, allowed, remedy)) from None
