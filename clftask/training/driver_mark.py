"""The mark of a running driver in its run folder, which a killed driver leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from clftask.errors import ClftaskError, ConfigError, Problem, StorageError
from clftask.io import storage

DRIVER = "driver.json"


@dataclass(frozen=True)
class DriverMark:
    """A driver that writes to a run.

    Attributes:
        host: Its machine or container.
        pid: Its process.
        birth: When its process started, as the system counts; tells reused ids apart.
        started: Unix time at which it began to write.
    """

    host: str
    pid: int
    birth: str
    started: float = field(compare=False)

    def is_alive(self) -> bool | None:
        """Return whether the process lives; None if it belongs to another machine."""
        if self.host != socket.gethostname():
            return None
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:  # another user's
            pass
        return _birth(self.pid) == self.birth


def _own() -> DriverMark:
    return DriverMark(socket.gethostname(), os.getpid(), _birth(os.getpid()), time.time())


def check(run: str) -> None:
    """Refuse to be the second driver of a run.

    A driver on another machine may be dead, so it does not prevent that the run is resumed.

    Raises:
        ConfigError: Another process of this machine writes to the run.
    """
    mark = find(run)
    if mark is not None and mark != _own() and mark.is_alive():
        allowed = f"is in use: process {mark.pid} on this machine writes to {run}"
        remedy = "Wait until it ends, or end it; then resume the run."
        raise ConfigError(Problem("run.name", run.rpartition("/")[2], allowed, remedy))


def leave(run: str) -> None:
    """Write this process's mark into a run."""
    storage.put(storage.join(run, DRIVER), json.dumps(asdict(_own())).encode())


def remove(run: str) -> None:
    """Remove the mark of this process; ignore storage errors."""
    with contextlib.suppress(StorageError):
        if find(run) == _own():
            storage.delete(storage.join(run, DRIVER))


def find(run: str) -> DriverMark | None:
    """Return a run's mark; None if there is none, or it is damaged."""
    place = storage.join(run, DRIVER)
    if not storage.exists(place):
        return None
    with contextlib.suppress(ClftaskError, LookupError, TypeError, ValueError):
        found = storage.read_json(place, "Delete it.")
        fields = str(found["host"]), int(found["pid"]), str(found["birth"])
        return DriverMark(*fields, float(found["started"]))
    return None


def _birth(pid: int) -> str:
    """Return the start time of a process in clock ticks after the boot; empty if unknown.

    A killed process whose parent does not reap it, as in many containers, has none.
    """
    with contextlib.suppress(OSError, IndexError):
        # Fields of /proc/PID/stat; the second is a name in parentheses that may contain blanks.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state == "Z" else fields[18]
    return ""
