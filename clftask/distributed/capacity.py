"""What a cluster can hold, counting what its autoscaler may add, and how a job fits on it."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clftask.config.train import WorkersSpec
from clftask.distributed.kuberay import autoscaling_of_pod
from clftask.errors import ConfigError, Problem
from clftask.messages import counted

# Where `ray up` leaves its configuration on the head node.
BOOTSTRAP_CONFIG = "~/ray_bootstrap_config.yaml"
CONFIG_VARIABLE = "CLFTASK_AUTOSCALING_CONFIG"
HEAD = "node:__internal_head__"  # a resource that Ray gives to the head alone
MAX_NODES = 1_000  # of one type, where the autoscaler knows no bound

Node = tuple[float, float]


@dataclass(frozen=True)
class Capacity:
    """What a cluster can hold.

    Attributes:
        nodes: CPUs and GPUs of each node that is there, or that its autoscaler may add.
        is_open: Whether an autoscaler may add more, which nobody here knows.
        is_final: Whether an autoscaler may add no more than that.
    """

    nodes: tuple[Node, ...]
    is_open: bool = False
    is_final: bool = False

    @property
    def cpus(self) -> float:
        """CPUs of all nodes together."""
        return sum(cpus for cpus, _ in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all nodes together."""
        return sum(gpus for _, gpus in self.nodes)

    def __str__(self) -> str:
        return f"{counted(self.cpus, 'CPU')} and {counted(self.gpus, 'GPU')}"

    def room(self, cpus: float, gpus: float) -> int:
        """Return how many workers of that size there can be."""
        if self.is_open:
            return sys.maxsize
        return sum(_fitting(*node, cpus, gpus) for node in self.nodes)

    def even_share(self, workers: int, gpus: float) -> int:
        """Return the most whole CPUs that each of the workers can have, 1 at least."""
        largest = max((int(has) for has, _ in self.nodes), default=1)
        share = max(1, min(int(self.cpus // workers), largest))
        while share > 1 and self.room(share, gpus) < workers:
            share -= 1
        return share


def _fitting(has_cpus: float, has_gpus: float, cpus: float, gpus: float) -> int:
    by_cpu = has_cpus / cpus
    return int((min(by_cpu, has_gpus / gpus) if gpus else by_cpu) + 1e-9)


@dataclass(frozen=True)
class WorkerPlan:
    """How many workers there are and what each gets.

    Attributes:
        workers: The most that there is room for.
        use_gpu: Whether each has a GPU.
        cpus_per_worker: What each has of CPUs.
        least: How many there are at least, if they may come and go; else 0.
        more: How many more there may be once machines join.
    """

    workers: int
    use_gpu: bool
    cpus_per_worker: float
    least: int = 0
    more: int = 0

    def __str__(self) -> str:
        range_of = f"{self.least} to " if 0 < self.least < self.workers else ""
        workers = counted(self.workers, f"{'GPU' if self.use_gpu else 'CPU'} worker")
        size = f"{counted(self.cpus_per_worker, 'CPU')} each"
        later = f", {self.more} more where machines join" if self.more else ""
        return f"{range_of}{workers}, {size}{later}"

    @property
    def most(self) -> int:
        """How many there may be at any time."""
        return self.workers + self.more

    def widened(self, capacity: Capacity) -> WorkerPlan:
        """Return the plan with those of `more` for whom there is room by now."""
        room = capacity.room(self.cpus_per_worker, int(self.use_gpu))
        gain = min(self.more, max(0, room - self.workers))
        return replace(self, workers=self.workers + gain, more=self.more - gain)


def plan(spec: WorkersSpec, capacity: Capacity, most_useful: int | None = None) -> WorkerPlan:
    """Decide how many workers there are at most, and on their GPUs and CPUs.

    `use_gpu: auto` takes one GPU a worker if there are enough for the fewest; then
    `cpus_per_worker: auto` shares the CPUs out evenly.

    Args:
        spec: What is asked for.
        capacity: What there can be.
        most_useful: How many workers there is work for.

    Raises:
        ConfigError: The cluster can never hold the fewest workers; says what it has.
    """
    least, most = spec.bounds
    fewest = _plan_of(spec, least, capacity)
    useful = most if most_useful is None else min(most, most_useful)
    for workers in range(useful, least, -1):
        try:
            found = _plan_of(spec, workers, capacity)
        except ConfigError:
            continue
        if found.use_gpu == fewest.use_gpu:  # one GPU is worth more than many CPUs
            break
    else:
        found = fewest
    if useful <= least:
        return found
    more = 0 if capacity.is_final else useful - found.workers
    return replace(found, least=least, more=more)


def _plan_of(spec: WorkersSpec, workers: int, capacity: Capacity) -> WorkerPlan:
    has = f"the cluster has at most {capacity}"
    has_gpus = capacity.gpus >= workers
    use_gpu = has_gpus if spec.use_gpu == "auto" else spec.use_gpu
    if use_gpu and not has_gpus and not capacity.is_open:
        allowed = f"needs a GPU for each of {counted(workers, 'worker')}; {has}"
        raise ConfigError(Problem("scaling.use_gpu", spec.use_gpu, allowed, "Use fewer workers."))
    cpus = spec.cpus_per_worker
    if cpus == "auto":
        cpus = float(capacity.even_share(workers, use_gpu))
    room = capacity.room(cpus, use_gpu)
    if workers > room:
        size = f"{counted(cpus, 'CPU')}{' and a GPU' if use_gpu else ''}"
        allowed = f"workers with {size} each must fit: {has}"
        fewer = f"Use at most {counted(room, 'worker')}" if room else "Lower cpus_per_worker"
        on_cpus = ", scaling.use_gpu: false" if spec.use_gpu == "auto" and use_gpu else ""
        remedy = f"{fewer}{on_cpus}, or a larger cluster."
        raise ConfigError(Problem("scaling.workers", workers, allowed, remedy))
    return WorkerPlan(workers, use_gpu, cpus)


# ------------------------------------------------------------------ asking the cluster


def capacity() -> Capacity:
    """Ask the connected cluster what there is, and what its autoscaler may add."""
    import ray
    from ray._private.state import state
    from ray.experimental.internal_kv import _internal_kv_get

    alive = [node for node in ray.nodes() if node["Alive"]]
    there = [_size(node["Resources"]) for node in alive]
    reported = state.get_cluster_config()
    if reported is not None and reported.node_group_configs:
        groups = [(_size(g.resources), g.max_count) for g in reported.node_group_configs]
        return grown(there, groups)
    document = autoscaling_config()
    if document is not None:
        return grown_by(document, alive)
    status = json.loads(_internal_kv_get(b"__autoscaling_status") or b"{}")
    return Capacity(tuple(there), is_open=has_autoscaler(alive, status))


def has_autoscaler(nodes: Iterable[Mapping[str, Any]], status: Mapping[str, Any]) -> bool:
    """Tell whether an autoscaler is at work, and not only Ray's monitor, which runs always.

    Args:
        nodes: The nodes as Ray lists them: autoscaled ones are labelled with their group.
        status: What the monitor reports; without an autoscaler its names of types are ids.
    """
    if any("ray.io/node-group" in node.get("Labels", {}) for node in nodes):
        return True
    report = status.get("autoscaler_report") or {}
    names = (report.get("node_type_mapping") or {}).values()
    return any(not name.startswith("node_") for name in names)


def grown(
    there: Iterable[Node],
    types: Iterable[tuple[Node, int]],
    most: Any = None,
    heads: Iterable[Node] = (),
) -> Capacity:
    """Return what a cluster holds when each type of node is there as often as it may be.

    Args:
        there: The nodes now.
        types: CPUs and GPUs of a type of node, and how many of it there may be: -1 for any.
        most: How many nodes there may be beside the head; None for any.
        heads: The head, if it is known and not among the others: it is of none of the types.
    """
    nodes, heads = list(there), list(heads)
    left, to_add = Counter(nodes), []
    for size, count in types:
        count = MAX_NODES if count < 0 else count
        taken = min(left[size], count)
        left[size] -= taken
        to_add += [size] * (count - taken)
    room = len(to_add) if most is None else max(0, most - len(nodes) + (not heads))
    # Where not all can be had at once, the largest are asked for.
    to_add.sort(key=lambda size: (size[1], size[0]), reverse=True)
    return Capacity((*heads, *nodes, *to_add[:room]), is_final=True)


def autoscaling_config() -> dict[str, Any] | None:
    """Return the configuration of `ray up`, or what KubeRay has of it; a head node finds it."""
    import yaml

    file = Path(os.environ.get(CONFIG_VARIABLE) or BOOTSTRAP_CONFIG).expanduser()
    found = yaml.safe_load(file.read_text()) if file.is_file() else None
    has_types = isinstance(found, dict) and found.get("available_node_types")
    return found if has_types else autoscaling_of_pod()


def grown_by(document: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]]) -> Capacity:
    """Return what nodes, as Ray lists them, come to by an autoscaler's configuration."""
    heads: list[Node] = []
    others: list[Node] = []
    for node in nodes:
        (heads if HEAD in node["Resources"] else others).append(_size(node["Resources"]))
    return grown(others, node_types(document), document.get("max_workers"), heads)


def node_types(document: Mapping[str, Any]) -> list[tuple[Node, int]]:
    """Return CPUs and GPUs of each type of node, and how many of it there may be."""
    types = document["available_node_types"]
    most = document.get("max_workers", -1)
    return [
        (_size(kind.get("resources") or {}), kind.get("max_workers", most))
        for name, kind in types.items()
        if name != document.get("head_node_type")
    ]


def _size(resources: Mapping[str, float]) -> Node:
    return float(dict(resources).get("CPU", 0)), float(dict(resources).get("GPU", 0))
