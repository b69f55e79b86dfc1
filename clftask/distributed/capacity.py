"""Resources of a cluster, including what its autoscaler may add, and the workers of a job."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from clftask.config.sections import WorkersSpec
from clftask.distributed.kuberay import Autoscaling, autoscaling_of_pod
from clftask.errors import ConfigError, Problem
from clftask.messages import counted

# `ray up` copies its configuration to this path on the head node.
BOOTSTRAP_CONFIG = "~/ray_bootstrap_config.yaml"
CONFIG_VARIABLE = "CLFTASK_AUTOSCALING_CONFIG"
HEAD = "node:__internal_head__"  # a resource that only the head node has
MAX_NODES = 1_000  # of one type, if the autoscaler sets no limit

Node = tuple[float, float]


@dataclass(frozen=True)
class Capacity:
    """Resources of a cluster.

    Attributes:
        nodes: CPUs and GPUs of each node that is alive or that the autoscaler may add.
        is_open: Whether an autoscaler with unknown limits may add more nodes.
        is_final: Whether `nodes` includes everything that the autoscaler may add.
    """

    nodes: tuple[Node, ...]
    is_open: bool = False
    is_final: bool = False

    @property
    def cpus(self) -> float:
        """Total CPUs of all nodes."""
        return sum(cpus for cpus, _ in self.nodes)

    @property
    def gpus(self) -> float:
        """Total GPUs of all nodes."""
        return sum(gpus for _, gpus in self.nodes)

    def __str__(self) -> str:
        return f"{counted(self.cpus, 'CPU')} and {counted(self.gpus, 'GPU')}"

    def num_shares(self, gpus: float) -> int:
        """Return how many workers can have so many GPUs, or such a share of one."""
        return sum(_fitting(sys.maxsize, has, 1, gpus) for _, has in self.nodes)

    def room(self, cpus: float, gpus: float) -> int:
        """Return how many workers of that size fit."""
        if self.is_open:
            return sys.maxsize
        return sum(_fitting(*node, cpus, gpus) for node in self.nodes)

    def even_share(self, workers: int, gpus: float) -> int:
        """Return the largest whole number of CPUs that each worker can have, at least 1."""
        largest = max((int(has) for has, _ in self.nodes), default=1)
        share = max(1, min(int(self.cpus // workers), largest))
        while share > 1 and self.room(share, gpus) < workers:
            share -= 1
        return share


def _fitting(has_cpus: float, has_gpus: float, cpus: float, gpus: float) -> int:
    by_cpu = int(has_cpus / cpus + 1e-9)
    if not gpus:
        return by_cpu
    # Ray takes the share of a worker from one GPU.
    by_gpu = int(has_gpus / gpus + 1e-9) if gpus >= 1 else int(has_gpus) * int(1 / gpus + 1e-9)
    return min(by_cpu, by_gpu)


@dataclass(frozen=True)
class WorkerPlan:
    """Number of workers and the resources of each.

    Attributes:
        workers: How many workers fit now.
        use_gpu: Whether each has a GPU.
        cpus_per_worker: CPUs of each.
        least: The minimum if the number is elastic; else 0.
        more: How many more may start if nodes join.
        gpu_share: GPUs of each, if it uses one.
    """

    workers: int
    use_gpu: bool
    cpus_per_worker: float
    least: int = 0
    more: int = 0
    gpu_share: float = 1.0

    def __str__(self) -> str:
        range_of = f"{self.least} to " if 0 < self.least < self.workers else ""
        workers = counted(self.workers, f"{'GPU' if self.use_gpu else 'CPU'} worker")
        share = f"{counted(self.gpus, 'GPU')} and " if 0 < self.gpus < 1 else ""
        size = f"{share}{counted(self.cpus_per_worker, 'CPU')} each"
        later = f", {self.more} more if nodes join" if self.more else ""
        return f"{range_of}{workers}, {size}{later}"

    @property
    def gpus(self) -> float:
        """GPUs of each worker."""
        return self.gpu_share if self.use_gpu else 0.0

    @property
    def most(self) -> int:
        """The maximum number of workers."""
        return self.workers + self.more

    def widened(self, capacity: Capacity) -> WorkerPlan:
        """Return the plan with those of `more` that fit the current capacity."""
        room = capacity.room(self.cpus_per_worker, self.gpus)
        gain = min(self.more, max(0, room - self.workers))
        return replace(self, workers=self.workers + gain, more=self.more - gain)


def plan(spec: WorkersSpec, capacity: Capacity, most_useful: int | None = None) -> WorkerPlan:
    """Choose the number of workers and their GPUs and CPUs.

    `use_gpu: auto` uses one GPU per worker if there are enough for the minimum number of
    workers; then `cpus_per_worker: auto` divides the CPUs evenly.

    Args:
        spec: The scaling fields of the job.
        capacity: Resources of the cluster.
        most_useful: The number of workers above which some would be idle.

    Raises:
        ConfigError: The minimum number of workers never fits the cluster.
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
    has_gpus = capacity.num_shares(spec.gpu_share) >= workers
    use_gpu = has_gpus if spec.use_gpu == "auto" else spec.use_gpu
    gpus = spec.gpu_share if use_gpu else 0.0
    a_gpu = "a GPU" if spec.gpu_share == 1 else counted(spec.gpu_share, "GPU")
    if use_gpu and not has_gpus and not capacity.is_open:
        allowed = f"needs {a_gpu} for each of {counted(workers, 'worker')}; {has}"
        raise ConfigError(Problem("scaling.use_gpu", spec.use_gpu, allowed, "Use fewer workers."))
    cpus = spec.cpus_per_worker
    if cpus == "auto":
        cpus = float(capacity.even_share(workers, gpus))
    room = capacity.room(cpus, gpus)
    if workers > room:
        size = f"{counted(cpus, 'CPU')}{f' and {a_gpu}' if use_gpu else ''}"
        allowed = f"workers with {size} each must fit: {has}"
        fewer = f"Use at most {counted(room, 'worker')}" if room else "Lower cpus_per_worker"
        on_cpus = ", scaling.use_gpu: false" if spec.use_gpu == "auto" and use_gpu else ""
        remedy = f"{fewer}{on_cpus}, or a larger cluster."
        raise ConfigError(Problem("scaling.workers", workers, allowed, remedy))
    return WorkerPlan(workers, use_gpu, cpus, gpu_share=spec.gpu_share)


# ------------------------------------------------------------------ resources of the cluster


def capacity() -> Capacity:
    """Return the resources of the connected cluster, and those its autoscaler may add.

    Ray has no public function for the limits of the autoscaler. Its second version reports them
    to the cluster's state; the first has them in its configuration, which only the head node can
    read, and reports only that it runs.
    """
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
    """Tell whether an autoscaler runs; Ray's monitor process runs in every cluster.

    Args:
        nodes: `ray.nodes()`; autoscaled nodes have a label with their group.
        status: The monitor's report; without an autoscaler its node types are node ids.
    """
    if any("ray.io/node-group" in node.get("Labels", {}) for node in nodes):
        return True
    report = status.get("autoscaler_report") or {}
    names = (report.get("node_type_mapping") or {}).values()
    return any(not name.startswith("node_") for name in names)


def grown(
    there: Iterable[Node],
    types: Iterable[tuple[Node, int]],
    most: int | None = None,
    heads: Iterable[Node] = (),
) -> Capacity:
    """Return the capacity of a cluster that has scaled up to its limits.

    Args:
        there: The nodes that are alive.
        types: CPUs, GPUs and maximum count of each node type; -1 means unlimited.
        most: The maximum number of nodes besides the head; None means unlimited.
        heads: The head node, if known and not in `there`; it belongs to none of the types.
    """
    nodes, heads = list(there), list(heads)
    left, to_add = Counter(nodes), []
    for size, count in types:
        count = MAX_NODES if count < 0 else count
        taken = min(left[size], count)
        left[size] -= taken
        to_add += [size] * (count - taken)
    room = len(to_add) if most is None else max(0, most - len(nodes) + (not heads))
    # If the limit does not allow all of them, count the largest.
    to_add.sort(key=lambda size: (size[1], size[0]), reverse=True)
    return Capacity((*heads, *nodes, *to_add[:room]), is_final=True)


def autoscaling_config() -> Autoscaling | None:
    """Return the configuration of `ray up` or KubeRay; only a head node can read it."""
    import yaml

    file = Path(os.environ.get(CONFIG_VARIABLE) or BOOTSTRAP_CONFIG).expanduser()
    found = yaml.safe_load(file.read_text()) if file.is_file() else None
    has_types = isinstance(found, dict) and found.get("available_node_types")
    return cast(Autoscaling, found) if has_types else autoscaling_of_pod()


def grown_by(document: Autoscaling, nodes: Iterable[Mapping[str, Any]]) -> Capacity:
    """Return the capacity that an autoscaler configuration allows; `nodes`: `ray.nodes()`."""
    heads: list[Node] = []
    others: list[Node] = []
    for node in nodes:
        (heads if HEAD in node["Resources"] else others).append(_size(node["Resources"]))
    return grown(others, node_types(document), document.get("max_workers"), heads)


def node_types(document: Autoscaling) -> list[tuple[Node, int]]:
    """Return CPUs, GPUs and maximum count of each node type but the head's."""
    types = document["available_node_types"]
    most = document.get("max_workers", -1)
    return [
        (_size(kind.get("resources") or {}), kind.get("max_workers", most))
        for name, kind in types.items()
        if name != document.get("head_node_type")
    ]


def _size(resources: Mapping[str, float]) -> Node:
    return float(dict(resources).get("CPU", 0)), float(dict(resources).get("GPU", 0))
