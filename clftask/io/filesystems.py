"""Filesystems of local paths and URLs, and the translation of their errors."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clftask.errors import ClftaskError, ConfigError, Problem, StorageError
from clftask.io import aws_errors
from clftask.redaction import holds_secret

MAX_ATTEMPTS = 8
_FROM_ENVIRONMENT = "Credentials come from the environment or a profile, never from a path."


def is_url(path: str) -> bool:
    """Tell whether the path is a URL."""
    return re.match(r"^[a-zA-Z][a-zA-Z0-9+.-]*://", path) is not None


def is_s3(path: str) -> bool:
    """Tell whether the path is on S3."""
    return path.startswith("s3://")


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
    elif is_s3(path) and not re.match(r"s3://[\w.-]+(/|$)", path):
        why, remedy = "must be s3://bucket/key", _FROM_ENVIRONMENT
    elif is_url(path) and not is_s3(path) and holds_secret(path):
        why, remedy = "contains a password or a token", _FROM_ENVIRONMENT
    elif is_url(path) and not is_s3(path) and "::" in path:
        why, remedy = "nested URLs are not supported", "Unpack the archive and use the inner path."
    if why:
        raise StorageError(Problem(path, None, why, remedy))


@functools.cache
def _session() -> Any:
    import boto3

    return boto3.session.Session()


@functools.cache
def s3_client() -> Any:
    """Return the boto3 client for all writes to S3, with retries."""
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "max_attempts": MAX_ATTEMPTS},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
        s3={"addressing_style": "path" if _custom_endpoint() else "auto"},
    )
    region = _session().region_name or "us-east-1"
    client = _session().client("s3", config=config, region_name=region)
    encryption = _encryption(os.environ.get("CLFTASK_S3_SSE", ""))
    # botocore fires the event for put_object and for the uploads of s3transfer alike.
    for operation in ("PutObject", "CreateMultipartUpload"):
        event = f"provide-client-params.s3.{operation}"
        client.meta.events.register(event, lambda params, **_: params | encryption)
    return client


def _encryption(wanted: str) -> dict[str, str]:
    """Return the server-side encryption parameters of a write to S3.

    Raises:
        ConfigError: The value of CLFTASK_S3_SSE is not supported.
    """
    kind, _, key = wanted.partition(":kms:") if wanted.startswith("aws:kms:") else (wanted, "", "")
    if not re.fullmatch(r"|AES256|aws:kms|aws:kms:\S+", wanted):
        allowed = "must be AES256, aws:kms or aws:kms:KEY, KEY being a key's id or ARN"
        raise ConfigError(Problem("CLFTASK_S3_SSE", wanted, allowed))
    found = {"ServerSideEncryption": "aws:kms" if key else kind, "SSEKMSKeyId": key}
    return {name: value for name, value in found.items() if value}


@functools.cache
def _custom_endpoint() -> str | None:
    """Return the S3 endpoint of the environment or profile, None for AWS itself."""
    client = _session().client("s3", region_name=_session().region_name or "us-east-1")
    url: str = client.meta.endpoint_url
    host = url.partition("://")[2]
    return None if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) else url


def _s3_filesystem(path: str) -> Any:
    """Return pyarrow's S3FileSystem with botocore's current credentials: botocore renews them."""
    found = _session().get_credentials()
    if found is None:  # pyarrow would search for them again, for minutes
        raise aws_errors.no_credentials(path)
    keys = found.get_frozen_credentials()  # a named tuple of four fields since botocore 1.44
    return _s3_filesystem_of(keys.access_key, keys.secret_key, keys.token)


_PLAIN_AWS = r"s3(\.[\w-]+)?\.amazonaws\.com(\.cn)?"  # neither FIPS nor dual stack


@functools.lru_cache(maxsize=4)
def _s3_filesystem_of(access_key: str, secret_key: str, token: str | None) -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    options: dict[str, Any] = {
        "retry_strategy": AwsStandardS3RetryStrategy(MAX_ATTEMPTS),
        "connect_timeout": 10,  # pyarrow's default is 1 s
        "request_timeout": 60,
        "access_key": access_key,
        "secret_key": secret_key,
        "session_token": token,
    }
    if _session().region_name:
        options["region"] = _session().region_name
    # pyarrow ignores AWS_ENDPOINT_URL_S3 and the endpoint of a profile: use botocore's. For a
    # region without an endpoint of its own, botocore returns that of the partition.
    url = s3_client().meta.endpoint_url.replace("aws-global", "us-east-1")
    scheme, _, host = url.partition("://")
    if not re.fullmatch(_PLAIN_AWS, host):
        options |= {"endpoint_override": host, "scheme": scheme}
        options.setdefault("region", "us-east-1")
    # boto3 does not expose AWS_CA_BUNDLE; its inner botocore session does.
    authorities = _session()._session.get_config_variable("ca_bundle")
    if authorities:
        options["tls_ca_file_path"] = authorities
    return S3FileSystem(**options)


def filesystem(path: str) -> tuple[Any, str]:
    """Return the pyarrow filesystem of a path, and the path inside it.

    Raises:
        StorageError: Neither pyarrow nor fsspec supports the URL, or the S3 settings of the
            environment are invalid.
    """
    from pyarrow import fs

    _reject_invalid(path)
    if is_s3(path):
        with translate_storage_errors(path):  # invalid profile, endpoint or credentials
            return _s3_filesystem(path), path.removeprefix("s3://").rstrip("/")
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


@contextmanager
def translate_storage_errors(path: str) -> Iterator[None]:
    """Translate exceptions of storage clients into a `StorageError` with path and remedy."""
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except (ClientError, S3UploadFailedError) as error:
        raise aws_errors.storage_error(path, error) from None
    except NoCredentialsError:
        raise aws_errors.no_credentials(path) from None
    except BotoCoreError as error:
        remedy = "Check AWS_ENDPOINT_URL_S3, AWS_PROFILE and the credentials."
        raise StorageError(Problem(path, None, f"S3 did not answer: {error}", remedy)) from None
    except OSError as error:
        raise aws_errors.storage_error_of_arrow(path, error) from None
    except ValueError as error:  # the filesystem rejects the name or the pattern
        raise StorageError(Problem(path, None, f"cannot be used: {error}")) from None
    except Exception as error:  # fsspec's backends share no base exception
        if is_s3(path) or not is_url(path) or isinstance(error, ClftaskError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise StorageError(Problem(path, None, f"cannot be used: {reason}")) from None
