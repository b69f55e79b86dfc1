"""Exceptions of clftask: each lists problems with a remedy, and can be pickled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

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
    """Base class of all exceptions of clftask.

    Attributes:
        exit_code: The exit code of the command.
        is_permanent: Whether no retry on any worker can help. Files may be written again and disks
            may recover, so errors of data and storage are not permanent.
        problems: What is wrong.
    """

    exit_code: ClassVar[int] = 1
    is_permanent: ClassVar[bool] = False

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
    """Storage denies access to these credentials."""

    is_permanent = True


class JobError(ClftaskError):
    """A running job failed."""


class ModelError(JobError):
    """A model fails for an input."""

    is_permanent = True


class BadRowError(JobError):
    """A bad row in a job with `on_bad_row: fail`."""

    is_permanent = True


# Libraries whose errors may pass, by name because imports are slow: pyarrow's are ValueErrors even
# if a disk returned half of a file, and Ray's are plain Exceptions if an actor or a node is lost.
_MAY_PASS = ("pyarrow", "ray")


def is_permanent(error: BaseException) -> bool:
    """Tell whether a retry of the same work raises the same error; the rule of all jobs.

    Connections, disks and memory may recover; torch has only RuntimeError for them. The other
    errors of Python depend on data and code alone.
    """
    if isinstance(error, ClftaskError):
        return error.is_permanent
    may_pass = isinstance(error, RuntimeError | OSError | MemoryError | EOFError)
    may_pass &= not isinstance(error, NotImplementedError | RecursionError)
    return not may_pass and type(error).__module__.partition(".")[0] not in _MAY_PASS


@contextmanager
def interruption_hint(remedy: str) -> Iterator[None]:
    """Add a note on how to resume to a KeyboardInterrupt."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(remedy)
        raise
