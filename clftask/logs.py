"""What a job logs, on the driver and on workers: lines, or with CLFTASK_LOG=json an object each.

A JSON line names the kind of job and its run, and the shard or trial that it is about: what
finds it among those of a whole cluster. On the driver there are lines only as JSON, in place
of what a terminal shows. All go to stderr, where Ray and containers collect them.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
import warnings
from datetime import UTC, datetime
from typing import Any

from clftask.redaction import masked

# What every record has: anything else came with `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_package = logging.getLogger("clftask")
_package.addHandler(logging.NullHandler())
_log = logging.getLogger(__name__)
_bound: dict[str, Any] = {}  # of this process, which works for one job
_began = [0.0]


def is_json() -> bool:
    """Tell whether JSON lines are asked for."""
    return os.environ.get("CLFTASK_LOG", "").lower() == "json"


def start() -> None:
    """Let the driver log, if JSON is asked for; else it talks to a terminal."""
    if is_json():
        _log_to_stderr()


def work_on(kind: str, run: str, **about: Any) -> None:
    """Let a worker log, with what it works on in every line.

    Args:
        kind: train, tune or score.
        run: The run's folder, or the score table's place.
        about: What else its lines are about: a rank, a trial.
    """
    _bind(kind, run, **about)
    _log_to_stderr()


def begin(kind: str, run: str) -> None:
    """Name the job in the driver's lines from here on."""
    _bind(kind, run)
    _began[0] = time.monotonic()
    _log.info("%s begins", kind)


def end(error: BaseException | None) -> None:
    """Log how the job ended; what is said after that still belongs to it."""
    state = "done" if error is None else "failed" if isinstance(error, Exception) else "interrupted"
    seconds = round(time.monotonic() - _began[0], 1)
    _log.info("%s ends: %s", _bound.get("kind"), state, extra={"state": state, "seconds": seconds})


def say(line: str) -> None:
    """Log a line for the user; one that begins with error or warning is one."""
    head, _, rest = line.partition(": ")
    level = {"error": logging.ERROR, "warning": logging.WARNING}.get(head)
    _log.log(level or logging.INFO, "%s", rest if level else line)


def run_name(kind: str, path: str) -> str:
    """Return what a job is called in logs and metrics: its run, or the place of its table."""
    return path if kind == "score" else path.rstrip("/").rpartition("/")[2]


def _bind(kind: str, run: str, **about: Any) -> None:
    _bound.clear()
    _bound.update(kind=kind, run=run_name(kind, run), **about)


def _log_to_stderr() -> None:
    """Send our own lines to stderr, and to no handler of others."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLine() if is_json() else _Line())
    _package.handlers[:] = [handler]
    _package.propagate = False
    _package.setLevel(logging.DEBUG if os.environ.get("CLFTASK_DEBUG") else logging.INFO)


class _Line(logging.Formatter):
    """A line to read: when, how bad, what, and what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        shown = " ".join(f"{name}={value}" for name, value in _about(record).items())
        when = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="seconds")
        lines = [f"{when} {record.levelname.lower()} {record.getMessage()} ({shown})"]
        lines += [self.formatException(record.exc_info)] if record.exc_info else []
        return masked("\n".join(lines))


class _JsonLine(logging.Formatter):
    """A line for a log aggregator: one flat JSON object."""

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
    """Return what a line is about: the process's job, and what came with the line."""
    found = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    own = {name: value for name, value in found.items() if not name.startswith("_")}  # Ray's do
    return {**_bound, **own}


def quiet_libraries() -> None:
    """Silence what users can do nothing about: loading bars, notices, deprecations."""
    if os.environ.get("CLFTASK_DEBUG"):
        return
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    for name in ("transformers", "accelerate", "datasets", "ray", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
