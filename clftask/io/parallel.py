"""Threads: a pool for work that mostly waits for storage, and one beside the main thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from clftask.errors import ClftaskError

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")
NUM_THREADS = 8  # scanning a CSV file takes about 130 MB
_PATIENCE_S = 10.0


def map_in_threads(function: Callable[[_Item], _Found], items: Iterable[_Item]) -> list[_Found]:
    """Apply a function to each item; the first error cancels the remaining calls."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def beside(call: Callable[[], _Found]) -> Iterator[Future[_Found]]:
    """Run a call in a thread beside the block, which gets its future.

    If both fail, the user's mistake that the call has found counts.
    """
    found: Future[_Found] = Future()

    def run() -> None:
        try:
            found.set_result(call())
        except BaseException as error:
            found.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield found
    except Exception:
        if found.done() and isinstance(error := found.exception(), ClftaskError):
            raise error from None
        raise
    finally:
        thread.join(_PATIENCE_S)  # an import ends soon; an interrupt does not wait for a download
