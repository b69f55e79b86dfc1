"""Memory of a device."""

from __future__ import annotations

import torch

# torch 2.13 raises OutOfMemoryError for a GPU's own allocator alone; for the CPU's, for the CUDA
# driver and for cuBLAS it raises a plain RuntimeError with one of these texts.
_TEXTS = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether a device, or the machine, ran out of memory."""
    is_own = isinstance(error, torch.OutOfMemoryError)
    return is_own or any(text in str(error) for text in _TEXTS)
