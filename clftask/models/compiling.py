"""torch.compile for the layers of a model.

All layers share one compiled code, which is several times faster to make than that of the model.
torch compiles at the first call, and again for inputs that it did not foresee.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._functorch import config as functorch_config

from clftask.models.memory import is_device_failure, is_out_of_memory

# torch compiles a backward pass when it first runs, unless this is set: then a failure would come
# when other workers have the gradients already. Not in all versions of torch.
_EARLY = "force_non_lazy_backward_lowering"


def compile_layers(
    model: torch.nn.Module, on_failure: Callable[[Exception], None] | None = None
) -> list[torch.nn.Module]:
    """Compile a model's layers for batches of all sizes; return them.

    Args:
        model: The model.
        on_failure: Told why compiled code fails; the call is then made without it. None: the error
            is raised.
    """
    layers = _layers(model)
    if on_failure is not None and hasattr(functorch_config, _EARLY):
        setattr(functorch_config, _EARLY, True)
    for layer in layers:
        layer.compile(dynamic=True)
        if on_failure is not None:
            layer._compiled_call_impl = _or_as_it_is(layer, on_failure)
    return layers


def _or_as_it_is(
    layer: torch.nn.Module, on_failure: Callable[[Exception], None]
) -> Callable[..., Any]:
    """Return the compiled call of a layer, and if it fails, that of the layer as it is."""
    compiled = layer._compiled_call_impl
    plain: Callable[..., Any] = layer._call_impl
    assert compiled is not None

    def call(*args: Any, **options: Any) -> Any:
        try:
            return compiled(*args, **options)
        except Exception as error:  # torch's compilers raise all classes
            if is_device_failure(error) or is_out_of_memory(error):
                raise
            on_failure(error)
        return plain(*args, **options)

    return call


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
