"""FSDP2: parameters, gradients and the optimiser's state are cut among the workers.

accelerate 1.15 knows FSDP on GPUs only, and would train with DDP on CPUs without a word; torch's
own function works on both. Checkpoints hold gathered tensors under the names of an uncut model, so
that any number of workers resumes from them, sharded or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor

from clftask.components.adapt import stacked_layers
from clftask.models.weights import Weights, own_weights


def shard(model: Any, device: str) -> None:
    """Cut a model, which is the same on all workers, layer by layer, and move it to the device.

    Args:
        model: The model, on the CPU.
        device: cpu or cuda.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh, base = init_device_mesh(device, (dist.get_world_size(),)), model.base_model
    for name in (name for layer in stacked_layers(base) for name in layer):
        fully_shard(base.get_submodule(name), mesh=mesh)
    # By default torch keeps the rest of the model whole after a forward pass without a backward
    # one; what is loaded into it would be lost.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def num_own(parameters: Iterable[torch.Tensor]) -> int:
    """Return the number of weights that this worker holds."""
    return sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in parameters)


# ------------------------------------------------------------------ weights


def save_weights(weights: Weights, file: Path, is_first: bool) -> None:
    """Write the gathered weights, on the first worker; every worker must call it.

    Args:
        weights: Those of a sharded model.
        file: A safetensors file, as `models.weights` writes it.
        is_first: Whether this is the first worker.
    """
    from safetensors.torch import save_file

    model, metadata = weights.model, weights.metadata if weights.keeps_base else None
    whole = dict(model.named_parameters()) | _buffers(model)
    found = _gathered(own_weights(model) if weights.keeps_base else whole, is_first)
    if is_first:
        save_file(found, file, metadata)


def load_weights(weights: Weights, file: Path) -> None:
    """Read each worker's part of the weights; missing or further ones raise an error.

    Raises:
        ConfigError: They were trained on another base.
    """
    from safetensors import safe_open

    model = weights.model
    if weights.keeps_base:
        weights.check_base(file)
    named = dict(model.named_parameters(remove_duplicate=False))  # a file has one name of several
    wanted = own_weights(model) if weights.keeps_base else named | _buffers(model)
    filled: set[int] = set()
    with safe_open(file, "pt") as saved, torch.no_grad():
        names = set(saved.keys())
        for name in names & wanted.keys():
            wanted[name].copy_(_cut(saved.get_tensor(name), wanted[name]))
            filled.add(id(wanted[name]))
    lost = {name for name, tensor in wanted.items() if id(tensor) not in filled}
    if wrong := sorted(lost | (names - wanted.keys())):
        raise RuntimeError(f"{file.name} does not fit the model: {wrong[:3]}")


def _buffers(model: Any) -> dict[str, torch.Tensor]:
    """Return the buffers that are saved."""
    saved = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}


# ------------------------------------------------------------------ the optimiser


def whole_state(optimizer: Any, is_first: bool) -> dict[str, Any]:
    """Return the optimiser's state as that of an uncut model; every worker must call it.

    On all workers but the first, it has no tensors.
    """
    found: dict[str, Any] = optimizer.state_dict()
    states = {i: _gathered(state, is_first) for i, state in found["state"].items()}
    return {**found, "state": states}


def load_state(optimizer: Any, file: Path) -> None:
    """Read each worker's part of the optimiser's state."""
    found = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for i, state in found["state"].items():
        whole = parameters[i]
        for name, value in state.items():
            if value.shape == whole.shape:  # not the number of steps
                state[name] = _cut(value, whole)
    optimizer.load_state_dict(found)


# ------------------------------------------------------------------ tensors


def _gathered(tensors: dict[str, torch.Tensor], is_first: bool) -> dict[str, torch.Tensor]:
    """Return whole tensors in host memory, one after the other; none but on the first worker."""
    found = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if is_first:
            found[name] = whole.detach().cpu().contiguous()
    return found


def _cut(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a tensor, cut as another one is, without communication."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
