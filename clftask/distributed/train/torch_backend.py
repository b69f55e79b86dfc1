"""Ray Train's backend for torch, without torch in Ray's controller.

Ray's `TorchConfig` imports torch in each process that unpickles it. In the controller this takes
seconds before the first worker starts. Here the workers call the functions of Ray's backend.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.ray_constants import env_integer
from ray.train import constants
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.util import TrainingFramework

from clftask import garbage, logs

TIMEOUT_S = 1_800  # of a collective: an upload may take long


@dataclass
class TorchWorkers(BackendConfig):  # type: ignore[misc]
    """Workers with a process group of torch; a single worker has none."""

    @property
    def backend_cls(self) -> type[Backend]:
        """Ray's hooks."""
        return TorchBackend

    @property
    def framework(self) -> TrainingFramework:
        """The name of the framework in Ray's dashboard."""
        return TrainingFramework.TORCH


class TorchBackend(Backend):  # type: ignore[misc]
    """Starts and ends the process group, as `ray.train.torch.config._TorchBackend` does."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Called when the workers exist."""
        world = len(worker_group)
        if world == 1:  # accelerate would wrap its model into DDP
            return
        has_gpu = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        host, port = worker_group.execute_single(0, get_address_and_port)
        group = "nccl" if has_gpu else "gloo", world, host, port
        ray.get([worker_group.execute_single_async(i, join, i, *group) for i in range(world)])

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Called before the workers end, also after a failure."""
        if len(worker_group) == 1:
            return
        default = constants.DEFAULT_TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S
        timeout_s = env_integer(constants.TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S, default)
        with logs.errors_logged("the workers' process group does not end"):
            ray.get(worker_group.execute_async(leave), timeout=timeout_s)


def join(rank: int, backend: str, world: int, host: str, port: int) -> None:
    """Join the process group; each worker calls it."""
    garbage.collect_rarely()
    from ray.train.torch import config

    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
    config._set_torch_distributed_env_vars()
    config._setup_torch_process_group(backend, rank, world, "env://", TIMEOUT_S)


def leave() -> None:
    """Leave the process group; each worker calls it."""
    from ray.train.torch import config

    config._shutdown_torch(destroy_process_group=True)


def device_of_worker() -> str:
    """Return the device of this Ray Train worker, cpu or cuda; select its GPU."""
    if not ray.get_gpu_ids():
        return "cpu"
    import torch
    from ray.train.torch import get_device

    torch.cuda.set_device(get_device())
    return "cuda"
