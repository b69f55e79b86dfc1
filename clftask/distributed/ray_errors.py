"""Classifies errors of Ray 2.60, most of which carry their cause only in the message text.

`tests/distributed/test_ray_errors.py` raises those that need no cluster;
`tests/distributed/test_nodes.py` kills nodes.
"""

from __future__ import annotations

import re

from ray.exceptions import RayError

from clftask.errors import ClftaskError
from clftask.messages import first_line


def is_wrong_token(error: BaseException) -> bool:
    """Tell whether the cluster rejected the token of `ray.init`."""
    chain = (error, error.__cause__, error.__context__)
    return any("InvalidAuthToken" in str(part) for part in chain)


def is_version_mismatch(error: BaseException) -> bool:
    """Tell whether the cluster runs another Ray or Python; `ray.init` raises RuntimeError."""
    chain = (error, error.__cause__, error.__context__)
    return any("Version mismatch" in str(part) for part in chain)


def is_slow_start(error: BaseException) -> bool:
    """Tell whether Ray did not start on this machine in time; `ray.init` raises Exception."""
    return "timed out during startup" in str(error)


def is_unknown_job(error: BaseException) -> bool:
    """Tell whether the cluster does not know a job; Ray's job client raises RuntimeError."""
    return "status code 404" in str(error)


def is_node_loss(error: BaseException) -> bool:
    """Tell whether a node was lost. Ray sets `preempted` only if the node was drained before."""
    is_preempted = getattr(error, "preempted", False)
    return bool(is_preempted) or re.search(r"\bnode\b.*\b(died|dead)\b", str(error)) is not None


def reason_of(error: BaseException) -> str:
    """Return in one line why a task or an actor failed.

    Ray puts the worker's traceback before the error of a task, and the cause of an actor's death
    at the end.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        error = cause
    if isinstance(error, ClftaskError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, RayError) and lines:
        return lines[-1][:300]
    return first_line(error)
