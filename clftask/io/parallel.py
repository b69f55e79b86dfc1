"""Work in threads that mostly wait for storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")
NUM_THREADS = 8  # a survey of a CSV file takes some 130 MB


def map_in_threads(look: Callable[[_Item], _Found], items: Iterable[_Item]) -> list[_Found]:
    """Apply a function that mostly waits for storage; the first error ends it."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        futures = [pool.submit(look, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
