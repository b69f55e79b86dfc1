"""Number of concurrent trials and the resources of each; no Ray here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clftask.config.sections import ScalingSpec
from clftask.distributed.capacity import Capacity
from clftask.errors import ConfigError, Problem
from clftask.messages import counted


@dataclass(frozen=True)
class Slots:
    """Concurrency and resources of trials.

    Attributes:
        concurrency: Number of concurrent trials.
        workers: Workers of each trial.
        cpus: CPUs of each worker.
        gpus: GPUs of each worker; a fraction if several trials share one.
    """

    concurrency: int
    workers: int
    cpus: float
    gpus: float

    @property
    def device(self) -> str:
        """The device of the trials, cuda or cpu."""
        return "cuda" if self.gpus else "cpu"

    @property
    def resources(self) -> dict[str, float]:
        """The resources of a worker's placement group bundle."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}

    def limit_process(self) -> None:
        """Limit this process to the CPUs and the share of a GPU of a worker."""
        import torch

        from clftask.models.memory import limit_to

        torch.set_num_threads(max(1, int(self.cpus)))
        if 0 < self.gpus < 1:
            limit_to(self.gpus)

    def __str__(self) -> str:
        """Return the text for the user."""
        gpu = f" and {counted(self.gpus, 'GPU')}" if self.gpus else ""
        each = f"{self.workers} workers, each" if self.workers > 1 else "a worker"
        trials, cpus = counted(self.concurrency, "trial"), counted(self.cpus, "CPU")
        return f"{trials} at a time, {each} with {cpus}{gpu}"


def slots(spec: ScalingSpec, concurrency: int | str, num_trials: int, capacity: Capacity) -> Slots:
    """Divide a cluster among trials.

    `concurrency: auto` runs as many trials as fit: one GPU per worker if there are GPUs, else
    one CPU per worker. More trials than GPUs share the GPUs.

    Raises:
        ConfigError: The trials never fit the cluster.
    """
    workers = spec.bounds[1]
    wanted = num_trials if concurrency == "auto" else min(int(concurrency), num_trials)
    gpus = _gpus(spec, concurrency, wanted, capacity)
    cpus = spec.cpus_per_worker
    if cpus == "auto":
        cpus = _auto_cpus(workers, concurrency, wanted, gpus, capacity)
    room = capacity.room(cpus, gpus) // workers
    if room == 0 or (concurrency != "auto" and room < wanted):
        has = f"the cluster has {capacity}"
        field = "concurrency" if room else "train.scaling.workers"
        found = concurrency if room else workers
        a_trial = counted(workers, "worker")
        allowed = f"{a_trial} a trial with {counted(cpus, 'CPU')} each: {has}"
        remedy = f"There is room for {counted(room, 'trial')}."
        raise ConfigError(Problem(field, found, allowed, remedy))
    return Slots(min(wanted, room), workers, cpus, gpus)


def room_for(chosen: Slots, capacity: Capacity) -> int:
    """Return how many such trials fit the cluster at the same time."""
    return capacity.room(chosen.cpus, chosen.gpus) // chosen.workers


def _gpus(spec: ScalingSpec, concurrency: int | str, wanted: int, capacity: Capacity) -> float:
    """Return the GPUs of a worker."""
    workers = spec.bounds[1]
    has_gpus = capacity.gpus >= workers
    if spec.use_gpu is False or (spec.use_gpu == "auto" and not has_gpus):
        return 0.0
    if not has_gpus and not capacity.is_open:
        allowed = f"needs {counted(workers, 'GPU')}; the cluster has {capacity.gpus:g}"
        raise ConfigError(Problem("train.scaling.use_gpu", spec.use_gpu, allowed))
    if concurrency == "auto" or not has_gpus or wanted * workers <= capacity.gpus:
        return 1.0
    if workers > 1:
        allowed = f"trials of several workers do not share GPUs; there are {capacity.gpus:g}"
        raise ConfigError(Problem("concurrency", concurrency, allowed, "Lower it, or use auto."))
    share = 1 / math.ceil(wanted / capacity.gpus)
    return math.floor(share * 10_000) / 10_000  # Ray rounds to 1/10000, possibly up


def _auto_cpus(
    workers: int, concurrency: int | str, wanted: int, gpus: float, capacity: Capacity
) -> float:
    """Return the largest whole number of CPUs that each worker can have, at least 1."""
    if concurrency == "auto":
        wanted = max(1, min(wanted, capacity.room(1, gpus) // workers))
    return float(capacity.even_share(wanted * workers, gpus))
