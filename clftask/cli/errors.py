"""Errors of a command: message, JSON object and exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import typer

from clftask import logs
from clftask.cli.output import say
from clftask.errors import ClftaskError, JobError, Problem
from clftask.io.strict_json import to_json


def guarded(run: Callable[[], None], as_json: bool = False) -> None:
    """Run a command; print errors without a traceback and set the exit code."""
    terminated: list[int] = []  # Ray, too, raises KeyboardInterrupt on SIGTERM

    def terminate(number: int, frame: object) -> None:
        terminated.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    logs.start()
    try:
        run()
    except ClftaskError as error:
        explain(error, as_json)
        if os.environ.get("CLFTASK_DEBUG"):
            raise
        raise typer.Exit(error.exit_code) from None
    except typer.Exit:
        raise
    except KeyboardInterrupt as stop:
        code = 143 if terminated else 130
        remedy = " ".join(getattr(stop, "__notes__", ["Run the job again."]))
        problem = Problem("clftask", None, "was interrupted", remedy)
        explain(JobError(problem), as_json, code)
        raise typer.Exit(code) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise typer.Exit(0) from None
    except Exception as error:  # a bug in clftask: also without a traceback, with valid JSON
        if os.environ.get("CLFTASK_DEBUG"):
            raise
        remedy = "Please report it with the traceback that CLFTASK_DEBUG=1 prints."
        reason = f"{type(error).__name__}: {error}"
        explain(JobError(Problem("clftask", None, f"internal error: {reason}", remedy)), as_json)
        raise typer.Exit(1) from None


def explain(error: ClftaskError, as_json: bool, code: int | None = None) -> None:
    """Print an error's problems; with `as_json` also the final JSON object on stdout."""
    for problem in error.problems:
        say(f"error: {problem}")
    if as_json:
        content = error.as_json()
        content["error"]["exit"] = code or error.exit_code
        typer.echo(to_json(content, str))
