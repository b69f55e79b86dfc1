"""Shard dispatch and retry policy; no side effects."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from clftask.errors import ClftaskError
from clftask.scoring.manifest import Shard

MAX_ATTEMPTS = 3
MIN_STRETCH = 8  # shards enough for reading, computing and writing to overlap


class Dispatcher:
    """Hands out batches: shards that one worker does in a row, those of a file in one pass.

    A batch is a share of what is left: long ones come first, so that a file is read in few
    passes, and short ones last, so that all workers end at about the same time.

    Args:
        shards: What is to be scored, in order.
        workers: The most workers that there will be.
    """

    def __init__(self, shards: Iterable[Shard], workers: int) -> None:
        self.waiting = deque(shards)
        self.workers = workers
        self.attempts: Counter[int] = Counter()
        self.failed: dict[int, ClftaskError] = {}

    def next(self) -> list[Shard]:
        """Return the next batch; empty if nothing waits."""
        share = 2 * self.workers if self.workers > 1 else 1
        most = -(-len(self.waiting) // share)
        shard_batch: list[Shard] = []
        while self.waiting and len(shard_batch) < most:
            is_long = len(shard_batch) >= MIN_STRETCH
            if is_long and not _follows(shard_batch[-1], self.waiting[0]):
                break
            shard_batch.append(self.waiting.popleft())
        return shard_batch

    def take_back(self, shards: Sequence[Shard], error: ClftaskError | None) -> None:
        """Take back what a worker did not finish; with an error the first of them is at fault.

        A shard at fault is tried again after the others, `MAX_ATTEMPTS` times in all.
        """
        at_fault = shards[0] if error and shards else None
        others = [shard for shard in shards if shard is not at_fault]
        self.waiting.extendleft(reversed(others))
        if at_fault is None or error is None:
            return
        self.attempts[at_fault.index] += 1
        if self.attempts[at_fault.index] < MAX_ATTEMPTS:
            self.waiting.append(at_fault)
        else:
            self.failed[at_fault.index] = error


def _follows(before: Shard, after: Shard) -> bool:
    """Tell whether a shard goes on in the file where another one ended."""
    end, start = before.pieces[-1], after.pieces[0]
    return (end.file, end.start + end.num_rows) == (start.file, start.start)
