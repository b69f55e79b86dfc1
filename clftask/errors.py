"""Exceptions of clftask: each lists problems with a remedy, and can be pickled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from clftask.messages import printable
from clftask.redaction import _masked_value, masked


@dataclass(frozen=True)
class Problem:
    """One user error: location, value found, what is allowed, what to do.

    Secrets are masked in all fields.

    Attributes:
        path: The field's dotted path in the job file, or the file and row.
        value: The value found there; plain data only.
        allowed: What is allowed there, or what is wrong.
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
    """Base class of all exceptions of clftask; `exit_code` is the exit code of the command."""

    exit_code = 1

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        """Return the error object of the `--json` result."""
        return {
            "error": {
                "exit": self.exit_code,
                "problems": [asdict(problem) for problem in self.problems],
            }
        }


class ConfigError(ClftaskError):
    """Invalid job file, override or environment."""

    exit_code = 2


class DataError(ClftaskError):
    """Invalid input data or files."""

    exit_code = 2


class StorageError(ClftaskError):
    """Unusable disk or object store: wrong address, bucket or credentials."""

    exit_code = 2


class AccessError(StorageError):
    """Storage denies access to these credentials; a retry cannot help."""


class JobError(ClftaskError):
    """A running job failed."""

    exit_code = 1


class ModelError(JobError):
    """A model fails for an input; a retry cannot help."""


class BadRowError(JobError):
    """A bad row in a job with `on_bad_row: fail`."""


def is_permanent(error: BaseException) -> bool:
    """Tell whether a retry of the same work raises the same error.

    Connections, disks and memory may recover; torch has only RuntimeError for them. The other
    errors of Python depend on data and code alone.
    """
    may_pass = isinstance(error, RuntimeError | OSError | MemoryError | EOFError)
    return not may_pass or isinstance(error, NotImplementedError | RecursionError)


@contextmanager
def interruption_hint(remedy: str) -> Iterator[None]:
    """Add a note on how to resume to a KeyboardInterrupt."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(remedy)
        raise
