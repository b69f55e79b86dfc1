"""A worker's share of this machine, so that what is measured here is what a worker does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from clftask.errors import ConfigError, Problem
from clftask.messages import counted


@dataclass(frozen=True)
class WorkerResources:
    """The workers that a job gets.

    Attributes:
        workers: How many there are: of a scoring job, or of each trial of a search.
        cpus: Of each.
        gpus: Of each; a fraction where several share one.
    """

    workers: int
    cpus: float
    gpus: float = 0.0

    @property
    def device(self) -> str:
        """What they compute on."""
        return "cuda" if self.gpus else "cpu"


def check_device(asked: WorkerResources, use_gpu: object, field: str) -> None:
    """Refuse to measure here what will run on a GPU.

    Args:
        asked: The workers.
        use_gpu: What the job says.
        field: Where it says so.

    Raises:
        ConfigError: This machine has no GPU.
    """
    import torch

    if asked.gpus and not torch.cuda.is_available():
        allowed = "the workers have GPUs, and this machine has none to measure on"
        remedy = "Run it on a machine with a GPU, or set it to false."
        raise ConfigError(Problem(field, use_gpu, allowed, remedy))


@contextlib.contextmanager
def as_worker(cpus: float) -> Iterator[int]:
    """Hold this process to the CPUs of a worker.

    Threads that are started meanwhile, the tokenizer's and torch's alike, have to share them,
    as they have on a machine that is full of workers.

    Args:
        cpus: Of a worker.

    Yields:
        How many there are: fewer where this machine has not as many.
    """
    import torch

    before, there = torch.get_num_threads(), _there()
    chosen = there[: max(1, int(cpus))]
    torch.set_num_threads(len(chosen))
    _hold_to(chosen)
    try:
        yield len(chosen)
    finally:
        _hold_to(there)
        torch.set_num_threads(before)


def _there() -> list[int]:
    if hasattr(os, "sched_getaffinity"):  # Linux
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _hold_to(cpus: list[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def not_as_large(asked: WorkerResources, cpus: int) -> list[str]:
    """Return a warning if this machine has fewer CPUs than a worker will have."""
    if cpus >= int(asked.cpus):
        return []
    wanted = counted(asked.cpus, "CPU")
    return [f"measured on {counted(cpus, 'CPU')}: a worker has {wanted}, this machine has not"]
