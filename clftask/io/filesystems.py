"""Filesystems of local paths and URLs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from clftask.errors import Problem, StorageError
from clftask.io import object_stores
from clftask.io.storage_errors import translate_storage_errors
from clftask.redaction import holds_secret

_FROM_ENVIRONMENT = "Credentials come from the environment or a profile, never from a path."


def is_url(path: str) -> bool:
    """Tell whether the path is a URL."""
    return re.match(r"^[a-zA-Z][a-zA-Z0-9+.-]*://", path) is not None


def absolute(path: str) -> str:
    """Return local paths and `file://` URLs as absolute paths, other URLs unchanged.

    Raises:
        StorageError: The path is invalid, or contains credentials.
    """
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    _reject_invalid(path)
    if is_url(path):
        return path.rstrip("/")
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError as error:  # raised by expanduser: unknown user
        remedy = "Check the path."
        raise StorageError(Problem(path, None, f"invalid path: {error}", remedy)) from None


def _reject_invalid(path: str) -> None:
    why = ""
    if re.search(r"[\0\ud800-\udfff]", path):
        why, remedy = "contains invalid characters", "Check the path."
    elif object_stores.is_store(path):
        if not re.match(r"\w+://[\w.-]+(/|$)|abfss?://[\w-]+@[\w.-]+(/|$)", path):
            why, remedy = f"must be {path.partition('://')[0]}://bucket/key", _FROM_ENVIRONMENT
    elif is_url(path) and holds_secret(path):
        why, remedy = "contains a password or a token", _FROM_ENVIRONMENT
    elif is_url(path) and "::" in path:
        why, remedy = "nested URLs are not supported", "Unpack the archive and use the inner path."
    if why:
        raise StorageError(Problem(path, None, why, remedy))


def filesystem(path: str) -> tuple[Any, str]:
    """Return the pyarrow filesystem of a path, and the path inside it.

    Raises:
        StorageError: Neither pyarrow nor fsspec supports the URL.
    """
    from pyarrow import fs

    _reject_invalid(path)
    if object_stores.is_store(path):
        from clftask.io.store_filesystem import StoreFilesystem

        scheme, _, inner = path.partition("://")
        return fs.PyFileSystem(StoreFilesystem(scheme)), inner.rstrip("/")
    if not is_url(path):
        return fs.LocalFileSystem(), absolute(path)
    import fsspec

    try:
        other, inner = fsspec.core.url_to_fs(path)
    except Exception as error:  # fsspec's backends share no base exception
        reason = " ".join(str(error).split())[:300]
        raise StorageError(Problem(path, None, f"cannot be opened: {reason}")) from None
    return fs.PyFileSystem(fs.FSSpecHandler(other)), inner


def file_info(path: str) -> Any:
    """Return pyarrow's `FileInfo` of a path, which may not exist."""
    fs, inner = filesystem(path)
    with translate_storage_errors(path):
        return fs.get_file_info(inner)


def kind(path: str) -> str:
    """Return File, Directory, NotFound or, for a pipe or a device, Unknown."""
    return str(file_info(path).type.name)
