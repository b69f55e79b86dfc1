"""The workers of one trial: its own process, and actors in the trial's placement group.

Ray Train within a trial would create a second placement group, which leaks when Tune stops the
trial. These actors use the trial's placement group, and end with the process that started them.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import ray
from ray.util import get_current_placement_group, get_node_ip_address
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from clftask import logs
from clftask.distributed.actor_names import named
from clftask.distributed.tune.placement import Slots
from clftask.distributed.tune.shared import FAILED
from clftask.errors import StorageError
from clftask.models.memory import release
from clftask.training.collectives import is_lost_connection
from clftask.tuning.attempts import Attempt, Report
from clftask.tuning.trial_store import Trial
from clftask.tuning.trial_worker import attempt, reason_of

LAST_WORDS_S = 5.0
COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # NCCL's own 10 minutes are less than an outage of S3
_log = logging.getLogger(__name__)
WorkerTask = Callable[[int, int, str], Any]


def attempt_on_group(spec: Attempt, report: Report, slots: Slots) -> Trial:
    """Run a trial on the worker group of this process; see `trial_worker.attempt`.

    Raises:
        RayError: A worker died; the trial is not at fault, and Tune may retry it.
    """
    group = _group(spec.work.run, slots)
    done: Trial = group.run(functools.partial(attempt, spec, report))
    release()  # other trials may share the device
    return _blamed(group, done) if done.state == FAILED and group.members else done


@functools.lru_cache(maxsize=1)
def _group(run: str, slots: Slots) -> Group:
    """Return the worker group of this process, which later trials reuse."""
    slots.limit_process()
    return Group(run, slots)


def _blamed(group: Group, failed: Trial) -> Trial:
    """Return a failed trial with its reason; close the group."""
    _group.cache_clear()
    reason = group.close()
    if reason and is_lost_connection(failed.reason):
        return failed.model_copy(update={"reason": reason})
    return failed


@ray.remote
class Member:
    """A worker of a trial other than the first."""

    def __init__(self, path: str) -> None:
        self.path = path

    def join(self, address: str, rank: int, world: int, device: str, cpus: float) -> None:
        """Join the process group."""
        logs.quiet_libraries()
        logs.work_on("tune", self.path, rank=rank)
        _join(address, rank, world, device, cpus)

    def run(self, task: WorkerTask, rank: int, world: int, device: str) -> str | None:
        """Run the same task as the first worker; return the reason of a failure, else None.

        A worker that fails exits its process, so that the first one stops waiting for it.

        Raises:
            StorageError: Storage does not answer; the trial is not at fault.
        """
        try:
            task(rank, world, device)
        except SystemExit:
            pass
        except StorageError:
            raise
        except Exception as error:
            threading.Timer(LAST_WORDS_S, os._exit, [1]).start()
            return reason_of(error)
        return None


class Group:
    """The worker group of a trial's process; it lives as long as the process.

    Args:
        path: The search's folder.
        slots: The number of workers, including this process, and their resources.
    """

    def __init__(self, path: str, slots: Slots) -> None:
        self.path, self.slots, self.workers, self.device = path, slots, slots.workers, slots.device
        self.members: list[Any] = []
        self.running: list[Any] = []
        self.is_closed = False
        if self.workers > 1:
            self._gather()

    def _gather(self) -> None:
        place = get_current_placement_group()
        address = f"tcp://{get_node_ip_address()}:{_free_port()}"
        for rank in range(1, self.workers):
            strategy = PlacementGroupSchedulingStrategy(place, placement_group_bundle_index=rank)
            sizes = {"num_cpus": self.slots.cpus, "num_gpus": self.slots.gpus}
            options = {**sizes, **named("tune", self.path, "member", rank)}
            member = Member.options(scheduling_strategy=strategy, **options)  # type: ignore[attr-defined]
            self.members.append(member.remote(self.path))
        joining = [
            member.join.remote(address, rank, self.workers, self.device, self.slots.cpus)
            for rank, member in enumerate(self.members, 1)
        ]
        self._watch(joining)
        _join(address, 0, self.workers, self.device, self.slots.cpus)
        ray.get(joining)

    def _watch(self, tasks: list[Any]) -> None:
        """Do not wait for a worker that is gone, as torch would for 30 minutes.

        If another worker dies, this process exits. If one fails, the collective in which this
        process waits for it raises an error.
        """
        of_task = dict(zip(tasks, self.members, strict=True))

        def run(tasks: list[Any]) -> None:
            while tasks:
                (done,), tasks = ray.wait(tasks)
                try:
                    reason = ray.get(done)
                except Exception as error:
                    if not self.is_closed:
                        _log.warning("a worker of the trial died: %s", reason_of(error))
                        os._exit(1)
                else:
                    if reason and not self.is_closed:
                        self._leave(of_task[done])

        threading.Thread(target=run, args=[tasks], daemon=True).start()

    def _leave(self, failed: Any) -> None:
        """End the collectives with a worker that failed."""
        import torch.distributed as dist

        ray.kill(failed)  # gloo sees that its connection is closed
        if self.device == "cuda":  # NCCL does not
            with logs.errors_logged("the trial's process group cannot be aborted"):
                assert dist.group.WORLD is not None
                dist.group.WORLD.abort()

    def run(self, task: WorkerTask) -> Any:
        """Run a task on all workers; return the first worker's result, or raise its error."""
        self.running = [
            member.run.remote(task, rank, self.workers, self.device)
            for rank, member in enumerate(self.members, 1)
        ]
        self._watch(self.running)
        try:
            return task(0, self.workers, self.device)
        except SystemExit:  # Tune stopped the trial; all workers receive it
            ray.wait(self.running, num_returns=len(self.running)) if self.running else None
            raise

    def close(self) -> str:
        """Kill the other workers after a failure: they may wait in a collective.

        Returns:
            The reason of one that failed; empty if none did.
        """
        import torch

        count = len(self.running)
        answered = ray.wait(self.running, num_returns=count, timeout=LAST_WORDS_S)[0]
        try:
            reasons = [ray.get(ref) for ref in answered]
        finally:
            self.is_closed = True
            for member in self.members:
                ray.kill(member)
            torch.distributed.destroy_process_group()
        return next((reason for reason in reasons if reason), "")


def _join(address: str, rank: int, world: int, device: str, cpus: float) -> None:
    """Join torch's process group, with the environment variables that accelerate reads."""
    import torch

    torch.set_num_threads(max(1, int(cpus)))
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": "0"}
    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": port}
    backend = "nccl" if device == "cuda" else "gloo"
    torch.distributed.init_process_group(
        backend, init_method=address, rank=rank, world_size=world, timeout=COLLECTIVE_TIMEOUT
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
