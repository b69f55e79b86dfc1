"""How large batches become: by measured speeds, and within the memory."""

from __future__ import annotations

import numpy as np
import pytest

from clftask.models.token_budget import Measured, largest_useful, typical_rows

GIB = 2**30


def measured(table: dict[int, tuple[float, float]], asked: list[int] | None = None):
    """Return a measurement that looks up (seconds, GiB) by tokens; what is absent does not fit."""

    def measure(tokens: int) -> Measured | None:
        if asked is not None:
            asked.append(tokens)
        if tokens not in table:
            return None
        seconds, gib = table[tokens]
        return Measured(tokens, seconds, int(gib * GIB))

    return measure


# Tokens: (seconds, GiB). The speeds are 100, 160, 200, 202 and 300 thousand tokens a second.
RISING = {
    10_000: (0.100, 1), 20_000: (0.125, 2), 40_000: (0.200, 4), 80_000: (0.396, 8),
    160_000: (0.533, 16),
}  # fmt: skip


@pytest.mark.parametrize(
    ("free_gib", "too_many", "best", "asked"),
    [
        (100, None, 40_000, [10_000, 20_000, 40_000, 80_000]),  # 1 % faster is not worth it
        (15, None, 40_000, [10_000, 20_000, 40_000]),  # 8 of 15 GiB are more than half
        (7, None, 20_000, [10_000, 20_000]),
        (100, 40_000, 20_000, [10_000, 20_000]),  # they ran out of memory before
        (100, 40_001, 40_000, [10_000, 20_000, 40_000]),
        (1, None, 10_000, [10_000]),
    ],
)
def test_batches_grow_while_they_are_faster_and_fit(free_gib, too_many, best, asked):
    seen: list[int] = []
    found = largest_useful(measured(RISING, seen), int(free_gib * GIB), too_many, first=10_000)
    assert found is not None
    assert (found.tokens, seen) == (best, asked)


def test_a_trial_that_runs_out_of_memory_is_the_last():
    table = {10_000: (0.1, 1), 20_000: (0.1, 2)}
    found = largest_useful(measured(table), 100 * GIB, first=10_000)
    assert found == Measured(20_000, 0.1, 2 * GIB)
    assert found.tokens_per_s == 200_000
    assert largest_useful(measured({}), 100 * GIB) is None


def test_trials_have_rows_of_about_the_median_length():
    lengths = np.array([5, 100, 7, 6, 1, 8, 2])
    assert typical_rows(lengths, 18).tolist() == [2, 3, 0]  # 7, 6 and 5 tokens
    assert typical_rows(lengths, 1).tolist() == [3]
    assert typical_rows(lengths[:2], 300).tolist() == [1, 0] * 30
