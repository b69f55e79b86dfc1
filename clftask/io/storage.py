"""All access to disks and object stores: read, list, atomic put, put-if-absent, retry.

A path is a local path, `s3://bucket/key`, or another URL that pyarrow or fsspec supports.
Runs and outputs are written to disk or S3. botocore resolves endpoint, region and credentials
of S3 from the standard AWS environment and profile, for pyarrow too.
"""

from __future__ import annotations

import errno
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from clftask.errors import DataError, Problem, StorageError
from clftask.io import local_disk
from clftask.io.aws_errors import already_exists, disk_remedy, is_conflict, is_internal_failure
from clftask.io.filesystems import (
    MAX_ATTEMPTS,
    file_info,
    filesystem,
    is_s3,
    is_url,
    kind,
    s3_client,
    translate_storage_errors,
)
from clftask.io.listing import list_files
from clftask.io.parallel import map_in_threads


def join(base: str, *parts: str) -> str:
    """Join a folder and names; for local paths and URLs."""
    return "/".join([base.rstrip("/"), *parts])


# ------------------------------------------------------------------ reading


def exists(path: str) -> bool:
    """Tell whether a file or folder exists."""
    return kind(path) != "NotFound"


def is_folder(path: str) -> bool:
    """Tell whether the path is a folder (on S3: a prefix with objects)."""
    return kind(path) == "Directory"


def read_bytes(path: str) -> bytes:
    """Read a whole file."""
    fs, inner = filesystem(path)
    if not is_url(path) and Path(inner).exists() and not Path(inner).is_file():
        raise StorageError(Problem(path, None, "must be a file"))  # a pipe could block

    def read() -> bytes:
        with fs.open_input_file(inner) as file:
            return cast(bytes, file.read())

    with translate_storage_errors(path):
        return _retrying(is_internal_failure)(read)


def _retrying(is_temporary: Callable[[BaseException], bool]) -> Retrying:
    """Retry a call up to `MAX_ATTEMPTS` times, with exponential backoff and full jitter."""
    return Retrying(
        retry=retry_if_exception(is_temporary),
        stop=stop_after_attempt(MAX_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1),
        reraise=True,
    )


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
    """Return a version of a file that changes with it: ETag on S3, else size and mtime.

    Raises:
        StorageError: The file does not exist.
    """
    if is_s3(path):
        bucket, key = _bucket_and_key(path)
        with translate_storage_errors(path):
            return str(s3_client().head_object(Bucket=bucket, Key=key)["ETag"]).strip('"')
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
    if is_s3(path):
        bucket, key = _bucket_and_key(path)
        with translate_storage_errors(path):
            s3_client().put_object(Bucket=bucket, Key=key, Body=data)
        return
    with translate_storage_errors(path):
        local_disk.replace(path, io.BytesIO(data))


def put_if_absent(path: str, data: bytes) -> bool:
    """Create a file atomically; return False and leave it unchanged if it exists.

    boto3 retries a request whose response was lost, and may then find its own object. An
    existing object with the same bytes therefore counts as created.
    """
    if not is_s3(path):
        with translate_storage_errors(path):
            return local_disk.create(path, data)
    from botocore.exceptions import ClientError

    bucket, key = _bucket_and_key(path)

    def create() -> bool:
        try:  # put_object: the uploads of s3transfer do not accept IfNoneMatch
            s3_client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            if already_exists(error):
                return read_bytes(path) == data
            raise
        return True

    with translate_storage_errors(path):
        return _retrying(is_conflict)(create)


def upload(folder: str, path: str) -> None:
    """Copy all files below a local folder to `path`, replacing files of the same name."""
    root = Path(folder)
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        target = join(path, file.relative_to(root).as_posix())
        with translate_storage_errors(target):
            if is_s3(target):
                bucket, key = _bucket_and_key(target)
                s3_client().upload_file(str(file), bucket, key)
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

    def copy() -> None:
        with fs.open_input_stream(inner) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, local_disk.COPY_BYTES)

    with translate_storage_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        _retrying(is_internal_failure)(copy)


def delete(path: str) -> None:
    """Remove a file, or a folder with its contents; a missing path is not an error."""
    if not is_s3(path):
        with translate_storage_errors(path):
            if Path(path).is_dir():
                shutil.rmtree(path)
            elif Path(path).exists() or Path(path).is_symlink():
                Path(path).unlink(missing_ok=True)
                # A marker must be gone from the disk before the files that it names.
                local_disk.sync_folder(Path(path).parent)
        return
    from botocore.exceptions import ClientError

    bucket, _ = _bucket_and_key(path)
    names = [f.path for f in list_files(path)] or [path]
    with translate_storage_errors(path):
        for start in range(0, len(names), 1000):
            keys = [{"Key": _bucket_and_key(n)[1]} for n in names[start : start + 1000]]
            answer = s3_client().delete_objects(
                Bucket=bucket, Delete={"Objects": keys, "Quiet": True}
            )
            for failed in answer.get("Errors", []):
                raise ClientError({"Error": failed}, "DeleteObjects")


def clear_partial(path: str) -> None:
    """Remove partial writes of killed writers below a folder without other writers.

    Raises:
        StorageError: Storage does not answer, or denies listing or removal.
    """
    with translate_storage_errors(path):
        if not is_s3(path):
            local_disk.remove_partial(path)
            return
        bucket, key = _bucket_and_key(path)
        pages = s3_client().get_paginator("list_multipart_uploads")
        for page in pages.paginate(Bucket=bucket, Prefix=f"{key}/"):
            for found in page.get("Uploads", []):
                which = {"Key": found["Key"], "UploadId": found["UploadId"]}
                s3_client().abort_multipart_upload(Bucket=bucket, **which)


def check_writable(path: str, field: str) -> None:
    """Reject a path that cannot be written, without leaving anything there.

    Raises:
        StorageError: The bucket is missing or denied, the local folder cannot be created, or
            the path is neither on disk nor on S3; or the disk has neither hard links nor locks.
    """
    if is_s3(path):
        try:
            _try_upload(path)
        except StorageError as error:
            problems = (replace(p, path=field, value=path) for p in error.problems)
            raise type(error)(*problems) from None
        return
    if is_url(path):
        remedy = "Use a local folder or s3://bucket/prefix."
        raise StorageError(Problem(field, path, "must be on disk or S3", remedy))
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


def _try_upload(path: str) -> None:
    """Create and abort a multipart upload: it requires write permission and leaves nothing."""
    bucket, key = _bucket_and_key(join(path, ".probe"))
    with translate_storage_errors(path):
        upload_id = s3_client().create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        s3_client().abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)


def _bucket_and_key(path: str) -> tuple[str, str]:
    bucket, _, key = path.removeprefix("s3://").partition("/")
    return bucket, key
