"""Lines and tables that a command prints."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import IO

import typer

from clftask import logs
from clftask.messages import printable


def say(line: str) -> None:
    """Print a line for the user on stderr."""
    with contextlib.suppress(OSError):  # a closed or full stderr must not end or change a job
        logs.say(line) if logs.is_json() else typer.echo(printable(line), err=True)


def tables(as_json: bool) -> IO[str]:
    """Return the stream for tables: stdout; with --json, stderr, or nowhere if logs are JSON."""
    if not as_json:
        return sys.stdout
    return io.StringIO() if logs.is_json() else sys.stderr
