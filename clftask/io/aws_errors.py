"""Error codes of the S3 clients botocore 1.44, boto3 1.44 and pyarrow 26.

botocore and boto3 errors have S3's error code. pyarrow raises a plain `OSError` whose text
contains the error name of the AWS SDK for C++. `tests/io/test_aws_errors.py` provokes each.
"""

from __future__ import annotations

import errno
import re

from clftask.errors import AccessError, Problem, StorageError

_DENIED = ("access denied", "Check AWS_PROFILE, the access keys and the bucket's policy.")
_DENIED_CODES = (
    "AccessDenied 403 InvalidAccessKeyId ExpiredToken InvalidToken SignatureDoesNotMatch"
)
_REMEDIES = {
    "NoSuchBucket": ("the bucket does not exist", "Create it, or fix the path."),
    "404": ("does not exist", "Check the path."),
    **dict.fromkeys(_DENIED_CODES.split(), _DENIED),
    "RequestTimeTooSkewed": ("access denied", "Synchronise this machine's clock."),
    "ConditionalRequestConflict": ("too many concurrent writers", "Try again later."),
    "409": ("too many concurrent writers", "Try again later."),
}
_DISK_REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT), "Free some space, then resume the run or run the job again."
    ),
    errno.EFBIG: "Use a disk without this limit of a file's size, or raise it (ulimit -f).",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Check the permissions."),
    errno.EROFS: "The disk is read-only: use another one.",
    errno.EIO: "Check the disk.",
    **dict.fromkeys(
        (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS), "Use a disk with hard links or file locks."
    ),
}
_ARROW_DENIED = {"ACCESS_DENIED", "SIGNATURE_DOES_NOT_MATCH", "INVALID_ACCESS_KEY_ID"}


def code(error: BaseException) -> str:
    """Return the S3 error code of a botocore or boto3 exception, empty if it has none."""
    from boto3.exceptions import S3UploadFailedError

    # boto3's S3UploadFailedError has only the text of the ClientError that it wraps.
    cause = error.__context__ if isinstance(error, S3UploadFailedError) else error
    response = getattr(cause, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def arrow_code(error: BaseException) -> str:
    """Return the AWS SDK's error name of a pyarrow exception, empty if it has none."""
    found = re.search(r"AWS Error ([A-Z_]+)", str(error)) if isinstance(error, OSError) else None
    return found[1] if found else ""


def already_exists(error: BaseException) -> bool:
    """Tell whether a write with `If-None-Match` failed because the object exists."""
    return code(error) in ("PreconditionFailed", "412")


def is_conflict(error: BaseException) -> bool:
    """Tell whether a write with `If-None-Match` failed because of a concurrent write."""
    return code(error) in ("ConditionalRequestConflict", "409")


def is_internal_failure(error: BaseException) -> bool:
    """Tell whether a pyarrow read failed with a temporary error of S3.

    pyarrow retries these itself, except when the error response is longer than the file.
    """
    return arrow_code(error) == "INTERNAL_FAILURE"


def no_credentials(path: str) -> AccessError:
    """Return the error for missing credentials."""
    return AccessError(Problem(path, None, "no credentials found", _DENIED[1]))


def storage_error(path: str, error: Exception) -> StorageError:
    """Return the user error for a botocore or boto3 exception."""
    found = code(error)
    reason, remedy = _REMEDIES.get(found, (str(error), ""))
    kind = AccessError if reason == _DENIED[0] else StorageError
    return kind(Problem(path, found or None, reason, remedy))


def storage_error_of_arrow(path: str, error: OSError) -> StorageError:
    """Return the user error for an exception of pyarrow or of the local disk."""
    found = arrow_code(error)
    if found in _ARROW_DENIED:
        return AccessError(Problem(path, found, *_DENIED))
    remedy = disk_remedy(error)
    return StorageError(Problem(path, None, f"cannot be used: {error.strerror or error}", remedy))


def disk_remedy(error: OSError) -> str:
    """Return what to do about an error of a disk, empty if unknown."""
    return _DISK_REMEDIES.get(error.errno or 0, "")
