"""Connects to Ray: to a cluster, or to one that is started on this machine."""

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
from clftask.distributed.ray_errors import is_version_mismatch, is_wrong_token
from clftask.errors import ConfigError, Problem
from clftask.io import filesystems, storage
from clftask.io.tempdirs import remove_stale_folders

CONNECT_TIMEOUT_S = 15.0
FOR_WORKERS = ("CLFTASK_S3_SSE", "CLFTASK_LOG")


@contextmanager
def connected(say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS or of `ray start`, or start Ray on this machine.

    A Ray that was running before stays connected after. What is started here asks for a token;
    of a cluster that takes jobs from anyone, `say` hears.

    Raises:
        ConfigError: RAY_ADDRESS names a cluster that does not answer, or takes another token.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    _refuse_silent(os.environ.get("RAY_ADDRESS", ""))
    authenticate()
    before = signal.getsignal(signal.SIGTERM)
    _init()
    dashboard = ray._private.worker.get_dashboard_url()
    if dashboard and is_open(f"http://{dashboard}"):
        say(f"warning: {describe_open('this Ray cluster')}")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # Ray's own would end with a dump
    try:
        yield
    finally:
        ray.shutdown()
        remove_stale_folders()  # what workers left here that were killed


def _refuse_silent(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself tries for many minutes."""
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
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options = {"log_to_driver": is_verbose, "logging_level": level, **_for_workers()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Not "auto": that would also join the private Ray of another job on this machine.
            ray.init(include_dashboard=False, **options)
        except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
            _refuse_unanswered(error)
            ray.init(address="local", include_dashboard=False, **options)


def _for_workers() -> dict[str, Any]:
    """Return what makes workers on other machines write and log as this process does.

    A submitted job has its own `runtime_env`, which workers share already.
    """
    found = {name: os.environ[name] for name in FOR_WORKERS if os.environ.get(name)}
    is_submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return {} if is_submitted or not found else {"runtime_env": {"env_vars": found}}


def _refuse_unanswered(error: Exception) -> None:
    """Refuse a cluster that was asked for and cannot be joined."""
    address = os.environ.get("RAY_ADDRESS")
    if is_wrong_token(error):
        raise ConfigError(wrong_token("RAY_ADDRESS", address)) from None
    is_other = is_version_mismatch(error)
    if address or is_other:
        reason = " ".join(str(error).split())[:200]
        ours = "Use the cluster's Python and Ray here, to the patch."
        remedy = ours if is_other else "Start the cluster, or unset RAY_ADDRESS."
        raise ConfigError(Problem("RAY_ADDRESS", address, reason, remedy)) from None


def ray_storage(path: str) -> tuple[str, Any]:
    """Return where Ray keeps its own state of a run, and by what: beside it, gone when it ends."""
    place = storage.join(path, ".ray")
    if not filesystems.is_s3(path):
        return place, None
    from clftask.distributed.ray_filesystem import s3_state

    return place.removeprefix("s3://"), s3_state()
