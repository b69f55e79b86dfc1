"""Errors of the S3 clients, read in one place: botocore 1.44, boto3 1.44 and pyarrow 26.

botocore and boto3 carry S3's error code. pyarrow raises a plain `OSError`, with the code in its
text under a name of the AWS SDK for C++. `tests/io/test_aws_errors.py` provokes each of them.
"""

from __future__ import annotations

import re

from clftask.errors import AccessError, Problem, StorageError

_REFUSED = ("access is refused", "Check AWS_PROFILE, the access keys and the bucket's policy.")
_REMEDIES = {
    "NoSuchBucket": ("the bucket does not exist", "Create it, or fix the path."),
    "404": ("is not there", "Check the path."),
    "AccessDenied": _REFUSED,
    "403": _REFUSED,
    "InvalidAccessKeyId": _REFUSED,
    "ExpiredToken": _REFUSED,
    "InvalidToken": _REFUSED,
    "RequestTimeTooSkewed": ("access is refused", "Set this machine's clock."),
    "SignatureDoesNotMatch": _REFUSED,
    "ConditionalRequestConflict": ("too many concurrent writers", "Try again later."),
    "409": ("too many concurrent writers", "Try again later."),
}
_ARROW_REFUSALS = {"ACCESS_DENIED", "SIGNATURE_DOES_NOT_MATCH", "INVALID_ACCESS_KEY_ID"}


def code(error: BaseException) -> str:
    """Return S3's code of an error of botocore or boto3, blank if it has none."""
    from boto3.exceptions import S3UploadFailedError

    # boto3 copies the text of botocore's error, and leaves its code behind.
    cause = error.__context__ if isinstance(error, S3UploadFailedError) else error
    response = getattr(cause, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def arrow_code(error: BaseException) -> str:
    """Return the SDK's name of an error of pyarrow, blank if it has none."""
    found = re.search(r"AWS Error ([A-Z_]+)", str(error)) if isinstance(error, OSError) else None
    return found[1] if found else ""


def already_exists(error: BaseException) -> bool:
    """Tell whether a write with `If-None-Match` met an object that is there."""
    return code(error) in ("PreconditionFailed", "412")


def is_conflict(error: BaseException) -> bool:
    """Tell whether a write with `If-None-Match` met another one under way."""
    return code(error) in ("ConditionalRequestConflict", "409")


def is_internal_failure(error: BaseException) -> bool:
    """Tell whether pyarrow gave up a read that S3 may answer next time.

    pyarrow retries these itself, but not where the error is longer than the file.
    """
    return arrow_code(error) == "INTERNAL_FAILURE"


def no_credentials(path: str) -> AccessError:
    """Return the error of a machine without credentials."""
    return AccessError(Problem(path, None, "no credentials are found", _REFUSED[1]))


def storage_error(path: str, error: Exception) -> StorageError:
    """Return what an error of botocore or boto3 means to the user."""
    found = code(error)
    reason, remedy = _REMEDIES.get(found, (str(error), ""))
    kind = AccessError if reason == _REFUSED[0] else StorageError
    return kind(Problem(path, found or None, reason, remedy))


def storage_error_of_arrow(path: str, error: OSError) -> StorageError:
    """Return what an error of pyarrow, or of the disk, means to the user."""
    found = arrow_code(error)
    if found in _ARROW_REFUSALS:
        return AccessError(Problem(path, found, *_REFUSED))
    return StorageError(Problem(path, None, f"cannot be used: {error.strerror or error}"))
