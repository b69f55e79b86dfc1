"""A call in a thread beside a block."""

from __future__ import annotations

import pytest

from clftask.errors import ConfigError, Problem
from clftask.io.parallel import beside

MISTAKE = ConfigError(Problem("model.base", "x", "is not a folder"))


def fail(error: Exception) -> None:
    raise error


def fail_beside(of_call: Exception, of_block: Exception) -> None:
    with beside(lambda: fail(of_call)) as found:
        assert found.exception() is of_call
        raise of_block


def test_the_block_gets_the_result() -> None:
    with beside(lambda: 3) as found:
        assert found.result() == 3


def test_a_mistake_of_the_user_counts_more_than_what_fails_meanwhile() -> None:
    with pytest.raises(ConfigError) as caught:
        fail_beside(MISTAKE, RuntimeError("Ray did not start"))
    assert caught.value is MISTAKE


def test_other_errors_of_the_call_do_not_replace_that_of_the_block() -> None:
    with pytest.raises(ValueError, match="block"):
        fail_beside(OSError("call"), ValueError("block"))
