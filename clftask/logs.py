"""Logging on the driver and on workers: text lines, or JSON lines with CLFTASK_LOG=json.

A JSON line contains the kind of job, its run, and the shard or trial, so that the lines of a
cluster can be filtered. The driver logs only in JSON mode, in place of the terminal output.
All lines go to stderr, where Ray and containers collect them.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from clftask.redaction import masked

# The attributes of every LogRecord; all others come from `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_package = logging.getLogger("clftask")
_package.addHandler(logging.NullHandler())
_log = logging.getLogger(__name__)
_bound: dict[str, Any] = {}  # context of all lines; a process runs one job
_began = [0.0]


def is_json() -> bool:
    """Tell whether CLFTASK_LOG selects JSON lines."""
    return os.environ.get("CLFTASK_LOG", "").lower() == "json"


def start() -> None:
    """Set up logging on the driver in JSON mode; otherwise the driver writes to the terminal."""
    if is_json():
        _log_to_stderr()


def work_on(kind: str, run: str, **about: Any) -> None:
    """Set up logging on a worker, with the job's context in every line.

    Args:
        kind: train, tune or score.
        run: The run's folder, or the score table's path.
        about: Further context, such as a rank or a trial.
    """
    _bind(kind, run, **about)
    _log_to_stderr()


def begin(kind: str, run: str) -> None:
    """Add the job's context to the driver's lines, and log that the job begins."""
    _bind(kind, run)
    _began[0] = time.monotonic()
    _log.info("%s begins", kind)


def end(error: BaseException | None) -> None:
    """Log how the job ended; later lines keep its context."""
    state = "done" if error is None else "failed" if isinstance(error, Exception) else "interrupted"
    seconds = round(time.monotonic() - _began[0], 1)
    _log.info("%s ends: %s", _bound.get("kind"), state, extra={"state": state, "seconds": seconds})


def say(line: str) -> None:
    """Log a user message; the prefixes `error: ` and `warning: ` set the level."""
    head, _, rest = line.partition(": ")
    level = {"error": logging.ERROR, "warning": logging.WARNING}.get(head)
    _log.log(level or logging.INFO, "%s", rest if level else line)


@contextmanager
def errors_logged(what: str) -> Iterator[None]:
    """Log an error instead of raising it: it must not replace another one, or end a job."""
    try:
        yield
    except Exception as error:  # also errors of storage, Ray and trackers
        _log.warning("%s: %s", what, error)


def run_name(kind: str, path: str) -> str:
    """Return a job's name in logs and metrics: its run, or the path of its score table."""
    return path if kind == "score" else path.rstrip("/").rpartition("/")[2]


def _bind(kind: str, run: str, **about: Any) -> None:
    _bound.clear()
    _bound.update(kind=kind, run=run_name(kind, run), **about)


def _log_to_stderr() -> None:
    """Send the lines of clftask to stderr only, not to handlers of other packages."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLine() if is_json() else _Line())
    _package.handlers[:] = [handler]
    _package.propagate = False
    _package.setLevel(logging.DEBUG if os.environ.get("CLFTASK_DEBUG") else logging.INFO)


class _Line(logging.Formatter):
    """Formats a text line: time, level, message, context."""

    def format(self, record: logging.LogRecord) -> str:
        shown = " ".join(f"{name}={value}" for name, value in _about(record).items())
        when = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="seconds")
        lines = [f"{when} {record.levelname.lower()} {record.getMessage()} ({shown})"]
        lines += [self.formatException(record.exc_info)] if record.exc_info else []
        return masked("\n".join(lines))


class _JsonLine(logging.Formatter):
    """Formats a line for log aggregators: one flat JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {
            "time": when,
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "logger": record.name,
            "host": socket.gethostname(),
            "pid": record.process,
            **_about(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        safe = {k: masked(v) if isinstance(v, str) else v for k, v in fields.items()}
        return json.dumps(safe, default=str, ensure_ascii=False)


def _about(record: logging.LogRecord) -> dict[str, Any]:
    """Return a line's context: the job of the process, and the record's `extra`."""
    found = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    # Ray adds attributes of its own to records; their names begin with `_`.
    own = {name: value for name, value in found.items() if not name.startswith("_")}
    return {**_bound, **own}


def quiet_libraries() -> None:
    """Silence library output that users cannot act on: loading bars, notices, deprecations."""
    if os.environ.get("CLFTASK_DEBUG"):
        return
    warnings.filterwarnings("ignore")
    # tokenizers warns after a fork unless this is set.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # transformers reads these when it is imported, which takes a second.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("transformers", "accelerate", "datasets", "ray", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if "transformers" in sys.modules:
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
