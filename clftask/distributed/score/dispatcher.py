"""Shard dispatch and retry policy; no side effects."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from clftask.errors import ClftaskError
from clftask.scoring.manifest import Shard

MAX_ATTEMPTS = 3
MIN_BATCH_SHARDS = 8  # enough to overlap reading, computing and writing


class Dispatcher:
    """Hands out batches: consecutive shards for one worker, which reads each file in one pass.

    A batch is a fraction of the remaining shards: the first ones are long, so that workers read a
    file in few passes, and the last ones short, so that all workers end at about the same time.

    Args:
        shards: The shards to score, in order.
        workers: The maximum number of workers.
    """

    def __init__(self, shards: Iterable[Shard], workers: int) -> None:
        self.waiting = deque(shards)
        self.workers = workers
        self.attempts: Counter[int] = Counter()
        self.failed: dict[int, ClftaskError] = {}

    def next(self) -> list[Shard]:
        """Return the next batch; empty if no shard is waiting."""
        share = 2 * self.workers if self.workers > 1 else 1
        most = -(-len(self.waiting) // share)
        shard_batch: list[Shard] = []
        while self.waiting and len(shard_batch) < most:
            is_long = len(shard_batch) >= MIN_BATCH_SHARDS
            if is_long and not _follows(shard_batch[-1], self.waiting[0]):
                break
            shard_batch.append(self.waiting.popleft())
        return shard_batch

    def take_back(
        self, shards: Sequence[Shard], error: ClftaskError | None, is_permanent: bool = False
    ) -> None:
        """Queue unfinished shards again; if there is an error, the first shard is at fault.

        A shard at fault goes to the end of the queue, for at most `MAX_ATTEMPTS` attempts; it
        has failed at once if the error is permanent.
        """
        at_fault = shards[0] if error and shards else None
        others = [shard for shard in shards if shard is not at_fault]
        self.waiting.extendleft(reversed(others))
        if at_fault is None or error is None:
            return
        self.attempts[at_fault.index] += 1
        if not is_permanent and self.attempts[at_fault.index] < MAX_ATTEMPTS:
            self.waiting.append(at_fault)
        else:
            self.failed[at_fault.index] = error


def _follows(before: Shard, after: Shard) -> bool:
    """Tell whether a shard starts where the previous one ended in the same file."""
    end, start = before.pieces[-1], after.pieces[0]
    return (end.file, end.start + end.num_rows) == (start.file, start.start)
