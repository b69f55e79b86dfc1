"""A worker's progress on the driver's screen: a board that one writes and the other reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.util import placement_group_table
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from clftask.distributed.capacity import WorkerPlan
from clftask.messages import counted

POLL_S = 0.5
WAIT_S = 10.0


@ray.remote(num_cpus=0)
class ProgressActor:
    """Holds the records of the first worker, its result and its failure."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.outcome: dict[str, Any] | None = None
        self.failure: Exception | None = None
        self.is_working = False

    def start(self) -> Exception | None:
        """Take note that a worker runs; return what an earlier one failed of for good."""
        self.is_working = True
        return self.failure

    def lose(self) -> None:
        """Take note that the workers have failed; others may come."""
        self.is_working = False

    def has_workers(self) -> bool:
        """Tell whether workers run."""
        return self.is_working

    def post(self, record: dict[str, Any]) -> None:
        """Take a record, or the result."""
        if "done" in record:
            self.outcome = record["done"]
        else:
            self.records.append(record)

    def fail(self, error: Exception) -> None:
        """Take an error that a retry cannot fix; the first one counts."""
        self.failure = self.failure or error

    def since(self, seen: int) -> list[dict[str, Any]]:
        """Return the records after the first `seen`."""
        return self.records[seen:]

    def result(self) -> tuple[dict[str, Any] | None, Exception | None]:
        """Return what was posted as result and failure."""
        return self.outcome, self.failure


def new_progress_actor(**options: Any) -> Any:
    """Start a board on the driver's node: it is lost only with the driver itself.

    Args:
        options: Of the actor.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ProgressActor.options(scheduling_strategy=here, **options).remote()  # type: ignore[attr-defined]


def waiting_line(chosen: WorkerPlan, groups: Iterable[Mapping[str, Any]]) -> str | None:
    """Return what to say about workers that have not started; None if they have their place.

    Free CPUs would not tell: the workers hold theirs from the moment they are placed, long
    before they run.

    Args:
        chosen: How many workers there are, and what each gets.
        groups: Ray's placement groups, of all jobs.
    """
    sizes = [(group["state"], len(group["bundles"])) for group in groups]
    if chosen.least:  # these ask for their place only once there is one
        possible = range(chosen.least, chosen.most + 1)
        is_placed = any(("CREATED", n) in sizes for n in possible)
    else:
        is_placed = ("PENDING", chosen.workers) not in sizes
    if is_placed:
        return None
    workers = counted(chosen.least or chosen.workers, "worker")
    cpus = counted(chosen.cpus_per_worker, "CPU")
    size = f"{cpus} and a GPU" if chosen.use_gpu else cpus
    return f"waiting for cluster resources: {workers} with {size} each"


class Waiting:
    """Says that the workers find no place, when they have waited for it `WAIT_S` seconds.

    Once at the start, and once whenever workers were lost.
    """

    def __init__(self, chosen: WorkerPlan, say: Callable[[str], None]) -> None:
        self.chosen, self.say = chosen, say
        self.since, self.is_said = time.monotonic(), False

    def look(self, progress_actor: Any) -> None:
        """Look at the cluster, unless it is said or workers run."""
        if time.monotonic() - self.since < WAIT_S:
            return
        if ray.get(progress_actor.has_workers.remote()):
            self.since, self.is_said = time.monotonic(), False
        elif not self.is_said:
            line = waiting_line(self.chosen, placement_group_table().values())
            if line is not None:
                self.is_said = True
                self.say(line)


@contextmanager
def follow(
    progress_actor: Any, show: Callable[[dict[str, Any]], None], waiting: Waiting
) -> Iterator[None]:
    """Show each record soon after it is posted, and say so if nothing starts."""
    ended = threading.Event()
    seen = 0

    def pull() -> None:
        nonlocal seen
        for record in ray.get(progress_actor.since.remote(seen)):
            seen += 1
            show(record)

    def watch() -> None:
        while not ended.wait(POLL_S):
            pull()
            waiting.look(progress_actor)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        pull()
