"""The precision of a device: the requested one, or the faster one for `auto`."""

from __future__ import annotations

import time
from typing import Any

from clftask.errors import ConfigError, Problem


def resolve_precision(
    wanted: str, device: str, bf16_pays: bool, deterministic: bool = False
) -> str:
    """Return fp32, bf16 or fp16; resolves `auto` for a device.

    Args:
        wanted: auto, fp32, bf16 or fp16.
        device: cpu or cuda.
        bf16_pays: The result of `bf16_pays`.
        deterministic: Whether no timing may decide: on CPUs, `auto` is fp32.

    Raises:
        ConfigError: The device does not support the requested precision.
    """
    check_precision(wanted, device == "cuda")
    if wanted == "auto":
        is_timed = device != "cuda"
        return "bf16" if bf16_pays and not (deterministic and is_timed) else "fp32"
    return wanted


def check_precision(wanted: str, has_gpu: bool, field: str = "training.precision") -> None:
    """Refuse a precision that the device does not support.

    Raises:
        ConfigError: fp16 is requested without a GPU.
    """
    if wanted == "fp16" and not has_gpu:
        raise ConfigError(Problem(field, wanted, "needs a GPU", "Use auto."))


def bf16_pays(device: str) -> bool:
    """Tell whether bf16 is faster than fp32 here.

    torch reports it for GPUs. For CPUs it is measured: with AMX, bf16 is several times faster;
    with only AVX512-BF16 it can be slower than fp32, and CPU flags do not show it.
    """
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    fp32, bf16 = _product_seconds([torch.float32, torch.bfloat16])
    return fp32 > 1.3 * bf16


def _product_seconds(dtypes: list[Any]) -> list[float]:
    """Return for each dtype the minimum time of a matrix product of a typical encoder size.

    The dtypes alternate, so that other load on the machine affects all of them equally.
    """
    import torch

    pairs = [(torch.ones(1024, 384, dtype=t), torch.ones(384, 1536, dtype=t)) for t in dtypes]
    seconds: list[list[float]] = [[] for _ in pairs]
    for _ in range(12):
        for found, (a, b) in zip(seconds, pairs, strict=True):
            start = time.perf_counter()
            a @ b
            found.append(time.perf_counter() - start)
    return [min(found) for found in seconds]
