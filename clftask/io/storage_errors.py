"""What errors of disks and stores mean: the texts of obstore 0.12, botocore 1.44 and the system.

obstore's errors have a text only, with HTTP status and the store's answer, in XML. For some
requests, such as listing, one class stands for all answers. `tests/io/test_storage_errors.py`
provokes each.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from clftask.errors import AccessError, ClftaskError, Problem, StorageError

_DENIED, _CONFLICT = "access denied", "too many concurrent writers"
_NO_BUCKET, _ABSENT = "the bucket does not exist", "does not exist"
_ANSWERS = (
    ("NoSuchBucket|ContainerNotFound", _NO_BUCKET, "Create it, or fix the path."),
    ("NoSuchKey|BlobNotFound", _ABSENT, "Check the path."),
    ("404", _ABSENT, "Check the path and the endpoint."),
    ("409|ConditionalRequestConflict|OperationAborted", _CONFLICT, "Try again later."),
    ("PermanentRedirect", "the bucket is in another region", "Set AWS_REGION to its region."),
    ("RequestTimeTooSkewed", _DENIED, "Synchronise this machine's clock."),
    (
        "40[13]|AccessDenied|ExpiredToken|SignatureDoesNotMatch|Invalid(AccessKeyId|Token)"
        "|Auth(entication|orization)\\w+|(No|Invalid)Authentication\\w+",
        _DENIED,
        "",
    ),
)
# By the first letter of the scheme: name, what to do if access is denied, and without an answer.
_STORES = {
    "s": (
        "S3",
        "Check AWS_PROFILE, the access keys and the bucket's policy.",
        "Check AWS_ENDPOINT_URL_S3, AWS_PROFILE and the credentials.",
    ),
    "g": (
        "Google Cloud Storage",
        "Check GOOGLE_APPLICATION_CREDENTIALS and the roles on the bucket.",
        "Check GOOGLE_APPLICATION_CREDENTIALS and the network.",
    ),
    "a": (
        "Azure",
        "Check AZURE_STORAGE_ACCOUNT_NAME, the credentials and the roles on the container.",
        "Check AZURE_STORAGE_ACCOUNT_NAME, the credentials and the network.",
    ),
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


def code(error: BaseException) -> str:
    """Return the code of a store's answer, else its HTTP status; empty without an answer."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    if not _is_of_obstore(error):
        return ""
    text = str(error)
    if "redirect without LOCATION" in text:
        return "PermanentRedirect"
    named = re.search(r"<Code>(\w+)</Code>|\(code: (\w+)\)", text)
    numbered = re.search(r"status code: (\d{3})", text)
    return (named[1] or named[2]) if named else numbered[1] if numbered else ""


def _meaning(found: str) -> tuple[str, str]:
    """Return what a code means, and what to do."""
    fits = (answer for answer in _ANSWERS if re.fullmatch(answer[0], found))
    return next(((reason, remedy) for _, reason, remedy in fits), ("", ""))


def _is_of_obstore(error: BaseException) -> bool:
    from obstore.exceptions import BaseError

    # For an absent object, obstore raises the builtin error.
    return isinstance(error, BaseError) or (
        isinstance(error, FileNotFoundError) and "Object at location" in str(error)
    )


def is_missing(error: BaseException) -> bool:
    """Tell whether a listing failed because the bucket does not exist.

    Stores name that. A 404 without a name is that of another server, at a wrong endpoint.
    """
    found = code(error)
    return found != "404" and _meaning(found)[0] in (_NO_BUCKET, _ABSENT)


def is_conflict(error: BaseException) -> bool:
    """Tell whether a conditional write failed because of a concurrent one."""
    return _meaning(code(error))[0] == _CONFLICT


def is_temporary(error: BaseException) -> bool:
    """Tell whether a conditional write may be tried again: obstore does not, if no answer came."""
    from obstore.exceptions import GenericError

    return is_conflict(error) or (isinstance(error, GenericError) and not code(error))


@contextmanager
def translate_storage_errors(path: str) -> Iterator[None]:
    """Translate exceptions of disks and stores into a `StorageError` with path and remedy."""
    try:
        yield
    except Exception as error:
        found = _translated(path, error)
        if found is None:
            raise
        raise found from None


def _translated(path: str, error: Exception) -> StorageError | None:
    from botocore.exceptions import BotoCoreError, NoCredentialsError

    if isinstance(error, ClftaskError):
        return None
    if isinstance(error, NoCredentialsError):
        return AccessError(Problem(path, None, "no credentials found", _STORES["s"][1]))
    if found := code(error):
        return _of_answer(path, error, found)
    if _is_of_obstore(error) or isinstance(error, BotoCoreError):
        name, _, remedy = _STORES[path[0]]
        return StorageError(Problem(path, None, f"{name} did not answer: {_said(error)}", remedy))
    if isinstance(error, OSError):
        reason = f"cannot be used: {error.strerror or error}"
        return StorageError(Problem(path, None, reason, disk_remedy(error)))
    # A filesystem rejects the name or the pattern; fsspec's backends share no base exception.
    if isinstance(error, ValueError) or "://" in path:
        return StorageError(Problem(path, None, f"cannot be used: {_said(error)}"))
    return None


def _of_answer(path: str, error: Exception, found: str) -> StorageError:
    reason, remedy = _meaning(found)
    if reason == _DENIED:
        return AccessError(Problem(path, found, reason, remedy or _STORES[path[0]][1]))
    return StorageError(Problem(path, found, reason or f"cannot be used: {_said(error)}", remedy))


def store_name(path: str) -> str:
    """Return the name of a path's store."""
    return _STORES[path[0]][0]


def _said(error: Exception) -> str:
    """Return what an error says; what obstore says for debugging names the cause."""
    shown, _, debug = str(error).partition("\n\nDebug source:")
    certificate = re.search(r"InvalidCertificate\(\s*(\w+)", debug)
    causes = re.findall(r'(?:message|error): "([^"]+)"', debug)
    if certificate:
        causes = [f"certificate verify failed: {certificate[1]}"]
    where = re.search(r"https?://[^/\s]+", shown)
    if causes and where:
        return f"{where[0]}: {causes[-1]}"
    return " ".join(shown.split())[:300]


def disk_remedy(error: OSError) -> str:
    """Return what to do about an error of a disk, empty if unknown."""
    return _DISK_REMEDIES.get(error.errno or 0, "")
