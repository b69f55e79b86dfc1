"""Clients of object stores: S3, Google Cloud Storage and Azure Blob Storage, through obstore.

botocore resolves endpoint, region and credentials of S3 from the standard AWS environment and
profile, and renews credentials. obstore finds those of the others in their environment variables
and the machine's identity.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from clftask.errors import ConfigError, Problem
from clftask.io import storage_errors

SCHEMES = ("s3", "gs", "az", "abfs", "abfss")
EXAMPLES = "s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
BLOCK_BYTES = 8 << 20  # of multipart uploads, and of copies
_MAX_BLOCKS = 10_000  # of one upload to S3 or Google Cloud Storage
# `timeout` is that of a whole request with its body, 30 s by default. Endpoints without TLS come
# from the environment only.
_CLIENT: Any = {"allow_http": True, "connect_timeout": "10s", "timeout": "3min"}
_RETRIES: Any = {
    "max_retries": 10,  # with these waits about half a minute; obstore's own are 3 s
    "backoff": {"base": 3, "max_backoff": timedelta(seconds=15)},
    "retry_timeout": timedelta(minutes=10),
}


def is_store(path: str) -> bool:
    """Tell whether the path is in an object store."""
    scheme, mark, _ = path.partition("://")
    return bool(mark) and scheme in SCHEMES


def split(path: str) -> tuple[str, str]:
    """Return the URL of a path's bucket, and the key."""
    scheme, _, rest = path.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key.strip("/")


def opened(path: str) -> tuple[Any, str]:
    """Return the obstore client of a path's bucket, and the key."""
    root, key = split(path)
    if root.startswith("s3://"):
        _keys()  # botocore's errors are clearer here than after obstore has wrapped them
    return _client(root), key


@functools.lru_cache(maxsize=64)
def _client(root: str) -> Any:
    from obstore.store import from_url

    if root.startswith("s3://"):
        return _s3_store(root.removeprefix("s3://"))
    return from_url(root, client_options=_CLIENT, retry_config=_RETRIES)


# ------------------------------------------------------------------ S3


@functools.cache
def _session() -> Any:
    import boto3

    return boto3.session.Session()


@functools.cache
def s3_client() -> Any:
    """Return the boto3 client, for what obstore lacks: listing incomplete uploads."""
    return _session().client("s3", region_name=_session().region_name or "us-east-1")


def _keys() -> Any:
    """Return botocore's current credentials, which obstore asks for before each request."""
    from botocore.exceptions import NoCredentialsError

    found = _session().get_credentials()
    if found is None:
        raise NoCredentialsError
    keys = found.get_frozen_credentials()  # a named tuple of four fields since botocore 1.44
    return {
        "access_key_id": keys.access_key,
        "secret_access_key": keys.secret_key,
        "token": keys.token,
        "expires_at": datetime.now(UTC),  # botocore has a cache of its own, and renews in time
    }


def _s3_store(bucket: str) -> Any:
    from obstore.store import S3Store

    # For a region without an endpoint of its own, botocore returns that of the partition.
    url = s3_client().meta.endpoint_url.replace("aws-global", "us-east-1").rstrip("/")
    scheme, _, host = url.partition("://")
    # AWS wants the bucket in the host's name; its certificates do not cover names with dots.
    is_virtual = host.endswith((".amazonaws.com", ".amazonaws.com.cn")) and "." not in bucket
    config: Any = {
        # By this name, it precedes AWS_ENDPOINT_URL_S3, which obstore reads, too.
        "aws_endpoint_url_s3": f"{scheme}://{bucket}.{host}" if is_virtual else url,
        "virtual_hosted_style_request": is_virtual,
        "region": _session().region_name or "us-east-1",
        **_encryption(os.environ.get("CLFTASK_S3_SSE", "")),
    }
    # boto3 does not expose AWS_CA_BUNDLE; its inner botocore session does.
    authorities = _session()._session.get_config_variable("ca_bundle")
    trusted: Any = {"root_certificate": Path(authorities).read_bytes()} if authorities else {}
    return S3Store(
        bucket,
        config=config,
        client_options=_CLIENT | trusted,
        retry_config=_RETRIES,
        credential_provider=_keys,
    )


def _encryption(wanted: str) -> dict[str, str]:
    """Return the server-side encryption of writes to S3.

    Raises:
        ConfigError: The value of CLFTASK_S3_SSE is not supported.
    """
    kind, _, key = wanted.partition(":kms:") if wanted.startswith("aws:kms:") else (wanted, "", "")
    if not re.fullmatch(r"|AES256|aws:kms|aws:kms:\S+", wanted):
        allowed = "must be AES256, aws:kms or aws:kms:KEY, KEY being a key's id or ARN"
        raise ConfigError(Problem("CLFTASK_S3_SSE", wanted, allowed))
    found = {"server_side_encryption": "aws:kms" if key else kind, "sse_kms_key_id": key}
    return {name: value for name, value in found.items() if value}


def abort_uploads(path: str) -> None:
    """Abort the incomplete uploads below a folder; only S3 keeps them until they are aborted."""
    if not path.startswith("s3://"):
        return
    bucket, _, key = path.removeprefix("s3://").partition("/")
    pages = s3_client().get_paginator("list_multipart_uploads")
    for page in pages.paginate(Bucket=bucket, Prefix=f"{key}/"):
        for found in page.get("Uploads", []):
            which = {"Key": found["Key"], "UploadId": found["UploadId"]}
            s3_client().abort_multipart_upload(Bucket=bucket, **which)


# ------------------------------------------------------------------ all stores


def head(path: str) -> Any:
    """Return obstore's `ObjectMeta` of an object, None if there is none."""
    import obstore

    store, key = opened(path)
    try:
        return obstore.head(store, key) if key else None
    except FileNotFoundError:
        return None


def listed(path: str, recursive: bool = True) -> tuple[list[Any], list[str]]:
    """Return the objects below a folder, and the keys of the folders in it; nothing if absent."""
    import obstore

    store, key = opened(path)
    try:
        if not recursive:
            found = obstore.list_with_delimiter(store, key)
            return [f for f in found["objects"] if f["path"] != key], list(found["common_prefixes"])
        files = obstore.list(store, key).collect()
    except obstore.exceptions.BaseError as error:
        if storage_errors.is_missing(error):  # the bucket
            return [], []
        raise
    folders = {folder for file in files for folder in _parents(file["path"])}
    # Consoles mark a folder by an empty object, whose key ends with a slash that obstore removes.
    files = [file for file in files if file["size"] or file["path"] not in {key, *folders}]
    return files, sorted(
        folder for folder in folders if folder.startswith(f"{key}/" if key else "")
    )


def _parents(key: str) -> Iterator[str]:
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key


def is_folder(path: str) -> bool:
    """Tell whether there are objects below a path; a bucket is a folder even if it is empty."""
    import obstore

    store, key = opened(path)
    try:
        return next(obstore.list(store, key, chunk_size=1), None) is not None or not key
    except obstore.exceptions.BaseError as error:
        if storage_errors.is_missing(error):
            return False
        raise


def put(path: str, data: bytes) -> None:
    """Write an object, replacing an existing one."""
    import obstore

    store, key = opened(path)
    obstore.put(store, key, data, use_multipart=False)


def read(path: str) -> bytes:
    """Read an object in one request."""
    import obstore

    return bytes(obstore.get(*opened(path)).bytes())


def create(path: str, data: bytes) -> bool:
    """Write an object; return False and leave it unchanged if it exists.

    An answer may be lost, and a second try then finds its own object. An existing object with
    the same bytes therefore counts as created.
    """
    import obstore

    store, key = opened(path)
    try:
        obstore.put(store, key, data, mode="create")
    except obstore.exceptions.AlreadyExistsError as error:
        if storage_errors.is_conflict(error):
            raise
        return read(path) == data
    return True


def upload(file: Path, path: str) -> None:
    """Copy a local file to an object, replacing an existing one; large files in blocks."""
    import obstore

    store, key = opened(path)
    block = max(BLOCK_BYTES, file.stat().st_size // _MAX_BLOCKS + 1)
    obstore.put(store, key, file, chunk_size=block, max_concurrency=4)


def delete(path: str) -> None:
    """Remove an object, or all objects below a folder; absent ones are no error."""
    import obstore

    store, key = opened(path)
    keys = [file["path"] for file in listed(path)[0]] or [key]
    try:
        obstore.delete(store, keys)
    except FileNotFoundError:  # all stores but S3 raise it, and stop there
        for one in keys:
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(store, one)


class _StopError(Exception):
    """Ends an upload before it is complete."""


def try_upload(path: str) -> None:
    """Begin an upload and abort it: it requires write permission and leaves nothing visible."""
    import obstore

    store, key = opened(path)

    def blocks() -> Iterator[bytes]:
        # Azure is asked nothing before the first block; its answer is awaited with the second.
        yield from [] if path.startswith(("s3://", "gs://")) else [b"x", b"x"]
        raise _StopError

    with contextlib.suppress(_StopError):
        obstore.put(store, key, blocks(), use_multipart=True, chunk_size=1, max_concurrency=0)
