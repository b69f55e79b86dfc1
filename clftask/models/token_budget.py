"""The token budget: rows times padded length of one forward pass.

On a GPU it is measured: small batches leave it idle between kernels, large ones only need memory.
On CPUs it is a constant: from 512 to 8,192 tokens no difference was measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clftask.data.batching import FlatTokens
from clftask.models.memory import unless_out_of_memory

# Without a measurement.
MAX_TOKENS = {"cuda": 131_072, "cpu": 2_048}
FIRST_TOKENS = 16_384
MIN_GAIN = 1.03  # in speed, for which the batches become twice as large
MEMORY_SHARE = 0.5  # of the free memory
NUM_RUNS = 3  # the first one loads kernels; the fastest counts


@dataclass(frozen=True)
class Measured:
    """A measured forward pass.

    Attributes:
        tokens: Rows times padded length.
        seconds: Its seconds.
        num_bytes: The memory that it needs beside the model.
    """

    tokens: int
    seconds: float
    num_bytes: int

    @property
    def tokens_per_s(self) -> float:
        """Its speed."""
        return self.tokens / self.seconds


Measure = Callable[[int], Measured | None]


def largest_useful(
    measure: Measure, free_bytes: int, too_many: int | None = None, first: int = FIRST_TOKENS
) -> Measured | None:
    """Double the tokens until the speed stops rising; return the last trial that was faster.

    Args:
        measure: Runs a batch of about so many tokens; returns None if it does not fit into memory.
        free_bytes: The free memory, of which `MEMORY_SHARE` may be used.
        too_many: Tokens that did not fit into memory before; None if all did.
        first: The tokens of the first trial.

    Returns:
        None if not even the first trial fits.
    """
    best = measure(first)
    while best is not None:
        tokens = 2 * best.tokens
        is_known_too_large = too_many is not None and tokens >= too_many
        if is_known_too_large or 2 * best.num_bytes > MEMORY_SHARE * free_bytes:
            break
        larger = measure(tokens)
        if larger is None or larger.tokens_per_s < MIN_GAIN * best.tokens_per_s:
            break
        best = larger
    return best


def typical_rows(lengths: npt.NDArray[np.int64], tokens: int) -> npt.NDArray[np.int64]:
    """Return rows of about the median length, of so many tokens in total, at least one row.

    Their lengths are as similar as those of a batch; rows repeat if there are too few.
    """
    order = np.argsort(-lengths, kind="stable")
    count = max(1, tokens // max(1, int(lengths[order[len(order) // 2]])))
    start = max(0, len(order) // 2 - count // 2)
    return np.resize(order[start : start + count], count)


def on_gpu(
    forward: Callable[[dict[str, torch.Tensor]], Any], flat: FlatTokens, tokenizer: Any, device: Any
) -> Measure:
    """Return the measurement for `largest_useful` on a GPU.

    Args:
        forward: Runs the model on padded inputs.
        flat: Rows from which the batches are taken.
        tokenizer: The model's tokenizer.
        device: The GPU.
    """

    def measure(tokens: int) -> Measured | None:
        inputs = flat.padded(typical_rows(flat.lengths, tokens), tokenizer)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        seconds = []
        for _ in range(NUM_RUNS):
            torch.cuda.synchronize(device)
            began = time.perf_counter()
            if unless_out_of_memory(forward, inputs) is None:
                return None
            torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - began)
        needed = torch.cuda.max_memory_allocated(device) - before
        return Measured(inputs["input_ids"].numel(), min(seconds), needed)

    return measure


def free_bytes(device: Any) -> int:
    """Return the free memory of a GPU, with what torch keeps reserved."""
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + kept)
