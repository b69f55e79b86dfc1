"""Connects to a Ray cluster, or starts Ray on this machine."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from clftask.distributed.auth import authenticate, describe_open, is_open, wrong_token
from clftask.distributed.ray_errors import is_slow_start, is_version_mismatch, is_wrong_token
from clftask.errors import ConfigError, JobError, Problem
from clftask.io import filesystems, object_stores, storage
from clftask.io.tempdirs import remove_stale_folders

CONNECT_TIMEOUT_S = 15.0
FOR_WORKERS = ("CLFTASK_S3_SSE", "CLFTASK_LOG")
_is_private = False


@contextmanager
def connected(say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS or of `ray start`, or start Ray on this machine.

    A Ray that is already initialised stays connected. A Ray that starts here requires a token;
    `say` gets a warning if the cluster has no authentication.

    Raises:
        ConfigError: The cluster of RAY_ADDRESS does not answer, or rejects the token.
    """
    global _is_private
    import ray

    if ray.is_initialized():
        yield
        return
    _refuse_silent(os.environ.get("RAY_ADDRESS", ""))
    authenticate()
    before = signal.getsignal(signal.SIGTERM)
    _init()
    _is_private = bool(ray._private.worker._global_node.head)
    dashboard = ray._private.worker.get_dashboard_url()
    if dashboard and is_open(f"http://{dashboard}"):
        say(f"warning: {describe_open('this Ray cluster')}")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # Ray's prints a stack dump
    try:
        yield
    finally:
        _is_private = False
        ray.shutdown()
        remove_stale_folders()  # of workers that were killed


def is_private() -> bool:
    """Return whether `connected` started Ray: it ends with the job, and nobody else uses it."""
    return _is_private


def _refuse_silent(address: str) -> None:
    """Refuse an address that accepts no connection; `ray.init` would retry for many minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address)
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        remedy = "Start the cluster, or unset RAY_ADDRESS."
        problem = Problem("RAY_ADDRESS", address, f"does not answer: {error}", remedy)
        raise ConfigError(problem) from None


def _init() -> None:
    import ray

    is_verbose = bool(os.environ.get("CLFTASK_DEBUG"))
    level = logging.INFO if is_verbose else logging.ERROR
    logging.getLogger("ray").setLevel(level)
    options = {"log_to_driver": is_verbose, "logging_level": level, **_for_workers()}
    with warnings.catch_warnings(), _slow_start_refused():
        warnings.simplefilter("ignore")
        try:
            # Not "auto": that would also connect to the local Ray of another job on this machine.
            ray.init(include_dashboard=False, **options)
        except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
            _refuse_unanswered(error)
            ray.init(address="local", include_dashboard=False, **options)


@contextmanager
def _slow_start_refused() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_slow_start(error):
            raise
        remedy = "The machine is busy: end other programs, then run the job again."
        allowed = "did not start on this machine in 30 s"
        raise JobError(Problem("ray", None, allowed, remedy)) from None


def _for_workers() -> dict[str, Any]:
    """Return the `runtime_env` with this process's storage and log settings for workers.

    Workers of a submitted job inherit the job's `runtime_env` instead.
    """
    found = {name: os.environ[name] for name in FOR_WORKERS if os.environ.get(name)}
    is_submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return {} if is_submitted or not found else {"runtime_env": {"env_vars": found}}


def _refuse_unanswered(error: Exception) -> None:
    """Refuse a configured cluster that `ray.init` cannot connect to."""
    address = os.environ.get("RAY_ADDRESS")
    if is_wrong_token(error):
        raise ConfigError(wrong_token("RAY_ADDRESS", address)) from None
    is_mismatch = is_version_mismatch(error)  # Ray compares Python down to the patch version
    if address or is_mismatch:
        reason = " ".join(str(error).split())[:200]
        ours = "Install the exact Python and Ray versions of the cluster here."
        remedy = ours if is_mismatch else "Start the cluster, or unset RAY_ADDRESS."
        raise ConfigError(Problem("RAY_ADDRESS", address, reason, remedy)) from None


def ray_storage(path: str) -> tuple[str, Any]:
    """Return the path and filesystem of Ray's own state of a run, which is deleted at its end."""
    place = storage.join(path, ".ray")
    if not object_stores.is_store(path):
        return place, None
    fs, inner = filesystems.filesystem(place)  # Ray expects bucket/key without s3:// then
    return inner, fs
