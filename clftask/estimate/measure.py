"""Shared by all estimates: ranges, workers' resources, running with a worker's CPUs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from clftask.errors import ConfigError, Problem
from clftask.messages import counted

MARGIN = 0.25  # relative error of an estimate; see benchmarks/estimate.py
NOT_MEASURED = ("reading and writing over a network", "machines other than this one")
WORKER_COUNTS = (1, 2, 4, 8, 16)
Clock = Callable[[], float]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Range:
    """An estimate in seconds and its bounds."""

    low: float = 0.0
    typical: float = 0.0
    high: float = 0.0


NOTHING = Range()


def within(typical: float, most: float | None = None) -> Range:
    """Return the range of an estimate; `most`: its upper bound before the margin."""
    high = (typical if most is None else most) * (1 + MARGIN)
    return Range(round(typical * (1 - MARGIN), 1), round(typical, 1), round(high, 1))


@dataclass(frozen=True)
class Workers:
    """The workers of a scoring job or of each trial; `gpus` is a fraction if they share one."""

    count: int
    cpus: float
    gpus: float = 0.0

    @property
    def gpu_share(self) -> float:
        """The share of a device that a worker has: 1 unless it shares a GPU."""
        return min(self.gpus or 1.0, 1.0)

    @property
    def device(self) -> str:
        """The device of the workers, cuda or cpu."""
        return "cuda" if self.gpus else "cpu"


def check_device(workers: Workers, use_gpu: object, field: str) -> None:
    """Refuse to measure a job with GPUs on a machine without one.

    Raises:
        ConfigError: This machine has no GPU.
    """
    import torch

    if workers.gpus and not torch.cuda.is_available():
        allowed = "the workers have GPUs, but this machine has none to measure on"
        remedy = "Run it on a machine with a GPU, or set it to false."
        raise ConfigError(Problem(field, use_gpu, allowed, remedy))


@contextlib.contextmanager
def as_worker(workers: Workers) -> Iterator[list[str]]:
    """Limit this process to a worker's CPUs; yield a warning if this machine has fewer."""
    import torch

    has_affinity = hasattr(os, "sched_setaffinity")  # Linux
    before = sorted(os.sched_getaffinity(0)) if has_affinity else range(os.cpu_count() or 1)
    own, threads = before[: max(1, int(workers.cpus))], torch.get_num_threads()
    has, wanted = counted(len(own), "CPU"), counted(workers.cpus, "CPU")
    torch.set_num_threads(len(own))
    if has_affinity:
        os.sched_setaffinity(0, own)
    try:
        small = len(own) < int(workers.cpus)
        yield [f"measured on {has}, but a worker has {wanted}"] if small else []
    finally:
        torch.set_num_threads(threads)
        if has_affinity:
            os.sched_setaffinity(0, before)
