"""torch.compile for the layers of a model.

All layers share one compiled code, which is several times faster to make than that of the model.
torch compiles at the first call, and again for inputs that it did not foresee.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def compile_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Compile a model's layers for batches of all sizes; return them."""
    layers = _layers(model)
    for layer in layers:
        layer.compile(dynamic=True)
    return layers


def uncompile(layers: list[torch.nn.Module]) -> None:
    """Run compiled layers as they are."""
    for layer in layers:
        layer._compiled_call_impl = None  # torch has no public way back


@contextlib.contextmanager
def paused(layers: list[torch.nn.Module]) -> Iterator[None]:
    """Run compiled layers as they are for a while."""
    calls = [layer._compiled_call_impl for layer in layers]
    uncompile(layers)
    try:
        yield
    finally:
        for layer, call in zip(layers, calls, strict=True):
            layer._compiled_call_impl = call


def _layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the layers of the encoder: the largest list of modules; without any, the model."""
    lists = [[*m] for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m)]
    return max(lists, key=_num_weights, default=[model])


def _num_weights(modules: list[torch.nn.Module]) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())
