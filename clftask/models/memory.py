"""Detection of torch's errors that a retry, or another device, may not meet again."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

_Value = TypeVar("_Value")
_Arguments = ParamSpec("_Arguments")

# torch 2.13 raises OutOfMemoryError only for the GPU's caching allocator. For the CPU allocator,
# the CUDA driver and cuBLAS it raises a plain RuntimeError with one of these texts.
_TEXTS = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error means that the GPU or the machine ran out of memory."""
    is_own = isinstance(error, torch.OutOfMemoryError)
    return is_own or any(text in str(error) for text in _TEXTS)


def unless_out_of_memory(
    call: Callable[_Arguments, _Value], *args: _Arguments.args, **options: _Arguments.kwargs
) -> _Value | None:
    """Return the value of a call; None if it ran out of memory, which is free again then."""
    try:
        return call(*args, **options)
    except Exception as error:  # torch: RuntimeError, too
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():  # outside the handler, which holds the tensors of the call
        torch.cuda.empty_cache()
    return None


def release() -> None:
    """Free the memory of models that are no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def limit_to(share: float) -> None:
    """Limit this process to its share of the GPU, so that others do not run out of memory.

    A tenth is left for what CUDA itself needs in each process.
    """
    torch.cuda.set_per_process_memory_fraction(0.9 * share)


# torch has a class of its own for errors of a GPU since 2.8, but none for those of its libraries.
_DEVICE_TEXTS = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error", "NCCL", "HIP error")


def is_device_failure(error: Exception) -> bool:
    """Tell whether the device failed, and not the model."""
    is_own = type(error).__name__ == "AcceleratorError"
    return is_own or any(text in str(error) for text in _DEVICE_TEXTS)
