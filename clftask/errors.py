"""The errors of clftask: each says what a user can do, and survives pickling."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from clftask.wording import printable

# What follows a name such as aws_secret_access_key in a path, a query or printed data.
_NAMED = re.compile(
    r"(?i)((?:secret|passw(?:or)?d|credential|signature|api_?key|access_?key|\btoken|[_-]token"
    r"|(?<=[?&])sig)"
    r"(?:[_-]\w+)?['\"]?\s*[=:]\s*)(?:'[^']*'|\"[^\"]*\"|[^\s'\"&,;}\])]+)"
)
_IN_URL = re.compile(r"(://)[^\s@:/'\"]{0,300}:[^\s@'\"]{0,300}@|(https?://)[^\s/@'\"]{0,300}@")
_PORT = re.compile(r"://[^\s@:/'\"]+:\d{1,5}/")
MASK, MAX_CHARS = "***", 10_000


def masked(text: str) -> str:
    """Return a text without the user and password of URLs and without the values of secrets.

    It is cut where it is very long: names in tables may be megabytes.
    """
    text = _IN_URL.sub(rf"\1\2{MASK}@", text[: 2 * MAX_CHARS])
    text = _NAMED.sub(rf"\1{MASK}", text)
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}…"


def holds_secret(url: str) -> bool:
    """Tell whether a URL holds a password, or a token in its query."""
    _, mark, query = url.partition("?")
    has_user = _IN_URL.search(url) and not _PORT.search(url)
    return bool(has_user or _NAMED.search(mark + query))


def _masked_value(value: Any, name: str = "") -> Any:
    """Return what was found, masked; `name`: of the field that holds it."""
    if value is not None and re.fullmatch(r"[\w-]+", name) and _NAMED.search(f"{name}=x"):
        return MASK
    if isinstance(value, list | tuple):
        return [_masked_value(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _masked_value(inner, str(key)) for key, inner in value.items()}
    return masked(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Problem:
    """One mistake: where it is, what was found, what is allowed, what to do.

    What looks like a secret is masked in all of it.

    Attributes:
        path: The field's dotted path in the job file, or the file and row.
        value: What was found there; plain data only.
        allowed: What is allowed there.
        remedy: What the user should do.
    """

    path: str
    value: Any
    allowed: str
    remedy: str = ""

    def __post_init__(self) -> None:
        name = self.path.rpartition(".")[2]
        texts = {n: masked(getattr(self, n)) for n in ("path", "allowed", "remedy")}
        for field, found in {**texts, "value": _masked_value(self.value, name)}.items():
            object.__setattr__(self, field, found)

    def __str__(self) -> str:
        found = "" if self.value is None else f" (found {self.value!r})"
        remedy = f" {self.remedy}" if self.remedy else ""
        return printable(f"{self.path}: {self.allowed}{found}.{remedy}")


class ClftaskError(Exception):
    """Base of all errors raised on purpose; `exit_code` is the command's exit code."""

    exit_code = 1

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        """Return the error as the `--json` result holds it."""
        return {
            "error": {
                "exit": self.exit_code,
                "problems": [asdict(problem) for problem in self.problems],
            }
        }


class ConfigError(ClftaskError):
    """A job file, an override or an environment that the user can mend."""

    exit_code = 2


class DataError(ClftaskError):
    """A table that the user can mend."""

    exit_code = 2


class StorageError(ClftaskError):
    """A disk or object store that the user can mend: address, bucket, credentials."""

    exit_code = 2


class AccessError(StorageError):
    """Storage that refuses the credentials: trying again cannot help."""


class JobError(ClftaskError):
    """A job that failed while it ran."""

    exit_code = 1


class BadRowError(JobError):
    """A bad row in a job that shall fail at the first."""


@contextmanager
def interruption_hint(remedy: str) -> Iterator[None]:
    """Let an interruption of what runs here say how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(remedy)
        raise
