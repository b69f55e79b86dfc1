"""The errors of clftask: each says what a user can do, and survives pickling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from clftask.messages import printable
from clftask.redaction import _masked_value, masked


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
    """A job file, an override or an environment that the user can fix."""

    exit_code = 2


class DataError(ClftaskError):
    """A table that the user can fix."""

    exit_code = 2


class StorageError(ClftaskError):
    """A disk or object store that the user can fix: address, bucket, credentials."""

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
    """Add a hint on how to resume to an interruption."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(remedy)
        raise
