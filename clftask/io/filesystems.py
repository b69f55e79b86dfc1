"""Disks and object stores: which filesystem a path is on, and what its errors mean."""

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
    """Tell a URL from a local path."""
    return re.match(r"^[a-zA-Z][a-zA-Z0-9+.-]*://", path) is not None


def is_s3(path: str) -> bool:
    """Tell whether the path lies on S3."""
    return path.startswith("s3://")


def absolute(path: str) -> str:
    """Return a local path as an absolute one, `file://` as a path, a URL as it is.

    Raises:
        StorageError: Nothing can be at such a path, or it holds credentials.
    """
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    _refuse_unusable(path)
    if is_url(path):
        return path.rstrip("/")
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError as error:  # ~somebody who is not there
        raise StorageError(Problem(path, None, f"invalid path: {error}", "Check it.")) from None


def _refuse_unusable(path: str) -> None:
    why = ""
    if re.search(r"[\0\ud800-\udfff]", path):
        why, remedy = "contains invalid characters", "Check the path."
    elif is_s3(path) and not re.match(r"s3://[\w.-]+(/|$)", path):
        why, remedy = "must be s3://bucket/key", _FROM_ENVIRONMENT
    elif is_url(path) and not is_s3(path) and holds_secret(path):
        why, remedy = "contains a password or a token", _FROM_ENVIRONMENT
    elif is_url(path) and not is_s3(path) and "::" in path:
        why, remedy = "nested URLs are not supported", "Unpack it and give the inner path."
    if why:
        raise StorageError(Problem(path, None, why, remedy))


@functools.cache
def _session() -> Any:
    import boto3

    return boto3.session.Session()


@functools.cache
def s3_client() -> Any:
    """Return the boto3 client that all S3 writing goes through, with its retries."""
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
    for operation in ("PutObject", "CreateMultipartUpload"):
        event = f"provide-client-params.s3.{operation}"
        client.meta.events.register(event, lambda params, **_: params | encryption)
    return client


def _encryption(wanted: str) -> dict[str, str]:
    """Return the parameters of a write that ask S3 to encrypt what is stored.

    Raises:
        ConfigError: CLFTASK_S3_SSE asks for something else.
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
    """Return pyarrow's S3 with the credentials that botocore has now: it renews those that end."""
    found = _session().get_credentials()
    if found is None:  # pyarrow would look for them once more, for minutes
        raise aws_errors.no_credentials(path)
    keys = found.get_frozen_credentials()
    return _s3_filesystem_of(keys.access_key, keys.secret_key, keys.token)


_PLAIN_AWS = r"s3(\.[\w-]+)?\.amazonaws\.com(\.cn)?"  # neither FIPS nor dual stack


@functools.lru_cache(maxsize=4)
def _s3_filesystem_of(access_key: str, secret_key: str, token: str | None) -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    options: dict[str, Any] = {
        "retry_strategy": AwsStandardS3RetryStrategy(MAX_ATTEMPTS),
        "connect_timeout": 10,
        "request_timeout": 60,
        "access_key": access_key,
        "secret_key": secret_key,
        "session_token": token,
    }
    if _session().region_name:
        options["region"] = _session().region_name
    # Where botocore knows no endpoint of a region, it names the partition's.
    url = s3_client().meta.endpoint_url.replace("aws-global", "us-east-1")
    scheme, _, host = url.partition("://")
    if not re.fullmatch(_PLAIN_AWS, host):
        options |= {"endpoint_override": host, "scheme": scheme}
        options.setdefault("region", "us-east-1")
    authorities = _session()._session.get_config_variable("ca_bundle")
    if authorities:
        options["tls_ca_file_path"] = authorities
    return S3FileSystem(**options)


def filesystem(path: str) -> tuple[Any, str]:
    """Return the pyarrow filesystem of a path, and the path inside it.

    Raises:
        StorageError: The URL is one that neither pyarrow nor fsspec opens, or what the
            environment says of S3 is wrong.
    """
    from pyarrow import fs

    _refuse_unusable(path)
    if is_s3(path):
        with translate_storage_errors(path):  # a profile, an endpoint or a login that is none
            return _s3_filesystem(path), path.removeprefix("s3://").rstrip("/")
    if not is_url(path):
        return fs.LocalFileSystem(), absolute(path)
    import fsspec

    try:
        other, inner = fsspec.core.url_to_fs(path)
    except Exception as error:  # each of its backends raises what it likes
        reason = " ".join(str(error).split())[:300]
        raise StorageError(Problem(path, None, f"cannot be opened: {reason}")) from None
    return fs.PyFileSystem(fs.FSSpecHandler(other)), inner


@contextmanager
def translate_storage_errors(path: str) -> Iterator[None]:
    """Turn what storage says into a `StorageError` that names the path and the remedy."""
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
    except ValueError as error:  # a name or a pattern that the filesystem cannot make sense of
        raise StorageError(Problem(path, None, f"cannot be used: {error}")) from None
    except Exception as error:  # each of fsspec's backends raises what it likes
        if is_s3(path) or not is_url(path) or isinstance(error, ClftaskError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise StorageError(Problem(path, None, f"cannot be used: {reason}")) from None
