"""Drains this Ray node when EC2 announces the interruption of a spot instance.

EC2 gives two minutes' notice. Ray then reports a preemption: training saves a checkpoint, and the
loss does not count as a failure.
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
"""

from __future__ import annotations

import json
import logging
import os
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

METADATA = "http://169.254.169.254"
POLL_S, TIMEOUT_S = 5.0, 1.0
TOKEN_S = 6 * 3600
_log = logging.getLogger(__name__)


@contextmanager
def watched(on_notice: Callable[[datetime], None] | None = None) -> Iterator[None]:
    """Poll for EC2's interruption notice in the background; do nothing on other machines.

    Args:
        on_notice: Called with the time of the interruption; drains the Ray node by default.
    """
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(over, on_notice or drain), daemon=True)
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true":
        thread.start()
    try:
        yield
    finally:
        over.set()


def drain(until: datetime) -> None:
    """Drain this Ray node; Ray's only public interface is the command `ray drain-node`."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    context = ray.get_runtime_context()
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    client = GcsClient(address=context.gcs_address)
    client.drain_node(context.get_node_id(), reason, "spot", int(until.timestamp() * 1000))


def _watch(over: threading.Event, on_notice: Callable[[datetime], None]) -> None:
    if _token() is None:  # not on EC2
        return
    while not over.wait(POLL_S):
        until = _notice()
        if until is not None:
            _log.warning("EC2 interrupts this spot instance at %s", until)
            with suppress(Exception):  # each worker on the node drains it
                on_notice(until)
            return


def _token() -> str | None:
    """Return a session token of the metadata service (IMDSv2); None if it does not answer."""
    header = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}
    return _ask("PUT", "/latest/api/token", header)


def _notice() -> datetime | None:
    """Return the time of the interruption; None without a notice."""
    header = {"X-aws-ec2-metadata-token": _token() or ""}
    found = _ask("GET", "/latest/meta-data/spot/instance-action", header)
    try:
        return datetime.fromisoformat(json.loads(found or "{}")["time"])
    except (ValueError, LookupError, TypeError):
        return None


def _ask(method: str, path: str, headers: dict[str, str]) -> str | None:
    place = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or METADATA
    request = urllib.request.Request(place.rstrip("/") + path, method=method, headers=headers)  # noqa: S310
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with directly.open(request, timeout=TIMEOUT_S) as answer:
            return str(answer.read().decode())
    except OSError:  # also 404: no notice yet
        return None
