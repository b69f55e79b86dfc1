"""Progress of a training run: an actor that the workers write to and the driver polls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.util import placement_group_table
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from clftask import logs
from clftask.distributed.capacity import WorkerPlan
from clftask.messages import counted

POLL_S = 0.5
WAIT_S = 10.0


@ray.remote(num_cpus=0)
class ProgressActor:
    """Stores the records of the first worker, its result and its failure."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.outcome: dict[str, Any] | None = None
        self.failure: Exception | None = None
        self.suspects: set[tuple[int, str, Any]] = set()
        self.is_working = False

    def start(self) -> Exception | None:
        """Record that a worker runs; return the permanent failure of an earlier one."""
        self.is_working = True
        return self.failure

    def lose(self) -> None:
        """Record that the workers failed; Ray Train may start new ones."""
        self.is_working = False

    def has_workers(self) -> bool:
        """Tell whether workers run."""
        return self.is_working

    def post(self, record: dict[str, Any]) -> None:
        """Store a record or the result."""
        if "done" in record:
            self.outcome = record["done"]
        else:
            self.records.append(record)

    def fail(self, error: Exception) -> None:
        """Store an error that a retry cannot fix; the first one counts."""
        self.failure = self.failure or error

    def is_known(self, rank: int, reason: str) -> bool:
        """Tell whether a worker of this rank has failed in the same way after the same step."""
        step = self.records[-1].get("step") if self.records else None
        place = rank, reason, step
        is_known = place in self.suspects
        self.suspects.add(place)
        return is_known

    def since(self, seen: int) -> list[dict[str, Any]]:
        """Return the records after the first `seen`."""
        return self.records[seen:]

    def result(self) -> tuple[dict[str, Any] | None, Exception | None]:
        """Return the result and the failure."""
        return self.outcome, self.failure


def new_progress_actor(**options: Any) -> Any:
    """Start a progress actor on the driver's node, so that no other node loss affects it.

    Args:
        options: Options of the actor.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ProgressActor.options(scheduling_strategy=here, **options).remote()  # type: ignore[attr-defined]


def waiting_line(chosen: WorkerPlan, groups: Iterable[Mapping[str, Any]]) -> str | None:
    """Return a message if the workers wait for resources; None if they are placed.

    Free CPUs do not show this: placed workers hold their CPUs long before they run.

    Args:
        chosen: The workers of the run.
        groups: Ray's placement groups of all jobs.
    """
    sizes = [(group["state"], len(group["bundles"])) for group in groups]
    if chosen.least:  # elastic: Ray Train creates the placement group once it fits
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
    """Prints a line when the workers have waited `WAIT_S` seconds for cluster resources.

    It prints once at the start, and once after each loss of workers.
    """

    def __init__(self, chosen: WorkerPlan, say: Callable[[str], None]) -> None:
        self.chosen, self.say = chosen, say
        self.since, self.is_reported = time.monotonic(), False

    def look(self, progress_actor: Any) -> None:
        """Check the placement groups, unless workers run or the line was printed."""
        if time.monotonic() - self.since < WAIT_S:
            return
        if ray.get(progress_actor.has_workers.remote()):
            self.since, self.is_reported = time.monotonic(), False
        elif not self.is_reported:
            line = waiting_line(self.chosen, placement_group_table().values())
            if line is not None:
                self.is_reported = True
                self.say(line)


@contextmanager
def follow(
    progress_actor: Any, show: Callable[[dict[str, Any]], None], waiting: Waiting
) -> Iterator[None]:
    """Show each record soon after it is posted, and report workers that do not start."""
    ended = threading.Event()
    seen = 0

    def pull() -> None:
        nonlocal seen
        for record in ray.get(progress_actor.since.remote(seen)):
            seen += 1
            show(record)

    def watch() -> None:
        while not ended.wait(POLL_S):
            with logs.errors_logged("progress cannot be shown"):
                pull()
                waiting.look(progress_actor)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with logs.errors_logged("progress cannot be shown"):
            pull()
