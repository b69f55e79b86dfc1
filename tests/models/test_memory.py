"""What the pinned torch raises when memory runs out."""

from __future__ import annotations

import pytest
import torch

from clftask.models.memory import is_out_of_memory, unless_out_of_memory


def test_the_machine_runs_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**16)
    assert is_out_of_memory(caught.value)


def test_another_error_of_torch_is_none():
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(caught.value)


def test_a_call_that_runs_out_of_memory_has_no_value():
    assert unless_out_of_memory(torch.empty, 10**16) is None
    assert unless_out_of_memory(torch.ones, 2, dtype=torch.int64).tolist() == [1, 1]
    with pytest.raises(RuntimeError, match=r"inconsistent|size|shape"):
        unless_out_of_memory(torch.dot, torch.ones(2), torch.ones(3))
