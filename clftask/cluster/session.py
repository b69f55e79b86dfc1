"""Connects to Ray, says what it has, and decides how a job fits on it."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from clftask import storage
from clftask.config import ScalingSpec
from clftask.errors import ConfigError, Problem
from clftask.wording import counted

CONNECT_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Capacity:
    """What a cluster can hold, counting what its autoscaler may add.

    Attributes:
        cpus: CPU of all nodes together.
        gpus: GPUs of all nodes together.
        nodes: CPUs and GPUs of each node that is there now.
        can_grow: Whether an autoscaler can add nodes.
    """

    cpus: float
    gpus: float
    nodes: tuple[tuple[float, float], ...]
    can_grow: bool = False

    def __str__(self) -> str:
        return f"{counted(self.cpus, 'CPU')} and {counted(self.gpus, 'GPU')}"

    def room(self, cpus: float, use_gpu: bool) -> int:
        """Return how many workers of that size the nodes hold that are there now."""
        return sum(int(min(c // cpus, g) if use_gpu else c // cpus) for c, g in self.nodes)


@dataclass(frozen=True)
class Plan:
    """How many workers there are and what each gets."""

    workers: int
    use_gpu: bool
    cpus_per_worker: float

    def __str__(self) -> str:
        workers = counted(self.workers, f"{'GPU' if self.use_gpu else 'CPU'} worker")
        return f"{workers}, {counted(self.cpus_per_worker, 'CPU')} each"


def plan(spec: ScalingSpec, capacity: Capacity) -> Plan:
    """Decide on GPUs and CPUs of the workers.

    `use_gpu: auto` takes one GPU a worker if there are enough for all; `cpus_per_worker: auto`
    shares the CPUs out evenly.

    Raises:
        ConfigError: The cluster can never hold the workers; says what it has.
    """
    use_gpu = capacity.gpus >= spec.workers if spec.use_gpu == "auto" else spec.use_gpu
    has = f"the cluster has at most {capacity}"
    if use_gpu and capacity.gpus < spec.workers:
        allowed = f"needs a GPU for each of {counted(spec.workers, 'worker')}; {has}"
        raise ConfigError(Problem("scaling.use_gpu", spec.use_gpu, allowed, "Use fewer workers."))
    cpus = spec.cpus_per_worker
    if cpus == "auto":
        cpus = float(_even_share(capacity, spec.workers, use_gpu))
    room = capacity.room(cpus, use_gpu)
    if spec.workers > (capacity.cpus // cpus if capacity.can_grow else room):
        allowed = f"workers with {counted(cpus, 'CPU')} each must fit: {has}"
        remedy = f"Use at most {counted(room, 'worker')}, or a larger cluster."
        raise ConfigError(Problem("scaling.workers", spec.workers, allowed, remedy))
    return Plan(spec.workers, use_gpu, cpus)


def _even_share(capacity: Capacity, workers: int, use_gpu: bool) -> int:
    """Return the most whole CPUs that each worker can have on the nodes, 1 at least.

    Nodes that an autoscaler adds are taken to be no larger than those that are there.
    """
    largest = max((int(cpus) for cpus, _ in capacity.nodes), default=1)
    share = max(1, min(int(capacity.cpus // workers), largest))
    while share > 1 and not capacity.can_grow and capacity.room(share, use_gpu) < workers:
        share -= 1
    return share


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS or of `ray start`, or start Ray on this machine.

    A Ray that was running before stays connected after.

    Raises:
        ConfigError: RAY_ADDRESS names a cluster that does not answer.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    _refuse_silent(os.environ.get("RAY_ADDRESS", ""))
    before = signal.getsignal(signal.SIGTERM)
    _init()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # Ray's own would end with a dump
    try:
        yield
    finally:
        ray.shutdown()


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
    options = {"log_to_driver": is_verbose, "logging_level": level}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Not "auto": that would also join the private Ray of another job on this machine.
            ray.init(include_dashboard=False, **options)
        except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
            address = os.environ.get("RAY_ADDRESS")
            if address:
                reason = " ".join(str(error).split())[:200]
                remedy = "Start the cluster, or unset RAY_ADDRESS."
                raise ConfigError(Problem("RAY_ADDRESS", address, reason, remedy)) from None
            ray.init(address="local", include_dashboard=False, **options)


def capacity() -> Capacity:
    """Ask the connected cluster, and its autoscaler, what there is."""
    import ray
    from ray._private.state import state

    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    most = state.get_max_resources_from_cluster_config() or {}
    cpus, gpus = (sum(n.get(kind, 0.0) for n in nodes) for kind in ("CPU", "GPU"))
    return Capacity(
        cpus=max(cpus, most.get("CPU", 0)),
        gpus=max(gpus, most.get("GPU", 0)),
        nodes=tuple((n.get("CPU", 0.0), n.get("GPU", 0.0)) for n in nodes),
        can_grow=bool(most),
    )


def ray_storage(path: str) -> tuple[str, Any]:
    """Return where Ray keeps its own state of a run, and by what: beside it, gone when it ends."""
    place = storage.join(path, ".ray")
    if not storage.is_s3(path):
        return place, None
    fs, inner = storage.filesystem(place)
    return inner, fs
