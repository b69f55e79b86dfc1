"""Memory of a device."""

from __future__ import annotations

import torch


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether a device, or the machine, ran out of memory."""
    text = str(error)
    said = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(words in text for words in said)
