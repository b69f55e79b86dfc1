"""Thread pool for work that mostly waits for storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")
NUM_THREADS = 8  # scanning a CSV file takes about 130 MB


def map_in_threads(function: Callable[[_Item], _Found], items: Iterable[_Item]) -> list[_Found]:
    """Apply a function to each item; the first error cancels the remaining calls."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
