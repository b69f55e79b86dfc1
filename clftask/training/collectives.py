"""Collectives between the workers of a run, for values in host memory."""

from __future__ import annotations

import functools
import os
import re
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from clftask.array_types import Float32

_Value = TypeVar("_Value")


# Ray sets the first four for several workers; MPI, PMI and MVAPICH have their own.
_OF_LAUNCHERS = re.compile(
    r"(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE)|(OMPI_COMM_WORLD|PMI|MV2_COMM_WORLD)_.*"
)


def forget_launcher() -> None:
    """Remove what torchrun or MPI told the process: accelerate would wait for other workers."""
    for name in filter(_OF_LAUNCHERS.fullmatch, list(os.environ)):
        del os.environ[name]


def broadcast_from_first(value: _Value) -> _Value:
    """Return the first worker's value on all workers; every worker must call it."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=host_group())
    return box[0]


def array_from_first(value: Float32 | None, shape: tuple[int, int]) -> Float32:
    """Return the first worker's array on all workers; every worker must call it.

    Args:
        value: The array; None on the other workers.
        shape: Its shape.
    """
    found = np.empty(shape, np.float32) if value is None else value
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast(torch.from_numpy(found), src=0, group=host_group())
    return found


def all_agree(vote: bool) -> bool:
    """Return whether all workers vote yes; every worker must call it."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return vote
    box = torch.tensor(int(vote))
    dist.all_reduce(box, op=dist.ReduceOp.MIN, group=host_group())
    return bool(box)


def highest(number: int) -> int:
    """Return the highest number of all workers; every worker must call it."""
    box = torch.tensor(number)
    dist.all_reduce(box, op=dist.ReduceOp.MAX, group=host_group())
    return int(box)


def worked_everywhere(worked: bool) -> bool:
    """Return whether a pass worked on all workers, or on none; every worker must call it.

    Raises:
        OutOfMemoryError: It worked on some: what the workers exchange no longer matches.
    """
    box = torch.tensor(int(worked))
    dist.all_reduce(box, group=host_group())
    if 0 < box < dist.get_world_size():
        raise torch.OutOfMemoryError("some workers ran out of memory, and the others did not")
    return bool(box)


def host_group() -> dist.ProcessGroup | None:
    """Return the process group for tensors in host memory; None is the default group.

    NCCL only supports tensors on GPUs, so a second group uses gloo.
    """
    return None if dist.get_backend() == "gloo" else _gloo(dist.group.WORLD)


@functools.lru_cache(maxsize=1)
def _gloo(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """Return a gloo group, the same one as long as `world` is the default group."""
    found: dist.ProcessGroup = dist.new_group(backend="gloo")
    return found


def is_lost_connection(reason: str) -> bool:
    """Return whether a worker failed because it lost the connection to another one.

    Args:
        reason: The error's type and text. torch 2.13 has no class for this error: gloo raises a
            RuntimeError whose text depends on the platform, so every RuntimeError counts. NCCL
            raises a DistBackendError.
    """
    return reason.startswith(("RuntimeError", "DistBackendError"))


def is_collective(error: Exception) -> bool:
    """Return whether an error comes from the communication between workers.

    torch 2.13 raises a DistError for NCCL and for its store. gloo raises a RuntimeError whose
    text names gloo's source file.
    """
    return isinstance(error, dist.DistError) or "gloo" in str(error)
