"""A worker's progress on the driver's screen: a board that one writes and the other reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

POLL_S = 0.5


@ray.remote(num_cpus=0)
class Board:
    """Holds the records of the first worker, its result and its failure."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.outcome: dict[str, Any] | None = None
        self.failure: Exception | None = None

    def post(self, record: dict[str, Any]) -> None:
        """Take a record, or the result."""
        if "done" in record:
            self.outcome = record["done"]
        else:
            self.records.append(record)

    def fail(self, error: Exception) -> None:
        """Take an error that trying again cannot mend; the first one counts."""
        self.failure = self.failure or error

    def since(self, seen: int) -> list[dict[str, Any]]:
        """Return the records after the first `seen`."""
        return self.records[seen:]

    def result(self) -> tuple[dict[str, Any] | None, Exception | None]:
        """Return what was posted as result and failure."""
        return self.outcome, self.failure


@contextmanager
def follow(board: Any, show: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Show each record soon after it is posted, while the block runs."""
    ended = threading.Event()
    seen = 0

    def pull() -> None:
        nonlocal seen
        for record in ray.get(board.since.remote(seen)):
            seen += 1
            show(record)

    def watch() -> None:
        while not ended.wait(POLL_S):
            pull()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        pull()
